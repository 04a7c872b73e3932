"""Checkpoints under faults: damage, a storage that is away, a full disk, a stop in the midst of something."""

import json
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import boto3
import pytest
from botocore.config import Config
from conftest import free_port
from moto.server import DomainDispatcherApplication, create_backend_app
from training import context_in, dataset_in, declared, quiet, two_layer_model
from werkzeug.serving import BaseWSGIServer, make_server

from soldiom_ray.artifacts import Artifacts, Context
from soldiom_ray.errors import CancelledError, StorageFullError, UnavailableError
from soldiom_ray.settings import load_settings
from soldiom_ray.storage import FolderBackend, S3Backend, Storage, open_storage
from soldiom_ray.train import checkpoints as checkpoints_module
from soldiom_ray.train import tensors as tensors_module
from soldiom_ray.train.checkpoints import Checkpoints
from soldiom_ray.train.driver import run_locally
from soldiom_ray.train.loop import Loop, PreemptedError, Schedule
from soldiom_ray.train.saving import Saver
from soldiom_ray.train.state import Position
from soldiom_ray.train.work import prepare_work

OUTAGE_SECONDS = 4.0


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_layer_model(tmp_path_factory.mktemp("base"))


def state(seed: int = 0, rows: int = 64) -> dict[str, Any]:
    import torch

    generator = torch.Generator().manual_seed(seed)
    made = {f"layer.{i}.weight": torch.randn(rows, 33, generator=generator) for i in range(4)}
    return made | {"half": torch.randn(7, generator=generator).bfloat16(), "step": torch.tensor(3.0)}


def same(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    return left.keys() == right.keys() and all(left[name].equal(right[name]) for name in left)


def checkpoints_in(folder: Path) -> Checkpoints:
    return Checkpoints(Storage(FolderBackend(folder)), "run/x/checkpoints")


def test_a_large_state_lies_in_shards_that_safetensors_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file

    monkeypatch.setattr(tensors_module, "SHARD_BYTES", 20_000)
    checkpoints = checkpoints_in(tmp_path)
    checkpoints.write(Position(step=5), state(1), state(2, rows=2))
    folder = tmp_path / "run/x/checkpoints/00000005"
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        "manifest.json",
        "optimizer.safetensors",
        "weights-00001-of-00002.safetensors",
        "weights-00002-of-00002.safetensors",
    ]
    assert same(load_file(folder / names[2]) | load_file(folder / names[3]), state(1))
    newest = checkpoints.newest()
    assert newest is not None and same(newest[1], state(1)) and same(newest[2], state(2, rows=2))


def test_a_sealed_state_is_read_back_after_its_files_are_gone(tmp_path: Path) -> None:
    checkpoints = Checkpoints(Storage(FolderBackend(tmp_path), (bytes(range(32)),)), "run/x/checkpoints")
    checkpoints.write(Position(step=1), state(1), state(2))
    newest = checkpoints.newest()
    checkpoints.clear()
    assert newest is not None and same(newest[1], state(1)) and same(newest[2], state(2))


def truncate(folder: Path) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def flip(folder: Path) -> None:
    path = folder / "optimizer.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def zero(folder: Path) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(bytes(path.stat().st_size))


def change_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace(r"\"tokens\":70", r"\"tokens\":71"))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": truncate,
    "flipped": flip,
    "zeroed": zero,
    "empty": lambda folder: (folder / "weights.safetensors").write_bytes(b""),
    "a file missing": lambda folder: (folder / "weights.safetensors").unlink(),
    "manifest missing": lambda folder: (folder / "manifest.json").unlink(),
    "manifest garbage": lambda folder: (folder / "manifest.json").write_bytes(b"\xff{half"),
    "manifest changed": change_manifest,
}


@pytest.mark.parametrize("how", DAMAGES)
def test_the_newest_checkpoint_that_verifies_is_taken_and_the_log_names_the_others(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = checkpoints_in(tmp_path)
    for step in (6, 7):
        checkpoints.write(Position(step=step, tokens=step * 10, best_step=6), state(step), state(step + 100))
    damage = tmp_path / "run/x/checkpoints/00000007"
    before = [path.read_bytes() for path in sorted(damage.iterdir())]
    DAMAGES[how](damage)
    assert [path.read_bytes() for path in sorted(damage.iterdir())] != before
    newest = checkpoints.newest()
    assert newest is not None and newest[0].step == 6 and same(newest[1], state(6))
    skipped = [record.data for record in caplog.records if record.message.startswith("checkpoint skipped")]  # type: ignore[attr-defined]
    assert len(skipped) == 1 and skipped[0]["step"] == 7 and skipped[0]["reason"]
    assert checkpoints.steps() == [6]


class Shaky(FolderBackend):
    """A folder on a file server that is away until `until`."""

    until, refused = 0.0, 0

    def _check(self) -> None:
        if time.monotonic() < self.until:
            self.refused += 1
            raise OSError(5, "Input/output error")

    def write(self, key: str, chunks: Iterable[bytes], durable: bool) -> None:
        self._check()
        super().write(key, chunks, durable)

    def open(self, key: str) -> IO[bytes]:
        self._check()
        return super().open(key)


def test_a_file_server_that_is_away_is_waited_for_and_nothing_is_thrown_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Shaky(tmp_path)
    checkpoints = Checkpoints(Storage(backend), "run/x/checkpoints")
    backend.until = time.monotonic() + 1
    checkpoints.write(Position(step=1), state(1), state(2))
    backend.until = time.monotonic() + 1
    newest = checkpoints.newest()
    assert newest is not None and newest[0].step == 1 and backend.refused >= 2
    monkeypatch.setattr(checkpoints_module, "PATIENCE_SECONDS", 0.5)
    backend.until = time.monotonic() + 60
    with pytest.raises(OSError, match="Input/output"):
        checkpoints.newest()
    backend.until = 0
    assert checkpoints.steps() == [1]


@dataclass
class S3:
    """A real S3 server (moto's) that can be away: `refuse` or `fail` for a while."""

    port: int = field(default_factory=free_port)
    failing: bool = False
    server: BaseWSGIServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        app = DomainDispatcherApplication(create_backend_app)

        def answer(environ: Any, respond: Any) -> Any:
            if self.failing:
                respond("503 Slow Down", [("Content-Length", "0")])
                return [b""]
            return app(environ, respond)

        self.server = make_server("127.0.0.1", self.port, answer, threaded=True)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()

    def away(self, how: str, seconds: float) -> None:
        def back() -> None:
            time.sleep(seconds)
            self.failing = False
            if how == "refused":
                self.start()

        if how == "refused":
            self.stop()
        else:
            self.failing = True
        threading.Thread(target=back, daemon=True).start()


@pytest.fixture
def s3() -> Iterator[S3]:
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    world = S3()
    world.start()
    boto3.client("s3", endpoint_url=world.url).create_bucket(Bucket="bucket")
    yield world
    world.stop()


@pytest.mark.service
@pytest.mark.parametrize("how", ["refused", "503"])
def test_an_s3_that_is_away_while_training_writes_and_reads_costs_nothing_but_time(
    how: str,
    s3: S3,
    base: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With a client that does not call again by itself: an outage of minutes outlasts the eight calls of ours."""
    caplog.set_level(logging.INFO)
    alone = context_in(tmp_path / "alone")
    train = declared(base, checkpoint_seconds=0.01)
    undisturbed = run_locally(alone, dataset_in(alone.artifacts), train)
    variables = {
        "SOLDIOM_HOME": str(tmp_path / "home"),
        "SOLDIOM_STORAGE": f"s3://bucket/{tmp_path.name}",
        "SOLDIOM_S3_ENDPOINT": s3.url,
    }
    settings = load_settings(variables)
    storage = open_storage(settings)
    assert isinstance(storage.backend, S3Backend)
    once = Config(retries={"total_max_attempts": 1})
    storage.backend.client = boto3.client("s3", endpoint_url=s3.url, config=once)
    context = Context(settings, Artifacts(storage), quiet)
    dataset = dataset_in(context.artifacts)
    seen: list[str] = []

    def report(fraction: float, message: str) -> None:
        if message.startswith("step 5/") and not seen:
            seen.append(message)
            s3.away(how, OUTAGE_SECONDS)
        if message.startswith("step 8/"):
            raise CancelledError("stop")

    began = time.monotonic()
    with pytest.raises(CancelledError):
        run_locally(replace(context, report=report), dataset, train)
    assert time.monotonic() - began > OUTAGE_SECONDS  # what was cancelled had to wait until its state was stored
    _, work = prepare_work(context, dataset, train)
    assert work is not None
    s3.away(how, 2)
    newest = work.checkpoints(context.artifacts).newest()
    assert newest is not None and newest[0].step == 8
    assert [caplog.text.count(message) for message in ("the storage is away", "the storage is back")] == [2, 2]
    run = run_locally(context, dataset, train)
    assert run.details["best_validation_loss"] == pytest.approx(undisturbed.details["best_validation_loss"], abs=1e-3)


def test_a_right_that_is_missing_is_told_at_once(s3: S3, caplog: pytest.LogCaptureFixture) -> None:
    settings = load_settings({"SOLDIOM_STORAGE": "s3://nowhere/x", "SOLDIOM_S3_ENDPOINT": s3.url})
    with pytest.raises(UnavailableError, match="nowhere"):
        Checkpoints(open_storage(settings), "run/x/checkpoints").write(Position(step=1), state(1), state(2))
    assert "the storage is away" not in caplog.text


class Recording:
    """A store that holds what it was given, slowly, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.states, self.gate = error, {}, threading.Event()  # type: ignore[var-annotated]

    def write(self, position: Position, weights: Mapping[str, Any], optimizer_state: Mapping[str, Any]) -> None:
        self.gate.wait(10)
        if self.error:
            raise self.error
        self.states[position.step] = {name: tensor.clone() for name, tensor in weights.items()}

    def newest(self) -> None:
        return None

    read = best_weights = None


def test_a_state_is_kept_as_it_was_while_the_training_changes_its_tensors() -> None:
    store, live = Recording(), state(1)
    saver = Saver(store)  # type: ignore[arg-type]
    saver.save(Position(step=1), live, {}, shared=True)
    live["layer.0.weight"].zero_()
    store.gate.set()
    saver.settle()
    assert same(store.states[1], state(1))


def test_an_error_of_the_writing_thread_surfaces_at_the_next_save() -> None:
    store = Recording(StorageFullError("No space left."))
    saver = Saver(store)  # type: ignore[arg-type]
    store.gate.set()
    saver.save(Position(step=1), state(1), {}, shared=True)
    with pytest.raises(StorageFullError):
        saver.save(Position(step=2), state(1), {}, shared=True)


def a_loop(folder: Path, base: Path, source: type, **hooks: Any) -> tuple[Loop, Checkpoints]:
    import numpy as np
    from transformers import AutoModelForCausalLM

    from soldiom_ray.models.loss import CausalLoss
    from soldiom_ray.train.strategies import Optimization, open_strategy

    strategy = open_strategy(
        "single", CausalLoss(AutoModelForCausalLM.from_pretrained(base)), Optimization(1e-3, 0.0, 1.0, False)
    )
    stream = np.random.default_rng(1).integers(0, 300, 16_001).astype(np.uint16)
    schedule = Schedule(
        steps=4,
        units_per_step=200,
        positions_at_once=64,
        learning_rate=1e-3,
        warmup_steps=1,
        validate_every=2,
        validation_tokens=64 * 60,
        patience=9,
        seed=1,
    )
    checkpoints = checkpoints_in(folder)
    return Loop(strategy, source(stream, 64), source(stream, 64), schedule, checkpoints, **hooks), checkpoints


def test_a_long_step_hears_a_cancellation_between_its_batches(base: Path, tmp_path: Path) -> None:
    from soldiom_ray.train.blocks import Blocks

    read: list[int] = []

    class Slow(Blocks):
        def batch(self, indices: Any) -> Any:
            read.append(len(indices))
            time.sleep(0.02)
            return super().batch(indices)

    stop_at: list[float] = []

    def report(fraction: float, message: str) -> None:
        if message.startswith("step 1/"):
            stop_at.append(time.monotonic())
            if len(stop_at) > 1:
                raise CancelledError("stop")

    loop, checkpoints = a_loop(tmp_path, base, Slow, report=report)
    with pytest.raises(CancelledError):
        loop.run()
    assert len(read) < 60 + 200 + 199  # the second step of 200 batches was not finished
    newest = checkpoints.newest()
    assert newest is not None and newest[0].step == 1


def test_a_machine_that_is_taken_away_is_left_with_the_state_kept(
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from soldiom_ray.train import loop as loop_module
    from soldiom_ray.train.blocks import Blocks

    monkeypatch.setattr(loop_module, "PREEMPTION_CHECK_SECONDS", 0.0)
    loop, checkpoints = a_loop(tmp_path, base, Blocks, report=quiet, is_preempted=lambda: loop.position.step >= 2)
    with pytest.raises(PreemptedError):
        loop.run()
    newest = checkpoints.newest()
    assert newest is not None and newest[0].step == 2


def test_the_last_checkpoint_leaves_out_what_only_further_steps_need(base: Path, tmp_path: Path) -> None:
    from soldiom_ray.train.blocks import Blocks

    for _ in range(2):  # the second finds the first one's end
        loop, checkpoints = a_loop(tmp_path, base, Blocks, report=quiet)
        loop.schedule = replace(loop.schedule, positions_at_once=64 * 50)
        assert loop.run().steps == 4
        (_, weights, state_at_end), (_, _, state_halfway) = checkpoints.read(4), checkpoints.read(2)
        assert set(state_at_end) == {"step"} and len(state_halfway) == 1 + 2 * len(weights)
        assert same(weights, loop.strategy.weights())


@pytest.mark.parametrize("large", [False, True])
def test_a_state_that_takes_long_to_write_is_not_written_for_little_work_but_the_best_weights_are(
    large: bool, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from soldiom_ray.train import saving
    from soldiom_ray.train.blocks import Blocks

    if large:
        monkeypatch.setattr(saving, "COPIED_BYTES", 0)
        monkeypatch.setattr(saving, "BYTES_PER_SECOND", 1.0)
    loop, checkpoints = a_loop(tmp_path, base, Blocks, report=quiet)
    loop.schedule = replace(loop.schedule, positions_at_once=64 * 50)
    evaluate, losses = loop._evaluate, iter([3.0, 1.0, 2.0])  # before, halfway and at the end
    monkeypatch.setattr(loop, "_evaluate", lambda units: (next(losses), evaluate(units)[1]))
    outcome = loop.run()
    assert outcome.best_step == 2
    kept = checkpoints.best_weights(loop.position)
    assert kept is not None and same(kept, loop.strategy.weights())
    assert checkpoints.steps() == ([] if large else [2, 4])
    assert (checkpoints.newest() is None) is large  # a training that is killed begins anew
    assert checkpoints.best_weights(loop.position) is not None


def test_weights_alone_are_kept_while_they_are_the_best_and_nothing_resumes_from_them(tmp_path: Path) -> None:
    checkpoints = checkpoints_in(tmp_path)
    checkpoints.write(Position(step=1), state(1), state(2))
    checkpoints.write(Position(step=2, best_step=2), state(3), None)
    newest = checkpoints.newest()
    assert newest is not None and newest[0].step == 1
    checkpoints.write(Position(step=3, best_step=2), state(4), state(5))
    kept = checkpoints.best_weights(Position(step=3, best_step=2))
    assert kept is not None and same(kept, state(3)) and checkpoints.steps() == [1, 3]
    checkpoints.write(Position(step=2, best_step=2), state(6), state(7))  # a whole one takes the place of weights alone
    assert same(checkpoints.read(2)[1], state(6)) and checkpoints.steps() == [2, 3]
    checkpoints.write(Position(step=4, best_step=4), state(8), None)
    assert checkpoints.steps() == [2, 3]


def test_stopped_at_any_place_a_training_ends_as_if_undisturbed(
    base: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    alone, context = context_in(tmp_path / "alone"), context_in(tmp_path / "torn")
    undisturbed = run_locally(alone, dataset_in(alone.artifacts), declared(base))
    dataset, dice = dataset_in(context.artifacts), random.Random(4)
    for _ in range(5):
        left = dice.randint(1, 12)

        def report(fraction: float, message: str) -> None:
            nonlocal left
            left -= message.startswith("step ")
            if not left:
                raise CancelledError("stop")

        try:
            run = run_locally(replace(context, report=report), dataset, declared(base))
            break
        except CancelledError:
            continue
    else:
        run = run_locally(context, dataset, declared(base))
    curves = [
        json.loads(where.artifacts.read(made, "curves.json")) for where, made in ((alone, undisturbed), (context, run))
    ]
    numbers = [[(p["step"], p.get("train_loss"), p.get("validation_loss")) for p in curve] for curve in curves]
    assert [step for step, *_ in numbers[0]] == [step for step, *_ in numbers[1]]
    for left_point, right_point in zip(*numbers, strict=True):
        assert left_point == pytest.approx(right_point, abs=1e-3)
    assert run.id == undisturbed.id
