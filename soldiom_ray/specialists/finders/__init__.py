"""Finders of evidence: each takes a text and yields findings, with patterns that need linear time: a match begins only
where the character before it cannot belong to it, and every repetition is bounded or possessive."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """A span of a text and what it is; `parts` are findings inside it (the domain of a URL, the port of a socket)."""

    kind: str
    start: int
    end: int
    normalised: str
    note: str = ""
    parts: tuple["Finding", ...] = ()
