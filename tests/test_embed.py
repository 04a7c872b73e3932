"""A dataset becomes an index in a real Chroma server with the real MiniLM; what is interrupted goes on."""

import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from indexes import assert_same_index
from preparing import context_in, document, documents_of, package_documents
from real_chroma import Chroma

from soldiom_ray import flow, vectors
from soldiom_ray.artifacts import Context
from soldiom_ray.db import datasets
from soldiom_ray.db.engine import migrate, open_session
from soldiom_ray.domains.schema import Embed, Prepare, SplitRule
from soldiom_ray.embed import embed, parts, select
from soldiom_ray.embed.chunk import Passage, passages_of
from soldiom_ray.embed.encrypted_view import CHROMA_COLUMNS, views_of
from soldiom_ray.embed.select import Candidate, choose_passages
from soldiom_ray.errors import CancelledError, DamagedError, InputError, NotFoundError
from soldiom_ray.models.embedder import Embedder
from soldiom_ray.models.minilm import MINILM_SHA256, check_minilm, minilm_folder
from soldiom_ray.prepare import prepare
from soldiom_ray.records import Manifest

SMALL = Embed(max_tokens=64, max_passages=120, splits=("train",))


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory, chroma: Chroma) -> Context:
    return context_in(tmp_path_factory.mktemp("home"), SOLDIOM_CHROMA_URL=chroma.url)


def library_documents(most: int) -> list[dict[str, Any]]:
    """So many modules of each of three packages, and a guide."""
    rows = package_documents(["peft", "accelerate", "httpx"], most)
    guide = "# Guide\n\nThis page explains the library.\n\n"
    guide += "## Installing\n\nRun pip to install the package and its extras.\n"
    return [*rows, document(guide, "peft", "peft/guide.md", kind="documentation", license="Apache-2.0")]


@pytest.fixture(scope="module")
def dataset(context: Context) -> Manifest:
    rule = SplitRule(test=0, validation=0, test_groups=("httpx",))
    return prepare(context, [documents_of(context, library_documents(12))], Prepare(split=rule))


@pytest.fixture(scope="module")
def embedder(context: Context) -> Embedder:
    return Embedder(context.settings)


@pytest.fixture(scope="module")
def index(context: Context, dataset: Manifest) -> Manifest:
    return embed(context, dataset, SMALL)


def collection_of(context: Context, index: Manifest) -> Any:
    name = views_of(index.id, context.settings.encryption_keys)[0].collection
    return vectors.find_collection(context.settings, name)


def test_the_index_holds_every_passage_once_with_its_source(context: Context, index: Manifest) -> None:
    rows = list(context.artifacts.rows(index, "passages/"))
    assert index.counts["passages"] == len(rows) == vectors.count(collection_of(context, index)) == 120
    assert index.counts["documents"] == len({row["document"] for row in rows})
    assert index.details["dimension"] == 384
    assert index.details["sha256"] == MINILM_SHA256
    groups = Counter(row["group"] for row in rows)
    assert groups == {"peft": 60, "accelerate": 60}
    assert {row["split"] for row in rows} == {"train"} and index.details["sides"] == {"train": 120}
    assert len({row["id"] for row in rows}) == 120
    embedded = np.load(io.BytesIO(context.artifacts.read(index, "vectors/00000.npy")))
    assert np.linalg.norm(embedded, axis=1) == pytest.approx(1, abs=1e-3)


def test_chroma_holds_vectors_and_values_to_filter_by_but_no_text_path_or_symbol(
    context: Context, index: Manifest
) -> None:
    held = collection_of(context, index).get(include=["documents", "metadatas", "embeddings"])
    assert set(held["documents"]) == {None}
    assert {name for metadata in held["metadatas"] for name in metadata} == set(CHROMA_COLUMNS)
    assert all(re.fullmatch(r"\d{6}-\d{5}", row_id) for row_id in held["ids"])


def test_running_again_adds_nothing_and_a_lost_collection_is_filled_without_the_model(
    context: Context, index: Manifest, dataset: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Embedder, "encode", None)
    assert embed(context, dataset, SMALL) == index
    assert vectors.count(collection_of(context, index)) == 120
    assert vectors.delete_collection(context.settings, index.id)
    assert not vectors.delete_collection(context.settings, index.id)
    with pytest.raises(NotFoundError, match="has no collection"):
        collection_of(context, index)
    assert embed(context, dataset, SMALL) == index
    assert vectors.count(collection_of(context, index)) == 120
    collection_of(context, index).delete(ids=["000000-00003", "000000-00007"])
    assert embed(context, dataset, SMALL) == index
    assert vectors.count(collection_of(context, index)) == 120


def test_a_home_made_from_a_backup_has_its_collections_filled_again(
    context: Context, index: Manifest, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dataclasses.replace(context.settings, database_url=postgres_url)
    migrate(settings)
    gone = index.model_copy(update={"id": "index-0000000000000000"})
    with open_session(settings) as session:
        for manifest in (index, gone):
            datasets.record(session, manifest, name="small", source="local", stage="index")
    vectors.delete_collection(context.settings, index.id)
    monkeypatch.setattr(Embedder, "encode", None)
    assert flow.fill_collections(settings) == 2
    assert vectors.count(collection_of(context, index)) == 120


def test_vectors_of_other_weights_do_not_stay_in_a_collection(
    context: Context, index: Manifest, dataset: Manifest
) -> None:
    assert vectors.delete_collection(context.settings, index.id)
    stale = vectors.open_collection(context.settings, index.id, {"dimension": 384, "sha256": "of other weights"})
    vectors.add(stale, ["000000-00003"], np.eye(1, 384), [{"license": "MIT"}])
    assert embed(context, dataset, SMALL) == index
    held = collection_of(context, index).get(ids=["000000-00003"], include=["embeddings"])
    assert np.count_nonzero(held["embeddings"][0]) > 300


def test_an_interrupted_run_goes_on_after_the_last_part(
    context: Context, dataset: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", 10_000)
    declared = Embed(max_tokens=16)

    def stop(fraction: float, message: str) -> None:
        if fraction > 0.5:
            raise CancelledError("stop")

    with pytest.raises(CancelledError):
        embed(Context(context.settings, context.artifacts, stop), dataset, declared)
    root = context.settings.home / "storage" / "index"
    before = {path: path.stat().st_mtime_ns for path in root.rglob("vectors/*.npy")}
    made = embed(context, dataset, declared)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert sum(made.id in path.parts for path in before) >= made.details["parts"] // 2 > 2
    rows = list(context.artifacts.rows(made, "passages/"))
    assert vectors.count(collection_of(context, made)) == made.counts["passages"] == len(rows) > 1000
    assert len({row["id"] for row in rows}) == len(rows)
    assert dict(Counter(row["split"] for row in rows)) == made.details["sides"]
    assert made.details["sides"].keys() == {"train", "test"}  # all sides that hold samples, unless others are named
    documents = {row["id"] for split in ("train/", "test/") for row in context.artifacts.rows(dataset, split)}
    assert {row["document"] for row in rows} == documents


def test_passages_of_pages_keep_their_numbers(context: Context) -> None:
    pages = [
        f"Page {number} tells of something that fills a few words of a line, and then of more.\n" for number in (1, 2)
    ]
    row = document("".join(pages), "case", "report.pdf", metadata=json.dumps({"page_starts": [0, len(pages[0])]}))
    rule = SplitRule(test=0, validation=0)
    made = embed(context, prepare(context, [documents_of(context, [row])], Prepare(split=rule, filters=())), SMALL)
    assert [row["page"] for row in context.artifacts.rows(made, "passages/")] == [1, 2]


def test_two_texts_under_one_id_are_both_found(context: Context) -> None:
    text = "def shared_by_both(value):\n    return value * 2 + 1  # the same lines at the same place\n\n\n"
    rows = [
        document(f"{text}def only_in_{name}(value):\n    return [value + {name!r} for one in range(5)]\n", "g", "a.py")
        for name in ("first", "second")
    ]
    assert rows[0]["id"] == rows[1]["id"]
    declared = Prepare(split=SplitRule(test=0, validation=0), filters=())
    made = embed(context, prepare(context, [documents_of(context, rows)], declared), Embed(max_tokens=32))
    passages = list(context.artifacts.rows(made, "passages/"))
    assert len(passages) == len({row["id"] for row in passages}) == made.counts["passages"] == 4


def test_splits_without_samples_are_refused(context: Context, dataset: Manifest) -> None:
    with pytest.raises(InputError, match=r"no passage of .* in embed.splits: validation \(0 samples\)") as caught:
        embed(context, dataset, Embed(splits=("validation",)))
    assert caught.value.remedy == "name sides that hold samples: train, test"


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


def test_a_limited_choice_is_spread_over_groups_and_does_not_depend_on_the_order(
    context: Context, dataset: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "DOCUMENT_BATCH", 3)
    rows = {row["id"]: row for row in context.artifacts.rows(dataset, "train/")}
    candidates = [Candidate("", 0, row["id"], row["group"], row["kind"]) for row in rows.values()]

    def cut(some: Sequence[Candidate]) -> list[list[Passage]]:
        texts = [rows[candidate.id] for candidate in some]
        return [passages_of(row["id"], row["path"], row["text"], 64) for row in texts]

    def chosen(some: list[Candidate], most: int) -> dict[str, tuple[int, ...]]:
        return {candidate.id: numbers for candidate, numbers in choose_passages(some, cut, most)}

    assert sum(map(len, chosen(candidates, 50).values())) == 50
    assert chosen(candidates, 50) == chosen(candidates[::-1], 50)
    everything = {
        candidate.id: tuple(range(len(passages)))
        for candidate, passages in zip(candidates, cut(candidates), strict=True)
    }
    assert chosen(candidates, 10**6) == everything


ON_RAY = """
import json, sys
import ray
from ray import serve
from preparing import context_in
from soldiom_ray import actors
from soldiom_ray.domains.schema import Embed, Prepare, SplitRule
from soldiom_ray.embed import embed, parts
from soldiom_ray.embed.serve import serve_search
from soldiom_ray.prepare import prepare

home, chroma, documents = sys.argv[1:]
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
context = context_in(home, SOLDIOM_CHROMA_URL=chroma)
rule = SplitRule(test=0, validation=0, test_groups=("httpx",))
dataset = prepare(context, [context.artifacts.get(documents)], Prepare(split=rule))
actors.START_SECONDS = 0.0
parts.PART_BYTES = 10_000
index = embed(context, dataset, Embed(max_tokens=64))
serve.start(http_options={"location": "NoServer"})
serve_search(context.settings)
serve_search(context.settings)
handle = serve.get_app_handle("search")
found = handle.search.remote("how do I install the package", 2, index.id).result(timeout_s=120)
try:
    handle.search.remote("x", 2, index.id, {"nonsense": "y"}).result(timeout_s=60)
except Exception as error:
    refused = str(error)
vector = handle.embed.remote(["some text"]).result(timeout_s=60)["vectors"][0]  # float32
print(json.dumps({"dataset": dataset.model_dump(mode="json"), "index": index.model_dump(mode="json"), "found": found[0],
                  "refused": refused, "dimension": len(vector) // 4}), flush=True)
ray.shutdown()
"""


def test_on_ray_dataset_passages_and_vectors_are_the_same_and_search_is_served(
    context: Context, chroma: Chroma, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", 10_000)
    rule = SplitRule(test=0, validation=0, test_groups=("httpx",))
    dataset = prepare(context, [documents_of(context, library_documents(4))], Prepare(split=rule))
    alone = embed(context, dataset, Embed(max_tokens=64))
    assert alone.details["parts"] > 2
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
    output = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    made = Manifest.model_validate(output["dataset"])
    assert made.id == dataset.id
    assert made.files == dataset.files
    index = Manifest.model_validate(output["index"])
    assert_same_index((context.artifacts, alone), (context_in(tmp_path / "home").artifacts, index))
    assert output["found"]["metadata"]["path"] == "peft/guide.md"
    assert "'nonsense' cannot be filtered by" in output["refused"]
    assert output["dimension"] == 384
