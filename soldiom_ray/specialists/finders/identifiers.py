"""Hashes, vulnerabilities, techniques, GUIDs, wallets, bank accounts, telephone numbers, devices: identifiers whose
form or check digit says what they are."""

import re
from collections.abc import Iterator

from soldiom_ray.specialists.checksums import (
    IBAN_LENGTHS,
    ethereum_checksum,
    has_calling_code,
    is_base58_address,
    is_iban,
    is_luhn,
    is_segwit_address,
)
from soldiom_ray.specialists.finders import Finding

HEXADECIMAL = re.compile(r"(?<![\w/+=\-])[0-9A-Fa-f]{32,129}+(?![\w+=\-])")
HASH_LENGTHS = {32: "md5", 40: "sha1", 56: "sha224", 64: "sha256", 96: "sha384", 128: "sha512"}
MARKED_MD5 = re.compile(r"(?i)\b(imphash|ja3s?|authentihash)\W{0,4}\Z")
SSDEEP = re.compile(
    r"(?<![\w:+/])(?P<size>[0-9]{1,10}):[A-Za-z0-9+/]{3,64}+:[A-Za-z0-9+/]{3,64}+"
    r"(?:,\"[^\"\r\n]{1,255}\")?(?![\w:+/])"
)
GUID = re.compile(r"(?<![\w-])\{?(?P<guid>[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12})\}?(?![\w-])")
CVE = re.compile(
    r"(?:(?<![\w])(?i:CVE)|(?<=[a-z])CVE)[-\u2010-\u2015 ](?P<year>[0-9]{4})"
    r"[-\u2010-\u2015](?P<number>[0-9]{4,19})(?![0-9a-z_])"
)
TECHNIQUE = re.compile(r"(?<![\w.\-/])T(?P<number>[01][0-9]{3})(?:[./](?P<sub>[0-9]{3}))?(?![\w]|[.\-][0-9])")
TACTIC = re.compile(r"(?<![\w.\-])TA00[0-9]{2}(?![\w])")

BASE58_ADDRESS = re.compile(r"(?<![\w])[13][1-9A-HJ-NP-Za-km-z]{25,34}+(?![\w])")
SEGWIT_ADDRESS = re.compile(r"(?<![\w])(?:bc1[02-9ac-hj-np-z]{11,71}+|BC1[02-9AC-HJ-NP-Z]{11,71}+)(?![\w])")
ETHEREUM_ADDRESS = re.compile(r"(?<![\w])0x[0-9a-fA-F]{40}(?![\w])")
IBAN = re.compile(r"(?<![\w])[A-Z]{2}[0-9]{2}(?:[ -]?[A-Z0-9]{4}){2,7}(?:[ -]?[A-Z0-9]{1,4})?")
PHONE = re.compile(r"(?<![\w+.])\+[1-9][0-9]{0,2}(?:[ .\-/\u00a0]?\(?[0-9]{1,8}\)?){1,8}(?![\w]|[.\-][0-9])")
DEVICE = re.compile(
    r"(?i)\bIMEI(?:[ /]?SV)?(?: (?:number|no\.?|is|was|code))?[\s:=#(]{0,4}"
    r"(?P<number>[0-9]{2}[ -]?[0-9]{6}[ -]?[0-9]{6}[ -]?[0-9])(?![0-9])"
)
MAX_CHECKED = 1000
"""Checksums of Ethereum computed in one call, at half a millisecond each."""


def find_hashes(text: str) -> Iterator[Finding]:
    """Hexadecimal hashes by their exact length, and ssdeep. Repeated digits, decimal numbers and UTF-16 text in
    hexadecimal (every second byte 00, as event logs hold it) are none."""
    for match in HEXADECIMAL.finditer(text):
        kind = HASH_LENGTHS.get(len(match[0]))
        if kind and _looks_random(match[0]):
            marked = MARKED_MD5.search(text[max(0, match.start() - 20) : match.start()]) if kind == "md5" else None
            yield Finding(marked[1].lower() if marked else kind, *match.span(), match[0].lower())
    for match in SSDEEP.finditer(text):
        size = int(match["size"])
        if size >= 3 and size % 3 == 0 and (size // 3).bit_count() == 1:
            yield Finding("ssdeep", *match.span(), match[0])


def find_guids(text: str) -> Iterator[Finding]:
    """GUIDs, as of COM classes and interfaces; normalised to lower case without braces."""
    for match in GUID.finditer(text):
        yield Finding("guid", *match.span("guid"), match["guid"].lower())


def find_vulnerabilities(text: str) -> Iterator[Finding]:
    """CVE numbers of the years that have some, also where a table's cells have run together (FrameworkCVE-...)."""
    for match in CVE.finditer(text):
        if 1999 <= int(match["year"]) <= 2099:
            yield Finding("cve", *match.span(), f"CVE-{match['year']}-{match['number']}")


def find_techniques(text: str) -> Iterator[Finding]:
    """Techniques and tactics of MITRE ATT&CK by number: T1059.001, T0886, TA0002."""
    for match in TECHNIQUE.finditer(text):
        number = f"T{match['number']}"
        if number >= "T0800":
            yield Finding("attack_technique", *match.span(), number + (f".{match['sub']}" if match["sub"] else ""))
    for match in TACTIC.finditer(text):
        yield Finding("attack_tactic", *match.span(), match[0])


def find_wallets(text: str) -> Iterator[Finding]:
    """Bitcoin and Ethereum addresses whose checksum holds. An Ethereum address in one case has none, and says so."""
    for match in BASE58_ADDRESS.finditer(text):
        if is_base58_address(match[0]):
            yield Finding("bitcoin_address", *match.span(), match[0])
    for match in SEGWIT_ADDRESS.finditer(text):
        if is_segwit_address(match[0]):
            yield Finding("bitcoin_address", *match.span(), match[0].lower())
    checked: set[str] = set()
    for match in ETHEREUM_ADDRESS.finditer(text):
        digits = match[0][2:]
        if not _looks_random(digits):
            continue
        if digits in (digits.lower(), digits.upper()):
            yield Finding("ethereum_address", *match.span(), match[0].lower(), "written without a checksum")
        elif match[0] not in checked and len(checked) >= MAX_CHECKED:
            yield Finding("ethereum_address", *match.span(), match[0], "checksum not computed")
        else:
            checked.add(match[0])
            if ethereum_checksum(match[0]) == match[0]:
                yield Finding("ethereum_address", *match.span(), match[0])


def find_bank_accounts(text: str) -> Iterator[Finding]:
    """IBANs whose length and check digits hold."""
    for match in IBAN.finditer(text):
        length = IBAN_LENGTHS.get(match[0][:2], 0)
        end, count = match.start(), 0
        while end < match.end() and count < length:
            count += text[end] not in " -"
            end += 1
        account = re.sub("[ -]", "", text[match.start() : end])
        if is_iban(account) and not text[end : end + 1].isalnum():
            yield Finding("iban", match.start(), end, account)


def find_phones(text: str) -> Iterator[Finding]:
    """Telephone numbers in international form; normalised to E.164."""
    for match in PHONE.finditer(text):
        digits = re.sub("[^0-9]", "", match[0].replace("(0)", ""))
        if 8 <= len(digits) <= 15 and has_calling_code(digits):
            yield Finding("phone", *match.span(), f"+{digits}")


def find_devices(text: str) -> Iterator[Finding]:
    """Numbers of mobile devices after the word IMEI whose check digit holds."""
    for match in DEVICE.finditer(text):
        digits = re.sub("[^0-9]", "", match["number"])
        if is_luhn(digits) and len(set(digits)) > 1:
            yield Finding("imei", *match.span("number"), digits)


def _looks_random(digits: str) -> bool:
    """Whether hexadecimal digits could be a hash: neither few different ones, nor all decimal, nor UTF-16 text."""
    zeros = sum(digits[position : position + 2] == "00" for position in range(0, len(digits), 2))
    return len(set(digits.lower())) >= 6 and not digits.isdigit() and zeros * 8 < len(digits)
