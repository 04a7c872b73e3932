"""Collection from the Hugging Face Hub, against a local server that behaves like it and is unkind where it can be."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from collecting import documents_of, hub_world, make_context
from stand_in import HubRepository, StandIn

from soldiom_ray.artifacts import Context
from soldiom_ray.collect import collect
from soldiom_ray.collect.huggingface import api
from soldiom_ray.collect.huggingface.metadata import license_of, read_entry
from soldiom_ray.collect.huggingface.window_limiter import WindowLimiter
from soldiom_ray.domains.sources import HuggingfaceSource
from soldiom_ray.errors import InputError, UnavailableError
from soldiom_ray.records import Manifest

CARD = b"---\nlicense: apache-2.0\n---\n# Tiny\n\nA small model.\n"


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn() as stand_in:
        stand_in.add(*hub_world())
        yield stand_in


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "WAIT_SECONDS", 0.02)


def fetch(
    server: StandIn, home: Path, messages: list[str] | None = None, token: str = "", **declared: Any
) -> tuple[Context, Manifest]:
    context = make_context(home, messages, HF_ENDPOINT=server.url, HF_TOKEN=token)
    return context, collect(context, [HuggingfaceSource(**declared)])


def names_of(context: Context, manifest: Manifest) -> list[str]:
    return [document["group"] for document in documents_of(context, manifest)]


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


def test_without_a_threshold_of_downloads_the_most_liked_come_first(server: StandIn, tmp_path: Path) -> None:
    context, manifest = fetch(server, tmp_path, min_downloads=0, min_likes=106, kind="models")
    assert names_of(context, manifest) == ["org/locked", "org/silent", "org/model-7", "org/model-6"]
    assert {request.query["sort"][0] for request in server.requests("^/api/models")} == {"likes"}


def test_what_moves_while_the_listing_is_paged_is_neither_repeated_nor_missed(server: StandIn, tmp_path: Path) -> None:
    by_name = {repository.id: repository for repository in server.hub.repositories}

    def move(page: int) -> None:
        if page == 2:  # one that was read sinks below the next page, one that was not rises above it
            by_name["org/model-0"].downloads = 45_000
            by_name["org/model-6"].downloads = 95_000

    server.hub.after_page = move
    context, manifest = fetch(server, tmp_path)
    names = names_of(context, manifest)
    assert sorted(names) == sorted(set(names)) and {"org/model-0", "org/model-6"} <= set(names) and len(names) == 10
    assert manifest.details["listing_repeats"] > 0


def test_what_rises_over_the_last_page_is_found_when_the_tail_is_read_again(server: StandIn, tmp_path: Path) -> None:
    by_name = {repository.id: repository for repository in server.hub.repositories}
    pages = iter(range(1, 100))

    def move(page: int) -> None:
        if next(pages) == 3:
            by_name["org/model-7"].downloads = 55_000

    server.hub.after_page = move
    context, manifest = fetch(server, tmp_path)
    assert "org/model-7" in names_of(context, manifest)


def test_gated_models_give_metadata_only_and_are_counted(server: StandIn, tmp_path: Path) -> None:
    context, manifest = fetch(server, tmp_path)
    assert manifest.details["outcomes"]["gated"] == 1 and manifest.details["outcomes"]["no_card"] == 1
    locked = next(d for d in documents_of(context, manifest) if d["group"] == "org/locked")
    assert locked["license"] == "LicenseRef-Llama-3" and "A small model" not in locked["text"]
    assert json.loads(locked["metadata"])["gated"] == "manual"
    assert not server.requests("org/locked/resolve")


def test_private_disabled_deleted_and_renamed_repositories_end_in_one_outcome_each(
    server: StandIn, tmp_path: Path
) -> None:
    server.hub.repositories.clear()
    for name, entry in {"a/private": {"private": True}, "a/disabled": {"disabled": True}}.items():
        server.add(HubRepository(name, files={"README.md": CARD}, entry=entry))
    server.add(HubRepository("a/here", files={"README.md": CARD}), HubRepository("a/gone", files={"README.md": CARD}))
    server.add(HubRepository("a/old-name", files={"README.md": CARD}, key="1"))

    def change(page: int) -> None:
        if page == 2:
            here = server.hub.repositories[2]
            server.hub.repositories[:] = [here, HubRepository("b/new-name", files={"README.md": CARD}, key="1")]
            server.hub.renamed["models", "a/old-name"] = "b/new-name"

    server.hub.after_page = change
    context, manifest = fetch(server, tmp_path)
    assert manifest.details["outcomes"] == {"collected": 2, "disabled": 1, "not_found": 1, "private": 1}
    assert manifest.details["renamed"] == 1
    moved = next(d for d in documents_of(context, manifest) if d["group"] == "a/old-name")
    assert json.loads(moved["metadata"])["renamed_to"] == "b/new-name" and moved["text"] == "# Tiny\n\nA small model."
    dropped = list(context.artifacts.rows(manifest, "dropped/"))
    assert {(row["group"], row["reason"]) for row in dropped} >= {("a/gone", "not_found"), ("a/private", "private")}


def test_a_repository_that_is_closed_between_listing_and_reading_is_gated(server: StandIn, tmp_path: Path) -> None:
    server.fail("/model-0/resolve", 403, headers={"X-Error-Code": "GatedRepo"})
    server.fail("/model-1/resolve", 403, headers={"X-Error-Message": "Access to this resource is disabled."})
    server.fail("/model-2/resolve", 451)
    _, manifest = fetch(server, tmp_path, limit=5)
    assert manifest.details["outcomes"] == {"blocked": 1, "collected": 1, "disabled": 1, "gated": 2}


def test_datasets_are_listed_by_task(server: StandIn, tmp_path: Path) -> None:
    context, manifest = fetch(server, tmp_path, kind="datasets", tasks=("summarization",))
    (document,) = documents_of(context, manifest)
    assert (document["group"], document["url"]) == ("datasets/org/data", f"{server.url}/datasets/org/data")


def test_evaluation_results_are_structured_whatever_stands_beside_them(server: StandIn, tmp_path: Path) -> None:
    result = {
        "task": {"type": "text-generation"},
        "dataset": {"name": "GSM8K", "type": "gsm8k", "split": "test"},
        "metrics": [{"type": "accuracy", "value": 61.5, "verified": True}, {"type": "loss", "value": float("nan")}],
    }
    index: list[Any] = [{"name": "x", "results": [result, "odd", {"metrics": 7}]}, None, {"results": {"a": 1}}]
    results = [{"dataset": {"id": "cais/hle", "task_id": "default"}, "value": 20.9}, {"error": "bad", "value": 1}, 3]
    entry = {"model-index": index, "evalResults": results, "safetensors": {"total": 9, "parameters": {"F16": 9}}}
    server.add(HubRepository("org/scored", files={"README.md": CARD}, downloads=999_999, entry=entry))
    context, manifest = fetch(server, tmp_path, limit=1)
    metadata = json.loads(documents_of(context, manifest)[0]["metadata"])
    assert metadata["evaluation_results"] == [
        {
            "task": "text-generation",
            "dataset": "GSM8K",
            "split": "test",
            "metric": "accuracy",
            "value": 61.5,
            "verified": True,
        },
        {"task": "text-generation", "dataset": "GSM8K", "split": "test", "metric": "loss"},
        {"task": "default", "dataset": "cais/hle", "value": 20.9},
    ]
    assert metadata["parameters"] == 9 and not server.requests("safetensors")


@pytest.mark.parametrize(
    ("card", "license"),
    [
        ({"license": "apache-2.0"}, "Apache-2.0"),
        ({"license": ["mit", "cc-by-4.0"]}, "CC-BY-4.0 AND MIT"),
        ({"license": "other", "license_name": "llama3"}, "LicenseRef-Llama-3"),
        ({"license": "other", "license_name": "my own <licence>"}, "LicenseRef-my-own-licence"),
        ({"license": "other", "license_name": "flux-1-dev-non-commercial-license"}, "LicenseRef-NonCommercial"),
        (
            {"license": "other", "license_link": "https://creativecommons.org/licenses/by-nc-sa/4.0/"},
            "CC-BY-NC-SA-4.0",
        ),
        ({"license": "other"}, "LicenseRef-Other"),
        ({"license_name": "gemma"}, "LicenseRef-Gemma"),
        ({"license": "odbl"}, "ODbL-1.0"),
        ({"license": "apple-amlr"}, "LicenseRef-NonCommercial"),
        ({"license": "openmdw-1.0"}, "LicenseRef-openmdw-1.0"),
        ({"license": "unknown"}, ""),
        ({"license": [None, 7, {"a": 1}]}, "LicenseRef-7 AND LicenseRef-a-1"),
        ({}, ""),
    ],
)
def test_licence_fields_become_spdx_or_a_reference(card: dict[str, Any], license: str) -> None:  # noqa: A002
    assert license_of(card) == license


def test_entries_that_are_no_repositories_are_counted_and_hurt_nobody(server: StandIn, tmp_path: Path) -> None:
    odd = {"downloads": "many", "likes": None, "cardData": [1], "tags": "x", "siblings": {"a": 1}, "config": "y"}
    server.add(
        HubRepository("../../../etc/passwd", downloads=999_001, files={"README.md": CARD}),
        HubRepository("org/no-commit", downloads=999_002, entry={"sha": None}),
        HubRepository("org/odd", downloads=999_003, entry=odd | {"downloads": 999_003, "likes": 500}),
    )
    _, manifest = fetch(server, tmp_path, limit=3)
    assert manifest.details["outcomes"]["damaged"] == 2 and manifest.counts["documents"] == 3
    assert read_entry({"id": "a/b", "sha": "0" * 40, "downloads": 1e400, "likes": True}, "").downloads == 0


def test_faults_of_the_hub_are_asked_again_and_then_told(server: StandIn, tmp_path: Path) -> None:
    server.fail("^/api/models", 503)
    server.fail("^/api/models", 200, body=b"<html>Sorry</html>", headers={"Content-Type": "text/html"})
    server.cut("^/api/models")
    server.fail("/model-0/resolve", 502)
    server.cut("/model-0/resolve")
    server.fail("/model-1/resolve", 429, headers={"RateLimit": '"resolvers";r=0;t=1'}, silent_seconds=1)
    _, manifest = fetch(server, tmp_path, limit=2)
    assert manifest.details["outcomes"] == {"collected": 2} and server.sins == 0
    server.fail("/resolve/", 500, times=99)
    with pytest.raises(UnavailableError, match="2 unavailable"):
        fetch(server, tmp_path / "b", limit=2)
    server.fail("^/api/models", 500, times=99)
    with pytest.raises(UnavailableError, match="does not give its listing: the Hub answered 500"):
        fetch(server, tmp_path / "c", limit=2)


def test_a_refused_token_a_refused_listing_and_no_hub_at_all_are_told_as_such(server: StandIn, tmp_path: Path) -> None:
    refusal = "Invalid credentials in Authorization header"
    server.fail("^/api/models", 401, headers={"X-Error-Message": refusal})
    with pytest.raises(InputError, match="refused the token") as caught:
        fetch(server, tmp_path, token="hf_secret")
    assert "hf_secret" not in str(caught.value)
    server.fail("^/api/models", 400)
    with pytest.raises(InputError, match="refused the listing"):
        fetch(server, tmp_path)
    with pytest.raises(UnavailableError, match="cannot be reached"):
        collect(make_context(tmp_path, HF_ENDPOINT="http://127.0.0.1:9"), [HuggingfaceSource()])


def test_limits_are_kept_before_the_hub_has_to_refuse(server: StandIn, tmp_path: Path) -> None:
    server.hub.limit("api", 2, 1)
    server.hub.limit("resolvers", 5, 1)
    started = time.monotonic()
    _, manifest = fetch(server, tmp_path)
    assert manifest.counts["documents"] == 10 and server.hub.sins == 0
    assert time.monotonic() - started > 2  # more than two windows of the API, one of the resolvers


def test_a_wait_is_seen_by_the_user_and_has_a_bound(
    server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    server.fail("^/api/models", 429, headers={"RateLimit": '"api";r=0;t=3'}, silent_seconds=3)
    fetch(server, tmp_path, messages, limit=1)
    assert any("Hub's limit for api: 4 s to wait" in message for message in messages) and server.sins == 0
    server.fail("^/api/models", 429, headers={"RateLimit": '"api";r=0;t=5000'})
    with pytest.raises(UnavailableError, match="asks for 5001 s more of waiting"):
        fetch(server, tmp_path / "b", limit=1)
    monkeypatch.setattr(api, "LIMIT_SECONDS", 1.0)
    server.fail("^/api/models", 429, silent_seconds=1)
    fetch(server, tmp_path / "c", limit=1)
    assert server.sins == 0


def test_a_hub_that_is_away_for_a_time_that_it_names_is_left_alone_and_the_wait_is_seen(
    server: StandIn, tmp_path: Path
) -> None:
    messages: list[str] = []
    server.fail("^/api/models", 503, headers={"Retry-After": "4"}, silent_seconds=3.9)
    fetch(server, tmp_path, messages, limit=1)
    assert any("Hub's next attempt: 4 s to wait" in message for message in messages) and server.sins == 0
    server.fail("^/api/models", 503, headers={"Retry-After": "5000"})
    with pytest.raises(UnavailableError, match="asks for 5000 s more of waiting"):
        fetch(server, tmp_path / "b", limit=1)


def test_each_bucket_has_a_window_of_its_own() -> None:
    now = [1000.0]
    limits = WindowLimiter(clock=lambda: now[0])
    assert limits.acquire("api") == 0 and limits.paused_seconds() == 0
    limits.observe("api", 2, 10)
    assert limits.acquire("api") == limits.acquire("api") == 0 and limits.acquire("api") == 11
    limits.observe("api", 1, 10)  # an answer that was under way when the last two went
    assert limits.acquire("api") == 11 and limits.acquire("resolvers") == 0 and limits.paused_seconds() == 11
    now[0] += 11
    assert limits.acquire("api") == 0 and limits.paused_seconds() == 0
    limits.block("resolvers", 60)
    limits.block("resolvers", 5)
    assert limits.acquire("resolvers") == 60 and limits.acquire("api") == 0


def test_a_second_run_costs_the_listing_alone_and_gives_the_same_collection(server: StandIn, tmp_path: Path) -> None:
    _, first = fetch(server, tmp_path)
    listing, before = len(server.requests("^/api/models")), len(server.log)
    server.hub.repositories[0].downloads += 1  # figures move every day; commits do not
    _, second = fetch(server, tmp_path)
    assert second.id == first.id and len(server.log) - before == listing
    server.hub.repositories[1].revision += 1
    before = len(server.log)
    _, third = fetch(server, tmp_path)
    assert third.id != first.id and len(server.requests("/resolve/")[-1:]) == 1
    assert [r.path for r in server.log[before:] if "/resolve/" in r.path] == [
        f"/org/model-1/resolve/{server.hub.repositories[1].sha}/README.md"
    ]


def test_a_card_is_never_fetched_twice(server: StandIn, tmp_path: Path) -> None:
    fetch(server, tmp_path, limit=2)
    before = len(server.requests("/resolve/"))
    _, second = fetch(server, tmp_path, limit=3)
    again = [r for r in server.requests("/resolve/")[before:] if "model-0" in r.path or "model-1" in r.path]
    assert not again and second.counts["documents"] == 3


def test_nothing_is_written_into_the_cache_of_the_user_and_nothing_else_is_asked(
    server: StandIn, tmp_path: Path
) -> None:
    house = tmp_path / "house"
    house.mkdir()
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path\n"
        "from test_collect_huggingface import fetch\n"
        "class Server: url = sys.argv[1]\n"
        "fetch(Server(), Path.home() / 'soldiom', limit=2)\n"
    )
    here = Path(__file__).parent
    environment = {"HOME": str(house), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    subprocess.run(
        [sys.executable, "-c", code, server.url, str(here), str(here.parent)],
        check=True,
        env=environment,
        cwd=house,
        timeout=120,
    )
    assert [path.name for path in house.iterdir()] == ["soldiom"]
    assert all(re.match(r"/api/models$|/org/model-\d/resolve/", request.path) for request in server.log)
    assert {request.headers["user-agent"] for request in server.log} == {"soldiom"}


def test_the_stand_in_is_understood_by_the_real_client(server: StandIn, tmp_path: Path) -> None:
    from huggingface_hub import HfApi

    data = bytes(range(256)) * 40
    server.add(HubRepository("org/real", files={"a/w.bin": data, "README.md": CARD}, lfs=("a/w.bin",), likes=9999))
    api = HfApi(endpoint=server.url, token=False)
    listed = [model.id for model in api.list_models(sort="likes", expand=["likes", "sha"])]
    assert listed[0] == "org/real" and len(listed) == 12
    (file,) = [file for file in api.list_repo_tree("org/real", recursive=True) if file.path == "a/w.bin"]
    assert file.lfs is not None and file.size == len(data)
    path = api.hf_hub_download("org/real", "a/w.bin", cache_dir=tmp_path)
    assert Path(path).read_bytes() == data
