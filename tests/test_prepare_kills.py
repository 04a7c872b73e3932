"""A preparation that is killed gives the same dataset, and does no finished part again."""

import contextlib
import random
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from preparing import context_in, documents_of, package_documents
from programs import MOMENTS, expect_death, finish, start

from soldiom_ray.artifacts import Context
from soldiom_ray.domains.schema import Prepare
from soldiom_ray.prepare import prepare

pytestmark = pytest.mark.service


ROUNDS = 6
PROGRAM = """
import json, sys
from pathlib import Path
from preparing import context_in
from programs import mortal
from soldiom_ray.domains.schema import Prepare
from soldiom_ray.prepare import pipeline
context = mortal(context_in(Path(sys.argv[1])))
pipeline.PART_BYTES = 20_000
made = pipeline.prepare(context, [context.artifacts.get(sys.argv[2])], Prepare())
print(json.dumps({"id": made.id, "files": [[f.name, f.sha256] for f in made.files]}))
"""


@pytest.fixture
def homes(tmp_path: Path) -> tuple[Path, Path, str]:
    """Two homes with the same documents, and these documents' id."""
    documents = documents_of(context_in(tmp_path / "home"), package_documents(most=60)).id
    return tmp_path / "home", shutil.copytree(tmp_path / "home", tmp_path / "quiet"), documents


def test_killed_three_times_the_dataset_is_the_same(homes: tuple[Path, Path, str]) -> None:
    home, quiet, documents = homes
    for moment in MOMENTS:
        expect_death(start(PROGRAM, str(home), documents, killed_at=moment))
    assert finish(start(PROGRAM, str(home), documents)) == finish(start(PROGRAM, str(quiet), documents))
    assert not context_in(home).artifacts.storage.keys("work")


@pytest.mark.endurance
def test_killed_again_and_again_the_dataset_is_the_same(homes: tuple[Path, Path, str]) -> None:
    home, quiet, documents = homes
    began = time.monotonic()
    expected = finish(start(PROGRAM, str(quiet), documents))
    seconds, dice, killed = time.monotonic() - began, random.Random(7), 0
    for _ in range(ROUNDS):
        process = start(PROGRAM, str(home), documents)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=dice.uniform(0.3, 1.0) * seconds)
        process.kill()
        process.communicate()
        if process.returncode == 0:
            shutil.rmtree(home / "storage" / "dataset")
            shutil.rmtree(home / "storage" / "parts")
        else:
            killed += 1
    assert finish(start(PROGRAM, str(home), documents)) == expected and killed
    assert not context_in(home).artifacts.storage.keys("work")


def test_a_part_that_was_processed_is_not_processed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from soldiom_ray.prepare import pipeline, process_documents

    processed: list[int] = []
    real = process_documents._process_part

    def counted(storage: Any, part: Any, declared: Prepare) -> int:
        processed.append(part.number)
        return real(storage, part, declared)

    monkeypatch.setattr(process_documents, "_process_part", counted)
    monkeypatch.setattr(pipeline, "PART_BYTES", 20_000)
    context = context_in(tmp_path)
    documents = documents_of(context, package_documents(["rich", "httpx"], most=30))

    def stop(fraction: float, message: str) -> None:
        if fraction > 0.62:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(Context(context.settings, context.artifacts, stop), [documents], Prepare())
    first = len(processed)
    prepare(context, [documents], Prepare())
    assert first > 1 and len(processed) == first


def test_versions_of_a_dataset_share_the_shards_that_did_not_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from soldiom_ray.prepare import pipeline

    monkeypatch.setattr(pipeline, "SHARD_CHARACTERS", 60_000)
    context = context_in(tmp_path)
    rows = package_documents(most=40)
    declared = Prepare(split={"by": "document", "test": 0.0, "validation": 0.0})  # type: ignore[arg-type]
    first = prepare(context, [documents_of(context, rows)], declared)
    second = prepare(context, [documents_of(context, rows[:100] + rows[101:])], declared)
    shards = [{entry.key for entry in made.files if entry.name.startswith("train/")} for made in (first, second)]
    assert len(shards[0]) > 8 and len(shards[0] & shards[1]) >= len(shards[0]) - 3
    context.artifacts.delete(first.id)
    assert list(context.artifacts.rows(second, "train/")) and not (
        (shards[0] - shards[1]) & set(context.artifacts.storage.keys("parts"))
    )
