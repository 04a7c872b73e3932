"""Training: the loop, its checkpoints, the three methods, and Ray's workers."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from training import STEPS, context_in, dataset_in, declared, quiet, two_layer_model

from soldiom_ray.errors import CancelledError, InputError, SoldiomError, StorageFullError, UnavailableError
from soldiom_ray.models.load import load_run
from soldiom_ray.storage import FolderBackend
from soldiom_ray.train.driver import run_locally
from soldiom_ray.train.failures import WorkerFailure
from soldiom_ray.train.progress import ProgressActor, ProgressUpdate
from soldiom_ray.train.work import prepare_work
from soldiom_ray.train.worker import run_worker

STORIES = Path(__file__).parents[2] / "shared" / "data" / "model_stories260k" / "hf"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_layer_model(tmp_path_factory.mktemp("base"))


def stopping_at(step: int, more: type[Exception] = CancelledError):  # type: ignore[no-untyped-def]
    def report(fraction: float, message: str) -> None:
        if message.startswith(f"step {step}/"):
            raise more("stop")

    return report


@pytest.mark.parametrize("method", ["full", "lora", "prompt"])
def test_each_method_lowers_the_validation_loss_and_its_weights_load_again(
    method: str, base: Path, tmp_path: Path
) -> None:
    from soldiom_ray.models.score import token_losses
    from soldiom_ray.models.tokens import encode_documents, pack

    context = context_in(tmp_path)
    dataset = dataset_in(context.artifacts)
    run = run_locally(context, dataset, declared(base, method=method, learning_rate=0.02, virtual_tokens=4))
    curves = json.loads(context.artifacts.read(run, "curves.json"))
    losses = [point["validation_loss"] for point in curves if "validation_loss" in point]
    assert losses[-1] < losses[0] - 0.02
    assert run.details["best_validation_loss"] == pytest.approx(min(losses[1:]))
    assert (run.details["trainable_parameters"] < run.details["parameters"]) == (method != "full")
    parts = dict(run.details["seconds_by_part"])
    assert {"tokenise", "load", "steps", "validations", "checkpoints", "save"} <= parts.keys()
    assert parts.pop("total") == pytest.approx(sum(parts.values()), abs=0.5)
    with load_run(context.artifacts, context.settings, run, dtype="float32") as (model, tokenizer):
        texts_held_out = [row["text"] for row in context.artifacts.rows(dataset, "validation/")]
        blocks = pack(encode_documents(tokenizer, texts_held_out), 60)
        scored = token_losses(model, blocks)
        mean = sum(s.losses.sum() for s in scored) / sum(len(s.losses) for s in scored)
        assert mean == pytest.approx(run.details["best_validation_loss"], abs=0.25)
    assert context.artifacts.storage.keys(f"run/{run.id}/checkpoints") == []
    assert run_locally(context, dataset, declared(base, method=method, learning_rate=0.02, virtual_tokens=4)) == run


def test_a_model_from_scratch_brings_its_own_tokenizer(tmp_path: Path) -> None:
    context = context_in(tmp_path)
    architecture = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    run = run_locally(
        context, dataset_in(context.artifacts), declared(tmp_path, architecture=architecture, vocabulary_size=300)
    )
    with load_run(context.artifacts, context.settings, run) as (model, tokenizer):
        assert model.config.vocab_size == len(tokenizer) <= 300
        assert model.config.max_position_embeddings == 64


def test_a_wrong_architecture_key_is_named(tmp_path: Path) -> None:
    context = context_in(tmp_path)
    with pytest.raises(InputError, match="hiden_size"):
        run_locally(context, dataset_in(context.artifacts), declared(tmp_path, architecture={"hiden_size": 32}))


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_cancelled_training_goes_on_and_ends_where_an_undisturbed_one_does(
    method: str, base: Path, tmp_path: Path
) -> None:
    whole = context_in(tmp_path / "whole")
    train = declared(base, method=method, dropout=0.1)
    undisturbed = run_locally(whole, dataset_in(whole.artifacts), train)
    context = context_in(tmp_path / "torn")
    dataset = dataset_in(context.artifacts)
    with pytest.raises(CancelledError):
        run_locally(replace(context, report=stopping_at(6)), dataset, train)
    run = run_locally(context, dataset, train)
    assert run.id == undisturbed.id
    assert run.details["best_validation_loss"] == pytest.approx(undisturbed.details["best_validation_loss"], abs=1e-3)
    assert run.details["steps"] == STEPS


@pytest.mark.service
def test_a_killed_training_goes_on_from_its_newest_checkpoint(base: Path, tmp_path: Path) -> None:
    whole = context_in(tmp_path / "whole")
    undisturbed = run_locally(whole, dataset_in(whole.artifacts), declared(base))
    context = context_in(tmp_path / "torn")
    dataset = dataset_in(context.artifacts)
    script = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from dataclasses import replace
from soldiom_ray.train.driver import run_locally
from soldiom_ray.train.failures import WorkerFailure
from soldiom_ray.train.progress import ProgressActor
from training import context_in, declared
def report(fraction, message):
    if message.startswith("step 7/"):
        os.kill(os.getpid(), 9)
context = context_in(Path({str(tmp_path / "torn")!r}))
run_locally(replace(context, report=report), context.artifacts.get({dataset.id!r}), declared(Path({str(base)!r})))
"""
    done = subprocess.run([sys.executable, "-c", script], env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300)
    assert done.returncode == -9
    run = run_locally(context, dataset, declared(base))
    assert run.details["best_validation_loss"] == pytest.approx(undisturbed.details["best_validation_loss"], abs=1e-3)


def test_a_damaged_newest_checkpoint_is_skipped_for_the_one_before(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    context = context_in(tmp_path)
    dataset = dataset_in(context.artifacts)
    with pytest.raises(CancelledError):
        run_locally(replace(context, report=stopping_at(9)), dataset, declared(base))
    _, work = prepare_work(context, dataset, declared(base))
    assert work is not None
    checkpoints = work.checkpoints(context.artifacts)
    newest, backend = checkpoints.steps()[-1], context.artifacts.storage.backend
    assert newest == 9 and isinstance(backend, FolderBackend)
    weights = backend.path(f"{checkpoints.prefix}/{newest:08d}/weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:-7] + b"damaged")
    readable = checkpoints.newest()
    assert readable is not None and readable[0].step == 8
    assert "checkpoint skipped" in caplog.text
    assert checkpoints.steps()[-1] == 8


def test_a_full_disk_keeps_the_earlier_checkpoints(base: Path, tmp_path: Path) -> None:
    context = context_in(tmp_path / "home")
    dataset = dataset_in(context.artifacts)
    _, work = prepare_work(context, dataset, declared(base))
    assert work is not None
    disk = tmp_path / "home" / "storage" / "run" / work.run
    disk.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        with pytest.raises(StorageFullError, match="No space left"):
            run_worker(work, context.artifacts, quiet, lambda record: None)
        checkpoints = work.checkpoints(context.artifacts)
        newest = checkpoints.newest()
        assert newest is not None and newest[0].step == checkpoints.steps()[-1] > 0
        del newest  # its tensors are mapped from that disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_training_stops_when_validation_no_longer_improves(base: Path, tmp_path: Path) -> None:
    context = context_in(tmp_path)
    train = declared(base, learning_rate=3.0, patience=2, validations=12)
    run = run_locally(context, dataset_in(context.artifacts), train)
    assert run.details["stopped_early"] and run.details["steps"] < STEPS


def test_an_empty_train_split_is_refused_by_name(base: Path, tmp_path: Path) -> None:
    context = context_in(tmp_path)
    dataset = dataset_in(context.artifacts, train=0)
    with pytest.raises(InputError, match=f"{dataset.id} holds no text in its train split"):
        run_locally(context, dataset, declared(base))


def test_a_dataset_shorter_than_one_sequence_trains(base: Path, tmp_path: Path) -> None:
    context = context_in(tmp_path)
    run = run_locally(context, dataset_in(context.artifacts, train=1, validation=0), declared(base, max_tokens=200))
    assert run.details["steps"] >= 1 and run.details["best_validation_loss"] is not None


def test_a_model_that_does_not_fit_is_refused_with_what_would(base: Path) -> None:
    from soldiom_ray.models.planning.report import plan_report

    small = plan_report(base, declared(base), 8 << 30, train_tokens=10_000, tokens_per_second=100.0)
    assert small["fits"] and small["seconds"] == pytest.approx(61.4, abs=0.1)
    tight = plan_report(base, declared(base), 300 << 20)
    assert not tight["fits"] and "GiB free" in tight["refusal"]


@pytest.mark.parametrize("method", ["full", "lora", "prompt"])
def test_a_foreign_model_with_a_short_context_trains(method: str, tmp_path: Path) -> None:
    if not STORIES.is_dir():
        pytest.skip(f"{STORIES} is not here")
    context = context_in(tmp_path)
    train = declared(STORIES, method=method, sequence_length=1024, max_tokens=512 * 5, learning_rate=2e-3)
    run = run_locally(context, dataset_in(context.artifacts), train)
    taken = 16 if method == "prompt" else 0
    assert run.details["sequence_length"] == 512 - taken and "lowered" in run.details["notice"]
    losses = [
        p["validation_loss"] for p in json.loads(context.artifacts.read(run, "curves.json")) if "validation_loss" in p
    ]
    assert losses[-1] < losses[0]


@pytest.mark.usefixtures("ray_cluster")
def test_two_ray_workers_train_what_one_process_trains(base: Path, tmp_path: Path) -> None:
    from soldiom_ray.train import train

    alone = context_in(tmp_path / "alone")
    local = run_locally(alone, dataset_in(alone.artifacts), declared(base))
    seen: list[str] = []
    context = replace(context_in(tmp_path / "ray"), report=lambda fraction, message: seen.append(message))
    run = train(context, dataset_in(context.artifacts), declared(base, workers=2))
    assert run.details["workers"] == 2 and run.details["steps"] == STEPS
    assert run.details["best_validation_loss"] == pytest.approx(local.details["best_validation_loss"], abs=1e-2)
    assert seen


@pytest.mark.usefixtures("ray_cluster")
def test_a_cancelled_ray_training_leaves_a_checkpoint_and_no_worker(base: Path, tmp_path: Path) -> None:
    from soldiom_ray.train import train

    context = context_in(tmp_path)
    dataset, long = dataset_in(context.artifacts), declared(base, workers=1, max_tokens=512 * 5000, patience=1000)
    with pytest.raises(CancelledError):
        train(replace(context, report=_cancel_when_stepping), dataset, long)
    _, work = prepare_work(context, dataset, long)
    assert work is not None and work.checkpoints(context.artifacts).newest() is not None
    assert all_given_back()


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("seconds", [0, pytest.param(5, marks=pytest.mark.endurance), 9])
def test_a_training_cancelled_while_it_is_tokenised_leaves_none_of_the_workers_that_were_starting(
    seconds: float, base: Path, tmp_path: Path
) -> None:
    from soldiom_ray.train import train

    def report(fraction: float, message: str) -> None:
        time.sleep(seconds)
        raise CancelledError("stop")

    context = context_in(tmp_path)
    with pytest.raises(CancelledError):
        train(replace(context, report=report), dataset_in(context.artifacts), declared(base))
    assert all_given_back()


def all_given_back() -> bool:
    """Whether every CPU of the cluster is free within 20 s."""
    import ray

    for _ in range(100):
        if ray.available_resources().get("CPU") == 2:
            return True
        time.sleep(0.2)
    return False


def _cancel_when_stepping(fraction: float, message: str) -> None:
    if message.startswith("step ") and not message.startswith("step 0/"):
        raise CancelledError("stop")


@pytest.mark.endurance
@pytest.mark.usefixtures("ray_cluster")
def test_a_lost_worker_costs_only_the_steps_since_the_last_checkpoint(base: Path, tmp_path: Path) -> None:
    import ray

    from soldiom_ray.train import train

    @ray.remote(num_cpus=0)
    def kill_workers() -> int:
        """Kill the training's processes: children of the same raylet, by their titles."""
        killed = 0
        for folder in Path("/proc").iterdir():
            try:
                parent = (
                    int((folder / "stat").read_text().rpartition(")")[2].split()[1]) if folder.name.isdecimal() else 0
                )
                if parent == os.getppid() and b"RayTrainWorker" in (folder / "cmdline").read_bytes():
                    os.kill(int(folder.name), 9)
                    killed += 1
            except (OSError, ValueError):
                continue
        return killed

    killed: list[int] = []

    def report(fraction: float, message: str) -> None:
        if fraction > 0.3 and not killed:
            killed.append(ray.get(kill_workers.remote()))

    long = {"max_tokens": 512 * 250, "validations": 25, "patience": 25, "learning_rate": 1e-3}
    alone = context_in(tmp_path / "alone")
    local = run_locally(alone, dataset_in(alone.artifacts), declared(base, **long))
    context = replace(context_in(tmp_path / "ray"), report=report)
    run = train(context, dataset_in(context.artifacts), declared(base, **long))
    assert killed == [1]
    assert run.details["steps"] == 250
    assert run.details["best_validation_loss"] == pytest.approx(local.details["best_validation_loss"], abs=2e-3)


@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_that_fails_for_good_tells_its_own_error(base: Path, tmp_path: Path) -> None:
    from soldiom_ray.train import train

    context = context_in(tmp_path)
    dataset = dataset_in(context.artifacts)
    with pytest.raises(InputError, match="no_such_layer") as caught:
        train(context, dataset, declared(base, method="lora", target_modules=["no_such_layer"]))
    assert caught.value.remedy
    with pytest.raises(InputError, match=r"train\.workers is 9"):
        train(context, dataset, declared(base, workers=9))


@pytest.mark.usefixtures("ray_cluster")
def test_an_error_that_comes_back_ends_the_training_and_names_its_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A picture that is none: each time it is read the same exception, but for an address in its message."""
    import io

    from PIL import Image
    from test_tasks import dataset_of

    from soldiom_ray.train import train

    sink = io.BytesIO()
    Image.new("RGB", (16, 16)).save(sink, "PNG")
    rows = [
        {"image": b"no picture" if i == 7 else sink.getvalue(), "metadata": json.dumps({"label": "ab"[i % 2]})}
        for i in range(40)
    ]
    small = {"model_type": "vit", "image_size": 16, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 1}
    small |= {"num_attention_heads": 2, "intermediate_size": 64}
    context = context_in(tmp_path)
    with pytest.raises(SoldiomError, match=r"twice in a row with UnidentifiedImageError\.") as caught:
        train(
            context,
            dataset_of(context.artifacts, rows),
            declared(tmp_path, task="image_classification", architecture=small, batch_tokens=10),
        )
    assert not isinstance(caught.value, UnavailableError) and "memory" not in str(caught.value)
    assert any("images.py" in problem.loc and problem.msg == "in batch" for problem in caught.value.problems)
    assert "cannot identify" not in str(caught.value), "a message may hold a user's text"
    assert caplog.text.count("a worker failed") == 2
    assert all_given_back()


def failure(message: str, step: int | None = 0) -> WorkerFailure:
    return WorkerFailure("ValueError", message, (), "", step)


@pytest.mark.parametrize(("first", "second", "ends"), [
    ([failure("a")], [failure("a")], True),
    ([failure("a"), failure("peer closed")], [failure("peer left"), failure("a")], True),
    ([failure("a")], [failure("b")], False),
    ([failure("a", 10)], [failure("a", 20)], False),
    ([failure("a", None)], [failure("a", None)], False),
    ([failure("[gloo] timed out")], [failure("[gloo] timed out")], False),
])  # fmt: skip
def test_only_the_same_error_without_a_checkpoint_between_ends_a_training(
    first: list[WorkerFailure], second: list[WorkerFailure], ends: bool
) -> None:
    progress = ProgressActor()
    progress.post_failures(tuple(first), lost=False)
    assert progress.take_update().error is None
    progress.post_failures(tuple(first), lost=False)  # Ray Train may report a failure more than once
    assert progress.take_update().error is None
    progress.post_failures(tuple(second), lost=False)
    assert (progress.take_update().error is not None) == ends


def test_workers_that_are_kept_take_one_training_after_the_other_until_one_of_them_fails() -> None:
    progress = ProgressActor()
    assert progress.take_work(0, 0) is None and progress.withdraw_work()
    progress.set_work("first")
    assert [progress.take_work(rank, 0) for rank in (0, 1)] == [(1, "first")] * 2
    progress.post_progress(0.5, "step 1", [{"step": 1, "train_loss": 2.0}])
    progress.request_stop()
    progress.end_work(0, 2)
    assert not progress.withdraw_work() and not progress.take_update().done, "rank 1 still works"
    progress.end_work(1, 2)
    assert progress.withdraw_work() and progress.take_update().done
    assert progress.take_work(0, 0) is None, "a worker that is started anew must not begin it again"
    progress.set_work("second")
    assert not progress.is_ended() and progress.take_update() == ProgressUpdate()
    assert progress.withdraw_work() and progress.take_work(0, 1) is None, "what none has begun is withdrawn"
    progress.set_work("third")
    assert progress.take_work(0, 1) == (3, "third") and not progress.is_unfit()
    progress.post_failures((), lost=True)
    assert progress.is_unfit()


def test_errors_that_follow_from_a_lost_worker_do_not_end_a_training() -> None:
    progress = ProgressActor()
    for _ in range(3):
        progress.post_failures((failure("connection closed by peer"),), lost=True)
    progress.post_failures((failure("connection closed by peer"),), lost=False)
    assert progress.take_update().error is None
