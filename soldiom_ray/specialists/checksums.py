"""Check digits, checksums and assigned prefixes of identifiers: card and device numbers, bank accounts, telephone
numbers, wallet addresses."""

import hashlib
from functools import lru_cache

from soldiom_ray.specialists.finders.names import words

BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
BECH32_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
BECH32M = 0x2BC830A3
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
CALLING_CODES = words(
    """
    1 7 20 27 30 31 32 33 34 36 39 40 41 43 44 45 46 47 48 49 51 52 53 54 55 56 57 58 60 61 62 63 64 65 66 81 82 84 86
    90 91 92 93 94 95 98 211 212 213 216 218 220 221 222 223 224 225 226 227 228 229 230 231 232 233 234 235 236 237
    238 239 240 241 242 243 244 245 246 247 248 249 250 251 252 253 254 255 256 257 258 260 261 262 263 264 265 266
    267 268 269 290 291 297 298 299 350 351 352 353 354 355 356 357 358 359 370 371 372 373 374 375 376 377 378 380
    381 382 383 385 386 387 389 420 421 423 500 501 502 503 504 505 506 507 508 509 590 591 592 593 594 595 596 597
    598 599 670 672 673 674 675 676 677 678 679 680 681 682 683 685 686 687 688 689 690 691 692 800 850 852 853 855
    856 870 880 886 960 961 962 963 964 965 966 967 968 970 971 972 973 974 975 976 977 979 992 993 994 995 996 998
    """
)
"""Assigned country codes (ITU-T E.164, list of 2016 with its amendments)."""

_KECCAK_ROUNDS = 24
_LANES = (1 << 64) - 1


def is_luhn(digits: str) -> bool:
    """Whether the last of these ASCII digits is the check digit of ISO/IEC 7812."""
    doubled = [int(digit) * (1 + position % 2) for position, digit in enumerate(reversed(digits))]
    return sum(value - 9 * (value > 9) for value in doubled) % 10 == 0


def has_calling_code(digits: str) -> bool:
    """Whether the digits of an international telephone number begin with an assigned country code."""
    return any(digits[:length] in CALLING_CODES for length in (1, 2, 3))


def is_iban(account: str) -> bool:
    """Whether an account without spaces has its country's length and check digits that hold (ISO 13616)."""
    if IBAN_LENGTHS.get(account[:2]) != len(account) or not (account.isascii() and account.isalnum()):
        return False
    return int("".join(str(int(character, 36)) for character in account[4:] + account[:4])) % 97 == 1


def is_base58_address(address: str) -> bool:
    """Whether this is a Bitcoin address of the main network that begins with 1 or 3: its last four bytes are the
    checksum of the others."""
    number = 0
    for character in address:
        digit = BASE58.find(character)
        if digit < 0:
            return False
        number = number * 58 + digit
    if number >> 200:
        return False
    data = number.to_bytes(25, "big")
    checksum = hashlib.sha256(hashlib.sha256(data[:21]).digest()).digest()[:4]
    return data[0] in (0x00, 0x05) and data[21:] == checksum


def is_segwit_address(address: str) -> bool:
    """Whether this is a Bitcoin address of the main network that begins with bc1 (BIP 173, BIP 350)."""
    if address not in (address.lower(), address.upper()):
        return False
    prefix, _, data = address.lower().rpartition("1")
    values = [BECH32.find(character) for character in data]
    if prefix != "bc" or len(values) < 8 or min(values) < 0:
        return False
    checked = 1
    for value in [*(ord(c) >> 5 for c in prefix), 0, *(ord(c) & 31 for c in prefix), *values]:
        top = checked >> 25
        checked = (checked & 0x1FFFFFF) << 5 ^ value
        for position, generator in enumerate(BECH32_GENERATOR):
            checked ^= generator if top >> position & 1 else 0
    return checked == (1 if values[0] == 0 else BECH32M)


@lru_cache(maxsize=4096)
def ethereum_checksum(address: str) -> str:
    """A 0x address in the capitals that make its checksum (EIP-55)."""
    digits = address[2:].lower()
    marks = keccak_256(digits.encode()).hex()
    return "0x" + "".join(c.upper() if int(mark, 16) > 7 else c for c, mark in zip(digits, marks, strict=False))


def is_onion_service(label: str) -> bool:
    """Whether 56 characters are the address of a Tor onion service of version 3 (rend-spec-v3, 6)."""
    import base64
    import binascii

    try:
        data = base64.b32decode(label.upper())
    except binascii.Error:
        return False
    key, checksum, version = data[:32], data[32:34], data[34:]
    return version == b"\x03" and hashlib.sha3_256(b".onion checksum" + key + version).digest()[:2] == checksum


def keccak_256(data: bytes) -> bytes:
    """Keccak with the padding of Ethereum, which is older than SHA-3's, so `hashlib` has it not."""
    rate = 136
    padded = bytearray(data + b"\x01" + bytes(-(len(data) + 1) % rate))
    padded[-1] |= 0x80
    lanes = [[0] * 5 for _ in range(5)]
    for block in range(0, len(padded), rate):
        for lane in range(rate // 8):
            word = padded[block + lane * 8 : block + lane * 8 + 8]
            lanes[lane % 5][lane // 5] ^= int.from_bytes(word, "little")
        lanes = _permute(lanes)
    return b"".join(lanes[lane % 5][lane // 5].to_bytes(8, "little") for lane in range(4))


def _permute(lanes: list[list[int]]) -> list[list[int]]:
    """Keccak-f[1600] (FIPS 202, 3.3), as its authors' compact code writes it."""
    register = 1
    for _ in range(_KECCAK_ROUNDS):
        columns = [column[0] ^ column[1] ^ column[2] ^ column[3] ^ column[4] for column in lanes]
        mixed = [columns[(x + 4) % 5] ^ _rotate(columns[(x + 1) % 5], 1) for x in range(5)]
        lanes = [[lanes[x][y] ^ mixed[x] for y in range(5)] for x in range(5)]
        x, y, current = 1, 0, lanes[1][0]
        for step in range(24):
            x, y = y, (2 * x + 3 * y) % 5
            current, lanes[x][y] = lanes[x][y], _rotate(current, (step + 1) * (step + 2) // 2)
        for y in range(5):
            row = [lanes[x][y] for x in range(5)]
            for x in range(5):
                lanes[x][y] = row[x] ^ (~row[(x + 1) % 5] & row[(x + 2) % 5] & _LANES)
        for bit in range(7):
            register = (register << 1 ^ (register >> 7) * 0x71) % 256
            if register & 2:
                lanes[0][0] ^= 1 << ((1 << bit) - 1)
    return lanes


def _rotate(value: int, count: int) -> int:
    count %= 64
    return (value << count | value >> (64 - count)) & _LANES
