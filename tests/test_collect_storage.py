"""Where collection leaves things: raw bytes once by their hash, sealed on S3, one row per document in the database."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from collecting import documents_of, make_context
from conftest import free_port
from moto.server import ThreadedMotoServer
from sqlalchemy import func, select

from soldiom_ray.artifacts import Context
from soldiom_ray.collect import collect
from soldiom_ray.collect.raw import raw_key
from soldiom_ray.db import documents
from soldiom_ray.db.engine import migrate, open_session
from soldiom_ray.db.tables import CollectedDocument
from soldiom_ray.domains.sources import FilesSource, LocalSource
from soldiom_ray.sealing import MAGIC

KEY = "0123456789abcdef" * 4
SECRET = b"The defendant lives at 12 Elm Street."


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = ThreadedMotoServer(port=free_port())
    server.start()
    endpoint = f"http://127.0.0.1:{server._port}"
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="bucket")
    yield endpoint
    server.stop()


def folder_of(home: Path, **contents: bytes) -> Path:
    folder = home / "mine"
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        (folder / name.replace("_", ".")).write_bytes(data)
    return folder


def test_raw_bytes_and_documents_on_s3_are_sealed_and_kept_once(tmp_path: Path, bucket: str) -> None:
    folder = folder_of(tmp_path, a_txt=SECRET, b_txt=SECRET, c_py=b"x = 1\n")
    context = make_context(
        tmp_path, SOLDIOM_STORAGE="s3://bucket/x", SOLDIOM_S3_ENDPOINT=bucket, SOLDIOM_ENCRYPTION_KEY=KEY
    )
    manifest = collect(context, [FilesSource(source="files", paths=(str(folder),))])
    rows = documents_of(context, manifest)
    assert len(rows) == 3 and len({row["sha256"] for row in rows}) == 2
    raw = context.artifacts.storage.keys("raw")
    assert raw == sorted({raw_key(row["sha256"]) for row in rows})
    assert context.artifacts.storage.read(raw_key(rows[0]["sha256"])) == SECRET
    client = boto3.client("s3", endpoint_url=bucket)
    objects = [item["Key"] for item in client.list_objects_v2(Bucket="bucket", Prefix="x/")["Contents"]]
    bodies = [client.get_object(Bucket="bucket", Key=key)["Body"].read() for key in objects]
    assert all(body.startswith(MAGIC) for body in bodies) and not any(b"Elm Street" in body for body in bodies)


def test_a_second_collection_parses_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from soldiom_ray.collect.documents.sandbox import Sandbox

    parsed: list[str] = []
    real = Sandbox.parse

    def counted(self: Sandbox, name: str, *rest: Any) -> Any:
        parsed.append(name)
        return real(self, name, *rest)

    monkeypatch.setattr(Sandbox, "parse", counted)
    folder = folder_of(tmp_path, a_txt=SECRET, b_pdf=b"no pdf", c_md=b"# Title\n\nwords\n")
    context = make_context(tmp_path)
    source = FilesSource(source="files", paths=(str(folder),))
    first = collect(context, [source])
    folder_of(tmp_path, d_txt=b"new words")
    second = collect(context, [source])
    assert parsed == ["mine/a.txt", "mine/b.pdf", "mine/c.md", "mine/d.txt"]
    assert first.details["outcomes"] == {"collected": 2, "wrong_type": 1}
    assert second.details["outcomes"] == {"collected": 3, "wrong_type": 1} and first.id != second.id
    assert collect(context, [source]).id == second.id


def test_an_interrupted_collection_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, a_txt=SECRET, b_md=b"# T\n\nwords\n")
    sources = [FilesSource(source="files", paths=(str(folder),)), LocalSource(source="local", path=str(folder))]
    context = make_context(tmp_path / "home")

    def stop(share: float, message: str) -> None:
        if share > 0.6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(Context(context.settings, context.artifacts, stop), sources)
    unfinished = tmp_path / "copy"
    shutil.copytree(tmp_path / "home", unfinished)
    assert not [key for key in context.artifacts.storage.keys("documents") if key.endswith("manifest.json")]
    first = collect(context, sources)
    second = collect(make_context(unfinished), sources)
    assert first.id == second.id and first.files == second.files
    assert first.details["content_sha256"] == second.details["content_sha256"]
    assert not context.artifacts.storage.exists(f"documents/{first.id}/began")


def test_every_document_has_a_row_that_says_where_it_came_from(tmp_path: Path, postgres_url: str) -> None:
    context = make_context(tmp_path, SOLDIOM_DATABASE_URL=postgres_url)
    migrate(context.settings)
    source = LocalSource(source="local", packages=("rich", "typer"))
    manifest = collect(context, [source])
    rows = context.artifacts.rows(manifest, "documents/", documents.COLUMNS)
    with open_session(context.settings) as session:
        assert documents.record(session, manifest.id, rows) == manifest.counts["documents"]
        assert documents.record(session, manifest.id, ()) == 0
    with open_session(context.settings) as session:
        some, cursor = documents.list_documents(session, manifest.id, license="MIT", kind="test", limit=1)
        total = session.scalar(select(func.count()).select_from(CollectedDocument))
        page, _ = documents.list_documents(session, manifest.id, limit=10)
        found, _ = documents.list_documents(session, manifest.id, sha256=page[0].sha256)
    assert total == manifest.counts["documents"] and not some and cursor is None
    shown = documents.as_dict(found[0])
    assert shown["source"] == "local" and shown["license"] == "MIT" and shown["rule"].startswith("local package")
    assert len(page) == 10 and "text" not in shown and os.sep in shown["path"]
