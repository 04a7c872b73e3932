"""Questions unlike what a model was trained on are noticed, and those that are like it, no more often than stated."""

import ast
import inspect
import math
import random
import sysconfig
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from soldiom_ray.artifacts import Artifacts
from soldiom_ray.db import answers, drift, models
from soldiom_ray.db.engine import open_session
from soldiom_ray.db.tables import Drift
from soldiom_ray.metrics.two_sample import Game, features
from soldiom_ray.monitor import drift as watcher
from soldiom_ray.records import FileEntry, new_id
from soldiom_ray.settings import Settings
from soldiom_ray.storage import open_storage

MODULES = ("argparse", "datetime", "decimal", "email/message", "inspect", "logging/__init__", "pathlib", "statistics",
           "subprocess", "tarfile", "tempfile", "threading", "typing", "zipfile", "ast", "asyncio/streams")  # fmt: skip


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    """What functions of the standard library say of themselves."""
    folder, found = Path(sysconfig.get_paths()["stdlib"]), list[str]()
    for name in MODULES:
        tree = ast.parse((folder / f"{name}.py").read_text())
        docs = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef))
        found += [inspect.cleandoc(doc).split("\n\n")[0] for doc in docs if doc]
    return sorted(set(found))


@pytest.fixture(scope="module")
def code() -> list[str]:
    """Lines of programs."""
    text = (Path(sysconfig.get_paths()["stdlib"]) / "argparse.py").read_text()
    return [line.strip() for line in text.splitlines() if len(line.strip()) > 20]


def noticed_after(known: list[str], new: list[str], error: float) -> int | None:
    game = Game()
    for number, (text, reference) in enumerate(zip(new, known, strict=False), 1):
        if game.play(features(text), features(reference)) >= -math.log(error):
            return number
    return None


def test_texts_drawn_alike_are_told_apart_no_more_often_than_stated(sentences: list[str]) -> None:
    assert len(sentences) > 500
    alarms = 0
    for seed in range(40):
        mixed = random.Random(seed).sample(sentences, len(sentences))
        alarms += noticed_after(mixed[: len(mixed) // 2], mixed[len(mixed) // 2 :], 0.05) is not None
    assert alarms <= 4  # 2 are stated; more than 4 of 40 would come with a chance of 5 in 100


def test_other_texts_are_noticed_after_few(sentences: list[str], code: list[str]) -> None:
    drawn = random.Random(1)
    known = drawn.sample(sentences, len(sentences))
    after = noticed_after(known, drawn.sample(code, 400), 0.01)
    assert after is not None and after <= 60
    half = [text if number % 2 else line for number, (text, line) in enumerate(zip(known[200:], code, strict=False))]
    assert noticed_after(known[:200] * 2, half, 0.01) is not None


def test_a_game_goes_on_from_what_was_stored(sentences: list[str]) -> None:
    one, other = Game(), Game()
    for number in range(60):
        pair = features(sentences[number]), features(sentences[-number - 1])
        one.play(*pair)
        other = Game.from_dict(other.to_dict())
        other.play(*pair)
    assert other.log_wealth == pytest.approx(one.log_wealth) and other.pairs == 60


class Served:
    """A served model with a training set, and what users ask it."""

    def __init__(self, settings: Settings, texts: list[str]) -> None:
        import pyarrow as pa

        from soldiom_ray.artifacts import table_bytes

        self.settings = settings
        dataset = Artifacts(open_storage(settings)).draft("dataset", {"of": new_id()})
        rows = [{"text": text, "messages": ""} for text in texts]
        entry: FileEntry = dataset.write("train/0.parquet", table_bytes(pa.Table.from_pylist(rows)))
        assert entry.size_bytes
        dataset.commit()
        with open_session(settings) as session:
            columns = {"dataset_id": dataset.id, "deployed": True}
            self.model_id = models.create(session, family="fine-tuned", name=f"d{new_id()[-12:]}", **columns).id

    def ask(self, texts: list[str]) -> None:
        with open_session(self.settings) as session:
            for text in texts:
                exchange = answers.Exchange({"form": "text", "input": text}, "an answer")
                columns: dict[str, Any] = {"tenant": "default", "model_id": self.model_id, "owner": "k", "user_id": "u"}
                answers.add(session, exchange, self.settings.encryption_keys, id=new_id(), **columns)

    def shown(self) -> dict[str, Any]:
        with open_session(self.settings) as session:
            return drift.of_model(session, self.model_id) or {}


def test_a_shift_of_what_a_served_model_is_asked_is_noticed_once_without_a_text_stored(
    api_settings: Settings, sentences: list[str], code: list[str]
) -> None:
    settings = replace(api_settings, encryption_keys=(bytes(range(32)),))
    mixed = random.Random(2).sample(sentences, len(sentences))
    served = Served(settings, mixed[:300])
    served.ask(mixed[300:400])
    assert watcher.look(settings) == []
    assert served.shown()["questions"] == 100 and served.shown()["compared"]
    watcher._references.clear()  # another process
    served.ask(code[:150])
    assert watcher.look(settings) == [served.model_id] and served.shown()["noticed_at"]
    assert watcher.look(settings) == []
    with open_session(settings) as session:
        assert drift.states(session)[served.model_id]
        row = session.get_one(Drift, served.model_id)
        assert not any(text in str(vars(row)) for text in (*mixed[300:310], *code[:10]))


def test_a_model_of_few_texts_is_compared_with_nothing_and_rounds_share_the_error(
    api_settings: Settings, sentences: list[str]
) -> None:
    served = Served(api_settings, sentences[:20])
    served.ask(sentences[20:40])
    watcher.look(api_settings)
    assert served.shown()["compared"] is False
    assert sum(watcher.round_error(number) for number in range(10_000)) < watcher.FALSE_ALARM
    mixed = random.Random(3).sample(sentences, len(sentences))
    again = Served(api_settings, mixed[:110])
    again.ask(mixed[200:330])
    watcher.look(api_settings)
    assert (again.shown()["round"], again.shown()["pairs"]) == (1, 20)
