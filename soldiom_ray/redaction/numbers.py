"""Finders of numbers that identify a person or an account: payment cards, IBANs, national identity and tax numbers.

A check digit alone is no proof: one in ten numbers passes. So a national number needs its written form (123.456.789-09)
or a word near it that says what it is; those with strong checks (two letters in a hundred, a birth date inside) need
neither.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator

from soldiom_ray.redaction.national_numbers import ALONE, NATIONAL_NUMBERS
from soldiom_ray.redaction.scan import Scan, Span, character_class
from soldiom_ray.specialists.checksums import IBAN_LENGTHS, is_iban, is_luhn

CARD = re.compile(
    r"(?<![\w.\-])(?:[2-6]\d{3}[ -]?\d{4}[ -]?\d{4}[ -]?\d{2,4}|3\d{3}[ -]?\d{6}[ -]?\d{4,5})(?![\w\-]|\.\d)"
)
IBAN = re.compile(r"(?<![A-Za-z0-9_])[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]{4}){2,7}(?:[ -]?[A-Z0-9]{1,4})?(?!\w)")

DIGIT = character_class("0123456789")
UPPER = character_class("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
CONTEXT_CHARACTERS = 60


def find_cards(scan: Scan) -> Iterator[Span]:
    """Payment card numbers: 14 to 16 digits of a known issuer whose check digit holds (ISO/IEC 7812)."""
    for start, end, count in scan.numbers:
        if count >= 14:
            for match in CARD.finditer(scan.text, start, end):
                digits = "".join(filter(str.isdecimal, match[0]))
                if is_luhn(digits) and len(set(digits)) > 1 and _is_issued(digits):
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
        end = _end_of(match, length) if match else 0
        if end and is_iban(re.sub("[ -]", "", scan.text[start:end])):
            yield start, end


def find_national_numbers(scan: Scan) -> Iterator[Span]:
    """Identity, tax and insurance numbers of persons, each by its own check."""
    text = scan.text
    announced = [start for start, _ in scan.literals("national_number")]
    for start, end in _candidates(scan):
        first, last = max(0, start - 8), min(len(text), end + 10)
        for match in ALONE.finditer(text, first, last):
            if any(kind.alone and kind.alone.fullmatch(match[0]) and kind.check(match[0]) for kind in NATIONAL_NUMBERS):
                yield match.span()
        near = bisect_left(announced, start)
        if not near or start - announced[near - 1] > CONTEXT_CHARACTERS:
            continue
        for kind in NATIONAL_NUMBERS:
            for match in kind.pattern.finditer(text, first, last):
                before = max(0, match.start() - CONTEXT_CHARACTERS)
                if kind.words.search(text, before, match.start()) and kind.check(match[0]):
                    yield match.span()


def _is_issued(digits: str) -> bool:
    """Whether a large network uses the length and the first digits."""
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
    count = 0
    for position in range(match.start(), match.end()):
        count += match.string[position] not in " -"
        if count == length:
            following = match.string[position + 1 : position + 2]
            return 0 if following.isalnum() else position + 1
    return 0


def _candidates(scan: Scan) -> Iterator[Span]:
    """Groups with eight digits or more, and runs of four to seven digits between capitals (as in AB123456C)."""
    for start, end, digit_count in scan.numbers:
        if digit_count >= 8:
            yield start, end
    starts, ends = scan.digit_runs
    lengths = ends - starts
    likely = (lengths >= 2) & (lengths <= 7) & (starts > 0) & (ends < len(scan.data))
    starts, ends, lengths = (column[likely] for column in (starts, ends, lengths))
    upper = scan.inside(UPPER)
    beside = upper[starts - 1] & (upper[ends] | (scan.codes[ends] == ord("-")))
    beside |= (lengths == 6) & upper[ends]
    yield from zip(starts[beside].tolist(), ends[beside].tolist(), strict=True)
