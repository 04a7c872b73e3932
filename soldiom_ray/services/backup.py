"""Everything of a home in one file, taken while it runs, and a home made from such a file.

A backup is a tar archive, sealed as a whole where the home has an encryption key. First `backup.json` (what made it),
then the anchor of the audit trail, PostgreSQL's base backup (both databases at one moment, with the log that it needs),
then what rows may refer to: storage, MLflow's files, keys; at last `files.json`, the hash of each. Objects of storage
are written before rows name them and never change, so those copied after the rows are all that the rows need, unless
somebody deletes one meanwhile. Chroma is left out: `soldiom up` fills its collections from storage again.
"""

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import unquote, urlsplit

from soldiom_ray.errors import ConflictError, DamagedError, InputError, NotFoundError, SoldiomError, UnavailableError
from soldiom_ray.records import now
from soldiom_ray.sealing import MAGIC, seal, unseal
from soldiom_ray.services import postgres
from soldiom_ray.services.addresses import postgres_sockets
from soldiom_ray.settings import Settings, read_json, write_private

FORMAT = 1
NAME = "backup"
"""What the seal is bound to."""
HEAD, FILES = "backup.json", "files.json"
ANCHOR = "keys/audit_anchor.json"
DONE = "backup.json"
"""In the home's folder `run`: when the last backup was written, and where."""
BLOCK = 1 << 20


def back_up(settings: Settings, target: Path) -> dict[str, Any]:
    """Write a backup to a new file, or to a file named after the time in a folder that exists; only its owner can read
    it. Returns its path, size, files, and what is left out because it lies elsewhere.

    ConflictError when the file exists, UnavailableError when the home's PostgreSQL does not answer."""
    if not settings.home.is_dir():
        raise NotFoundError(f"There is no home at {settings.home}.", remedy="set SOLDIOM_HOME to one")
    path = target / f"soldiom-{now():%Y%m%dT%H%M%SZ}.backup" if target.is_dir() else target
    if path.exists():
        raise ConflictError(f"{path} exists already.", remedy="name another file, or a folder")
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            hashes = _write(settings, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise UnavailableError(f"{path} cannot be written: {error.strerror}.", remedy="name another place") from error
    finally:
        draft.unlink(missing_ok=True)
    done = {"path": str(path.absolute()), "at": now().isoformat(), "bytes": path.stat().st_size, "files": len(hashes)}
    write_private(settings.run_folder / DONE, json.dumps(done))
    return done | {"sealed": bool(settings.encryption_keys), "left_out": _left_out(settings)}


def restore(settings: Settings, path: Path) -> dict[str, Any]:
    """Make the home of these settings from a backup: whole or not at all. Returns what the backup says of itself.

    ConflictError when the home holds anything; DamagedError, which names the part, when the backup was changed or cut;
    InputError when it is sealed and the key is not set."""
    if settings.home.exists() and any(settings.home.iterdir()):
        raise ConflictError(
            f"The home {settings.home} is not empty.", remedy="set SOLDIOM_HOME to a new folder, or move this one away"
        )
    if not path.is_file():
        raise NotFoundError(f"There is no file {str(path)!r}.", remedy="name a backup that `soldiom backup` wrote")
    is_new = not settings.home.exists()
    draft = settings.home / ".restoring"  # within it: the home may be a volume of its own
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft.mkdir(mode=0o700)
    try:
        head = _unpack(settings, path, draft)
        if (draft / "postgres").is_dir():
            postgres.check_version(draft / "postgres")
            postgres.give_to_server(draft / "postgres")
        for made in draft.iterdir():
            made.replace(settings.home / made.name)
    except BaseException:
        shutil.rmtree(settings.home if is_new else draft, ignore_errors=True)
        raise
    draft.rmdir()
    return head


def last_backup(settings: Settings) -> dict[str, Any]:
    """`path` and `at` of the last backup of this home; empty when there was none."""
    return read_json(settings.run_folder / DONE)


def _left_out(settings: Settings) -> dict[str, str]:
    """What the home uses that lies elsewhere, and who copies it."""
    elsewhere = {}
    if "postgres" in settings.external:
        elsewhere["database"] = "copy SOLDIOM_DATABASE_URL with that server's own tools"
    if not settings.storage.startswith("file://"):
        elsewhere["storage"] = f"{settings.storage}: versions or a replica of the bucket"
    if "mlflow" in settings.external:
        elsewhere["mlflow"] = f"{settings.mlflow_url}: its database and files"
    return elsewhere


# Writing


def _write(settings: Settings, file: IO[bytes]) -> dict[str, str]:
    with _sealed(settings, file) as sink, tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        writer = _Writer(archive)
        head: dict[str, Any] = {
            "format": FORMAT,
            "at": now().isoformat(),
            "soldiom": version("soldiom"),
            "left_out": _left_out(settings),
        }
        writer.add_bytes(HEAD, json.dumps(head).encode())
        if (anchor := settings.home / ANCHOR).exists():  # an older anchor than the rows holds, a newer one does not
            writer.add_bytes(ANCHOR, anchor.read_bytes())
        if "postgres" not in settings.external:
            _add_database(settings, writer)
        if settings.storage.startswith("file://"):
            writer.add_folder("storage", Path(unquote(urlsplit(settings.storage).path)))
        writer.add_folder("mlflow", settings.home / "mlflow")
        writer.add_folder("keys", settings.keys_folder)
        writer.add_bytes(FILES, json.dumps(writer.hashes).encode())
        return writer.hashes


class _Writer:
    """Adds files to an archive and notes their hashes."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self.archive = archive
        self.hashes: dict[str, str] = {}

    def add_bytes(self, name: str, data: bytes) -> None:
        self.add(name, len(data), io.BytesIO(data))

    def add(self, name: str, size: int, source: IO[bytes]) -> None:
        """A file that is read from here on; it may have grown since, not shrunk."""
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = size, 0o600
        hashed = _Hashing(source)
        self.archive.addfile(entry, cast("IO[bytes]", hashed))
        self.hashes[name] = hashed.digest.hexdigest()

    def add_folder(self, name: str, folder: Path) -> None:
        """All files below a folder but drafts, locks and what is there already. One that goes away meanwhile was a
        draft, or was deleted."""
        for parent, _, files in os.walk(folder):
            for file in sorted(files):
                path = Path(parent) / file
                inside = f"{name}/{path.relative_to(folder).as_posix()}"
                if file.startswith(".") or inside in self.hashes or path.is_symlink():
                    continue
                try:
                    source = path.open("rb")
                except FileNotFoundError:
                    continue
                with source:
                    self.add(inside, os.fstat(source.fileno()).st_size, source)

    def add_empty_folder(self, name: str) -> None:
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode = tarfile.DIRTYPE, 0o700
        self.archive.addfile(entry)


class _Hashing:
    """A file whose bytes are hashed as they are read."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        part = self.file.read(size)
        self.digest.update(part)
        return part


def _add_database(settings: Settings, writer: _Writer) -> None:
    """PostgreSQL's own copy of all its files at one moment, taken while it works."""
    command = [str(postgres.binary("pg_basebackup")), "--pgdata=-", "--format=tar", "--wal-method=fetch"]
    command += ["--checkpoint=fast", "--no-manifest", f"--host={postgres_sockets(settings)}", "--username=postgres"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as copy:
                for entry in copy:
                    name = f"postgres/{entry.name.removeprefix('./')}"
                    if entry.isdir():
                        writer.add_empty_folder(name)
                    elif entry.isfile():
                        writer.add(name, entry.size, cast("IO[bytes]", copy.extractfile(entry)))
        except tarfile.TarError:
            pass  # its exit code and what it says tell why
        reason = process.stderr.read().decode(errors="replace").strip().splitlines() if process.stderr else []
    if process.returncode:
        raise UnavailableError(
            f"PostgreSQL of this home cannot be copied: {(reason or ['no reason given'])[-1]}",
            remedy="run `soldiom up`",
        )


@contextmanager
def _sealed(settings: Settings, file: IO[bytes]) -> Iterator[IO[bytes]]:
    """What is written to the value goes to the file, sealed where there is a key."""
    if not settings.encryption_keys:
        yield file
        return
    failures = list[BaseException]()
    source, sink = os.pipe()

    def pump() -> None:
        with os.fdopen(source, "rb") as plain:
            try:
                for part in seal(iter(lambda: plain.read(BLOCK), b""), NAME, settings.encryption_keys):
                    file.write(part)
            except BaseException as error:
                failures.append(error)

    thread = threading.Thread(target=pump)
    thread.start()
    try:
        with os.fdopen(sink, "wb") as plain:
            yield plain
    except BrokenPipeError:
        pass  # the pump has failed, and says why
    finally:
        thread.join()
    if failures:
        raise failures[0]


# Reading


def _unpack(settings: Settings, path: Path, folder: Path) -> dict[str, Any]:
    """Write a backup's files below a folder, and check every one of them; returns its head."""
    found: dict[str, str] = {}
    try:
        with path.open("rb") as file, tarfile.open(fileobj=_opened(settings, file), mode="r|") as archive:
            for entry in archive:
                _unpack_entry(archive, entry, folder, found)
    except tarfile.TarError as error:
        raise _damaged(path, found, str(error)) from error
    except DamagedError as error:
        raise _damaged(path, found, "what follows does not open, or the key is another one") from error
    if FILES not in found or HEAD not in found:
        raise _damaged(path, found, "nothing follows: the end is missing")
    expected: Mapping[str, str] = json.loads((folder / FILES).read_text())
    changed = [name for name, digest in expected.items() if found.get(name) != digest]
    changed += [name for name in found if name not in expected and name != FILES]
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise DamagedError(
            f"The backup {path} is damaged: {', '.join(changed[:3])}{more} is not what was written.",
            remedy="restore another backup",
        )
    head: dict[str, Any] = json.loads((folder / HEAD).read_text())
    if head.get("format") != FORMAT:
        raise InputError(f"{path} has the format {head.get('format')!r}, not {FORMAT}.", remedy="use its Soldiom")
    for name in (HEAD, FILES):
        (folder / name).unlink()
    return head | {"files": len(expected)}


def _unpack_entry(archive: tarfile.TarFile, entry: tarfile.TarInfo, folder: Path, found: dict[str, str]) -> None:
    target = folder / entry.name
    if not target.resolve().is_relative_to(folder.resolve()) or not (entry.isfile() or entry.isdir()):
        raise tarfile.ReadError(f"{entry.name!r} is no file of a home")
    (target if entry.isdir() else target.parent).mkdir(parents=True, exist_ok=True, mode=0o700)
    if entry.isdir():
        return
    hashed = _Hashing(cast("IO[bytes]", archive.extractfile(entry)))
    found[entry.name] = ""
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        while part := hashed.read(BLOCK):
            file.write(part)
        if file.tell() != entry.size:
            raise tarfile.ReadError("unexpected end of data")
    found[entry.name] = hashed.digest.hexdigest()


def _damaged(path: Path, found: Mapping[str, str], reason: str) -> SoldiomError:
    *_, last = found or {"its beginning": ""}
    return DamagedError(f"The backup {path} is damaged in or after {last}: {reason}.", remedy="restore another backup")


def _opened(settings: Settings, file: IO[bytes]) -> IO[bytes]:
    """The archive in a file. InputError for one without a seal where there is a key, as for all that is stored."""
    head = file.read(len(MAGIC))
    if head == MAGIC:
        return cast("IO[bytes]", io.BufferedReader(_Chunks(unseal(file, NAME, settings.encryption_keys)), BLOCK))
    if settings.encryption_keys:
        raise InputError(
            "The backup is not sealed, though there is a key: somebody without it may have written it.",
            remedy="if it is yours, unset the key, restore it, and then set one",
        )
    file.seek(0)
    return file


class _Chunks(io.RawIOBase):
    """Chunks as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.chunks = chunks
        self.rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self.rest:
            self.rest = next(self.chunks, b"")
        part, self.rest = self.rest[: len(buffer)], self.rest[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)
