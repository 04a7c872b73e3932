"""Finder of keys, tokens and passwords: published patterns, URLs, and values of names that say "secret".

The patterns are those that the services document or that their own scanners look for. A pattern decides alone; the
value of a name must also look random, since code is full of `token = "bos"`.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator

from soldiom_ray.redaction.scan import Literals, Scan, Span, character_class
from soldiom_ray.redaction.secret_patterns import SECRET_PATTERNS

WORDS = (
    *("password", "passwort", "passwd", "passphrase", "_pass=", "_pass:", '_pass"', "_pass'", "_pass "),
    *("pwd=", "pwd:", 'pwd"', "pwd'", "pwd ", "secret", "token", "credential", "api_key", "apikey", "api-key"),
    *("access_key", "accesskey", "access-key", "auth_key", "authkey", "private_key", "privatekey", "account_key"),
    *("accountkey", "client_key", "encryption_key", "signing_key", "service_key", "db_key"),
    *("bearer ", "basic ", "-----begin "),
)
PASSWORD_WORDS = ("pass", "pwd", "_pass")

QUOTED_VALUE = re.compile(
    r"""[\w\-]{0,30}+["'`]?\]?\)?[ \t]*(?::[ \t]*[\w.\[\]| ]{1,40})?"""
    r"""(?:[=!]=|=>|:=|=|:|,|\()\s{0,20}[bru]{0,2}(["'`])([^"'`\s]{6,400}+)\1"""
)
BARE_VALUE = re.compile(
    r"[\w\-]{0,30}+[ \t]*(?:=|:|=>)[ \t]*([^\s\"'`,;&|<>(){}\[\]]{8,400}+)[ \t]*+[;,]?[ \t]*(?:#.*)?$", re.M
)
TAG_VALUE = re.compile(r"[\w\-]{0,30}+>([^<>\s]{8,200}+)</")
OPTION_VALUE = re.compile(r"[\w\-]{0,30}+=([A-Za-z0-9+/=_\-.~!@#$%^*]{12,200}+)(?=[&;\s\"'`]|\Z)")
BEARER = re.compile(r"(?i)bearer ([A-Za-z0-9\-._~+/]{16,2000}=*)")
BASIC = re.compile(r"(?i)basic ([A-Za-z0-9+/]{10,500}={0,2})(?![\w\-])")
PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----", re.I)
KEY_END = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----", re.I)
KEY_BODY = re.compile(r"(?:[A-Za-z0-9+/=]|\\n|[ \t\r\n\"'+,\\]){16,20000}")
MAX_KEY = 20_000
BOT_TOKEN = re.compile(r"(?<![\w\-])[MNO][A-Za-z0-9_-]{23,25}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,38}(?![\w\-])")
URL_PASSWORD = re.compile(r"[^\s/:@'\"<>{}]{0,64}:([^\s/@'\"<>{}`]{3,128})@[\w.\-]")

SECRET_ALPHABET = re.compile(r"[\x21-\x7e]+\Z")
NAME_PART = re.compile(r"[A-Za-z][a-z]{2,}")
LONG_PART = re.compile(r"[A-Za-z][a-z]{3,}|[A-Z]{7,}")
NAME = re.compile(r"[A-Za-z]+|\d+|[A-Za-z]*\d{1,3}[a-z]{0,2}")
WORD_BORDER = re.compile(r"[_\-./:]")
HEX = re.compile(r"[0-9a-fA-F]+\Z")
UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")
NOT_SECRET = re.compile(
    r"(?i)example|sample|dummy|placeholder|change.?me|your|my[_-]|xxx|\*\*\*|test|fake|mock|redacted|none|null|undefined"
    r"|true|false|passw|secret|token|api.?key|insert|^foo|^bar|<|>|\{|\}|\$\(|\$[A-Z_]|%\(|%s|\.\.\.|\(|\)|\[|\]|\u2026"
)
SEQUENCE = re.compile(r"(?i)abcdef|012345|123456")
PLAIN_PASSWORDS = frozenset(("password", "pass", "pwd", "passwd", "secret", "user", "pw", "passwort", "port", "tiger"))

LITERALS = Literals(tuple(SECRET_PATTERNS), WORDS)
BASE64 = character_class("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=_-")
QUOTES = b"\"'`"
MIN_HEX = 24
MIN_RANDOM = 32
MAX_RANDOM = 100


def find_secrets(scan: Scan) -> Iterator[Span]:
    """Keys and tokens of published patterns, passwords in URLs, values of secret-like names, and quoted strings that
    look random."""
    yield from _at_literals(scan)
    yield from _in_urls(scan.text)
    yield from _random_strings(scan)
    yield from _bot_tokens(scan)


def _at_literals(scan: Scan) -> Iterator[Span]:
    text = scan.text
    last_end = 0
    for start, literal in scan.literals("secret"):
        if patterns := SECRET_PATTERNS.get(literal):
            for back, pattern in patterns:
                if match := _match_around(pattern, text, start, back):
                    yield match.span(match.lastindex or 0)
        elif start < last_end:
            continue
        elif literal == "-----begin ":
            if span := _private_key(text, start):
                last_end = span[1]
                yield span
        elif literal in ("bearer ", "basic "):
            match = (BEARER if literal == "bearer " else BASIC).match(text, start)
            if match and _looks_secret(match[1], is_password=False):
                yield match.span(1)
        elif span := _value_of(text, start, literal):
            last_end = span[1]
            yield span


def _match_around(pattern: re.Pattern[str], text: str, start: int, back: int) -> re.Match[str] | None:
    """The match of a pattern whose literal stands at `start`, and which begins at most `back` characters before."""
    for begin in range(max(0, start - back), start + 1):
        if match := pattern.match(text, begin):
            return match
    return None


def _value_of(text: str, start: int, word: str) -> Span | None:
    """The value of the secret-like name at `start`, when it looks like a secret."""
    end = start + len(word.rstrip(" \"'=:"))
    is_password = word.startswith(PASSWORD_WORDS)
    if match := QUOTED_VALUE.match(text, end):
        return match.span(2) if _looks_secret(match[2], is_password=is_password) else None
    for pattern in (BARE_VALUE, TAG_VALUE, OPTION_VALUE):
        match = pattern.match(text, end)
        if match and _looks_secret(match[1], is_password=is_password and pattern is not OPTION_VALUE, is_bare=True):
            return match.span(1)
    return None


def _private_key(text: str, start: int) -> Span | None:
    head = PRIVATE_KEY.match(text, start)
    if not head:
        return None
    tail = KEY_END.search(text, head.end(), head.end() + MAX_KEY)
    body = KEY_BODY.match(text, head.end()) if not tail else None
    end = tail.end() if tail else body.end() if body else head.end()
    inside = text[head.end() : tail.start() if tail else end]
    return (start, end) if sum(map(str.isalnum, inside)) >= 16 and "..." not in inside[:40] else None


def _in_urls(text: str) -> Iterator[Span]:
    if "@" not in text:
        return
    position = text.find("://")
    while position >= 0:
        match = URL_PASSWORD.match(text, position + 3)
        if match and match[1].lower() not in PLAIN_PASSWORDS and not NOT_SECRET.search(match[1]):
            yield match.span(1)
        position = text.find("://", position + 3)


def _random_strings(scan: Scan) -> Iterator[Span]:
    """Quoted strings of 32 to 100 characters of the Base64 alphabets with the entropy of random ones. Hexadecimal
    strings stay: code is full of hashes, and nothing tells a hash from a key."""
    starts, ends = scan.runs(scan.inside(BASE64))
    long = (ends - starts >= MIN_RANDOM) & (ends - starts <= MAX_RANDOM) & (starts > 0) & (ends < len(scan.data))
    data = scan.data
    for start, end in zip(starts[long].tolist(), ends[long].tolist(), strict=True):
        if data[end] not in QUOTES or data[start - 1] != data[end] or not _looks_random(scan.text[start:end]):
            continue
        beside = data[max(0, start - 80) : start - 1].rstrip()[-1:] + data[end + 1 : end + 80].lstrip()[:1]
        if not any(quote in QUOTES for quote in beside):  # a line of data that goes on over several strings
            yield start, end


def _bot_tokens(scan: Scan) -> Iterator[Span]:
    """Discord's bot tokens of three parts: an id in Base64, six characters, 27 or more. The dots lead to them."""
    import numpy as np

    dots = np.flatnonzero(scan.codes == ord("."))
    first = dots[:-1][np.diff(dots) == 7]
    for dot in first[first >= 24].tolist():
        match = BOT_TOKEN.search(scan.text, max(0, dot - 27), dot + 60)
        if match and match.start() < dot and re.search(r"\d", match[0]):
            yield match.span()


def _looks_secret(value: str, *, is_password: bool, is_bare: bool = False) -> bool:
    """Whether a value is random enough for a key: letters and digits, high entropy per character, no path, no name, no
    placeholder."""
    if not SECRET_ALPHABET.match(value) or NOT_SECRET.search(value):
        return False
    digits, letters = sum(map(str.isdigit, value)), sum(map(str.isalpha, value))
    marks = len(value) - digits - letters - sum(map(value.count, "_-./"))
    words = [word for word in WORD_BORDER.split(value) if word]
    named = sum(map(len, (LONG_PART if len(value) >= MIN_HEX else NAME_PART).findall(value)))
    is_name = len(words) > 1 and all(map(NAME.fullmatch, words))
    if is_password and not is_bare:
        mixed = bool(letters and (digits or marks)) and len(value) >= 8
        return mixed and entropy(value) >= 2.5 and not is_name and not _is_path(value)
    if len(value) < (8 if is_password else 16) or not (digits and letters) or value.count("/") > 4:
        return False
    if marks > len(value) // 3:
        return False
    if value.count(".") > 2 - is_bare or (is_bare and ":" in value):
        return False
    if is_name or (named > 0.6 * len(value) and not is_password) or (len(value) < MIN_HEX and HEX.match(value)):
        return UUID.match(value) is not None
    return entropy(value) >= (2.5 if is_password else 3.0 if len(value) >= 32 else 3.3)


def _looks_random(value: str) -> bool:
    """Whether a string is random enough for a key that has no name: mixed case and digits, spread as in a random
    string, no words, no prefix of a hash."""
    body = value.rstrip("=")
    if (
        HEX.match(body)
        or SEQUENCE.search(value)
        or NOT_SECRET.search(value)
        or value.startswith(("sha256-", "sha384-", "sha512-"))
    ):
        return False
    digits, upper, lower = (sum(map(is_class, body)) for is_class in (str.isdigit, str.isupper, str.islower))
    if digits < 2 or upper < 6 or lower < 6 or upper + lower + digits < 0.9 * len(body):
        return False
    return sum(map(len, LONG_PART.findall(body))) <= 0.4 * len(body) and entropy(body) >= 4.2


def _is_path(value: str) -> bool:
    return value.startswith(("/", "./", "~", "http", "--")) or value.count("/") > 2 or value.count(".") > 3


def entropy(value: str) -> float:
    """Shannon entropy in bits per character."""
    return -sum(n / len(value) * math.log2(n / len(value)) for n in Counter(value).values())
