"""Evidence in a text: addresses, hashes, accounts, paths, identifiers, each with its span.

A span is half open and counts characters, so `text[start:end] == value`. Where two findings overlap, the one of the
finder that stands first in `FINDERS` is kept. What is inside another by its nature (the domain of a URL, the file of a
path) is an item of its own with `part_of`, the `id` of the whole.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from soldiom_ray.errors import InputError
from soldiom_ray.specialists.finders import Finding, identifiers, machine, network

FINDERS: tuple[Callable[[str], Iterator[Finding]], ...] = (
    network.find_urls,
    network.find_emails,
    identifiers.find_hashes,
    identifiers.find_wallets,
    identifiers.find_guids,
    identifiers.find_vulnerabilities,
    identifiers.find_techniques,
    identifiers.find_bank_accounts,
    machine.find_security_identifiers,
    machine.find_mutexes,
    machine.find_registry_keys,
    machine.find_accounts,
    machine.find_windows_paths,
    machine.find_posix_paths,
    network.find_hardware_addresses,
    network.find_addresses,
    identifiers.find_devices,
    identifiers.find_phones,
    network.find_domains,
    machine.find_file_names,
    network.find_ports,
    machine.find_processes,
)
MAX_CHARACTERS = 4 << 20
"""Of one call; more is read by the next, from `read_to` on."""
MAX_ITEMS = 50_000


def extract_evidence(document: dict[str, Any]) -> dict[str, Any]:
    """`{"text": str}` -> `{"items": [item], "counts": {kind: n}, "read_to": n, "complete": bool}`.

    An item is `{"id": from 1, "kind", "value": as written, "normalised": comparable form, "start", "end", "part_of": id
    or null, "note"}`, ordered by `start`, a whole before its parts. `complete` is false where the text is longer than
    one call reads or has more items than one call gives; `read_to` is then where the next call should begin."""
    text = text_of(document)
    read_to = _end_of_reading(text)
    wholes = sorted(_wholes(text[:read_to]), key=lambda finding: finding.start)
    items: list[dict[str, Any]] = []
    for whole in wholes:
        if len(items) + 1 + len(whole.parts) > MAX_ITEMS:
            read_to = whole.start
            break
        items.append(_item(text, whole, len(items) + 1, None))
        number = len(items)
        items.extend(_item(text, part, number + offset, number) for offset, part in enumerate(whole.parts, 1))
    counts = dict(sorted(Counter(item["kind"] for item in items).items()))
    return {"items": items, "counts": counts, "read_to": read_to, "complete": read_to == len(text)}


def text_of(document: dict[str, Any], field: str = "text") -> str:
    """The field's text, or InputError."""
    text = document.get(field)
    if not isinstance(text, str):
        raise InputError(f'"{field}" is {type(text).__name__}, not a text', remedy=f'Give {{"{field}": "..."}}.')
    return text


def _end_of_reading(text: str) -> int:
    """The whole text, or up to the last line or word that one call reads."""
    if len(text) <= MAX_CHARACTERS:
        return len(text)
    for mark in ("\n", " "):
        end = text.rfind(mark, MAX_CHARACTERS // 2, MAX_CHARACTERS)
        if end >= 0:
            return end + 1
    return MAX_CHARACTERS


def _wholes(text: str) -> Iterator[Finding]:
    taken = bytearray(len(text))
    for find in FINDERS:
        for finding in find(text):
            start, end = finding.start, finding.end
            if start < end and taken.find(1, start, end) < 0:
                taken[start:end] = b"\x01" * (end - start)
                yield finding


def _item(text: str, finding: Finding, number: int, part_of: int | None) -> dict[str, Any]:
    return {
        "id": number,
        "kind": finding.kind,
        "value": text[finding.start : finding.end],
        "normalised": finding.normalised,
        "start": finding.start,
        "end": finding.end,
        "part_of": part_of,
        "note": finding.note,
    }
