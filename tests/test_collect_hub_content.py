"""Weights and data files of the Hugging Face Hub: only on request, resumed, checked by hash, kept once."""

import gzip
import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from collecting import documents_of, make_context
from stand_in import HubRepository, StandIn

from soldiom_ray.artifacts import Context
from soldiom_ray.collect import collect
from soldiom_ray.collect.huggingface import api
from soldiom_ray.domains.schema import Prepare
from soldiom_ray.domains.sources import HuggingfaceSource
from soldiom_ray.records import Manifest

SHARED = Path(__file__).parents[2] / "shared" / "data"
CARD = b"# W\n"
ROWS = [{"question": f"What is {n} and {n}?", "answer": f"It is {2 * n}."} for n in range(40)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn() as stand_in:
        yield stand_in


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "WAIT_SECONDS", 0.02)


def fetch(server: Any, home: Path, token: str = "", **declared: Any) -> tuple[Context, Manifest]:
    context = make_context(home, None, HF_ENDPOINT=server.url, HF_TOKEN=token)
    return context, collect(context, [HuggingfaceSource(**declared)])


def safetensors(shape: tuple[int, ...], padding: int = 0) -> bytes:
    size = 4
    for side in shape:
        size *= side
    tensor = {"dtype": "F32", "shape": list(shape), "data_offsets": [0, size]}
    header = json.dumps({"__metadata__": {"format": "pt"}, "w": tensor}).encode() + b" " * padding
    return struct.pack("<Q", len(header)) + header + os.urandom(size)


def model(name: str = "org/weights", **changed: Any) -> HubRepository:
    files = {"README.md": CARD, "model.safetensors": safetensors((300, 500)), "config.json": b'{"model_type": "llama"}'}
    files |= {"pytorch_model.bin": b"pickle", "modeling_x.py": b"import os", "tokenizer.json": b"{}"}
    return HubRepository(name, **{"files": files, "lfs": ("model.safetensors",), "card": {"license": "mit"}} | changed)


def dataset(files: dict[str, bytes], name: str = "org/rows", **changed: Any) -> HubRepository:
    return HubRepository(name, "datasets", files, card={"license": "cc-by-4.0"}, **changed)


def stored_weights(context: Context, repository: HubRepository) -> dict[str, Any]:
    record = json.loads(context.artifacts.storage.read(f"raw/huggingface/models/{repository.id}/{repository.sha}.json"))
    assert record["commit"] == repository.sha and record["license"] == "MIT"
    for name, file in record["files"].items():
        data = context.artifacts.storage.read(f"raw/sha256/{file['sha256'][:2]}/{file['sha256']}")
        assert data == repository.files[name] and len(data) == file["size_bytes"]
    return dict(record["files"])


def test_parameters_are_counted_from_headers_without_the_weights(server: StandIn, tmp_path: Path) -> None:
    repository = model()
    server.add(repository)
    context, manifest = fetch(server, tmp_path)
    metadata = json.loads(documents_of(context, manifest)[0]["metadata"])
    assert metadata["parameters"] == 150_000 and metadata["parameters_by_type"] == {"F32": 150_000}
    (first,) = [r for r in server.requests("model.safetensors") if "range" in r.headers]
    assert first.headers["range"] == "bytes=0-99999" and stored_weights(context, repository).keys() == {"README.md"}


def test_shards_long_headers_and_servers_without_ranges_are_counted_too(server: StandIn, tmp_path: Path) -> None:
    shards = {f"model-0000{n}-of-00003.safetensors": safetensors((n, 10), padding=150_000) for n in (1, 2, 3)}
    server.add(model("org/sharded", files=shards | {"README.md": CARD, "optimizer.safetensors": b"x"}, lfs=()))
    for ranges in (True, False):
        server.hub.ranges = ranges
        context, manifest = fetch(server, tmp_path / str(ranges))
        assert json.loads(documents_of(context, manifest)[0]["metadata"])["parameters"] == 60


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 100,
        struct.pack("<Q", 5) + b"{",
        struct.pack("<Q", 9) + b"[1, 2, 3]",
        struct.pack("<Q", 50_000) + b"[" * 50_000,
        struct.pack("<Q", 32) + b'{"w":{"shape":[-1],"dtype":"F"}}',
    ],
)
def test_a_header_that_is_none_costs_the_figure_alone(server: StandIn, tmp_path: Path, data: bytes) -> None:
    server.add(model(files={"README.md": CARD, "model.safetensors": data}, lfs=()))
    context, manifest = fetch(server, tmp_path)
    assert manifest.details["outcomes"] == {"collected": 1} and manifest.details["parameters_unknown"] == 1
    assert "parameters" not in json.loads(documents_of(context, manifest)[0]["metadata"])


def test_weights_are_kept_once_when_asked_for_and_never_as_pickles_or_code(server: StandIn, tmp_path: Path) -> None:
    repository = model()
    server.add(repository)
    context, manifest = fetch(server, tmp_path, weights=True, token="hf_secret")
    assert stored_weights(context, repository).keys() == {
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }
    assert manifest.details["weights"] == 1 and manifest.details["weights_bytes"] > 600_000
    assert not server.requests(r"\.bin|\.py") and not list((tmp_path / "run" / "downloads").glob("[0-9a-f]*[0-9a-f]"))
    foreign = server.requests("^/lfs/")
    assert foreign and not any("authorization" in request.headers for request in foreign)
    assert all(r.headers["authorization"] == "Bearer hf_secret" for r in server.requests("^/org|^/api"))
    before = len(server.log)
    fetch(server, tmp_path, weights=True, min_likes=99)  # another collection, the same commit
    server.add(model("org/copy", files=dict(repository.files)))
    fetch(server, tmp_path, weights=True)
    assert {r.path.rpartition("/")[2] for r in server.log[before:] if r.path.startswith("/org")} == {
        "README.md", "config.json", "tokenizer.json", "model.safetensors"
    }  # fmt: skip
    assert all("range" in r.headers for r in server.log[before:] if r.path.endswith(".safetensors"))


def test_models_that_ask_for_code_or_have_pickles_alone_are_left_out(server: StandIn, tmp_path: Path) -> None:
    deep = json.dumps({"text_config": {"auto_map": {"AutoModel": "modeling_x.Evil"}}}).encode()
    server.add(
        model("a/config", files=model().files | {"config.json": deep}),
        model("a/tagged", tags=("custom_code",)),
        model("a/broken", files=model().files | {"config.json": b"{"}),
        model("a/pickled", files={"README.md": CARD, "pytorch_model.bin": b"x", "config.json": b"{}"}, lfs=()),
        model("a/closed", gated="auto"),
    )
    _, manifest = fetch(server, tmp_path, weights=True)
    outcomes = manifest.details["outcomes"]
    assert outcomes == {"collected": 4, "damaged": 1, "gated": 1, "not_safetensors": 1, "remote_code": 2}
    fetched = server.requests("^/a/.*safetensors$")
    assert not [r for r in fetched if "broken" not in r.path and r.headers.get("range") != "bytes=0-99999"]
    assert not server.requests("a/closed/")


@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_that_is_cut_goes_on_where_it_stopped(server: StandIn, tmp_path: Path, ranges: bool) -> None:
    repository = model(entry={"safetensors": {"total": 1, "parameters": {"F32": 1}}})
    server.add(repository)
    server.hub.ranges = ranges
    server.cut("^/lfs/", times=2)
    context, manifest = fetch(server, tmp_path, weights=True)
    assert "model.safetensors" in stored_weights(context, repository) and manifest.details["weights"] == 1
    starts = [r.headers.get("range") for r in server.requests("^/lfs/")]
    assert len(starts) == 3 and starts[0] is None and all(str(s).startswith("bytes=") for s in starts[1:])


def test_a_later_run_goes_on_inside_the_file(server: StandIn, tmp_path: Path) -> None:
    repository = model(entry={"safetensors": {"total": 1, "parameters": {"F32": 1}}})
    server.add(repository)
    server.cut("^/lfs/")
    server.fail("^/lfs/", 503, times=4)
    context, manifest = fetch(server, tmp_path, weights=True)
    assert manifest.details["outcomes"] == {"collected": 1, "unavailable": 1}
    size = len(repository.files["model.safetensors"])
    _, manifest = fetch(server, tmp_path, weights=True, min_likes=99)
    assert server.requests("^/lfs/")[-1].headers["range"] == f"bytes={size // 2}-"
    assert "model.safetensors" in stored_weights(context, repository) and manifest.details["outcomes"] == {
        "collected": 1
    }


def test_wrong_bytes_are_fetched_again_once_and_then_not_kept(server: StandIn, tmp_path: Path) -> None:
    right = model().files["model.safetensors"]
    longer, other = right + b"more", right[:-1] + b"!"
    for number, (name, wrong) in enumerate(
        (("config.json", b'{"model_type": "lama!"}'), ("model.safetensors", longer))
    ):
        repository = model(f"a/{number}", files=model().files | {"model.safetensors": right}, served={name: wrong})
        server.hub.repositories[:] = [repository]
        context, manifest = fetch(server, tmp_path / str(number), weights=True)
        assert manifest.details["outcomes"] == {"collected": 1, "wrong_hash": 1} and not manifest.details["weights"]
        digest = hashlib.sha256(wrong).hexdigest()
        assert not context.artifacts.storage.exists(f"raw/sha256/{digest[:2]}/{digest}")
        (drop,) = context.artifacts.rows(manifest, "dropped/")
        assert drop["path"] == name and ("twice" in drop["value"] or "more than" in drop["value"])
    repository = model(
        "a/once", files=model().files | {"model.safetensors": right}, served={"model.safetensors": other}
    )
    server.hub.repositories[:] = [repository]
    server.hub.before = lambda request: (
        repository.served.clear() if len(server.requests("^/lfs/", "GET")) > 2 and "/lfs/" in request.path else None
    )
    context, manifest = fetch(server, tmp_path / "once", weights=True)
    assert manifest.details["outcomes"] == {"collected": 1} and "model.safetensors" in stored_weights(
        context, repository
    )


def test_a_dataset_becomes_documents_one_per_row(server: StandIn, tmp_path: Path) -> None:
    table = b"text,label\n" + b"".join(b"a sentence numbered %d,x\n" % n for n in range(5))
    files = {
        "README.md": CARD,
        "data/train.jsonl": LINES,
        "data/more #1.jsonl.gz": gzip.compress(LINES) + gzip.compress(LINES),
        "table.csv": table,
        "dataset_infos.json": b"{}",
        "load.py": b"import os",
        ".hidden/x.json": b"[]",
    }
    repository = dataset(files, lfs=("table.csv",))
    server.add(repository)
    context, manifest = fetch(server, tmp_path, kind="datasets", data=True)
    rows = [d for d in documents_of(context, manifest) if d["path"] != "README.md"]
    assert {path: sum(d["path"] == path for d in rows) for path in sorted(files)} | {} == {
        ".hidden/x.json": 0, "README.md": 0, "data/more #1.jsonl.gz": 80, "data/train.jsonl": 40,
        "dataset_infos.json": 0, "load.py": 0, "table.csv": 5,
    }  # fmt: skip
    first = next(d for d in rows if d["path"] == "data/train.jsonl")
    assert first["text"] == "What is 0 and 0?\n\nIt is 0." and first["license"] == "CC-BY-4.0"
    assert (
        first["group"] == "datasets/org/rows" and first["commit"] == repository.sha and first["source"] == "huggingface"
    )
    place = f"{server.url}/datasets/org/rows/resolve/{repository.sha}/data/train.jsonl"
    assert first["url"].partition("#")[0] == place
    assert json.loads(first["metadata"])["file_sha256"] == hashlib.sha256(LINES).hexdigest()
    assert not server.requests("load.py|infos|hidden") and manifest.details["outcomes"]["collected"] == 4
    assert len({d["id"] for d in rows}) == len(rows)


def test_parquet_of_a_dataset_is_read(server: StandIn, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "x.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    server.add(dataset({"README.md": CARD, "train-00000.parquet": path.read_bytes()}, lfs=("train-00000.parquet",)))
    context, manifest = fetch(server, tmp_path / "home", kind="datasets", data=True)
    rows = [d for d in documents_of(context, manifest) if d["path"] != "README.md"]
    assert len(rows) == 40 and "What is 3 and 3?" in rows[3]["text"] and "It is 6." in rows[3]["text"]


def test_data_beyond_the_limits_or_damaged_is_left_out_and_the_rest_comes(server: StandIn, tmp_path: Path) -> None:
    bomb = gzip.compress(b" " * 1_000_000)
    files = {
        "a.jsonl": LINES,
        "b_large.jsonl": LINES * 4,
        "c_bomb.jsonl.gz": bomb,
        "d_cut.jsonl.gz": gzip.compress(os.urandom(900))[:-500],
        "e_not.csv.gz": b"plain words",
        "f_not.jsonl.zst": b"plain words",
        "g_damaged.json": b'{"a": ',
        "h_empty.csv": b"",
        "i_lies.parquet": b"PAR1 but not really PAR1",
        "j_last.jsonl": LINES + b"\n",
        "k_over.jsonl": LINES,
    }
    total = sum(len(data) for name, data in files.items() if name[0] not in "bk")
    server.add(dataset(files))
    context, manifest = fetch(
        server, tmp_path, kind="datasets", data=True, max_bytes=len(LINES) + 99, max_repository_bytes=total
    )
    drops = {row["path"]: row["reason"] for row in context.artifacts.rows(manifest, "dropped/")}
    assert drops.pop("i_lies.parquet") in ("damaged", "unsupported", "crashed")
    assert drops == {
        "b_large.jsonl": "too_large", "c_bomb.jsonl.gz": "too_large", "d_cut.jsonl.gz": "damaged",
        "e_not.csv.gz": "damaged", "f_not.jsonl.zst": "damaged", "g_damaged.json": "damaged", "h_empty.csv": "empty",
        "k_over.jsonl": "over_limit",
    }  # fmt: skip
    assert not server.requests("b_large|k_over") and manifest.counts["outcome_collected"] == 2


def test_a_zstd_file_is_unpacked(server: StandIn, tmp_path: Path) -> None:
    import pyarrow as pa

    packed = pa.Codec("zstd").compress(LINES, asbytes=True)
    server.add(dataset({"train.jsonl.zst": packed}))
    _, manifest = fetch(server, tmp_path, kind="datasets", data=True)
    assert manifest.counts["documents"] == 41


def test_a_dataset_without_data_files_says_so_and_a_gated_one_gives_none(server: StandIn, tmp_path: Path) -> None:
    server.add(dataset({"README.md": CARD, "a.zip": b"x"}, "org/none"), dataset({"a.jsonl": LINES}, "org/closed"))
    server.hub.repositories[1].gated = "auto"
    _, manifest = fetch(server, tmp_path, kind="datasets", data=True)
    assert manifest.details["outcomes"] == {"collected": 1, "gated": 1, "no_data": 1}
    assert not server.requests("closed/")


def test_a_collected_dataset_goes_through_preparation_with_its_licence(server: StandIn, tmp_path: Path) -> None:
    from soldiom_ray.prepare import prepare

    source = SHARED / "code_mbpp"
    file = next(iter(sorted(source.glob("*.jsonl"))), None) if source.is_dir() else None
    if file is None:
        pytest.skip(f"no real dataset at {source}")
    server.add(dataset({"README.md": CARD, "mbpp.jsonl": file.read_bytes()}, lfs=("mbpp.jsonl",)))
    context, manifest = fetch(server, tmp_path, kind="datasets", data=True)
    assert manifest.counts["documents"] > 100
    made = prepare(context, [manifest], Prepare(filters=("min_words",)))
    samples = [row for side in ("train/", "validation/", "test/") for row in context.artifacts.rows(made, side)]
    assert len(samples) == made.counts["kept"] > 100 and all(
        s["license"] == "CC-BY-4.0" for s in samples if s["path"] == "mbpp.jsonl"
    )


@pytest.mark.parametrize("after", [2, 4, 6, 8, 9])
def test_a_run_that_is_killed_goes_on_and_gives_the_same(server: StandIn, tmp_path: Path, after: int) -> None:
    files = {f"part-{n}.jsonl": LINES.replace(b"What", b"Part %d: what" % n) for n in range(6)}
    server.add(dataset(files | {"README.md": CARD}, lfs=("part-3.jsonl", "part-4.jsonl")))
    context, manifest = fetch(server, tmp_path / "undisturbed", kind="datasets", data=True)
    expected, asked = documents_of(context, manifest), len(server.log)
    server.log.clear()
    code = (
        "import sys; sys.path[:0] = sys.argv[3:]\n"
        "from pathlib import Path\n"
        "from test_collect_hub_content import fetch\n"
        "class Server: url = sys.argv[1]\n"
        "fetch(Server(), Path(sys.argv[2]), kind='datasets', data=True)\n"
    )
    here = Path(__file__).parent
    arguments = [sys.executable, "-c", code, server.url, str(tmp_path / "killed"), str(here), str(here.parent)]
    process = subprocess.Popen(arguments)
    server.hub.before = lambda request: process.kill() if len(server.log) == after else None
    assert process.wait(120) == -signal.SIGKILL
    server.hub.before = lambda request: None
    context, manifest = fetch(server, tmp_path / "killed", kind="datasets", data=True)
    assert documents_of(context, manifest) == expected
    assert len(server.log) <= asked + 3  # the listing again, and what was in hand


def test_gzip_members_that_lie_about_their_end_do_not_loop() -> None:
    from soldiom_ray.collect.huggingface.data import _gunzipped
    from soldiom_ray.collect.text import SkippedError

    whole = gzip.compress(b"a") + b"\0" * 512
    assert b"".join(_gunzipped(iter([whole]))) == b"a"
    assert b"".join(_gunzipped(bytes([byte]) for byte in gzip.compress(b"abc") * 2)) == b"abcabc"
    with pytest.raises(SkippedError, match="damaged"):
        list(_gunzipped(iter([zlib.compress(b"abc")])))
