"""Killing a collection, its workers too: what it gives in the end is the same to the byte."""

import contextlib
import json
import random
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from collecting import MODEL, TRAIN
from nodes import Nodes
from programs import MOMENTS, expect_death, finish, result_in, start
from stand_in import Repository, StandIn

pytestmark = pytest.mark.service


ROUNDS = 12
PROGRAM = """
import datetime, json, sys
from pathlib import Path
from soldiom_ray import actors, records
actors.START_SECONDS = 0
records.now = lambda: datetime.datetime(2026, 11, 24, 9, 0, int(sys.argv[4]), tzinfo=datetime.UTC)
from collecting import make_context
from programs import mortal
from soldiom_ray.collect import collect
from soldiom_ray.domains.sources import FilesSource, GithubSource, LocalSource
home, folder, variables = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
if len(sys.argv) > 5:
    import ray
    ray.init(address=sys.argv[5], log_to_driver=False, logging_level="error")
sources = [
    LocalSource(source="local", packages=("peft", "rich")),
    FilesSource(source="files", paths=(folder,)),
    GithubSource(topics=("machine-learning",), languages=("Python",), pushed_within_days=40000),
]
manifest = collect(mortal(make_context(home, **variables)), sources)
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


def arguments(home: Path, world: tuple[Path, Mapping[str, str]], second: int) -> list[str]:
    """Of the program, which collects at this second of its day."""
    folder, variables = world
    return [str(home), str(folder), json.dumps(variables), str(second)]


@pytest.fixture(scope="module")
def undisturbed(
    world: tuple[Path, dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], float]:
    """What a quiet run gives, and how many seconds it takes."""
    started = time.monotonic()
    result = finish(start(PROGRAM, *arguments(tmp_path_factory.mktemp("quiet"), world, 0)))
    return result, time.monotonic() - started


def test_a_collection_that_is_killed_three_times_ends_with_the_same_bytes(
    world: tuple[Path, dict[str, str]], undisturbed: tuple[dict[str, Any], float], tmp_path: Path
) -> None:
    for number, moment in enumerate(MOMENTS):
        expect_death(start(PROGRAM, *arguments(tmp_path, world, number), killed_at=moment))
        assert begun(tmp_path)
    assert finish(start(PROGRAM, *arguments(tmp_path, world, 59))) == undisturbed[0]


@pytest.mark.endurance
def test_a_collection_that_is_killed_again_and_again_ends_with_the_same_bytes(
    world: tuple[Path, dict[str, str]], undisturbed: tuple[dict[str, Any], float], tmp_path: Path
) -> None:
    expected, seconds = undisturbed
    dice, killed = random.Random(17), 0
    for number in range(1, ROUNDS + 1):
        process = start(PROGRAM, *arguments(tmp_path, world, number if begun(tmp_path) else 0))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=dice.uniform(0.2, 0.9) * seconds)
        process.kill()
        out, _ = process.communicate()
        if process.returncode == 0:
            assert result_in(out) == expected
            shutil.rmtree(tmp_path / "storage")
        else:
            killed += 1
    last = start(PROGRAM, *arguments(tmp_path, world, 59 if begun(tmp_path) else 0))
    assert finish(last) == expected and killed >= ROUNDS / 2


def begun(home: Path) -> bool:
    """Whether a collection was begun there whose time the next try takes over."""
    return any((home / "storage").rglob("began"))


@pytest.mark.parametrize("kills", [2, pytest.param(8, marks=pytest.mark.endurance)])
def test_workers_that_are_killed_leave_no_trace_in_the_result(
    world: tuple[Path, dict[str, str]],
    undisturbed: tuple[dict[str, Any], float],
    node_cluster: Nodes,
    tmp_path: Path,
    kills: int,
) -> None:
    expected, _ = undisturbed
    dice, killed = random.Random(18), 0
    node_cluster.add(2 - node_cluster.count)
    process = start(PROGRAM, *arguments(tmp_path, world, 0), node_cluster.address)
    while process.poll() is None and killed < kills:
        time.sleep(dice.uniform(0.2, 1.2))
        killed += node_cluster.kill_a_worker(dice)
    assert finish(process) == expected and killed
