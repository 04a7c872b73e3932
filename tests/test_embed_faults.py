"""Embedding that is killed at random moments, and a Chroma that dies, is emptied, or answers with errors."""

import random
import shutil
import subprocess
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from indexes import assert_same_index, assert_same_vectors
from preparing import context_in, document, documents_of, package_documents
from programs import MOMENTS, expect_death, finish, start
from real_chroma import Chroma

from soldiom_ray import vectors
from soldiom_ray.artifacts import Context
from soldiom_ray.domains.schema import Embed, Prepare, SplitRule
from soldiom_ray.embed import embed, parts
from soldiom_ray.errors import SoldiomError, UnavailableError
from soldiom_ray.prepare import prepare

pytestmark = pytest.mark.service
ROUNDS = 5
DECLARED = Embed(max_tokens=32)
PROGRAM = """
import json, sys
from preparing import context_in
from programs import mortal
from soldiom_ray.domains.schema import Embed
from soldiom_ray.embed import embed, parts
parts.PART_BYTES = 4_000
context = mortal(context_in(sys.argv[1], SOLDIOM_CHROMA_URL=sys.argv[2]))
print("begun", flush=True)
made = embed(context, context.artifacts.get(sys.argv[3]), Embed(max_tokens=32))
print(json.dumps({"id": made.id, "counts": made.counts, "files": [[f.name, f.sha256] for f in made.files]}))
"""


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", 4_000)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A home that holds a dataset, and the dataset's id."""
    context = context_in(tmp_path_factory.mktemp("prepared"))
    rows = package_documents(["peft", "typer"], most=4)
    dataset = prepare(context, [documents_of(context, rows)], Prepare(split=SplitRule(test=0, validation=0)))
    return context.settings.home, dataset.id


@pytest.fixture
def home(prepared: tuple[Path, str], tmp_path: Path) -> Path:
    shutil.copytree(prepared[0], tmp_path / "home")
    return tmp_path / "home"


def held(context: Context, index: str) -> tuple[dict[str, Any], np.ndarray]:
    """What Chroma holds: metadata by id, and the vectors in the order of the ids."""
    rows = vectors.find_collection(context.settings, index).get(include=["metadatas", "embeddings"])
    order = np.argsort(rows["ids"])
    return dict(zip(rows["ids"], rows["metadatas"], strict=True)), np.asarray(rows["embeddings"], np.float32)[order]


def embedded(alone: Context, dataset: str, result: dict[str, Any], context: Context) -> None:
    """What the program gave is what comes of it undisturbed: files, rows and vectors."""
    expected = embed(alone, alone.artifacts.get(dataset), DECLARED)
    made = context.artifacts.get(result["id"])
    assert result["files"] == [[entry.name, entry.sha256] for entry in made.files]
    assert_same_index((alone.artifacts, expected), (context.artifacts, made))
    (metadata, held_vectors), (others, others_vectors) = held(context, made.id), held(alone, made.id)
    assert metadata == others and len(metadata) == expected.counts["passages"] > 100
    assert_same_vectors(held_vectors, others_vectors)


@pytest.fixture
def alone(prepared: tuple[Path, str], chroma: Chroma, tmp_path: Path) -> Context:
    """Another home with the dataset, and another Chroma."""
    return context_in(shutil.copytree(prepared[0], tmp_path / "other"), SOLDIOM_CHROMA_URL=chroma.url)


def test_killed_three_times_index_and_collection_are_the_same(
    prepared: tuple[Path, str], home: Path, alone: Context, tmp_path: Path
) -> None:
    server = Chroma(tmp_path / "chroma")
    arguments = (str(home), server.url, prepared[1])
    try:
        for moment in MOMENTS:
            expect_death(start(PROGRAM, *arguments, killed_at=moment))
        result = finish(start(PROGRAM, *arguments))
        embedded(alone, prepared[1], result, context_in(home, SOLDIOM_CHROMA_URL=server.url))
    finally:
        server.stop()


@pytest.mark.endurance
def test_killed_again_and_again_index_and_collection_are_the_same(
    prepared: tuple[Path, str], home: Path, alone: Context, tmp_path: Path
) -> None:
    server = Chroma(tmp_path / "chroma")
    arguments = (str(home), server.url, prepared[1])
    try:
        started = time.monotonic()
        embed(alone, alone.artifacts.get(prepared[1]), DECLARED)
        seconds, dice, killed = time.monotonic() - started, random.Random(5), 0
        for _ in range(ROUNDS):
            process = start(PROGRAM, *arguments)
            assert process.stdout and process.stdout.readline() == "begun\n"
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=dice.uniform(0.2, 0.8) * seconds)
            process.kill()
            process.communicate()
            killed += process.returncode != 0
            if process.returncode == 0:
                shutil.rmtree(home / "storage" / "index")
        result = finish(start(PROGRAM, *arguments))
        assert killed
        embedded(alone, prepared[1], result, context_in(home, SOLDIOM_CHROMA_URL=server.url))
    finally:
        server.stop()


@pytest.fixture
def empty_chroma(chroma: Chroma) -> Chroma:
    """The shared server without what other tests left there."""
    import chromadb

    client = chromadb.HttpClient(host="127.0.0.1", port=chroma.port)
    for collection in client.list_collections():
        client.delete_collection(collection.name)
    return chroma


def interrupting(context: Context, fraction: float, act: Any) -> Context:
    """The same, but `act` happens when so much is done."""
    waiting = [act]

    def report(done: float, message: str) -> None:
        if done >= fraction and waiting:
            waiting.pop()()

    return Context(context.settings, context.artifacts, report)


def test_chroma_that_dies_in_between_is_named_and_the_next_run_goes_on(
    prepared: tuple[Path, str], home: Path, tmp_path: Path
) -> None:
    chroma = Chroma(tmp_path / "chroma")
    context = context_in(home, SOLDIOM_CHROMA_URL=chroma.url)
    dataset = context.artifacts.get(prepared[1])
    with pytest.raises(UnavailableError, match="Chroma does not answer"):
        embed(interrupting(context, 0.4, chroma.kill), dataset, DECLARED)
    with pytest.raises(UnavailableError, match=rf"Chroma at {chroma.url} does not answer"):
        embed(context, dataset, DECLARED)
    made = {path: path.stat().st_mtime_ns for path in home.rglob("vectors/*.npy")}
    again = Chroma(tmp_path / "chroma", chroma.port)
    try:
        index = embed(context, dataset, DECLARED)
        assert len(held(context, index.id)[0]) == index.counts["passages"]
        assert made and made == {path: path.stat().st_mtime_ns for path in made}
    finally:
        again.stop()


def test_a_collection_that_is_emptied_meanwhile_is_named_and_filled_by_the_next_run(
    prepared: tuple[Path, str], home: Path, empty_chroma: Chroma
) -> None:
    context = context_in(home, SOLDIOM_CHROMA_URL=empty_chroma.url)
    dataset = context.artifacts.get(prepared[1])

    def name() -> str:
        (folder,) = (home / "storage" / "index").iterdir()
        return folder.name

    def drop() -> None:
        assert vectors.delete_collection(context.settings, name())

    def thin() -> None:
        vectors.find_collection(context.settings, name()).delete(ids=["000000-00000"])

    with pytest.raises(SoldiomError, match="has no collection 'index-"):
        embed(interrupting(context, 0.4, drop), dataset, DECLARED)
    with pytest.raises(UnavailableError, match=r"Chroma holds \d+ of the \d+ passages of index-"):
        embed(interrupting(context, 0.4, thin), dataset, DECLARED)
    index = embed(context, dataset, DECLARED)
    assert len(held(context, index.id)[0]) == index.counts["passages"]


ANSWERS = [
    (500, "application/json", b'{"error": "InternalError", "message": "the text of somebody"}'),
    (503, "text/html", b"<html>the text of somebody</html>"),
    (200, "text/html", b"<html>a login page: the text of somebody</html>"),
    (200, "application/json", b"[]"),
    (429, "application/json", b'{"error": "RateLimitError", "message": "the text of somebody"}'),
]


class Answering:
    """A server that answers everything the same, or, while `target` names a Chroma, what that one answers."""

    def __init__(self, status: int, kind: str, body: bytes, target: str = "") -> None:
        self.answer, self.target = (status, kind, body), target
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def reply(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, kind, data = outer.ask(self.command, self.path, body)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_DELETE = reply  # noqa: N815 - names that the base class calls

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def ask(self, method: str, path: str, body: bytes) -> tuple[int, str, bytes]:
        if not self.target:
            return self.answer
        headers = {"Content-Type": "application/json"}
        answer = httpx.request(method, self.target + path, content=body, headers=headers, trust_env=False)
        return answer.status_code, "application/json", answer.content

    def __enter__(self) -> "Answering":
        return self

    def __exit__(self, *_: Any) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.mark.parametrize("answer", ANSWERS, ids=[f"{status} {kind}" for status, kind, _ in ANSWERS])
def test_answers_that_are_no_chromas_are_one_clear_error_without_a_text(
    prepared: tuple[Path, str], home: Path, answer: tuple[int, str, bytes]
) -> None:
    with Answering(*answer) as server:
        context = context_in(home, SOLDIOM_CHROMA_URL=server.url)
        with pytest.raises(UnavailableError) as caught:
            embed(context, context.artifacts.get(prepared[1]), DECLARED)
    assert "Chroma" in str(caught.value) and "Remedy" in str(caught.value) and "somebody" not in str(caught.value)


@pytest.mark.parametrize("answer", ANSWERS[:3], ids=[f"{status} {kind}" for status, kind, _ in ANSWERS[:3]])
def test_a_chroma_that_begins_to_fail_is_one_clear_error_and_the_next_run_goes_on(
    prepared: tuple[Path, str], home: Path, empty_chroma: Chroma, answer: tuple[int, str, bytes]
) -> None:
    with Answering(*answer, target=empty_chroma.url) as server:
        context = context_in(home, SOLDIOM_CHROMA_URL=server.url)
        dataset = context.artifacts.get(prepared[1])
        with pytest.raises(UnavailableError) as caught:
            embed(interrupting(context, 0.3, lambda: setattr(server, "target", "")), dataset, DECLARED)
        assert "Chroma" in str(caught.value) and "somebody" not in str(caught.value)
        server.target = empty_chroma.url
        index = embed(context, dataset, DECLARED)
        assert len(held(context, index.id)[0]) == index.counts["passages"]


def test_every_document_is_in_one_slice_of_its_shard_however_long_it_is(tmp_path: Path) -> None:
    context = context_in(tmp_path)
    rows = [document("x = 1\n" * 20 + f"y = {number}\n" * 40, "g", f"{number}.py") for number in range(20)]
    rows.append(document("\n".join(f"value_{line} = {line}" for line in range(3000)), "g", "large.py"))
    declared = Prepare(split=SplitRule(test=0, validation=0), filters=())
    dataset = prepare(context, [documents_of(context, rows)], declared)
    (table,) = context.artifacts.tables(dataset, "train/")
    for count in (1, 2, 3, 7, 100):
        slices = [[row["id"] for row, _ in parts._slice(table, index, count)] for index in range(count)]
        assert [row_id for some in slices for row_id in some] == table.column("id").to_pylist()
