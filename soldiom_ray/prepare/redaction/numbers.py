"""Numbers that name a person or an account: payment cards, IBANs, national identity and tax numbers.

A check digit alone is no proof: one in ten numbers passes. So a national number needs its written form (123.456.789-09)
or a word near it that says what it is; those with strong checks (two letters in a hundred, a birth date inside) stand
alone. Sources are the issuing states' descriptions of their numbers.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from soldiom_ray.prepare.redaction.scan import Literals, Scan, Span, character_class, words

CARD = re.compile(
    r"(?<![\w.\-])(?:[2-6]\d{3}[ -]?\d{4}[ -]?\d{4}[ -]?\d{2,4}|3\d{3}[ -]?\d{6}[ -]?\d{4,5})(?![\w\-]|\.\d)"
)
IBAN = re.compile(r"(?<![A-Za-z0-9_])[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]{4}){2,7}(?:[ -]?[A-Z0-9]{1,4})?(?!\w)")
IBAN_LENGTHS = {
    country: int(length)
    for length, countries in {
        "15": "NO", "16": "BE", "18": "DK FI FK FO GL NL SD", "19": "MK SI", "20": "AT BA EE KZ LT LU MN XK",
        "21": "CH HR LI LV", "22": "BG BH CR DE GB GE IE ME RS VA", "23": "AE GI IL IQ OM SO TL", "24": "AD CZ ES MD PK"
        " RO SA SE SK TN VG", "25": "LY PT ST", "26": "IS TR", "27": "BI DJ FR GR IT MC MR SM", "28": "AL AZ BY CY DO"
        " GT HN HU LB NI PL SV", "29": "BR EG PS QA UA", "30": "JO KW MU YE", "31": "MT SC", "32": "LC", "33": "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip
"""Characters of an IBAN by country (SWIFT's registry, ISO 13616)."""

BEFORE, AFTER = r"(?<![\w.\-])", r"(?![\w\-]|\.\d)"
DIGIT = character_class("0123456789")
UPPER = character_class("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
CONTEXT_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class National:
    """One kind of number. With `alone`, a match of that pattern needs no word before it."""

    pattern: re.Pattern[str]
    check: Callable[[str], bool]
    words: re.Pattern[str]
    alone: re.Pattern[str] | None = None


def find_cards(scan: Scan) -> Iterator[Span]:
    """Payment card numbers: 14 to 16 digits of a known issuer whose check digit holds (ISO/IEC 7812)."""
    for start, end, count in scan.numbers:
        if count >= 14:
            for match in CARD.finditer(scan.text, start, end):
                digits = _digits(match[0])
                if luhn(digits) and len(set(digits)) > 1 and _is_issued(digits):
                    yield match.span()


def find_ibans(scan: Scan) -> Iterator[Span]:
    """International bank account numbers: the country's length, and check digits that hold (ISO 13616)."""
    import numpy as np

    upper, digit = scan.inside(UPPER), scan.inside(DIGIT)
    if len(upper) < 15:
        return
    for start in np.flatnonzero(upper[:-3] & upper[1:-2] & digit[2:-1] & digit[3:]).tolist():
        length = IBAN_LENGTHS.get(scan.text[start : start + 2], 0)
        match = IBAN.match(scan.text, start) if length else None
        if match and (end := _end_of(match, length)):
            account = re.sub("[ -]", "", scan.text[start:end])
            if int("".join(str(int(c, 36)) for c in account[4:] + account[:4])) % 97 == 1:
                yield start, end


def find_national_numbers(scan: Scan) -> Iterator[Span]:
    """Identity, tax and insurance numbers of persons, each by its own check."""
    text = scan.text
    announced = [start for start, _ in scan.literals("national_number")]
    for start, end in _candidates(scan):
        first, last = max(0, start - 8), min(len(text), end + 10)
        for match in ALONE.finditer(text, first, last):
            if any(kind.alone and kind.alone.fullmatch(match[0]) and kind.check(match[0]) for kind in NATIONAL):
                yield match.span()
        near = bisect_left(announced, start)
        if not near or start - announced[near - 1] > CONTEXT_CHARACTERS:
            continue
        for kind in NATIONAL:
            for match in kind.pattern.finditer(text, first, last):
                before = max(0, match.start() - CONTEXT_CHARACTERS)
                if kind.check(match[0]) and kind.words.search(text, before, match.start()):
                    yield match.span()


def luhn(digits: str) -> bool:
    """The check of ISO/IEC 7812-1."""
    doubled = [sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2]]
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


def verhoeff(digits: str) -> bool:
    """Verhoeff's check over the dihedral group of ten."""
    value = 0
    for position, digit in enumerate(reversed(digits)):
        value = _dihedral(value, _permuted(int(digit), position % 8))
    return value == 0


def _is_issued(digits: str) -> bool:
    """Lengths and first digits that the large networks use."""
    length = len(digits)
    return (
        (digits[0] == "4" and length == 16)
        or (digits[0] == "5" and length == 16)
        or (digits[:2] in ("34", "37") and length == 15)
        or (digits[:2] in ("30", "36", "38", "39") and length in (14, 16))
        or (digits[0] == "6" and length == 16)
        or (digits[:2] in ("22", "23", "24", "25", "26", "27", "35") and length == 16)
    )


def _end_of(match: re.Match[str], length: int) -> int:
    """Where the account number ends when it has `length` characters without spaces, or 0."""
    seen = 0
    for position in range(match.start(), match.end()):
        seen += match.string[position] not in " -"
        if seen == length:
            following = match.string[position + 1 : position + 2]
            return 0 if following.isalnum() else position + 1
    return 0


def _candidates(scan: Scan) -> Iterator[Span]:
    """Groups with eight digits or more, and runs of four to seven digits between capitals (as in AB123456C)."""
    for start, end, counted in scan.numbers:
        if counted >= 8:
            yield start, end
    starts, ends = scan.digit_runs
    lengths = ends - starts
    likely = (lengths >= 2) & (lengths <= 7) & (starts > 0) & (ends < len(scan.data))
    starts, ends, lengths = (column[likely] for column in (starts, ends, lengths))
    upper = scan.inside(UPPER)
    beside = upper[starts - 1] & (upper[ends] | (scan.codes[ends] == ord("-")))
    beside |= (lengths == 6) & upper[ends]
    yield from zip(starts[beside].tolist(), ends[beside].tolist(), strict=True)


def _digits(text: str) -> str:
    return "".join(filter(str.isdigit, text))


def _weighted(digits: str, weights: Iterable[str | int]) -> int:
    return sum(int(digit) * int(weight) for digit, weight in zip(digits, weights, strict=False))


def _dihedral(left: int, right: int) -> int:
    if left < 5:
        return (left + right) % 5 if right < 5 else (left + right) % 5 + 5
    return (left - right) % 5 + 5 if right < 5 else (left - right) % 5


def _permuted(digit: int, times: int) -> int:
    for _ in range(times):
        digit = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)[digit]
    return digit


def _is_day(month: str, day: str, offset: int = 0) -> bool:
    return 1 <= int(month) <= 12 and 1 <= int(day) - offset <= 31


def _social_security(text: str) -> bool:
    area, group, serial = re.split("[- ]", text) if not text.isdigit() else (text[:3], text[3:5], text[5:])
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def _tax_id_de(text: str) -> bool:
    """ISO 7064 MOD 11,10; of the first ten digits one stands there two or three times, the others at most once."""
    digits = _digits(text)
    counts = sorted(map(digits[:10].count, set(digits[:10])))
    if len(digits) != 11 or digits[0] == "0" or counts[-1] not in (2, 3) or counts[-2] != 1:
        return False
    product = 10
    for digit in digits[:10]:
        product = 2 * ((int(digit) + product) % 10 or 10) % 11
    return (11 - product) % 10 == int(digits[10])


def _nir(text: str) -> bool:
    compact = text.replace(" ", "").replace("2A", "19").replace("2B", "18")
    return compact.isdigit() and len(compact) == 15 and 97 - int(compact[:13]) % 97 == int(compact[13:])


def _dni(text: str) -> bool:
    compact = re.sub("[- .]", "", text).upper()
    number = compact[:-1].replace("X", "0").replace("Y", "1").replace("Z", "2")
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == compact[-1]


def _codice_fiscale(text: str) -> bool:
    odd = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)
    values = [int(c) if c.isdigit() else ord(c) - 65 for c in text[:15]]
    total = sum(odd[value] if at % 2 == 0 else value for at, value in enumerate(values))
    return chr(65 + total % 26) == text[15] and text[8] in "ABCDEHLMPRST"


def _bsn(text: str) -> bool:
    digits = _digits(text)
    return (_weighted(digits[:8], "98765432") - int(digits[8])) % 11 == 0 and len(set(digits)) > 1


def _belgian(text: str) -> bool:
    digits = _digits(text)
    first, check = digits[:9], int(digits[9:])
    return check in (97 - int(first) % 97, 97 - int(f"2{first}") % 97) and int(digits[2:4]) <= 12


def _cpf(text: str) -> bool:
    digits = _digits(text)
    return len(set(digits)) > 1 and all(
        _weighted(digits[:size], tuple(range(size + 1, 1, -1))) * 10 % 11 % 10 == int(digits[size]) for size in (9, 10)
    )


def _aadhaar(text: str) -> bool:
    return verhoeff(_digits(text))


def _pesel(text: str) -> bool:
    date = int(text[2:4]) % 20
    return _weighted(text, "13791379131") % 10 == 0 and _is_day(str(date), text[4:6])


def _swedish(text: str) -> bool:
    digits = _digits(text)[-10:]
    return luhn(digits) and _is_day(digits[2:4], digits[4:6])


def _finnish(text: str) -> bool:
    number = int(text[:6] + text[7:10])
    return _is_day(text[2:4], text[:2]) and "0123456789ABCDEFHJKLMNPRSTUVWXY"[number % 31] == text[10]


def _norwegian(text: str) -> bool:
    digits = _digits(text)
    return _weighted(digits[:10], "3761894521") % 11 == 0 and _weighted(digits, "54327654321") % 11 == 0


def _danish(text: str) -> bool:
    return _is_day(text[2:4], text[:2])


def _swiss(text: str) -> bool:
    return _weighted(_digits(text), "1313131313131") % 10 == 0


def _sum_luhn(text: str) -> bool:
    return luhn(_digits(text)) and len(set(_digits(text))) > 2


def _tfn(text: str) -> bool:
    digits = _digits(text)
    return len(set(digits)) > 1 and _weighted(digits, (1, 4, 3, 7, 5, 8, 6, 9, 10)) % 11 == 0


def _chinese(text: str) -> bool:
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return "10X98765432"[_weighted(text[:17], weights) % 11] == text[17].upper() and _is_day(text[10:12], text[12:14])


def _korean(text: str) -> bool:
    digits = _digits(text)
    check = (11 - _weighted(digits[:12], "234567892345") % 11) % 10
    return check == int(digits[12]) and _is_day(digits[2:4], digits[4:6])


def _turkish(text: str) -> bool:
    digits = [int(digit) for digit in text]
    tenth = (7 * sum(digits[0:9:2]) - sum(digits[1:8:2])) % 10
    return tenth == digits[9] and sum(digits[:10]) % 10 == digits[10]


def _curp(text: str) -> bool:
    letters = "0123456789ABCDEFGHIJKLMN\u00d1OPQRSTUVWXYZ"
    total = sum(letters.index(c) * (18 - at) for at, c in enumerate(text[:17]))
    return str(-total % 10) == text[17] and _is_day(text[6:8], text[8:10])


def _nif(text: str) -> bool:
    return (11 - _weighted(text[:8], "98765432") % 11) % 11 % 10 == int(text[8])


def _czech(text: str) -> bool:
    digits = _digits(text)
    return int(digits) % 11 == 0 and _is_day(str(int(digits[2:4]) % 50 % 20), digits[4:6])


def _romanian(text: str) -> bool:
    check = _weighted(text[:12], "279146358279") % 11
    return (1 if check == 10 else check) == int(text[12]) and _is_day(text[3:5], text[5:7])


def _form_only(text: str) -> bool:
    return bool(text)


def _national(pattern: str, check: Callable[[str], bool], words: str, alone: str | None = None) -> National:
    compiled = re.compile(rf"{BEFORE}(?:{pattern}){AFTER}")
    return National(compiled, check, re.compile(words or r"(?!)", re.I), re.compile(alone) if alone else None)


NATIONAL: tuple[National, ...] = (
    _national(r"\d{3}[- ]\d{2}[- ]\d{4}|\d{9}", _social_security, r"\bssn\b|social.?security", r"\d{3}-\d{2}-\d{4}"),
    _national(
        r"(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D]",
        _form_only, r"\bni\b|nino|national.?insurance|\bN\.I\.", r"[A-Z]{2} \d{2} \d{2} \d{2} [A-D]",
    ),
    _national(
        r"[1-9]\d ?\d{3} ?\d{3} ?\d{3}", _tax_id_de, r"steuer|tax.?id|idnr|identifikationsnummer|\btin\b",
        r"\d{2} \d{3} \d{3} \d{3}",
    ),
    _national(
        r"[1-478] ?\d{2} ?\d{2} ?(?:\d{2}|2[AB]) ?\d{3} ?\d{3} ?\d{2}",
        _nir, r"s.curit. sociale|\bnir\b|\binsee\b|num.ro",
        r"[1-478] \d{2} \d{2} (?:\d{2}|2[AB]) \d{3} \d{3} \d{2}",
    ),
    _national(
        r"\d{8}[- ]?[A-Z]|\d{2}\.\d{3}\.\d{3}-?[A-Z]|[XYZ]-?\d{7}-?[A-Z]", _dni, r"\bdni\b|\bnif\b|\bnie\b|\bD\.N\.I",
        r"\d{8}-[A-Z]|\d{2}\.\d{3}\.\d{3}-?[A-Z]|[XYZ]-\d{7}-[A-Z]",
    ),
    _national(
        r"[A-Z]{6}\d{2}[A-Z]\d{2}[A-Z]\d{3}[A-Z]",
        _codice_fiscale, "", r"[A-Z]{6}\d{2}[A-Z]\d{2}[A-Z]\d{3}[A-Z]",
    ),
    _national(r"\d{9}|\d{4}[. ]\d{2}[. ]\d{3}", _bsn, r"\bbsn\b|burgerservice|sofi"),
    _national(
        r"\d{2}\.\d{2}\.\d{2}-\d{3}[.-]\d{2}|\d{11}",
        _belgian, r"rijksregister|registre national|insz|niss|national number",
        r"\d{2}\.\d{2}\.\d{2}-\d{3}\.\d{2}",
    ),
    _national(r"\d{3}\.\d{3}\.\d{3}-\d{2}|\d{11}", _cpf, r"\bcpf\b|cadastro", r"\d{3}\.\d{3}\.\d{3}-\d{2}"),
    _national(r"[2-9]\d{3}[ -]?\d{4}[ -]?\d{4}", _aadhaar, r"aa?dhaar|uidai|\buid\b"),
    _national(r"\d{11}", _pesel, r"pesel"),
    _national(
        r"(?:19|20)?\d{6}[-+]\d{4}",
        _swedish, r"personnummer|personal.?identity|svensk|swedish", r"(?:19|20)\d{6}-\d{4}",
    ),
    _national(
        r"\d{6}[-+A-FU-Y]\d{3}[0-9A-Y]",
        _finnish, r"hetu|henkil.tunnus|personbeteckning", r"\d{6}[-+A-FU-Y]\d{3}[0-9A-Y]",
    ),
    _national(r"\d{6} ?\d{5}", _norwegian, r"f.dselsnummer|personnummer|fnr\b"),
    _national(r"\d{6}-\d{4}", _danish, r"\bcpr\b|personnummer"),
    _national(
        r"756\.?\d{4}\.?\d{4}\.?\d{2}",
        _swiss, r"\bahv|\bavs\b|sozialversicherung", r"756\.\d{4}\.\d{4}\.\d{2}",
    ),
    _national(r"\d{3}[- ]?\d{3}[- ]?\d{3}", _sum_luhn, r"social insurance|\bsin\b(?!\()|assurance sociale"),
    _national(r"\d{3} ?\d{3} ?\d{3}", _tfn, r"\btfn\b|tax file"),
    _national(r"[1-9]\d{5}(?:19|20)\d{9}[\dXx]", _chinese, "", r"[1-9]\d{5}(?:19|20)\d{9}[\dXx]"),
    _national(r"\d{6}-[1-4]\d{6}", _korean, r"\brrn\b|resident registration", r"\d{6}-[1-4]\d{6}"),
    _national(r"\d{13}", _sum_luhn, r"south african id|\brsa id|\bsa id|id number"),
    _national(r"[1-9]\d{10}", _turkish, r"kimlik|\bt\.?c\.? "),
    _national(r"[A-Z]{3}[PCHFATBLJG][A-Z]\d{4}[A-Z]", _form_only, r"\bpan\b|permanent account"),
    _national(r"[A-Z]{4}\d{6}[HM][A-Z]{5}[A-Z0-9]\d", _curp, "", r"[A-Z]{4}\d{6}[HM][A-Z]{5}[A-Z0-9]\d"),
    _national(r"[1-9]\d{8}", _nif, r"\bnif\b|contribuinte"),
    _national(r"\d{6}/\d{4}", _czech, r"rodn|birth number", r"\d{6}/\d{4}"),
    _national(r"[1-8]\d{12}", _romanian, r"\bcnp\b|numeric personal"),
)  # fmt: skip
ALONE = re.compile(rf"{BEFORE}(?:{'|'.join(kind.alone.pattern for kind in NATIONAL if kind.alone)}){AFTER}")
_SHORT = words("ssn dni nif nie nir bsn cpf uid fnr cpr ahv avs sin tfn rrn pan cnp tin")
LITERALS = Literals(
    words=(
        *(f"{short}{end}" for short in _SHORT for end in ": =\"'_#(.-"),
        *("social security", "social-security", "social_security", "nino", "national insurance", "national_insurance"),
        *(
            "steuer",
            "tax id",
            "tax_id",
            "idnr",
            "identifikationsnummer",
            "sociale",
            "insee",
            "num\u00e9ro",
            "burgerservice",
        ),
        *(
            "sofi",
            "rijksregister",
            "registre national",
            "insz",
            "niss",
            "national number",
            "cadastro",
            "aadhaar",
            "aadhar",
        ),
        *("uidai", "pesel", "personnummer", "personal identity", "hetu", "henkil\u00f6tunnus", "personbeteckning"),
        *("f\u00f8dselsnummer", "sozialversicherung", "social insurance", "assurance sociale", "tax file", "d.n.i"),
        *("resident registration", "south african id", "rsa id", "sa id", "id number", "kimlik", "permanent account"),
        *("contribuinte", "rodn\u00e9", "birth number", "numeric personal"),
    )
)
"""Words one of which must stand near a number that its form does not tell."""
