"""Storage in a folder and on an S3 server, sealed or not."""

import os
import resource
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from conftest import ROOT, free_port
from moto.server import ThreadedMotoServer

from soldiom_ray.errors import DamagedError, InputError, NotFoundError, UnavailableError
from soldiom_ray.sealing import CHUNK_BYTES, seal_text, unseal_text
from soldiom_ray.storage import FolderBackend, S3Backend, Storage

KEY = bytes(range(32))


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    server = ThreadedMotoServer(port=free_port())
    server.start()
    endpoint = f"http://127.0.0.1:{server._port}"
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="bucket")
    yield endpoint
    server.stop()


@pytest.fixture(params=["folder", "s3", "folder sealed", "s3 sealed"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, s3: str) -> Storage:
    backend = S3Backend("bucket", tmp_path.name, s3) if "s3" in request.param else FolderBackend(tmp_path / "storage")
    return Storage(backend, (KEY,) if "sealed" in request.param else ())


@pytest.mark.parametrize("size", [0, 1, 5, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES + 7])
def test_what_is_written_is_read_back(storage: Storage, size: int) -> None:
    data = os.urandom(size)
    written = storage.write("some/object", data)
    assert written.size_bytes == size
    assert storage.read("some/object") == data


def test_the_verbs_agree_on_what_is_there(storage: Storage) -> None:
    storage.write("a/1", b"one")
    storage.write("a/b/2", b"two")
    storage.write("ab/3", b"three")
    assert storage.keys("a") == ["a/1", "a/b/2"]
    assert storage.exists("a/1") and not storage.exists("a/9")
    with storage.local_folder("a") as folder:
        assert (folder / "b" / "2").read_bytes() == b"two"
    assert storage.remove("a") == 2
    assert storage.keys("a") == [] and storage.read("ab/3") == b"three"
    with pytest.raises(NotFoundError, match="a/1"):
        storage.read("a/1")


@pytest.mark.parametrize("key", ["", "/etc/passwd", "a/../../b", "a//b", "a/\0"])
def test_a_key_that_leaves_the_storage_is_refused(storage: Storage, key: str) -> None:
    for verb in (storage.keys, storage.remove, lambda key: storage.write(key, b"x")):
        with pytest.raises(InputError):
            verb(key)


@pytest.mark.parametrize("harm", ["flip", "swap", "cut", "wrong key", "no key"])
def test_sealed_objects_that_were_changed_do_not_open(tmp_path: Path, harm: str) -> None:
    storage = Storage(FolderBackend(tmp_path), (KEY,))
    secret = b"patient 4711 " * (CHUNK_BYTES // 4)
    storage.write("one", secret)
    storage.write("two", b"other")
    path = tmp_path / "one"
    assert b"patient" not in path.read_bytes()
    if harm == "flip":
        raw = bytearray(path.read_bytes())
        raw[-1] ^= 1
        path.write_bytes(raw)
    elif harm == "swap":
        (tmp_path / "two").replace(path)
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[: 13 + 2 * (CHUNK_BYTES + 16)])
    reader = Storage(FolderBackend(tmp_path), {"wrong key": (bytes(32),), "no key": ()}.get(harm, (KEY,)))
    with pytest.raises(InputError if harm == "no key" else DamagedError):
        reader.read("one")


def test_what_was_written_before_the_key_was_set_is_read_once_it_is_sealed(tmp_path: Path) -> None:
    earlier, later = Storage(FolderBackend(tmp_path)), Storage(FolderBackend(tmp_path), (KEY,))
    earlier.write("a/one", b"plain text")
    with pytest.raises(InputError, match="not sealed"):
        later.read("a/one")
    with pytest.raises(InputError, match="not sealed"), later.local_folder("a"):
        pass
    assert later.reseal("a/one") == "none" and later.read("a/one") == b"plain text"
    assert b"plain" not in (tmp_path / "a" / "one").read_bytes()
    with later.local_folder("a") as folder:
        assert (folder / "one").read_bytes() == b"plain text"


def test_a_write_that_breaks_off_leaves_the_old_object(storage: Storage) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"new"
        raise RuntimeError("the source broke")

    storage.write("kept", b"old")
    with pytest.raises(RuntimeError):
        storage.write_stream("kept", chunks())
    assert storage.read("kept") == b"old"


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(tmp_path: Path) -> None:
    # A tiny file system needs root; /dev/full gives the same ENOSPC in the middle of a write.
    code = textwrap.dedent(
        """
        import errno, os, sys
        from pathlib import Path
        from soldiom_ray.errors import StorageFullError
        from soldiom_ray.storage import FolderBackend, Storage

        def chunks():
            yield b"x" * 100
            with open("/dev/full", "wb", buffering=0) as full:
                full.write(b"x")

        root = Path(sys.argv[1])
        try:
            Storage(FolderBackend(root)).write_stream("big", chunks())
        except StorageFullError as error:
            print(error)
            print("left:", sorted(p.name for p in root.rglob("*")))
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "s")], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert "No space left" in done.stdout and "SOLDIOM_STORAGE" in done.stdout
    assert "left: []" in done.stdout


def test_a_stream_of_any_length_is_stored_with_flat_memory(tmp_path: Path) -> None:
    storage = Storage(FolderBackend(tmp_path), (KEY,))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    written = storage.write_stream("large", (b"x" * CHUNK_BYTES for _ in range(200)))
    assert written.size_bytes == 200 * CHUNK_BYTES
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60 * 1024


def test_an_absent_bucket_and_an_absent_server_are_clear_errors(s3: str) -> None:
    with pytest.raises(UnavailableError, match="nowhere"):
        Storage(S3Backend("nowhere", "", s3)).write("a", b"x")


def test_a_sealed_text_opens_only_under_its_name_and_key() -> None:
    for text in ("", "ünï " * 5000, "sealed:not really", "sealed:aGVsbG8="):
        sealed = seal_text(text, "rows/1", (KEY,))
        assert sealed.startswith("sealed:") and unseal_text(sealed, "rows/1", (KEY,)) == text
        assert seal_text(text, "rows/1", ()) == text == unseal_text(text, "rows/1", ())
    sealed = seal_text("private", "rows/1", (KEY,))
    assert "private" not in sealed
    with pytest.raises(DamagedError):
        unseal_text(sealed, "rows/2", (KEY,))
    with pytest.raises(DamagedError):
        unseal_text(sealed, "rows/1", (KEY[::-1],))
    with pytest.raises(InputError, match="rows/1"):
        unseal_text(sealed, "rows/1", ())


def test_bytes_are_kept_once_and_again_where_a_power_cut_left_less(storage: Storage) -> None:
    data = os.urandom(5000)
    storage.write_once("raw/a", data)
    assert storage.read("raw/a") == data
    before = storage.backend.size("raw/a")
    storage.write_once("raw/a", data)
    assert storage.backend.size("raw/a") == before
    storage.backend.write("raw/a", (b"",), durable=True)
    storage.write_once("raw/a", data)
    assert storage.read("raw/a") == data


@pytest.mark.usefixtures("s3")  # for its credentials
def test_an_answer_that_breaks_off_is_not_taken_for_the_object() -> None:
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    class BreakingOff(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(b"x" * 5000)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), BreakingOff)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        storage = Storage(S3Backend("bucket", "", f"http://127.0.0.1:{server.server_port}"))
        with pytest.raises(UnavailableError):
            storage.read("thing")
    finally:
        server.shutdown()
        server.server_close()
