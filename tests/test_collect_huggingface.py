"""Collection from the Hugging Face Hub through huggingface_hub, against a local server that behaves like it."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from collecting import documents_of, hub_world, make_context
from stand_in import HubRepository, StandIn

from soldiom_ray.artifacts import Context
from soldiom_ray.collect import collect, hub_card
from soldiom_ray.domains.schema import HuggingfaceSource
from soldiom_ray.errors import UnavailableError
from soldiom_ray.records import Manifest


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn() as stand_in:
        stand_in.add(*hub_world())
        yield stand_in


def fetch(server: StandIn, home: Path, **declared: Any) -> tuple[Context, Manifest]:
    context = make_context(home, HF_ENDPOINT=server.url)
    return context, collect(context, [HuggingfaceSource(**declared)])


def test_models_above_both_thresholds_come_with_card_and_metadata(server: StandIn, tmp_path: Path) -> None:
    context, manifest = fetch(server, tmp_path)
    documents = documents_of(context, manifest)
    names = [d["group"] for d in documents]
    assert names[:2] == ["org/model-0", "org/model-1"] and "org/unloved" not in names
    assert "org/model-7" in names and len(names) == 10
    first = documents[0]
    assert first["text"] == "# Tiny\n\nA small model." and first["license"] == "Apache-2.0"
    assert json.loads(first["metadata"])["downloads"] == 90_000 and first["framework"] == "pytorch"
    assert first["url"] == f"{server.url}/org/model-0" and len(first["commit"]) == 40


def test_the_listing_stops_at_the_threshold_and_at_the_limit(server: StandIn, tmp_path: Path) -> None:
    context, manifest = fetch(server, tmp_path, min_downloads=75_000)
    assert len(documents_of(context, manifest)) == 2 and len(server.requests("^/api/models")) == 1
    context, manifest = fetch(server, tmp_path / "b", limit=4, tasks=("text-generation",), libraries=("transformers",))
    assert len(documents_of(context, manifest)) == 4


def test_gated_models_give_metadata_only_and_are_counted(server: StandIn, tmp_path: Path) -> None:
    context, manifest = fetch(server, tmp_path)
    assert manifest.details["outcomes"]["gated"] == 1 and manifest.details["outcomes"]["no_card"] == 1
    locked = next(d for d in documents_of(context, manifest) if d["group"] == "org/locked")
    assert locked["license"] == "LicenseRef-Llama-3" and "A small model" not in locked["text"]
    assert not server.requests("org/locked/resolve")


def test_datasets_are_listed_by_task(server: StandIn, tmp_path: Path) -> None:
    context, manifest = fetch(server, tmp_path, kind="datasets", tasks=("summarization",))
    (found,) = documents_of(context, manifest)
    assert (found["group"], found["url"]) == ("datasets/org/data", f"{server.url}/datasets/org/data")


def test_weights_are_kept_only_when_asked_for_and_only_as_safetensors(server: StandIn, tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [3, 5], "data_offsets": [0, 60]}}).encode()
    weights = struct.pack("<Q", len(header)) + header + bytes(60)
    files = {"README.md": b"# W\n", "model.safetensors": weights, "config.json": b"{}", "pytorch_model.bin": b"no"}
    server.add(HubRepository("org/weights", files=files, downloads=990_000))
    context, manifest = fetch(server, tmp_path, limit=1)
    assert json.loads(documents_of(context, manifest)[0]["metadata"])["parameters"] == 15
    assert not context.artifacts.storage.keys("raw/huggingface/models/org/weights")[1:]
    context, manifest = fetch(server, tmp_path, limit=1, weights=True)
    kept = [key.rpartition("/")[2] for key in context.artifacts.storage.keys("raw/huggingface/models/org/weights")]
    assert kept == ["README.md", "config.json", "model.safetensors"]
    assert not server.requests("pytorch_model.bin") and manifest.details["weights"] == 1


def test_faults_of_the_hub_are_asked_again_and_then_told(
    server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_card, "WAIT_SECONDS", 0.05)
    server.fail("^/api/models", 503)
    server.fail("/model-0/resolve", 502)
    server.fail("/model-1/resolve", 429, headers={"RateLimit": '"api";r=0;t=1'})
    _, manifest = fetch(server, tmp_path, limit=2)
    assert manifest.details["outcomes"] == {"collected": 2}
    server.fail("/resolve/", 500, times=99)
    with pytest.raises(UnavailableError, match="2 unavailable"):
        fetch(server, tmp_path / "b", limit=2)


def test_a_card_is_never_fetched_twice(server: StandIn, tmp_path: Path) -> None:
    fetch(server, tmp_path, limit=2)
    before = len(server.requests("/resolve/"))
    _, second = fetch(server, tmp_path, limit=3)
    again = [r for r in server.requests("/resolve/")[before:] if "model-0" in r.path or "model-1" in r.path]
    assert not again and second.counts["documents"] == 3
