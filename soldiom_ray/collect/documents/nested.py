"""Files within files (archives, attachments of e-mails): each is parsed as a file of its own, within one allowance for
the outermost file."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from soldiom_ray.collect.documents.parsed import MAX_UNPACKED_BYTES, ParsedText, ParseOptions
from soldiom_ray.collect.text import SkippedError

MAX_DEPTH = 4
MAX_MEMBERS = 10_000
MAX_NAMED = 100


@dataclass
class Allowance:
    """How much the outermost file may still unpack, all levels together."""

    bytes_left: int = MAX_UNPACKED_BYTES
    members_left: int = MAX_MEMBERS
    depth: int = 0

    def deeper(self) -> None:
        """Enter a file within this one. Raises SkippedError: too_deep."""
        if self.depth >= MAX_DEPTH:
            raise SkippedError("too_deep", f"files within files, more than {MAX_DEPTH} levels")
        self.depth += 1

    def spend(self, size_bytes: int) -> None:
        """Count a member of this size. Raises SkippedError: too_large."""
        if size_bytes > self.bytes_left:
            raise SkippedError("too_large", f"unpacks to more than {MAX_UNPACKED_BYTES >> 20} MiB in all")
        if not self.members_left:
            raise SkippedError("too_large", f"more than {MAX_MEMBERS} files in it")
        self.bytes_left -= size_bytes
        self.members_left -= 1


_ALLOWANCE: ContextVar[Allowance | None] = ContextVar("allowance", default=None)


@contextmanager
def allowance() -> Iterator[Allowance]:
    """The allowance of the file that is being parsed; a new one for the outermost file."""
    current = _ALLOWANCE.get()
    if current is not None:
        yield current
        return
    new = Allowance()
    token = _ALLOWANCE.set(new)
    try:
        yield new
    finally:
        _ALLOWANCE.reset(token)


@dataclass
class Members:
    """The members of one file: the texts of those that were read, and (name, reason, detail) of those skipped."""

    texts: list[ParsedText] = field(default_factory=list)
    skipped: list[tuple[str, str, str]] = field(default_factory=list)
    parsed: int = 0

    def add(self, name: str, data: bytes, options: ParseOptions) -> None:
        """Parse one member; its texts are named after it."""
        from soldiom_ray.collect.documents import parse_bytes

        self.read(name, len(data), lambda: parse_bytes(name, data, options))

    def read(self, name: str, size_bytes: int, parse: Callable[[], list[ParsedText]]) -> None:
        """Read one member of this size by `parse`; its texts are named after it."""
        with allowance() as remaining:
            try:
                remaining.spend(size_bytes)
                remaining.deeper()
            except SkippedError as skipped:
                self.skip(name, skipped)
                return
            try:
                texts = parse()
            except SkippedError as skipped:
                self.skip(name, skipped)
            except MemoryError:
                raise
            except Exception as error:  # a parser that stumbles costs one member
                self.skip(name, SkippedError("crashed", type(error).__name__))
            else:
                self.parsed += 1
                ending = PurePosixPath(name).suffix.lower()
                self.texts += [
                    replace(
                        text,
                        part=f"{name}#{text.part}" if text.part else name,
                        metadata=text.metadata | {"ending": ending},
                    )
                    for text in texts
                ]
            finally:
                remaining.depth -= 1

    def skip(self, name: str, skipped: SkippedError) -> None:
        """Record a member that gave no text."""
        self.skipped.append((name, skipped.reason, skipped.detail))

    def with_skipped(self, texts: Iterable[ParsedText]) -> list[ParsedText]:
        """The texts. The first one's metadata lists the skipped members: `left_out_counts` by reason, and the first
        MAX_NAMED of them in `left_out`."""
        texts = list(texts)
        if not self.skipped or not texts:
            return texts
        counts = dict(Counter(reason for _, reason, _ in self.skipped))
        members = [
            {"name": name, "outcome": reason, "why": detail} for name, reason, detail in self.skipped[:MAX_NAMED]
        ]
        metadata = {"left_out_counts": counts, "left_out": members}
        return [replace(texts[0], metadata=texts[0].metadata | metadata), *texts[1:]]
