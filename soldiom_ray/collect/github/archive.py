"""The wanted files of a repository's tarball, read in one pass without writing any of them to disk."""

import gzip
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import IO

MAX_UNPACKED_BYTES = 2 << 30
MAX_MEMBERS = 200_000
MAX_WANTED_BYTES = 256 << 20
MAX_HEADER_BYTES = 1 << 20
"""Of one extended header (a long name, a comment): tarfile reads it whole before it shows the member."""

_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


@dataclass
class UnpackedArchive:
    """Files by path below the archive's one top folder, what was skipped (path, reason, detail), the commit that
    `git archive` wrote into the header, the top folder, and how many paths differ from another only by case."""

    files: dict[str, bytes] = field(default_factory=dict)
    skipped: list[tuple[str, str, str]] = field(default_factory=list)
    commit: str = ""
    top: str = ""
    unwanted: int = 0
    case_colliding: int = 0
    damaged: bool = False


class _Member(tarfile.TarInfo):
    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Member":
        member = super().frombuf(buf, encoding, errors)
        if member.type in _HEADERS and member.size > MAX_HEADER_BYTES:
            raise ValueError("an extended header that is too large")
        return member


def unpack(file: IO[bytes], is_wanted: Callable[[str], bool], max_bytes: int) -> UnpackedArchive:
    """Read the wanted members. Nothing in the archive can point outside, grow without bound or be a link: such members
    are skipped as unsafe_path, archive_bomb and link; an archive cut short gives `damaged` once."""
    unpacked = UnpackedArchive()
    try:
        plain = gzip.GzipFile(fileobj=file, mode="rb")
        with tarfile.open(fileobj=plain, mode="r|", tarinfo=_Member) as archive:
            _read(archive, is_wanted, max_bytes, unpacked)
            unpacked.commit = str(archive.pax_headers.get("comment", ""))[:64]
            if not unpacked.skipped or unpacked.skipped[-1][1] != "archive_bomb":
                _read_end(plain)
    except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError) as error:
        unpacked.damaged = True
        unpacked.skipped.append(("", "damaged", f"the archive does not open to its end ({type(error).__name__})"))
    return unpacked


def _read_end(plain: gzip.GzipFile) -> None:
    """What follows the last member: the archive's padding, and the checksum of the whole."""
    remaining = MAX_HEADER_BYTES
    while remaining > 0 and (chunk := plain.read(1 << 16)):
        remaining -= len(chunk)


def _read(
    archive: tarfile.TarFile, is_wanted: Callable[[str], bool], max_bytes: int, unpacked: UnpackedArchive
) -> None:
    total = wanted_bytes = members = 0
    seen: set[str] = set()
    for member in archive:
        total += member.size
        members += 1
        if total > MAX_UNPACKED_BYTES or members > MAX_MEMBERS:
            unpacked.skipped.append((_printable(member.name), "archive_bomb", f"{total} bytes in {members} members"))
            return
        if member.isdir():
            continue
        name = safe_path(_printable(member.name))
        if name is None:
            unpacked.skipped.append((_printable(member.name), "unsafe_path", "leads out of the archive"))
            continue
        unpacked.top = unpacked.top or PurePosixPath(member.name).parts[0]
        if member.islnk() or member.issym() or not member.isfile():
            unpacked.skipped.append((name, "link", "a link or a device, not a file"))
        elif not is_wanted(name):
            unpacked.unwanted += 1
        elif member.size > max_bytes:
            unpacked.skipped.append((name, "too_large", str(member.size)))
        elif name in unpacked.files:
            unpacked.skipped.append((name, "repeated_path", "the archive holds this path twice"))
        elif wanted_bytes + member.size > MAX_WANTED_BYTES:
            unpacked.skipped.append(
                (name, "over_limit", f"the repository has more than {MAX_WANTED_BYTES >> 20} MiB of text")
            )
        else:
            unpacked.case_colliding += name.lower() in seen
            seen.add(name.lower())
            content = archive.extractfile(member)
            unpacked.files[name] = content.read() if content else b""
            wanted_bytes += member.size


def safe_path(name: str) -> str | None:
    """The path without its first part (the archive's top folder); None when it leads elsewhere."""
    parts = PurePosixPath(name).parts
    if name.startswith("/") or "\\" in name or "\0" in name or ".." in parts or len(parts) < 2:
        return None
    return "/".join(parts[1:])


def _printable(name: str) -> str:
    """A name that can be written down: bytes that are not UTF-8 (tarfile gives surrogates) become U+FFFD."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
