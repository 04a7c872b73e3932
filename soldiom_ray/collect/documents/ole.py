"""Old Office files and Outlook messages (Compound File Binary, [MS-CFB]): which program wrote them, by the names in
their root folder, their streams, and whether their tables are sound enough for readers that trust them.

olefile 0.47 was tried instead. On 34 real files both agree, but it follows a circle in the table of FAT sectors until
the sandbox ends it (45 s of CPU; here under 1 ms), fails on folders of over 1,000 entries in a row, and does not check
that chains of sectors end.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from soldiom_ray.collect.text import SkippedError

_ENTRY_BYTES = 128
_NO_ENTRY = 0xFFFFFFFF
_LAST_SECTOR = 0xFFFFFFFA
_SMALL_BYTES = 64
_FOLDER, _STREAM, _ROOT = 1, 2, 5
_FAMILIES = (("Workbook", "workbook"), ("Book", "workbook"), ("__properties_version1.0", "outlook"))
_OTHER = (
    ("WordDocument", "an old Word file; save it as .docx"),
    ("PowerPoint Document", "an old PowerPoint file; save it as .pptx"),
    ("VisioDocument", "a Visio drawing; save it as PDF"),
)
_MAX_STEPS = 4
"""Per sector of the file: streams do not share sectors."""


def family_of(data: bytes) -> str | None:
    """workbook, outlook, or None for what no parser reads. Raises SkippedError: encrypted, damaged."""
    names = _open(data).folder()
    if "EncryptedPackage" in names:
        raise SkippedError("encrypted", "an Office file with a password")
    return next((family for name, family in _FAMILIES if name in names), None)


def unsupported_format(data: bytes) -> str:
    """What a file of no family is, and what to do with it."""
    names = _open(data).folder()
    descriptions = (description for name, description in _OTHER if name in names)
    return next(descriptions, "an old Office file of a program that is not known")


def open_container(data: bytes) -> "Container":
    """The file, after a check that every stream lies in it, in a chain of sectors that ends: readers follow a circle
    until memory is full. Raises SkippedError: damaged."""
    container = _open(data)
    streams = [entry for entry in container.entries if entry.kind == _STREAM]
    if not container.entries or container.entries[0].kind != _ROOT:
        raise SkippedError("damaged", "an old Office file without its root folder")
    if max((entry.size for entry in streams), default=0) > len(data):
        raise SkippedError("damaged", "an old Office file that claims more than it holds")
    steps = sum(1 for _ in _chain(container.table, container.entries[0].start))
    for entry in streams:
        if entry.size:
            steps += sum(1 for _ in _chain(container.table_of(entry), entry.start))
        if steps > _MAX_STEPS * (len(container.table) + len(container.small_table)) + len(streams):
            raise SkippedError("damaged", "an old Office file whose streams share sectors")
    return container


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    kind: int
    left: int
    right: int
    child: int
    start: int
    size: int


@dataclass
class Container:
    """A Compound File. Its entries (folders and streams) are known by their numbers; 0 is the root folder."""

    data: bytes
    sector_bytes: int
    table: Sequence[int] = ()
    entries: Sequence[_Entry] = ()
    small_table: Sequence[int] = ()
    small_limit: int = 0

    def folder(self, number: int = 0) -> dict[str, int]:
        """Name -> number of the entries that lie directly in a folder."""
        names: dict[str, int] = {}
        seen: set[int] = set()
        pending = [entry.child for entry in self.entries[number : number + 1]]
        while pending:
            child = pending.pop()
            if child < len(self.entries) and child not in seen:
                seen.add(child)
                names[self.entries[child].name] = child
                pending.extend((self.entries[child].left, self.entries[child].right))
        return names

    def is_folder(self, number: int) -> bool:
        """Whether an entry is a folder."""
        return self.entries[number].kind == _FOLDER

    def size(self, number: int) -> int:
        """Bytes of a stream, as the directory states them."""
        return self.entries[number].size

    def stream(self, number: int) -> bytes:
        """The content of a stream. Raises SkippedError: damaged."""
        entry = self.entries[number]
        if entry.size >= self.small_limit:
            return self.content(entry.start)[: entry.size]
        places = (at * _SMALL_BYTES for at in _chain(self.small_table, entry.start)) if entry.size else ()
        return b"".join(self._small_sectors[place : place + _SMALL_BYTES] for place in places)[: entry.size]

    def table_of(self, entry: _Entry) -> Sequence[int]:
        """The table that says which sector of a stream follows which."""
        return self.table if entry.size >= self.small_limit else self.small_table

    def sector(self, number: int) -> bytes:
        return self.data[(number + 1) * self.sector_bytes : (number + 2) * self.sector_bytes]

    def content(self, start: int) -> bytes:
        return b"".join(self.sector(number) for number in _chain(self.table, start))

    @cached_property
    def _small_sectors(self) -> bytes:
        return self.content(self.entries[0].start)


def _open(data: bytes) -> Container:
    try:
        shift = struct.unpack_from("<H", data, 30)[0]
        if shift not in (9, 12):
            raise SkippedError("damaged", "an old Office file with sectors of an impossible size")
        container = Container(data, 1 << shift)
        container.table = _table(container)
        directory = container.content(struct.unpack_from("<I", data, 48)[0])
        container.entries = [
            _entry(directory, offset) for offset in range(0, len(directory) - _ENTRY_BYTES + 1, _ENTRY_BYTES)
        ]
        container.small_limit, small_start, small_tables = struct.unpack_from("<III", data, 56)
        container.small_table = _numbers(container.content(small_start)) if small_tables else ()
    except struct.error as error:
        raise SkippedError("damaged", "an old Office file that is cut off") from error
    return container


def _table(container: Container) -> Sequence[int]:
    """Which sector follows each sector; the table's own sectors are listed in the header and, past 109, in a chain."""
    sectors = len(container.data) // container.sector_bytes
    listed = list(struct.unpack_from("<109I", container.data, 76))
    following = struct.unpack_from("<I", container.data, 68)[0]
    for _ in range(sectors):
        if following >= _LAST_SECTOR:
            break
        more = _numbers(container.sector(following))
        listed.extend(more[:-1])
        following = more[-1] if more else _NO_ENTRY
    if len(listed) > sectors + 109 + container.sector_bytes:
        raise SkippedError("damaged", "an old Office file whose table of sectors goes in a circle")
    table: list[int] = []
    for number in listed:
        if number < _LAST_SECTOR and len(table) < sectors:
            table.extend(_numbers(container.sector(number)))
    return table


def _chain(table: Sequence[int], start: int) -> Iterator[int]:
    """The sectors from `start` on."""
    number = start
    for _ in range(len(table) + 1):
        if number >= _LAST_SECTOR:
            return
        if number >= len(table):
            raise SkippedError("damaged", "an old Office file whose sectors lead out of it")
        yield number
        number = table[number]
    raise SkippedError("damaged", "an old Office file whose sectors go in a circle")


def _numbers(content: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(content) // 4}I", content[: len(content) // 4 * 4])


def _entry(directory: bytes, offset: int) -> _Entry:
    length = struct.unpack_from("<H", directory, offset + 64)[0]
    name = directory[offset : offset + min(length, 64)].decode("utf-16-le", "replace").rstrip("\0")
    left, right, child = struct.unpack_from("<III", directory, offset + 68)
    start, size = struct.unpack_from("<II", directory, offset + 116)
    return _Entry(name, directory[offset + 66], left, right, child, start, size)
