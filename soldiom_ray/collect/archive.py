"""The wanted files of a repository's tarball, read in one pass without writing any of them to disk."""

import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

MAX_UNPACKED_BYTES = 2 << 30
MAX_MEMBERS = 200_000
MAX_KEPT_BYTES = 256 << 20


@dataclass
class Unpacked:
    """Files by path below the archive's one top folder, what was left out (path, outcome, detail), and the commit
    that `git archive` wrote into the header."""

    files: dict[str, bytes] = field(default_factory=dict)
    left_out: list[tuple[str, str, str]] = field(default_factory=list)
    commit: str = ""
    not_wanted: int = 0


def unpack(path: Path, wanted: Callable[[str], bool], max_bytes: int) -> Unpacked:
    """Read the members that are wanted. Nothing in the archive can point outside, grow without bound or be a link: such
    members are left out as unsafe_path, archive_bomb and link; an archive cut short gives `damaged` once."""
    unpacked = Unpacked()
    try:
        with tarfile.open(path, mode="r|gz") as archive:
            _read(archive, wanted, max_bytes, unpacked)
            unpacked.commit = str(archive.pax_headers.get("comment", ""))
    except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError) as error:
        unpacked.left_out.append(("", "damaged", f"the archive does not open to its end ({type(error).__name__})"))
    return unpacked


def _read(archive: tarfile.TarFile, wanted: Callable[[str], bool], max_bytes: int, unpacked: Unpacked) -> None:
    total = kept = members = 0
    for member in archive:
        total += member.size
        members += 1
        if total > MAX_UNPACKED_BYTES or members > MAX_MEMBERS:
            unpacked.left_out.append((member.name, "archive_bomb", f"{total} bytes in {members} members"))
            return
        if member.isdir():
            continue
        name = safe_path(member.name)
        if name is None:
            unpacked.left_out.append((member.name, "unsafe_path", "leads out of the archive"))
        elif member.islnk() or member.issym() or not member.isfile():
            unpacked.left_out.append((name, "link", "a link or a device, not a file"))
        elif not wanted(name):
            unpacked.not_wanted += 1
        elif member.size > max_bytes:
            unpacked.left_out.append((name, "too_large", str(member.size)))
        elif kept + member.size > MAX_KEPT_BYTES:
            unpacked.left_out.append(
                (name, "over_limit", f"the repository has more than {MAX_KEPT_BYTES >> 20} MiB of text")
            )
        else:
            file = archive.extractfile(member)
            unpacked.files[name] = file.read() if file else b""
            kept += member.size


def safe_path(name: str) -> str | None:
    """The path without its first part (the archive's top folder); None when it leads elsewhere."""
    parts = PurePosixPath(name).parts
    if name.startswith("/") or "\\" in name or "\0" in name or ".." in parts or len(parts) < 2:
        return None
    return "/".join(parts[1:])
