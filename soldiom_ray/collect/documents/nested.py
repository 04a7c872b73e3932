"""Files within files (archives, attachments of e-mails): each is parsed as one of its own, within one allowance."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions
from soldiom_ray.collect.text import SkippedError

MAX_DEPTH = 4
MAX_UNPACKED_BYTES = 400 << 20
MAX_MEMBERS = 10_000
MAX_NAMED = 100


@dataclass
class Allowance:
    """What one file may still unpack, all levels together."""

    bytes_left: int = MAX_UNPACKED_BYTES
    members_left: int = MAX_MEMBERS
    depth: int = 0

    def deeper(self) -> None:
        if self.depth >= MAX_DEPTH:
            raise SkippedError("too_deep", f"files within files, more than {MAX_DEPTH} levels")
        self.depth += 1

    def spend(self, size_bytes: int) -> None:
        """Take one member of this size. Raises SkippedError: too_large."""
        if size_bytes > self.bytes_left:
            raise SkippedError("too_large", f"unpacks to more than {MAX_UNPACKED_BYTES >> 20} MiB in all")
        if not self.members_left:
            raise SkippedError("too_large", f"more than {MAX_MEMBERS} files in it")
        self.bytes_left -= size_bytes
        self.members_left -= 1


_ALLOWANCE: ContextVar[Allowance | None] = ContextVar("allowance", default=None)


@contextmanager
def allowance() -> Iterator[Allowance]:
    """The allowance of the file that is being parsed; a new one for the outermost."""
    current = _ALLOWANCE.get()
    if current is not None:
        yield current
        return
    made = Allowance()
    token = _ALLOWANCE.set(made)
    try:
        yield made
    finally:
        _ALLOWANCE.reset(token)


@dataclass
class Members:
    """What the members of one file gave: their texts, and those that were left out with their outcomes."""

    texts: list[ParsedText] = field(default_factory=list)
    left_out: list[tuple[str, str, str]] = field(default_factory=list)
    read: int = 0

    def add(self, name: str, data: bytes, options: ParseOptions) -> None:
        """Parse one member; its texts are named after it."""
        from soldiom_ray.collect.documents import parse_bytes

        with allowance() as left:
            try:
                left.spend(len(data))
                left.deeper()
            except SkippedError as refused:
                self.leave_out(name, refused)
                return
            try:
                found = parse_bytes(name, data, options)
            except SkippedError as refused:
                self.leave_out(name, refused)
            except MemoryError:
                raise
            except Exception as error:  # a parser that stumbles costs one member
                self.leave_out(name, SkippedError("crashed", type(error).__name__))
            else:
                self.read += 1
                told = PurePosixPath(name).suffix.lower()
                self.texts += [
                    replace(
                        text,
                        part=f"{name}#{text.part}" if text.part else name,
                        metadata=text.metadata | {"ending": told},
                    )
                    for text in found
                ]
            finally:
                left.depth -= 1

    def leave_out(self, name: str, skipped: SkippedError) -> None:
        self.left_out.append((name, skipped.reason, skipped.detail))

    def with_left_out(self, texts: Iterable[ParsedText]) -> list[ParsedText]:
        """The texts, the first of which tells what was left out: `left_out_counts` by outcome, and the first hundred
        members by name in `left_out`."""
        texts = list(texts)
        if not self.left_out or not texts:
            return texts
        counts: dict[str, int] = {}
        for _, outcome, _ in self.left_out:
            counts[outcome] = counts.get(outcome, 0) + 1
        named = [{"name": name, "outcome": outcome, "why": why} for name, outcome, why in self.left_out[:MAX_NAMED]]
        told = {"left_out_counts": counts, "left_out": named}
        return [replace(texts[0], metadata=texts[0].metadata | told), *texts[1:]]
