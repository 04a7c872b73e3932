"""Secrets and personal data become typed placeholders (`<SECRET>`, `<EMAIL>`, ...), counted by type.

Each finder is a fast search for what a match must contain (a literal, a group of digits), then a check of the
candidate: hashes, versions and matrix products in code stay. What matches no rule is not found, so a redacted text is
not proven to be free of private data.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

from soldiom_ray.redaction import contacts, national_numbers, numbers, person_names, secrets
from soldiom_ray.redaction.scan import LiteralIndex, Scan, Span

FINDERS: dict[str, Callable[[Scan], Iterator[Span]]] = {
    "secret": secrets.find_secrets,
    "email": contacts.find_emails,
    "ip": contacts.find_addresses,
    "phone": contacts.find_phones,
    "card": numbers.find_cards,
    "iban": numbers.find_ibans,
    "national_number": numbers.find_national_numbers,
    "person_name": person_names.find_names,
    "birth_date": person_names.find_birth_dates,
}
LITERALS = {
    "secret": secrets.LITERALS,
    "phone": contacts.PHONE_LITERALS,
    "national_number": national_numbers.LITERALS,
    "person_name": person_names.NAME_LITERALS,
    "birth_date": person_names.BIRTH_LITERALS,
}
RANK = {name: rank for rank, name in enumerate(FINDERS)}


def redact(text: str, names: Sequence[str]) -> tuple[str, Counter[str]]:
    """The text with the matches of the named finders replaced by placeholders, and their number by finder. Of matches
    that overlap the first gives the placeholder, and of those that begin together the longest."""
    spans = named_spans(text, names)
    if not spans:
        return text, Counter()
    parts: list[str] = []
    last_end = 0
    for start, end, name in spans:
        parts += (text[last_end:start], placeholder(name))
        last_end = end
    parts.append(text[last_end:])
    return "".join(parts), Counter(name for _, _, name in spans)


def placeholder(name: str) -> str:
    """What stands in place of what a finder found."""
    return f"<{name.upper()}>"


def named_spans(text: str, names: Sequence[str]) -> list[tuple[int, int, str]]:
    """(start, end, finder) of what `redact` replaces, in order; matches that overlap are one, of the first's finder."""
    merged: list[tuple[int, int, str]] = []
    for start, negative_end, _, name in _spans(text, names):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], -negative_end), merged[-1][2])
        else:
            merged.append((start, -negative_end, name))
    return merged


def find_spans(text: str, names: Sequence[str]) -> list[Span]:
    """Where the named finders match, in order; matches that overlap are one."""
    return [(start, end) for start, end, _ in named_spans(text, names)]


def _spans(text: str, names: Sequence[str]) -> list[tuple[int, int, int, str]]:
    """(start, -end, rank, finder) of every match, in order."""
    scan = Scan(text, literal_index(tuple(names)))
    return sorted((start, -end, RANK[name], name) for name in names for start, end in FINDERS[name](scan))


@lru_cache
def literal_index(names: tuple[str, ...]) -> LiteralIndex:
    """The literals of these finders together."""
    return LiteralIndex({name: LITERALS[name] for name in names if name in LITERALS})
