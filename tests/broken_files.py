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


def ole_bytes(streams: Mapping[str, bytes]) -> bytes:
    """A Compound File with these streams in its root, each in sectors of 512 bytes ([MS-CFB])."""
    sectors: list[bytes] = []
    chain: list[int] = []

    def add(content: bytes) -> int:
        start = len(sectors)
        pieces = [content[offset : offset + 512].ljust(512, b"\0") for offset in range(0, max(len(content), 1), 512)]
        sectors.extend(pieces)
        chain.extend([*range(start + 1, start + len(pieces)), END])
        return start

    starts = {name: add(content.ljust(4096, b"\0")) for name, content in streams.items()}
    names = list(streams)

    def entry(name: str, kind: int, right: int, child: int, start: int, size: int) -> bytes:
        title = name.encode("utf-16-le") + b"\0\0"
        head = title.ljust(64, b"\0") + struct.pack("<HBBIII", len(title), kind, 1, FREE, right, child)
        return head + bytes(36) + struct.pack("<IQ", start, size)

    entries = [entry("Root Entry", 5, FREE, 1, END, 0)]
    for number, name in enumerate(names, 1):
        right = number + 1 if number < len(names) else FREE
        entries.append(entry(name, 2, right, FREE, starts[name], max(len(streams[name]), 4096)))
    directory = add(b"".join(entries))
    table = len(sectors)
    chain.append(FAT)
    sectors.append(struct.pack("<128I", *chain, *[FREE] * (128 - len(chain))))
    header = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16) + struct.pack("<HHHHH", 0x3E, 3, 0xFFFE, 9, 6)
    header += bytes(6) + struct.pack("<IIIIIIIII", 0, 1, directory, 0, 4096, END, 0, END, 0)
    header += struct.pack("<109I", table, *[FREE] * 108)
    return header + b"".join(sectors)


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
