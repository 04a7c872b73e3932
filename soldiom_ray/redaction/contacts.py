"""Finders of contact data: e-mail addresses, public IP addresses, telephone numbers."""

import ipaddress
import re
from bisect import bisect_left
from collections.abc import Iterator

from soldiom_ray.redaction.scan import Literals, Scan, Span, character_class, word_table
from soldiom_ray.specialists.checksums import has_calling_code

LATIN = r"A-Za-z0-9\u00c0-\u024f"
DOMAIN = re.compile(rf"@((?:[{LATIN}](?:[{LATIN}-]{{0,62}}[{LATIN}])?\.)+([A-Za-z]{{2,24}}))(?![A-Za-z0-9_(\[-])")
MAILBOX = re.compile(rf"[{LATIN}](?:[{LATIN}._+%-]{{0,62}}[{LATIN}_+%-])?\Z")
LONG_TOP_LEVEL_DOMAINS = frozenset(
    word_table("""
    com org net edu gov mil int info biz name dev app cloud tech online site ai example test email company solutions
    aero agency asia bank berlin bio blog cafe cat center church city club community consulting coop design digital
    education energy engineer engineering finance foundation fund gmbh group health hospital house institute jobs law
    legal life live london mobi museum network news ngo ong one page paris partners post pro school science services
    shop social software space store studio swiss systems team tel top training travel university wiki work works
    world xyz zone
    """)
)

DIGIT = character_class("0123456789")
HEX_DIGIT = character_class("0123456789abcdefABCDEF")
IPV4 = re.compile(r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}(?![\w\-]|\.\w)")
IPV6 = re.compile(r"[23][0-9A-Fa-f]{3}:(?:[0-9A-Fa-f]{0,4}:){1,6}[0-9A-Fa-f]{0,4}(?![\w:])")
INSIDE_WORD = re.compile(r"[\w.:\-]\Z")
NOT_ADDRESS = re.compile(r"[\w.\-]\Z")
ADDRESS_BEFORE = re.compile(r"(?i)(?:\bip|host|addr|ping|server|peer|client|dns|from|//)[\w\s\"'(:=\[]{0,8}\Z")
VERSION_BEFORE = re.compile(
    r"(?i)(?:version|\bver|release|rev|build|driver|cuda|firmware|section|sec|chapter|rfc|clause|identifier|\boid|\bv|[=<>~!]=|[§^])"
    r"[\w\s\"'(:=.]{0,6}\Z"
)

SEPARATOR = r"[ .\-\u00a0]?"
PHONE = re.compile(
    rf"(?<![\w.+])\+(?P<code>[1-9][0-9]{{0,2}}){SEPARATOR}(?:\([0-9]{{1,4}}\){SEPARATOR})?[0-9]{{1,14}}"
    rf"(?:[ .\-/]?[0-9]{{2,8}}){{0,5}}(?![\w\-]|\.\d)"
    r"|(?<![\w.\-+(])(?:1[ .\-]?)?(?:\([2-9][0-9]{2}\)[ .\-]?|[2-9][0-9]{2}-)[2-9][0-9]{2}[.\- ][0-9]{4}(?![\w\-]|\.\d)"
)
LOCAL_PHONE = re.compile(
    r"(?<![\w.\-+])(?:\(?[0-9]{2,6}\)?(?:[ .\-/][0-9]{2,8}){1,4}(?![\w\-]|\.\d)|0[1-9][0-9]{7,10}(?!\w))"
)
PHONE_WORDS = re.compile(
    r"(?i)(?:\btel|phone|\bfax|\bmobile?|\bcell|\bcall|telefon|\bhandy|t.l.phone|tel.fono|whatsapp)"
    r"[\w .:()\-/#]{0,20}\Z"
)
PHONE_LITERALS = Literals(
    words=(
        *(
            "tel.",
            "tel:",
            "tel ",
            "phone",
            "fax:",
            "fax ",
            "fax.",
            "mobil",
            "cell",
            "call ",
            "call:",
            "telefon",
            "handy",
        ),
        *("t\u00e9l\u00e9phone", "tel\u00e9fono", "whatsapp"),
    )
)


def find_emails(scan: Scan) -> Iterator[Span]:
    """Addresses with a plausible top-level domain; `q@k.mT` (a product) and `git@host` (a login) are none."""
    text = scan.text
    if "@" not in text:
        return
    for match in DOMAIN.finditer(text):
        mailbox = MAILBOX.search(text, max(0, match.start() - 64), match.start())
        top = match[2]
        is_domain = (len(top) == 2 and (top.islower() or top.isupper())) or top.lower() in LONG_TOP_LEVEL_DOMAINS
        is_login = mailbox is not None and (mailbox[0] == "git" or text.endswith("//", 0, mailbox.start()))
        if mailbox and is_domain and not is_login and not _is_matrix_product(mailbox[0], match[1]):
            yield mailbox.start(), match.end()


def find_addresses(scan: Scan) -> Iterator[Span]:
    """Public IP addresses. Private, loopback, documentation and other special ranges identify nobody and stay, and so
    does what stands where a version would."""
    text = scan.text
    for pattern, starts in ((IPV4, _ipv4_starts(scan)), (IPV6, _ipv6_starts(scan))):
        outside = NOT_ADDRESS if pattern is IPV4 else INSIDE_WORD
        for start in starts:
            match = pattern.match(text, start)
            if (
                match
                and _is_public(match[0])
                and (
                    pattern is IPV6
                    or _is_no_version(match[0])
                    or ADDRESS_BEFORE.search(text, max(0, start - 20), start)
                )
                and not outside.search(text, max(0, start - 1), start)
                and not VERSION_BEFORE.search(text, max(0, start - 20), start)
            ):
                yield match.span()


def find_phones(scan: Scan) -> Iterator[Span]:
    """Telephone numbers in international form (+49 30 ...), as (415) 555-0100 and 415-555-0100, and in any other form
    after a word that announces one."""
    text, data = scan.text, scan.data
    announced = [start for start, _ in scan.literals("phone")]
    for start, end, count in scan.numbers:
        opened = start - (data[start - 1 : start] == b"(")
        has_match = False
        if opened < start or data[start - 1 : start] == b"+" or b"-" in data[start:end] or b")" in data[start:end]:
            for match in PHONE.finditer(text, max(0, start - 2), end + 1):
                digits = sum(map(str.isdecimal, match[0]))
                if 8 <= digits <= 15 and (not match["code"] or _is_international(match[0])):
                    has_match = True
                    yield match.span()
        near = bisect_left(announced, start)
        if not has_match and count <= 15 and near and start - announced[near - 1] <= 30:
            local = LOCAL_PHONE.match(text, opened)
            if local and PHONE_WORDS.search(text, max(0, opened - 30), opened):
                yield local.span()


def _ipv4_starts(scan: Scan) -> list[int]:
    """Starts of four groups of digits with dots between them, three digits at most each."""
    import numpy as np

    starts, ends = scan.digit_runs
    if len(starts) < 4:
        return []
    dotted = (starts[1:] - ends[:-1] == 1) & (scan.codes[ends[:-1]] == ord("."))
    short = ends - starts <= 3
    likely = dotted[:-2] & dotted[1:-1] & dotted[2:] & short[:-3] & short[1:-2] & short[2:-1] & short[3:]
    positions: list[int] = starts[:-3][np.flatnonzero(likely)].tolist()
    return positions


def _ipv6_starts(scan: Scan) -> list[int]:
    """Starts of `2xxx:` and `3xxx:` in hexadecimal: all public IPv6 addresses begin so."""
    import numpy as np

    codes, hexadecimal = scan.codes, scan.inside(HEX_DIGIT)
    if len(codes) < 6 or (b"::" not in scan.data and scan.data.count(b":") < 7):
        return []
    colons = np.flatnonzero(codes[4:] == ord(":"))
    first = codes[colons]
    likely = ((first == ord("2")) | (first == ord("3"))) & hexadecimal[colons + 1]
    likely &= hexadecimal[colons + 2] & hexadecimal[colons + 3]
    positions: list[int] = colons[likely].tolist()
    return positions


def _is_international(number: str) -> bool:
    """After the plus an assigned country code; in North America ten digits, no exchange below 200."""
    digits = "".join(filter(str.isdecimal, number))
    if digits[0] == "1":
        return len(digits) == 11 and digits[1] >= "2" and digits[4] >= "2"
    return has_calling_code(digits)


def _is_matrix_product(left: str, right: str) -> bool:
    """`a@b.to`, `x.data@self.w`: one short name each side, as in a product rather than a mailbox at a host."""
    return right.startswith("self.") or (len(left) <= 2 and right.count(".") == 1 and len(right.partition(".")[0]) <= 2)


def _is_no_version(address: str) -> bool:
    """Two parts of 20 or more: that loses two of 1,000 random addresses, and rules out sections, versions and object
    identifiers."""
    return sum(int(part) >= 20 for part in address.split(".")) >= 2


def _is_public(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return parsed.is_global and not parsed.is_multicast and not (parsed.version == 4 and address.endswith(".0"))
