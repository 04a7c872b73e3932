"""Secrets and personal data become typed placeholders (`<SECRET>`, `<EMAIL>`, ...), counted by type.

Each finder is a fast search for what must be there (a literal, a word), then a check of the candidate: a code's own
hashes, versions and matrix products stay. What no pattern knows is not found; this is no proof of absence.
"""

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

Span = tuple[int, int]

TOKENS: tuple[tuple[str, re.Pattern[str]], ...] = (
    (
        "PRIVATE KEY-----",
        re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.S),
    ),
    ("AKIA", re.compile(r"(?<![A-Za-z0-9])AKIA[0-9A-Z]{16}(?![A-Za-z0-9])")),
    ("ASIA", re.compile(r"(?<![A-Za-z0-9])ASIA[0-9A-Z]{16}(?![A-Za-z0-9])")),
    ("github_pat_", re.compile(r"github_pat_[A-Za-z0-9_]{22,}")),
    *((f"gh{kind}_", re.compile(rf"(?<![A-Za-z0-9])gh{kind}_[A-Za-z0-9]{{36,}}")) for kind in "pousr"),
    ("glpat-", re.compile(r"glpat-[A-Za-z0-9_-]{20,}")),
    ("hf_", re.compile(r"(?<![A-Za-z0-9_])hf_[A-Za-z0-9]{30,}(?![A-Za-z0-9_])")),
    ("sk-", re.compile(r"(?<![A-Za-z0-9_-])sk-(?=[A-Za-z_-]*\d)[A-Za-z0-9_-]{20,}")),
    ("sk_live_", re.compile(r"(?<![A-Za-z0-9])sk_live_[A-Za-z0-9]{16,}")),
    ("xox", re.compile(r"(?<![A-Za-z0-9])xox[abeoprs]-[A-Za-z0-9-]{10,}")),
    ("hooks.slack.com/services/", re.compile(r"hooks\.slack\.com/services/[A-Za-z0-9/]{20,}")),
    ("AIza", re.compile(r"(?<![A-Za-z0-9_-])AIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])")),
    ("npm_", re.compile(r"(?<![A-Za-z0-9_])npm_[A-Za-z0-9]{36}(?![A-Za-z0-9_])")),
    ("pypi-", re.compile(r"(?<![A-Za-z0-9_-])pypi-[A-Za-z0-9_-]{50,}")),
    ("eyJ", re.compile(r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}")),
)

URL_PASSWORD = re.compile(r"(?<=://)[^\s/:@'\"<>{}]{1,64}:([^\s/:@'\"<>{}$%*]{3,128})(?=@[\w.-])")
SECRET_WORDS = (
    "password",
    "passwd",
    "secret",
    "api_key",
    "apikey",
    "access_key",
    "accesskey",
    "auth_key",
    "token",
    "credential",
)
QUOTED_VALUE = re.compile(r"""[\w\-]{0,30}["']?\]?\s*(?::\s*\w+\s*)?(?:=|:|,)\s*(["'])([^"'\s]{8,200})\1""")
BARE_VALUE = re.compile(r"[\w\-]{0,30}[ \t]*[=:][ \t]*([A-Za-z0-9+/=_\-.~!@#$%^&*]{16,200})[ \t]*$", re.M)
SECRET_ALPHABET = re.compile(r"[A-Za-z0-9+/=_\-.~!@#$%^&*]+\Z")
NAME_PART = re.compile(r"[A-Za-z][a-z]{2,}")
NOT_SECRET = re.compile(
    r"(?i)example|sample|dummy|placeholder|changeme|your|xxxx|\*\*\*|test|fake|redacted|none|null|true|false|<|\{|\$\(|\.\.\."
)

AFTER_AT = re.compile(r"@((?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,62}[A-Za-z0-9])?\.)+([A-Za-z]{2,24}))(?![A-Za-z0-9_(\[-])")
BEFORE_AT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._+%-]{0,62}[A-Za-z0-9_+%-])?\Z")
LONG_DOMAINS = frozenset(
    ("com", "org", "net", "edu", "gov", "mil", "int", "info", "biz", "name", "dev", "app", "cloud", "tech", "online")
) | frozenset(("site", "ai", "example", "test", "email", "company", "solutions"))

IPV4 = re.compile(r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}(?![\w\-]|\.\w)")
IPV6 = re.compile(r"[23][0-9A-Fa-f]{3}:(?:[0-9A-Fa-f]{0,4}:){1,6}[0-9A-Fa-f]{0,4}(?![\w:])")
INSIDE_WORD = re.compile(r"[\w.:\-]\Z")
NOT_ADDRESS = re.compile(r"[\w.\-]\Z")
VERSION_BEFORE = re.compile(r"(?i)(?:version|ver|release|rev|build|driver|cuda|\bv|[=<>~!]=)[\w\s\"'(:=.]{0,6}\Z")

PHONE = re.compile(
    r"(?:\+[0-9]{1,3}[ .\-]?(?:\([0-9]{1,4}\)[ .\-]?)?[0-9]{1,4}(?:[ .\-]?[0-9]{2,4}){1,4}"
    r"|\([0-9]{3}\)[ .\-]?[0-9]{3}[ .\-][0-9]{4}|[0-9]{3}-[0-9]{3}-[0-9]{4})(?![\w\-])"
)
CARD = re.compile(r"(?<![\w.\-])[3-6]\d{3}[ -]?\d{4}[ -]?\d{4}[ -]?\d{1,7}(?![\w\-]|\.\d)")
IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?(?!\w)")


def redact(text: str, names: Sequence[str]) -> tuple[str, Counter[str]]:
    """The text with what the named finders found replaced by placeholders, and how often each did."""
    spans = sorted((start, -end, name) for name in names for start, end in FINDERS[name](text))
    if not spans:
        return text, Counter()
    counts: Counter[str] = Counter()
    parts: list[str] = []
    done = 0
    for start, negative_end, name in spans:
        if start < done:
            done = max(done, -negative_end)
            continue
        parts += (text[done:start], f"<{name.upper()}>")
        counts[name] += 1
        done = -negative_end
    parts.append(text[done:])
    return "".join(parts), counts


def find_secrets(text: str) -> Iterator[Span]:
    """Keys and tokens of published shapes, passwords in URLs, and values of secret-like names that look random."""
    for literal, pattern in TOKENS:
        if literal in text:
            for match in pattern.finditer(text):
                yield match.span()
    if "://" in text and "@" in text:
        for match in URL_PASSWORD.finditer(text):
            if not NOT_SECRET.search(match[1]) and match[1].lower() not in ("password", "pass", "pwd", "passwd"):
                yield match.span(1)
    for word, end in _secret_words(text):
        value = QUOTED_VALUE.match(text, end)
        if value and _looks_secret(value[2], is_password=word.startswith("pass")):
            yield value.span(2)
        elif not value and (bare := BARE_VALUE.match(text, end)) and _looks_secret(bare[1], is_password=False):
            yield bare.span(1)


def find_emails(text: str) -> Iterator[Span]:
    """Addresses with a plausible top domain; `q@k.mT` (a product) and `git@host` (a login) are none."""
    if "@" not in text:
        return
    for match in AFTER_AT.finditer(text):
        before = BEFORE_AT.search(text, max(0, match.start() - 64), match.start())
        top = match[2]
        known = (len(top) == 2 and (top.islower() or top.isupper())) or top.lower() in LONG_DOMAINS
        is_login = before is not None and text.endswith("//", 0, before.start())
        if before and known and not is_login and before[0] != "git" and not _is_matrix_product(before[0], match[1]):
            yield before.start(), match.end()


def find_addresses(text: str) -> Iterator[Span]:
    """Public IP addresses. Private, loopback, documentation and other special ranges tell nothing and stay, and so does
    what stands where a version would."""
    for pattern in (IPV4, IPV6):
        for match in pattern.finditer(text):
            start = match.start()
            if (
                _is_public(match[0])
                and not (pattern is IPV6 and INSIDE_WORD.search(text, max(0, start - 1), start))
                and not (pattern is IPV4 and NOT_ADDRESS.search(text, max(0, start - 1), start))
                and not VERSION_BEFORE.search(text, max(0, start - 20), start)
            ):
                yield match.span()


def find_phones(text: str) -> Iterator[Span]:
    """Telephone numbers in international form (+49 30 ...) or as (415) 555-0100 and 415-555-0100."""
    for match in PHONE.finditer(text):
        if 8 <= sum(map(str.isdigit, match[0])) <= 15:
            yield match.span()


def find_cards(text: str) -> Iterator[Span]:
    """Payment card numbers: 13 to 19 digits whose check digit holds (ISO/IEC 7812)."""
    for match in CARD.finditer(text):
        digits = [int(character) for character in match[0] if character.isdigit()]
        doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
        if 13 <= len(digits) <= 19 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0 and len(set(digits)) > 1:
            yield match.span()


def find_ibans(text: str) -> Iterator[Span]:
    """International bank account numbers whose check digits hold (ISO 13616)."""
    for match in IBAN.finditer(text):
        account = match[0].replace(" ", "")
        if 15 <= len(account) <= 34 and int("".join(str(int(c, 36)) for c in account[4:] + account[:4])) % 97 == 1:
            yield match.span()


FINDERS: dict[str, Callable[[str], Iterator[Span]]] = {
    "secret": find_secrets,
    "email": find_emails,
    "ip": find_addresses,
    "phone": find_phones,
    "card": find_cards,
    "iban": find_ibans,
}


def _secret_words(text: str) -> Iterator[tuple[str, int]]:
    """Each secret-like word and where it ends. Plain searches take a fifth of the time of one pattern."""
    lower = text.lower()
    if len(lower) != len(text):  # a few letters, such as the Turkish dotted I, grow when lowered
        lower = "".join(one if len(one := character.lower()) == 1 else character for character in text)
    for word in SECRET_WORDS:
        at = lower.find(word)
        while at >= 0:
            at += len(word)
            yield word, at
            at = lower.find(word, at)


def _looks_secret(value: str, *, is_password: bool) -> bool:
    """Random enough for a key: letters and digits, high entropy per character, no path and no name."""
    if not SECRET_ALPHABET.match(value) or NOT_SECRET.search(value):
        return False
    has_both = any(map(str.isdigit, value)) and any(map(str.isalpha, value))
    if is_password:
        return has_both and _entropy(value) >= 2.5
    if len(value) < 16 or not has_both or value.count("/") > 2 or value.count(".") > 2:
        return False
    words = re.split(r"[_\-./]", value)
    if len(words) > 1 and all(word.isalpha() or word.isdigit() or len(word) < 6 for word in words):
        return False
    if sum(map(len, NAME_PART.findall(value))) > 0.7 * len(value):
        return False
    return _entropy(value) >= 3.5 or (len(value) >= 32 and _entropy(value) >= 3.0)


def _entropy(value: str) -> float:
    """Shannon entropy in bits per character."""
    return -sum(n / len(value) * math.log2(n / len(value)) for n in Counter(value).values())


def _is_matrix_product(left: str, right: str) -> bool:
    """`a@b.to`, `x.data@self.w`: one short name each side, as in a product rather than a mailbox at a host."""
    return right.startswith("self.") or (len(left) <= 2 and right.count(".") == 1 and len(right.partition(".")[0]) <= 2)


def _is_public(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return parsed.is_global and not parsed.is_multicast and not str(parsed).endswith(".0.0.0")
