"""National identity, tax and insurance numbers of persons: their written forms, their checks, and the words that
announce them.

Most checks are python-stdnum's. It refuses numbers with an impossible birth date or region, which the digits alone let
pass. Checked below are the numbers for which it depends on today's date (a dataset must not), refuses what occurs in
texts (numbers reserved for examples, temporary numbers), or fails on some regions (China). Sources are the issuing
states' descriptions of their numbers.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module

from soldiom_ray.redaction.scan import Literals, word_table
from soldiom_ray.specialists.checksums import is_luhn

BEFORE, AFTER = r"(?<![\w.\-])", r"(?![\w\-]|\.\d)"

Check = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class NationalNumber:
    """One kind of number. With `alone`, a match of that pattern needs no word before it."""

    pattern: re.Pattern[str]
    check: Check
    words: re.Pattern[str]
    alone: re.Pattern[str] | None = None


def _valid(*modules: str) -> Check:
    """Whether one of these modules of python-stdnum accepts a number."""

    def check(number: str) -> bool:
        return any(_validator(module)(number.replace(".", "")) for module in modules)

    return check


@cache
def _validator(module: str) -> Check:
    """`is_valid` of a module of python-stdnum. Importing all of them takes 0.1 s, and few texts need one."""
    validator: Check = import_module(f"stdnum.{module}").is_valid
    return validator


def _digits(text: str) -> str:
    return "".join(filter(str.isdecimal, text))


def _weighted(digits: str, weights: Iterable[str | int]) -> int:
    return sum(int(digit) * int(weight) for digit, weight in zip(digits, weights, strict=False))


def _is_day(month: str, day: str) -> bool:
    return 1 <= int(month) <= 12 and 1 <= int(day) <= 31


def _social_security(number: str) -> bool:
    area, group, serial = re.split("[- ]", number) if not number.isdecimal() else (number[:3], number[3:5], number[5:])
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def _belgian(number: str) -> bool:
    digits = _digits(number)
    first, check = digits[:9], int(digits[9:])
    return check in (97 - int(first) % 97, 97 - int(f"2{first}") % 97) and int(digits[2:4]) <= 12


def _swedish(number: str) -> bool:
    digits = _digits(number)[-10:]
    return is_luhn(digits) and _is_day(digits[2:4], digits[4:6])


def _finnish(number: str) -> bool:
    value = int(number[:6] + number[7:10])
    return _is_day(number[2:4], number[:2]) and "0123456789ABCDEFHJKLMNPRSTUVWXY"[value % 31] == number[10]


def _norwegian(number: str) -> bool:
    digits = _digits(number)
    return _weighted(digits[:10], "3761894521") % 11 == 0 and _weighted(digits, "54327654321") % 11 == 0


def _danish(number: str) -> bool:
    return _is_day(number[2:4], number[:2])


def _luhn(number: str) -> bool:
    return is_luhn(_digits(number)) and len(set(_digits(number))) > 2


def _chinese(number: str) -> bool:
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return "10X98765432"[_weighted(number[:17], weights) % 11] == number[17].upper() and _is_day(
        number[10:12], number[12:14]
    )


def _korean(number: str) -> bool:
    digits = _digits(number)
    check = (11 - _weighted(digits[:12], "234567892345") % 11) % 10
    return check == int(digits[12]) and _is_day(digits[2:4], digits[4:6])


def _form_only(number: str) -> bool:
    """The number has no check digit."""
    return bool(number)


def _national(pattern: str, check: Check, announced_by: str, alone: str | None = None) -> NationalNumber:
    compiled = re.compile(rf"{BEFORE}(?:{pattern}){AFTER}")
    announcing = re.compile(announced_by or r"(?!)", re.I)
    return NationalNumber(compiled, check, announcing, re.compile(alone) if alone else None)


NATIONAL_NUMBERS: tuple[NationalNumber, ...] = (
    _national(r"\d{3}[- ]\d{2}[- ]\d{4}|\d{9}", _social_security, r"\bssn\b|social.?security", r"\d{3}-\d{2}-\d{4}"),
    _national(
        r"(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D]",
        _form_only, r"\bni\b|nino|national.?insurance|\bN\.I\.", r"[A-Z]{2} \d{2} \d{2} \d{2} [A-D]",
    ),
    _national(
        r"[1-9]\d ?\d{3} ?\d{3} ?\d{3}", _valid("de.idnr"), r"steuer|tax.?id|idnr|identifikationsnummer|\btin\b",
        r"\d{2} \d{3} \d{3} \d{3}",
    ),
    _national(
        r"[1-478] ?\d{2} ?\d{2} ?(?:\d{2}|2[AB]) ?\d{3} ?\d{3} ?\d{2}",
        _valid("fr.nir"), r"s.curit. sociale|\bnir\b|\binsee\b|num.ro",
        r"[1-478] \d{2} \d{2} (?:\d{2}|2[AB]) \d{3} \d{3} \d{2}",
    ),
    _national(
        r"\d{8}[- ]?[A-Z]|\d{2}\.\d{3}\.\d{3}-?[A-Z]|[XYZ]-?\d{7}-?[A-Z]",
        _valid("es.dni", "es.nie"), r"\bdni\b|\bnif\b|\bnie\b|\bD\.N\.I",
        r"\d{8}-[A-Z]|\d{2}\.\d{3}\.\d{3}-?[A-Z]|[XYZ]-\d{7}-[A-Z]",
    ),
    _national(
        r"[A-Z]{6}\d{2}[A-Z]\d{2}[A-Z]\d{3}[A-Z]",
        _valid("it.codicefiscale"), "", r"[A-Z]{6}\d{2}[A-Z]\d{2}[A-Z]\d{3}[A-Z]",
    ),
    _national(r"\d{9}|\d{4}[. ]\d{2}[. ]\d{3}", _valid("nl.bsn"), r"\bbsn\b|burgerservice|sofi"),
    _national(
        r"\d{2}\.\d{2}\.\d{2}-\d{3}[.-]\d{2}|\d{11}",
        _belgian, r"rijksregister|registre national|insz|niss|national number",
        r"\d{2}\.\d{2}\.\d{2}-\d{3}\.\d{2}",
    ),
    _national(r"\d{3}\.\d{3}\.\d{3}-\d{2}|\d{11}", _valid("br.cpf"), r"\bcpf\b|cadastro", r"\d{3}\.\d{3}\.\d{3}-\d{2}"),
    _national(r"[2-9]\d{3}[ -]?\d{4}[ -]?\d{4}", _valid("in_.aadhaar"), r"aa?dhaar|uidai|\buid\b"),
    _national(r"\d{11}", _valid("pl.pesel"), r"pesel"),
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
        _valid("ch.ssn"), r"\bahv|\bavs\b|sozialversicherung", r"756\.\d{4}\.\d{4}\.\d{2}",
    ),
    _national(r"\d{3}[- ]?\d{3}[- ]?\d{3}", _luhn, r"social insurance|\bsin\b(?!\()|assurance sociale"),
    _national(r"\d{3} ?\d{3} ?\d{3}", _valid("au.tfn"), r"\btfn\b|tax file"),
    _national(r"[1-9]\d{5}(?:19|20)\d{9}[\dXx]", _chinese, "", r"[1-9]\d{5}(?:19|20)\d{9}[\dXx]"),
    _national(r"\d{6}-[1-4]\d{6}", _korean, r"\brrn\b|resident registration", r"\d{6}-[1-4]\d{6}"),
    _national(r"\d{13}", _luhn, r"south african id|\brsa id|\bsa id|id number"),
    _national(r"[1-9]\d{10}", _valid("tr.tckimlik"), r"kimlik|\bt\.?c\.? "),
    _national(r"[A-Z]{3}[PCHFATBLJG][A-Z]\d{4}[A-Z]", _form_only, r"\bpan\b|permanent account"),
    _national(r"[A-Z]{4}\d{6}[HM][A-Z]{5}[A-Z0-9]\d", _valid("mx.curp"), "", r"[A-Z]{4}\d{6}[HM][A-Z]{5}[A-Z0-9]\d"),
    _national(r"[1-9]\d{8}", _valid("pt.nif"), r"\bnif\b|contribuinte"),
    _national(r"\d{6}/\d{4}", _valid("cz.rc"), r"rodn|birth number", r"\d{6}/\d{4}"),
    _national(r"[1-8]\d{12}", _valid("ro.cnp"), r"\bcnp\b|numeric personal"),
)  # fmt: skip
ALONE = re.compile(rf"{BEFORE}(?:{'|'.join(kind.alone.pattern for kind in NATIONAL_NUMBERS if kind.alone)}){AFTER}")
_ABBREVIATIONS = word_table("ssn dni nif nie nir bsn cpf uid fnr cpr ahv avs sin tfn rrn pan cnp tin")
LITERALS = Literals(
    words=(
        *(f"{abbreviation}{end}" for abbreviation in _ABBREVIATIONS for end in ": =\"'_#(.-"),
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
"""Words, one of which must stand near a number that its form alone does not identify."""
