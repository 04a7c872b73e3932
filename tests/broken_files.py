"""Files that tests need and no package writes: old Office containers, bombs, packed folders."""

import io
import struct
import tarfile
import zipfile
from collections.abc import Iterable, Mapping

FREE, END, FAT = 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFD


def zip_bytes(members: Mapping[str, bytes | str], compressed: bool = True) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return sink.getvalue()


def replaced_in_zip(data: bytes, changes: Mapping[str, bytes]) -> bytes:
    """The same zip file with some members' contents changed."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members: dict[str, bytes | str] = {name: archive.read(name) for name in archive.namelist()}
    return zip_bytes(members | dict(changes))


def tar_bytes(members: Iterable[tuple[str, bytes | None]], mode: str = "w") -> bytes:
    """A tar file; a member without content is a link to /etc/passwd."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in members:
            member = tarfile.TarInfo(name)
            if content is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            member.size = len(content or b"")
            archive.addfile(member, io.BytesIO(content or b""))
    return sink.getvalue()


Folder = Mapping[str, "bytes | Folder"]


def ole_bytes(root: Folder, sector_bytes: int = 512) -> bytes:
    """A Compound File with these streams and folders ([MS-CFB]), streams below 4,096 bytes in small sectors. Its table
    has at most 109 sectors."""
    sectors: list[bytes] = []
    table: list[int] = []
    small = bytearray()
    small_table: list[int] = []
    entries: list[bytes] = []

    def add(content: bytes) -> int:
        return _chained(content, sector_bytes, sectors, table) if content else END

    def add_folder(number: int, name: str, folder: Folder) -> None:
        entries[number] = _entry(name, 1 if number else 5, FREE, len(entries) if folder else FREE, END, 0)
        first = len(entries)
        entries.extend([b""] * len(folder))
        for place, (child, content) in enumerate(folder.items(), first):
            right = place + 1 if place + 1 < first + len(folder) else FREE
            if not isinstance(content, bytes):
                add_folder(place, child, content)
                entries[place] = entries[place][:72] + struct.pack("<I", right) + entries[place][76:]
                continue
            if 0 < len(content) < 4096:
                pieces: list[bytes] = []
                start = len(small_table)
                _chained(content, 64, pieces, small_table)
                small.extend(b"".join(pieces))
            else:
                start = add(content)
            entries[place] = _entry(child, 2, right, FREE, start, len(content))

    entries.append(b"")
    add_folder(0, "Root Entry", root)
    small_tables = add(struct.pack(f"<{len(small_table)}I", *small_table).ljust(1, b"\xff")) if small_table else END
    entries[0] = entries[0][:116] + struct.pack("<IQ", add(bytes(small)), len(small))
    directory = add(b"".join(entries))
    per_sector = sector_bytes // 4
    count = next(n for n in range(1, 110) if len(sectors) + n <= n * per_sector)
    own = range(len(sectors), len(sectors) + count)
    table += [FAT] * count
    table += [FREE] * (count * per_sector - len(table))
    sectors.append(struct.pack(f"<{len(table)}I", *table))
    header = (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
        + bytes(16)
        + struct.pack("<HHHHH", 0x3E, 3, 0xFFFE, sector_bytes.bit_length() - 1, 6)
    )
    header += bytes(10) + struct.pack("<II", count, directory)
    header += struct.pack("<IIIIII", 0, 4096, small_tables, len(small_table) // per_sector + 1, END, 0)
    header += struct.pack("<109I", *own, *[FREE] * (109 - count))
    return header.ljust(sector_bytes, b"\0") + b"".join(sectors)


def _chained(content: bytes, size: int, sectors: list[bytes], table: list[int]) -> int:
    """Append the content in sectors of a size, and their chain; its first sector."""
    start = len(table)
    pieces = [content[offset : offset + size].ljust(size, b"\0") for offset in range(0, len(content), size)]
    sectors.extend(pieces)
    table.extend([*range(start + 1, start + len(pieces)), END])
    return start


def _entry(name: str, kind: int, right: int, child: int, start: int, size: int) -> bytes:
    title = name.encode("utf-16-le") + b"\0\0"
    head = title.ljust(64, b"\0") + struct.pack("<HBBIII", len(title), kind, 1, FREE, right, child)
    return head + bytes(36) + struct.pack("<IQ", start, size)


def xls_bytes(rows: Iterable[Iterable[str | float]]) -> bytes:
    """A workbook of Excel 97 with one sheet ([MS-XLS]): BOF, BOUNDSHEET, EOF, then BOF, cells, EOF."""

    def record(number: int, content: bytes) -> bytes:
        return struct.pack("<HH", number, len(content)) + content

    def bof(kind: int) -> bytes:
        return record(0x809, struct.pack("<HHHHII", 0x600, kind, 0x1BB, 0x7CC, 0, 6))

    cells = b""
    for y, row in enumerate(rows):
        for x, value in enumerate(row):
            if isinstance(value, str):
                text = value.encode("utf-16-le")
                cells += record(0x204, struct.pack("<HHHHB", y, x, 0, len(value), 1) + text)
            else:
                cells += record(0x203, struct.pack("<HHHd", y, x, 0, value))
    sheet = bof(0x10) + cells + record(0x0A, b"")
    start = bof(0x05)
    name = b"Sheet1"
    offset = len(start) + 4 + 8 + len(name) + 4
    start += record(0x85, struct.pack("<IBBBB", offset, 0, 0, len(name), 0) + name) + record(0x0A, b"")
    return ole_bytes({"Workbook": start + sheet})
