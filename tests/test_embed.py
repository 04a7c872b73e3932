"""A dataset becomes an index in a real Chroma server with the real MiniLM; what is interrupted goes on."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from preparing import context_in, document, documents_of, package_documents

from soldiom_ray import vectors
from soldiom_ray.artifacts import Context
from soldiom_ray.domains.schema import Embed, Prepare, SplitRule
from soldiom_ray.embed import embed
from soldiom_ray.embed.chunk import cost, passages_of
from soldiom_ray.embed.index import SHARD_PASSAGES
from soldiom_ray.embed.select import chosen_passages
from soldiom_ray.errors import CancelledError, DamagedError, InputError, NotFoundError, UnavailableError
from soldiom_ray.models.embedder import MINILM_SHA256, Embedder, check_minilm, minilm_folder
from soldiom_ray.prepare import prepare
from soldiom_ray.records import Manifest

SMALL = Embed(max_tokens=64, max_passages=120)


class Chroma:
    """A Chroma server of our own on a folder."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        command = [str(Path(sys.executable).with_name("chroma")), "run", "--host", "127.0.0.1"]
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port), "--path", str(folder)],
            env=os.environ | {"ANONYMIZED_TELEMETRY": "FALSE"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                if httpx.get(f"{self.url}/api/v2/heartbeat", trust_env=False).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.1)
        pytest.fail("Chroma did not start")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture(scope="module")
def chroma(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chroma]:
    server = Chroma(tmp_path_factory.mktemp("chroma"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory, chroma: Chroma) -> Context:
    return context_in(tmp_path_factory.mktemp("home"), SOLDIOM_CHROMA_URL=chroma.url)


@pytest.fixture(scope="module")
def dataset(context: Context) -> Manifest:
    rows = package_documents(["peft", "accelerate", "httpx"], most=12)
    guide = "# Guide\n\nThis page explains the library.\n\n"
    guide += "## Installing\n\nRun pip to install the package and its extras.\n"
    rows.append(document(guide, "peft", "peft/guide.md", kind="documentation", license="Apache-2.0"))
    rule = SplitRule(test=0, validation=0, test_groups=("httpx",))
    return prepare(context, [documents_of(context, rows)], Prepare(split=rule))


@pytest.fixture(scope="module")
def embedder(context: Context) -> Embedder:
    return Embedder(context.settings)


@pytest.fixture(scope="module")
def index(context: Context, dataset: Manifest) -> Manifest:
    return embed(context, dataset, SMALL)


def test_the_index_holds_every_passage_once_with_its_source(context: Context, index: Manifest) -> None:
    rows = list(context.artifacts.rows(index, "passages/"))
    collection = vectors.find_collection(context.settings, index.details["collection"])
    assert index.counts["passages"] == len(rows) == vectors.count(collection) == 120
    assert index.details["dimension"] == 384
    assert index.details["sha256"] == MINILM_SHA256
    groups = Counter(row["group"] for row in rows)
    assert groups == {"peft": 60, "accelerate": 60}
    assert {row["split"] for row in rows} == {"train"}
    assert all(np.linalg.norm(np.frombuffer(row["vector"], np.float32)) == pytest.approx(1, abs=1e-3) for row in rows)


def test_a_question_finds_the_passage_that_answers_it(context: Context, index: Manifest, embedder: Embedder) -> None:
    collection = vectors.find_collection(context.settings, index.details["collection"])
    found = vectors.search(collection, embedder.encode(["how do I install the package"])[0], 3)
    assert found[0]["metadata"]["path"] == "peft/guide.md"
    assert found[0]["metadata"]["symbol"] == "Installing"
    assert "Run pip" in found[0]["text"]
    assert found[0]["metadata"]["start_line"] == 5
    assert [hit["score"] for hit in found] == sorted((hit["score"] for hit in found), reverse=True)
    only = vectors.search(collection, embedder.encode(["install"])[0], 5, {"group": "accelerate", "split": "train"})
    assert {hit["metadata"]["group"] for hit in only} == {"accelerate"}


def test_running_again_adds_nothing_and_a_lost_collection_is_filled_without_the_model(
    context: Context, index: Manifest, dataset: Manifest
) -> None:
    def finds() -> int:
        return vectors.count(vectors.find_collection(context.settings, index.details["collection"]))

    assert embed(context, dataset, SMALL) == index
    assert finds() == 120
    assert vectors.delete_collection(context.settings, index.details["collection"])
    assert not vectors.delete_collection(context.settings, index.details["collection"])
    with pytest.raises(NotFoundError, match="has no collection"):
        finds()
    assert embed(context, dataset, SMALL) == index
    assert finds() == 120
    metadata = vectors.find_collection(context.settings, index.details["collection"]).metadata
    assert metadata["model"] == "all-MiniLM-L6-v2"


def test_an_interrupted_run_goes_on_after_the_last_shard(context: Context, dataset: Manifest) -> None:
    declared = Embed(max_tokens=16, max_passages=SHARD_PASSAGES + 40, splits=("train", "test"))

    def stop(fraction: float, message: str) -> None:
        if fraction > 0.5:
            raise CancelledError("stop")

    with pytest.raises(CancelledError):
        embed(Context(context.settings, context.artifacts, stop), dataset, declared)
    root = context.settings.home / "storage"
    before = {path: path.stat().st_mtime_ns for path in (root / "index").rglob("00000.parquet")}
    made = embed(context, dataset, declared)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert root / "index" / made.id / "passages" / "00000.parquet" in before
    collection = vectors.find_collection(context.settings, made.details["collection"])
    assert vectors.count(collection) == made.counts["passages"] == SHARD_PASSAGES + 40
    assert len(list(context.artifacts.rows(made, "passages/"))) == SHARD_PASSAGES + 40


def test_chroma_that_does_not_answer_is_named_before_any_work(
    context: Context, dataset: Manifest, tmp_path: Path
) -> None:
    dead = context_in(context.settings.home, SOLDIOM_CHROMA_URL="http://127.0.0.1:9")
    with pytest.raises(UnavailableError, match=r"Chroma at http://127.0.0.1:9 does not answer"):
        embed(dead, dataset, Embed(max_passages=7))
    none = context_in(tmp_path)
    with pytest.raises(UnavailableError, match="Chroma is not running"):
        vectors.open_collection(none.settings, "some-name")


def test_chroma_that_stops_in_between_is_told_and_a_new_one_is_filled(
    context: Context, index: Manifest, dataset: Manifest, tmp_path: Path
) -> None:
    other = Chroma(tmp_path / "chroma")
    moved = context_in(context.settings.home, SOLDIOM_CHROMA_URL=other.url)
    collection = vectors.open_collection(moved.settings, "short-life")
    assert embed(moved, dataset, SMALL) == index
    assert vectors.count(vectors.find_collection(moved.settings, index.details["collection"])) == 120
    other.stop()
    with pytest.raises(UnavailableError, match="does not answer"):
        vectors.count(collection)


def test_splits_without_samples_are_refused(context: Context, dataset: Manifest) -> None:
    with pytest.raises(InputError, match="found no passage"):
        embed(context, dataset, Embed(splits=("validation",)))


def test_embeddings_match_the_reference_computation_in_full_precision(embedder: Embedder) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    texts = ["def mask(x):\n    return x", "The cat sat on the mat.", "", "word " * 400, "ünïcödé 文字"]
    model, tokenizer = AutoModel.from_pretrained(minilm_folder()), AutoTokenizer.from_pretrained(minilm_folder())
    ours = embedder.encode(texts, batch=2)
    for text, vector in zip(texts, ours, strict=True):
        tokens = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
        with torch.no_grad():
            reference = torch.nn.functional.normalize(model(**tokens).last_hidden_state[0].mean(0), dim=0).numpy()
        assert 1 - float(reference @ vector) <= 1e-2
    assert embedder.encode([]).shape == (0, 384)
    assert float(ours[1] @ embedder.encode(["A cat is sitting on a mat."])[0]) > 0.8 > 0.3 > float(ours[0] @ ours[1])


def test_weights_that_are_not_the_published_ones_are_refused(tmp_path: Path) -> None:
    shutil.copytree(minilm_folder(), tmp_path / "model")
    with (tmp_path / "model" / "model.safetensors").open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"\0\1\2\3")
    with pytest.raises(DamagedError, match="have sha256"):
        check_minilm(tmp_path / "model")


def test_python_is_cut_at_its_definitions_and_every_passage_knows_its_lines() -> None:
    text = '''# Copyright somebody
import os

LIMITS = {"low": 1, "high": 2, "other": 3, "more": 4, "most": 5}


@decorated
def first(value):
    """Tell the first of the values that were given to it here."""
    return value[0]


class Reader:
    """Reads a file and keeps what was read for as long as it lives."""

    def __init__(self, path):
        self.path, self.text, self.lines, self.done = path, None, [], False

    async def read(self):
        """Read everything, once, and give the text that was found there."""
        return self.path.read_text()
'''
    passages = passages_of("id", "a.py", text, 100)
    assert [one.symbol for one in passages] == ["", "first", "Reader", "Reader.__init__", "Reader.read"]
    assert [one.rank for one in passages] == [2, 0, 0, 1, 0]
    lines = text.split("\n")
    assert all("\n".join(lines[one.start_line - 1 : one.end_line]) == one.text for one in passages)
    assert passages[1].text.startswith("@decorated")
    assert passages[3].embedded.startswith("Reader.__init__\n")
    assert "Copyright" not in "".join(one.text for one in passages)
    assert passages == passages_of("id", "a.py", text, 100)


@pytest.mark.parametrize("path", ["broken.py", "notes.txt", "page.md", "data.yaml"])
def test_long_text_is_cut_into_passages_within_the_limit_and_nothing_is_lost(path: str) -> None:
    paragraph = " ".join(f"Sentence number {at} says something plain." for at in range(60))
    text = f"def broken(:\n\n{paragraph}\n\n" + "\n\n".join(f"Paragraph {at} is short and sweet." for at in range(30))
    passages = passages_of("id", path, text, 64)
    assert max(cost(one.text) for one in passages) <= 64
    joined = "".join(one.text for one in passages)
    assert all(f"number {at} " in joined for at in range(60))
    assert all(f"Paragraph {at} " in joined for at in range(30)) or path == "page.md"


def test_headings_name_the_sections_of_documentation() -> None:
    body = "It has enough words in it to be a passage of its own, and some more to be sure.\n\n"
    markdown = f"# Title\n\n{body}```\n# no heading\nx = 1\n```\n\n## Usage\n\n{body}"
    rst = f"Title\n=====\n\n{body}Usage\n-----\n\n{body}"
    assert {one.symbol for one in passages_of("id", "a.md", markdown, 128)} == {"Title", "Usage"}
    assert {one.symbol for one in passages_of("id", "a.rst", rst, 128)} == {"Title", "Usage"}
    assert len(passages_of("id", "short.txt", "hello", 128)) == 1


def test_a_limited_choice_is_spread_over_groups_and_does_not_depend_on_the_order(
    context: Context, dataset: Manifest
) -> None:
    rows = list(context.artifacts.rows(dataset, "train/"))

    def chosen(given: list[dict[str, Any]]) -> set[str]:
        return {one.id for _, passages in chosen_passages(given, 64, 50) for one in passages}

    assert len(chosen(rows)) == 50
    assert chosen(rows) == chosen(rows[::-1])
    everything = sum(len(passages) for _, passages in chosen_passages(rows, 64, None))
    assert len({one.id for _, passages in chosen_passages(rows, 64, 10**6) for one in passages}) == everything


ON_RAY = """
import json, sys
import ray
from ray import serve
from preparing import context_in
from soldiom_ray.domains.schema import Embed, Prepare, SplitRule
from soldiom_ray.embed import embed
from soldiom_ray.embed.serve import serve_search
from soldiom_ray.prepare import prepare

home, chroma, documents = sys.argv[1:]
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
context = context_in(home, SOLDIOM_CHROMA_URL=chroma)
rule = SplitRule(test=0, validation=0, test_groups=("httpx",))
dataset = prepare(context, [context.artifacts.get(documents)], Prepare(split=rule))
index = embed(context, dataset, Embed(max_tokens=64, max_passages=60))
serve.start(http_options={"location": "NoServer"})
serve_search(context.settings)
serve_search(context.settings)
handle = serve.get_app_handle("search")
found = handle.search.remote("how do I install the package", 2, index.details["collection"]).result(timeout_s=120)
try:
    handle.search.remote("x", 2, index.details["collection"], {"nonsense": "y"}).result(timeout_s=60)
except Exception as error:
    refused = str(error)
vector = handle.embed.remote(["some text"]).result(timeout_s=60)
print(json.dumps({"dataset": dataset.model_dump(mode="json"), "index": index.counts, "found": found[0],
                  "refused": refused, "dimension": len(vector[0])}), flush=True)
ray.shutdown()
"""


def test_on_ray_the_dataset_has_the_same_bytes_and_search_is_served(
    context: Context, dataset: Manifest, chroma: Chroma, tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    shutil.copytree(context.settings.home / "storage" / "documents", tmp_path / "home" / "storage" / "documents")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", ON_RAY, str(tmp_path / "home"), chroma.url, dataset.parents[0]],
        env=kept
        | {"PYTHONPATH": str(Path(__file__).parent), "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    made = Manifest.model_validate(told["dataset"])
    assert made.id == dataset.id
    assert made.files == dataset.files
    assert told["index"]["passages"] == 60
    assert told["found"]["metadata"]["path"] == "peft/guide.md"
    assert "'nonsense' cannot be filtered by" in told["refused"]
    assert told["dimension"] == 384
