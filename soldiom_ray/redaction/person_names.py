"""Finders of names of people, where a rule can tell one, and of birth dates.

A name is found after a salutation, in a signature, in a form's field and before an e-mail address. A name in running
prose is not found; nor is one in a copyright line, which the licence asks to keep.
"""

import re
from collections.abc import Iterator

from soldiom_ray.redaction.contacts import find_emails
from soldiom_ray.redaction.scan import Literals, Scan, Span

LETTER = r"[^\W\d_]"
CAPITAL = r"[A-Z\u00c0-\u00d6\u00d8-\u00de]"
NAME_WORD = rf"(?-i:{CAPITAL}(?:{LETTER}|['\u2019](?=[A-Z])){{1,20}}(?:-{CAPITAL}{LETTER}{{1,20}})?)"
INITIAL = r"(?-i:[A-Z]\.)"
PARTICLE = r"(?-i:van|von|der|den|de|del|della|di|da|dos|du|la|le|bin|ibn|al|el|ten|ter|zu|y|e)"
NAME = (
    rf"(?:(?:{NAME_WORD}|{INITIAL})[ \t]{{1,2}}(?:(?:{PARTICLE}|{INITIAL}|{NAME_WORD})[ \t]{{1,2}}){{0,4}})?{NAME_WORD}"
)
FULL_NAME = (
    rf"(?:{NAME_WORD}|{INITIAL})[ \t]{{1,2}}(?:(?:{PARTICLE}|{INITIAL}|{NAME_WORD})[ \t]{{1,2}}){{0,4}}{NAME_WORD}"
)
SALUTATION = re.compile(
    r"(?i)(?:mr|mrs|ms|miss|mx|dr|prof|herr|herrn|frau|mme|mlle|monsieur|madame|se\u00f1ora?|sra?|sig|dott)"
    r"\b\.?[ \t]{1,2}"
    rf"(?:(?:dr|prof|med|phil)\.[ \t]?){{0,3}}({NAME})"
)
FIELD = re.compile(
    r"(?i)(?:patient|client|employee|customer|applicant|defendant|plaintiff|witness|suspect|victim|cardholder|student|full"
    rf"|legal|contact)?['\u2019s]{{0,2}}[ \t_]?(?:name)?[\"']?[ \t]?:[ \t]{{0,4}}[\"']?({FULL_NAME})"
)
PART_FIELD = re.compile(
    rf"(?i)(?:first|last|family|given|maiden|sur)[ _]?name[\"']?[ \t]?[:=][ \t]{{0,4}}[\"']({NAME})[\"']"
)
SIGNATURE = re.compile(
    rf"(?i)(?:regards|sincerely|yours truly|best wishes|cheers|gr\u00fc\u00dfen|gr\u00fcssen|cordialement|atentamente)"
    rf"[ \t]*[,.!]?[ \t]*\n[ \t\n]{{0,6}}({NAME})(?=[ \t,]*(?:\n|\Z))"
)
SIGNED = re.compile(rf"(?i)(?:/s/|signed(?: by)?:|signature:|by:[ \t]*/s/)[ \t_]{{0,10}}({FULL_NAME})")
DISPLAY = re.compile(rf"(?:^|(?<=[\s:,;(\[\"'|]))({FULL_NAME})[\"']?[ \t]{{0,2}}[<(]\Z", re.M)
TITLES = frozenset(
    ("President", "Chairman", "Chair", "Speaker", "Justice", "Minister", "Secretary", "Senator", "Chancellor", "Who")
) | frozenset(("None", "True", "False", "String", "Unknown", "Optional", "Any", "The"))
"""Words that no name begins with where a rule expects one: offices and values of code."""

NOT_SALUTATIONS = ("MR ", "MS ")
"""Magnetic resonance, mass spectrometry."""

NAME_LITERALS = Literals(
    words=(
        *(
            "mr. ",
            "mr ",
            "ms. ",
            "mx. ",
            "dr. ",
            "mrs.",
            "mrs ",
            "miss ",
            "prof.",
            "prof ",
            "herr ",
            "herrn ",
            "frau ",
            "mme ",
        ),
        *(
            "mlle",
            "monsieur",
            "madame ",
            "sra.",
            "se\u00f1or",
            "sig.",
            "dott",
            "patient",
            "client",
            "employee",
            "customer",
        ),
        *("applicant", "defendant", "plaintiff", "witness", "suspect", "victim", "cardholder", "student", "full name"),
        *(
            "full_name",
            "first name",
            "first_name",
            "last name",
            "last_name",
            "family name",
            "given name",
            "maiden name",
        ),
        *("legal name", "contact name", "surname", "\nname:", "regards", "sincerely", "yours truly", "best wishes"),
        *("cheers", "gr\u00fc\u00dfen", "gr\u00fcssen", "cordialement", "atentamente", "/s/ ", "signed", "signature:"),
    ),
)

MONTH = (
    r"(?:jan|feb|m[a\u00e4]r|apr|ma[iy]|jun|jul|aug|sep|okt|oct|nov|de[cz]|janv|f\u00e9v|avr|juin|juil|ao\u00fbt|d\u00e9c"
    r"|ene|abr|ago|dic|gen|mag|giu|lug|set|ott)[a-z\u00e9\u00fb]{0,7}\.?"
)
DATE = (
    r"(?:[0-3]?[0-9][./\- ][0-1]?[0-9][./\- ](?:19|20)?[0-9]{2}"
    r"|(?:18|19|20)[0-9]{2}[./\-][0-1]?[0-9][./\-][0-3]?[0-9]"
    rf"|[0-3]?[0-9](?:st|nd|rd|th|\.)?[ \-](?:of |de )?{MONTH}[ \-,]{{1,2}}(?:de )?(?:19|20)?[0-9]{{2}}"
    rf"|{MONTH}[ ][0-3]?[0-9](?:st|nd|rd|th)?,?[ ](?:18|19|20)[0-9]{{2}})"
)
BIRTH = re.compile(
    r"(?i)(?:date of birth|birth[ _]?date|birthday|d\.?o\.?b\b\.?|born|geboren|geburtsdatum|geb\.|date de naissance"
    r"|n\u00e9e?|fecha de nacimiento|naci(?:do|da|\u00f3)|data di nascita|data de nascimento|geboortedatum)"
    r"[\"']?(?:[ \t]*[:=(,|\-][ \t]*[\"']?|[ \t]+(?:on|in|am|the|was|is|el|le|il|em)[ \t]+|[ \t]){0,3}"
    rf"({DATE})(?![\w\-/])"
)
BIRTH_LITERALS = Literals(
    words=(
        *(
            "birth",
            "date of birth",
            "dob:",
            "dob ",
            'dob"',
            "d.o.b",
            "born",
            "geboren",
            "geburtsdatum",
            "geb.",
            "nacid",
        ),
        *("date de naissance", "fecha de nacimiento", "data di nascita", "data de nascimento", "geboortedatum"),
        *("n\u00e9 le", "n\u00e9e le"),
    ),
)


def find_names(scan: Scan) -> Iterator[Span]:
    """Names after salutations and in signatures, in fields of forms, and as display names of e-mail addresses."""
    text = scan.text
    for start, word in scan.literals("person_name"):
        begin = start + word.startswith("\n")
        if text[begin - 1 : begin].isalnum() and not word.startswith("name"):
            continue
        if text[start : start + 3] in NOT_SALUTATIONS:
            continue
        for pattern in (SALUTATION, FIELD, PART_FIELD, SIGNATURE, SIGNED):
            match = pattern.match(text, begin)
            if match and match[1].split()[0] not in TITLES:
                yield match.span(1)
                break
    for start, _ in find_emails(scan):
        match = DISPLAY.search(text, max(0, start - 80), start)
        if match and match[1].split()[0] not in TITLES and not _in_copyright(text, match.start()):
            yield match.span(1)


def find_birth_dates(scan: Scan) -> Iterator[Span]:
    """Dates right after words such as "born", "date of birth", "DOB", "geb."."""
    for start, _ in scan.literals("birth_date"):
        if scan.text[max(0, start - 1) : start].isalpha():
            continue
        if match := BIRTH.match(scan.text, start):
            yield match.span(1)


def _in_copyright(text: str, start: int) -> bool:
    before = text[max(text.rfind("\n", 0, start), start - 120) + 1 : start].lower()
    return "copyright" in before or "(c)" in before or "\u00a9" in before
