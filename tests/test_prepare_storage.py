"""Preparation on storage that fails: a disk that is full, an S3 that is gone for a while. What there is afterwards is
nothing, or the very same dataset."""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
from conftest import free_port
from moto.server import DomainDispatcherApplication, create_backend_app
from preparing import context_in, documents_of, package_documents
from werkzeug.serving import make_server
from werkzeug.wrappers import Response

from soldiom_ray.artifacts import Context
from soldiom_ray.domains.schema import Prepare
from soldiom_ray.errors import StorageFullError, UnavailableError
from soldiom_ray.prepare import pipeline, prepare
from soldiom_ray.records import Manifest

OUTAGE_SECONDS = 15
Answer = Callable[..., Any]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "PART_BYTES", 10_000)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return package_documents(["rich", "httpx", "peft"], most=20)


@pytest.fixture(scope="module")
def expected(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """The files of an undisturbed run."""
    context = context_in(tmp_path_factory.mktemp("quiet"))
    return files_of(prepare(context, [documents_of(context, rows)], Prepare()))


def is_made(context: Context) -> bool:
    """Whether there is a dataset: files alone are none."""
    return any(key.endswith("/manifest.json") for key in context.artifacts.storage.keys("dataset"))


def files_of(dataset: Manifest) -> list[tuple[str, str]]:
    return [(entry.name, entry.sha256) for entry in dataset.files]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], None]]:
    """A disk for a home's storage; called with bytes it has that size."""
    folder = tmp_path / "storage"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield lambda size: subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True) and None
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("share", [0.15, 0.5, 0.85])
def test_a_full_disk_is_one_error_and_with_more_room_the_dataset_is_the_same(
    rows: list[dict[str, Any]],
    expected: list[tuple[str, str]],
    disk: Callable[[int], None],
    tmp_path: Path,
    share: float,
) -> None:
    context, used = context_in(tmp_path), 0
    documents = documents_of(context, rows)
    before = size_of(tmp_path)

    def report(fraction: float, message: str) -> None:
        nonlocal used
        used = max(used, size_of(tmp_path) - before)

    measured = prepare(Context(context.settings, context.artifacts, report), [documents], Prepare())
    used = max(used, size_of(tmp_path) - before)
    context.artifacts.delete(measured.id)
    disk(before + int(share * used))
    with pytest.raises(StorageFullError, match="No space left"):
        prepare(context, [documents], Prepare())
    assert context.artifacts.find(measured.id) is None
    disk(64 << 20)
    assert files_of(prepare(context, [documents], Prepare())) == expected
    assert not context.artifacts.storage.keys("work")


def size_of(folder: Path) -> int:
    """What the files below a folder take on a disk of whole pages."""
    sizes = [path.stat().st_size for path in (folder / "storage").rglob("*") if path.is_file()]
    return sum(-(-size // 4096) * 4096 for size in sizes)


@dataclass
class Bucket:
    """An S3 server that can fail: `gone_until` is a time of the monotonic clock, `refused` counts the answers."""

    port: int = field(default_factory=free_port)
    gone_until: float = 0.0
    refused: int = 0
    served: Any = None

    def __call__(self, environ: dict[str, Any], start_response: Answer) -> Any:
        if time.monotonic() < self.gone_until:
            self.refused += 1
            return Response(status=503)(environ, start_response)
        return self.served(environ, start_response)

    def context(self, home: Path) -> Context:
        return context_in(home, SOLDIOM_STORAGE="s3://bucket/x", SOLDIOM_S3_ENDPOINT=f"http://127.0.0.1:{self.port}")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    made = Bucket(served=DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", made.port, made, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{made.port}")
    client.create_bucket(Bucket="bucket")
    try:
        yield made
        for item in client.list_objects_v2(Bucket="bucket").get("Contents", ()):
            client.delete_object(Bucket="bucket", Key=item["Key"])
        client.delete_bucket(Bucket="bucket")
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@pytest.mark.service
@pytest.mark.parametrize("moment", [0.2, 0.86])
def test_an_s3_that_fails_for_a_while_is_waited_for_or_told_and_the_dataset_is_the_same(
    rows: list[dict[str, Any]], expected: list[tuple[str, str]], bucket: Bucket, tmp_path: Path, moment: float
) -> None:
    context = bucket.context(tmp_path)
    documents = documents_of(context, rows)

    def fail(fraction: float, message: str) -> None:
        if fraction >= moment and not bucket.gone_until:
            bucket.gone_until = time.monotonic() + OUTAGE_SECONDS

    try:
        made = prepare(Context(context.settings, context.artifacts, fail), [documents], Prepare())
    except UnavailableError as error:
        assert "bucket" in str(error) and error.remedy
        time.sleep(max(0.0, bucket.gone_until - time.monotonic()))
        assert not is_made(context)
        made = prepare(context, [documents], Prepare())
    assert bucket.refused and files_of(made) == expected
    assert not context.artifacts.storage.keys("work")


def test_an_s3_that_stays_away_is_one_clear_error(
    rows: list[dict[str, Any]], bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = bucket.context(tmp_path)
    documents = documents_of(context, rows)
    really = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: really(seconds / 100))

    def fail(fraction: float, message: str) -> None:
        if fraction >= 0.3:
            bucket.gone_until = float("inf")

    with pytest.raises(UnavailableError, match=r"503|refused"):
        prepare(Context(context.settings, context.artifacts, fail), [documents], Prepare())
    bucket.gone_until = 0.0
    assert not is_made(context)
    assert prepare(context, [documents], Prepare()).counts["kept"]
