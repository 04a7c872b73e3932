"""Secrets and personal data become typed placeholders (`<SECRET>`, `<EMAIL>`, ...), counted by type.

Each finder is a fast search for what must be there (a literal, a group of digits), then a check of the candidate: a
code's own hashes, versions and matrix products stay. What no rule knows is not found; this is no proof of absence.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

from soldiom_ray.prepare.redaction import contacts, numbers, person_names, secrets
from soldiom_ray.prepare.redaction.scan import Anchors, Scan, Span

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
    "national_number": numbers.LITERALS,
    "person_name": person_names.NAME_LITERALS,
    "birth_date": person_names.BIRTH_LITERALS,
}
ORDER = {name: place for place, name in enumerate(FINDERS)}


def redact(text: str, names: Sequence[str]) -> tuple[str, Counter[str]]:
    """The text with what the named finders found replaced by placeholders, and how often each did. Of places that
    overlap the one that begins first gives the type, and of those the longest."""
    scan = Scan(text, anchors(tuple(names)))
    spans = sorted((start, -end, ORDER[name], name) for name in names for start, end in FINDERS[name](scan))
    if not spans:
        return text, Counter()
    counts: Counter[str] = Counter()
    parts: list[str] = []
    done = 0
    for start, negative_end, _, name in spans:
        if start < done:
            done = max(done, -negative_end)
            continue
        parts += (text[done:start], f"<{name.upper()}>")
        counts[name] += 1
        done = -negative_end
    parts.append(text[done:])
    return "".join(parts), counts


@lru_cache
def anchors(names: tuple[str, ...]) -> Anchors:
    """What these finders look for together."""
    return Anchors({name: LITERALS[name] for name in names if name in LITERALS})
