"""Killing a collection at random moments, its workers too: what it gives in the end is the same to the byte."""

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from collecting import MODEL, TRAIN
from nodes import ray_nodes
from stand_in import Repository, StandIn

ROUNDS = 12
PROGRAM = """
import datetime, json, sys
from pathlib import Path
from soldiom_ray import actors, records
actors.START_SECONDS = 0
records.now = lambda: datetime.datetime(2026, 11, 24, 9, 0, int(sys.argv[4]), tzinfo=datetime.UTC)
from collecting import make_context
from soldiom_ray.collect import collect
from soldiom_ray.domains.schema import FilesSource, GithubSource, LocalSource
home, folder, variables = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
if len(sys.argv) > 5:
    import ray
    ray.init(address=sys.argv[5], log_to_driver=False, logging_level="error")
sources = [
    LocalSource(source="local", packages=("peft", "rich")),
    FilesSource(source="files", paths=(folder,)),
    GithubSource(topics=("machine-learning",), languages=("Python",), pushed_within_days=40000),
]
manifest = collect(make_context(home, **variables), sources)
print(json.dumps({"id": manifest.id, "files": [list(map(str, dict(f).values())) for f in manifest.files],
                  "outcomes": manifest.details["outcomes"]}))
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder of documents, and variables that lead to a GitHub with 60 repositories."""
    folder = tmp_path_factory.mktemp("given") / "documents"
    folder.mkdir()
    for number in range(150):
        (folder / f"{number:03d}.md").write_text(f"# Letter {number}\n\n" + f"Words of letter {number}.\n" * 30)
        (folder / f"{number:03d}.csv").write_text("question,answer\n" + f"why {number}?,so {number}\n" * 20)
    with StandIn() as server:
        files = {"model.py": MODEL, "train.py": TRAIN, "README.md": b"# A\n\nIt learns.\n"}
        server.add(*(Repository(f"a/r{n}", files | {f"n{n}.py": b"x = %d\n" % n}, stars=2000 + n) for n in range(60)))
        yield folder, {"SOLDIOM_GITHUB_API_URL": server.url, "SOLDIOM_GITHUB_TOKEN": "one"}


def start(home: Path, world: tuple[Path, Mapping[str, str]], second: int, address: str = "") -> subprocess.Popen[str]:
    folder, variables = world
    here = Path(__file__).parent
    arguments = [str(home), str(folder), json.dumps(variables), str(second), *([address] if address else [])]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        env=os.environ | {"PYTHONPATH": f"{here}{os.pathsep}{here.parent}", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    return told_by(out)


def told_by(out: str) -> dict[str, Any]:
    """What the program printed, among Ray's own words."""
    told: dict[str, Any] = json.loads(next(line for line in out.splitlines() if line.startswith('{"id"')))
    return told


@pytest.fixture(scope="module")
def undisturbed(
    world: tuple[Path, dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], float]:
    """What a quiet run gives, and how many seconds it takes."""
    began = time.monotonic()
    told = finish(start(tmp_path_factory.mktemp("quiet"), world, 0))
    return told, time.monotonic() - began


def test_a_collection_that_is_killed_again_and_again_ends_with_the_same_bytes(
    world: tuple[Path, dict[str, str]], undisturbed: tuple[dict[str, Any], float], tmp_path: Path
) -> None:
    expected, seconds = undisturbed
    dice, killed = random.Random(17), 0
    for number in range(1, ROUNDS + 1):
        process = start(tmp_path, world, number if begun(tmp_path) else 0)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=dice.uniform(0.2, 0.9) * seconds)
        process.kill()
        out, _ = process.communicate()
        if process.returncode == 0:
            assert told_by(out) == expected
            shutil.rmtree(tmp_path / "storage")
        else:
            killed += 1
    assert finish(start(tmp_path, world, 59 if begun(tmp_path) else 0)) == expected and killed >= ROUNDS / 2


def begun(home: Path) -> bool:
    """Whether a collection was begun there whose time the next try takes over."""
    return any((home / "storage").rglob("began"))


@pytest.mark.service
def test_workers_that_are_killed_leave_no_trace_in_the_result(
    world: tuple[Path, dict[str, str]], undisturbed: tuple[dict[str, Any], float], tmp_path: Path
) -> None:
    expected, _ = undisturbed
    dice, killed = random.Random(18), 0
    with ray_nodes(2) as nodes:
        process = start(tmp_path, world, 0, nodes.address)
        while process.poll() is None and killed < 8:
            time.sleep(dice.uniform(0.2, 1.2))
            killed += nodes.kill_a_worker(dice)
        assert finish(process) == expected and killed
