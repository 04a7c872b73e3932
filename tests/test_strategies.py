"""The strategies that divide a model: the same training as in one process, with less on each rank."""

import contextlib
import functools
import importlib.util
import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sharing import Group
from small_models import small_settings
from test_tasks import dataset_of, preferences, sentences
from training import context_in, dataset_in, declared, two_layer_model

from soldiom_ray.domains.schema import Train
from soldiom_ray.errors import CancelledError, InputError
from soldiom_ray.models.load import load_run
from soldiom_ray.train.driver import finish, run_locally
from soldiom_ray.train.planning import plan_training
from soldiom_ray.train.work import Work, prepare_work

pytestmark = pytest.mark.service


needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="the package deepspeed is not installed"
)
DIVIDED = [
    "fsdp",
    pytest.param("zero2", marks=needs_deepspeed),
    pytest.param("zero3", marks=needs_deepspeed),
]
METHODS = ("full", "lora", "prompt")
STEPS = 4
LENGTH = 32


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_layer_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def extensions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where torch would keep what it compiles."""
    return tmp_path_factory.mktemp("compiled") / "extensions"


@pytest.fixture(scope="module")
def pair(extensions: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Group]:
    variables = {"PATH": str(tmp_path_factory.mktemp("bin")), "TORCH_EXTENSIONS_DIR": str(extensions)}
    group = Group(2, tmp_path_factory.mktemp("pair"), variables | {"CC": "none", "CXX": "none"})
    yield group
    group.close()


def trained(
    base: Path, home: Path, strategy: str, method: str, until: int | None = None, precision: str = "float32"
) -> dict[str, Any]:
    """Train from the newest checkpoint in `home` to the end, or until it is stopped in step `until`. Gives
    the curves, the whole weights and moments (rank 0), and how many bytes of both this rank holds."""
    from soldiom_ray.models.load import load_processor
    from soldiom_ray.models.loss import CausalLoss
    from soldiom_ray.storage import open_storage
    from soldiom_ray.train import methods
    from soldiom_ray.train.blocks import Blocks
    from soldiom_ray.train.checkpoints import Checkpoints
    from soldiom_ray.train.loop import Loop, Schedule
    from soldiom_ray.train.strategies import Optimization, open_strategy
    from soldiom_ray.train.tasks import task_of

    def report(fraction: float, message: str) -> None:
        if message.startswith(f"step {until}/"):
            raise CancelledError("far enough")

    train, bfloat16 = declared(base, method=method, rank=3, virtual_tokens=5), precision == "bfloat16"
    task = task_of(train.task)
    model = methods.build(task, base, load_processor(base), train, {}, bfloat16=bfloat16, device="cpu")
    chosen = open_strategy(strategy, CausalLoss(model), Optimization(1e-2, 0.01, 0.5, bfloat16))
    words = (np.random.default_rng(3).integers(3, 60, 41 * LENGTH) ** 1.3).astype(np.uint16)
    # Four blocks for each of two ranks in every step, of which two fit in one pass: gradients are accumulated.
    schedule = Schedule(STEPS, 8, 2 * LENGTH, 1e-2, 1, 2, 8 * LENGTH, 9, seed=5)
    keeper = Checkpoints(open_storage(small_settings(home)), "checkpoints")
    loop = Loop(chosen, Blocks(words, LENGTH), Blocks(words[: 9 * LENGTH], LENGTH), schedule, keeper, report)
    with contextlib.suppress(CancelledError):
        loop.run()
    whole = chosen.weights() | chosen.optimizer_state()
    held = bytes_held(chosen)
    chosen.close()
    return {
        "curves": [{name: point.get(name) for name in ("train_loss", "validation_loss")} for point in loop.curves],
        "whole": {name: tensor.numpy().copy() for name, tensor in whole.items()} if loop.rank == 0 else {},
        "held": held,
    }


def bytes_held(strategy: Any) -> int:
    """Bytes of weights and of the optimiser's state that this process holds between two steps."""
    optimizer = strategy.zero.optimizer if hasattr(strategy, "zero") else strategy.optimizer
    tensors = list(strategy.objective.parameters())
    tensors += [parameter.ds_tensor for parameter in tensors if hasattr(parameter, "ds_tensor")]
    tensors += [share for group in optimizer.param_groups for share in group["params"]]
    tensors += [value for state in optimizer.state.values() for name, value in state.items() if name != "step"]
    places = [(tensor.to_local() if hasattr(tensor, "to_local") else tensor).untyped_storage() for tensor in tensors]
    return sum({place.data_ptr(): place.nbytes() for place in places}.values())


def assert_same(expected: dict[str, Any], actual: dict[str, Any], loss: float = 1e-4, weight: float = 1e-3) -> None:
    """The curves within `loss`, weights and moments within `weight`."""
    assert len(expected["curves"]) == len(actual["curves"]) == STEPS + 1
    for left, right in zip(expected["curves"], actual["curves"], strict=True):
        assert right == pytest.approx(left, abs=loss)
    assert expected["whole"].keys() == actual["whole"].keys() and float(actual["whole"]["step"]) == STEPS
    for name, tensor in expected["whole"].items():
        assert actual["whole"][name].dtype == tensor.dtype
        np.testing.assert_allclose(actual["whole"][name], tensor, atol=weight, err_msg=name)


@pytest.fixture(scope="module")
def alone(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """By method: what one process comes to."""
    return {method: trained(base, tmp_path_factory.mktemp("alone"), "single", method) for method in METHODS}


@pytest.fixture(scope="module")
def trained_by_pair(
    base: Path, pair: Group, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], list[dict[str, Any]]]:
    """By strategy and method: what each of two ranks comes to, trained once for all tests."""

    @functools.cache
    def ranks(strategy: str, method: str) -> list[dict[str, Any]]:
        return pair.run(trained, base=base, home=tmp_path_factory.mktemp("pair"), strategy=strategy, method=method)

    return ranks


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("strategy", ["ddp", *DIVIDED])
def test_two_ranks_train_what_one_process_trains(
    strategy: str,
    method: str,
    trained_by_pair: Callable[[str, str], list[dict[str, Any]]],
    alone: dict[str, dict[str, Any]],
) -> None:
    first, _ = trained_by_pair(strategy, method)
    assert_same(alone[method], first)
    losses = [point["validation_loss"] for point in first["curves"] if point["validation_loss"]]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(("strategy", "method", "share"), [
    ("fsdp", "full", 0.55), ("fsdp", "lora", 0.55), ("fsdp", "prompt", 0.55),
    pytest.param("zero2", "full", 0.88, marks=needs_deepspeed),
    pytest.param("zero3", "full", 0.75, marks=needs_deepspeed),
    pytest.param("zero3", "lora", 0.75, marks=needs_deepspeed),
])  # fmt: skip
def test_a_rank_holds_its_share_only(
    strategy: str,
    method: str,
    share: float,
    trained_by_pair: Callable[[str, str], list[dict[str, Any]]],
    alone: dict[str, dict[str, Any]],
) -> None:
    """In float32 ZeRO keeps its originals of the weights beside those that it computes with, hence the larger share."""
    for rank in trained_by_pair(strategy, method):
        assert rank["held"] < share * alone[method]["held"]


@pytest.fixture(scope="module")
def begun(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By method: a home with the checkpoint that one process wrote before the last step."""
    homes = {method: tmp_path_factory.mktemp("begun") for method in ("full", "lora")}
    for method, home in homes.items():
        trained(base, home, "single", method, until=STEPS - 1)
    return homes


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("strategy", ["ddp", *DIVIDED])
def test_every_strategy_writes_the_checkpoint_that_one_process_writes(
    strategy: str,
    method: str,
    base: Path,
    pair: Group,
    begun: dict[str, Path],
    alone: dict[str, dict[str, Any]],
    tmp_path: Path,
) -> None:
    """One format, so each strategy is tried as its writer and as its reader, not with every other one."""
    pair.run(trained, base=base, home=tmp_path, strategy=strategy, method=method, until=STEPS - 1)
    expected, written = newest_checkpoint(begun[method]), newest_checkpoint(tmp_path)
    assert (written[0].step, written[0].tokens) == (expected[0].step, expected[0].tokens)
    for expected_tensors, tensors in zip(expected[1:], written[1:], strict=True):
        assert tensors.keys() == expected_tensors.keys()
        for name, tensor in expected_tensors.items():
            assert (tensors[name].dtype, tensors[name].shape) == (tensor.dtype, tensor.shape)
            np.testing.assert_allclose(tensors[name], tensor, atol=1e-3, err_msg=name)
    assert_same(alone[method], trained(base, tmp_path, "single", method))


def newest_checkpoint(home: Path) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Position, weights and optimizer state."""
    from soldiom_ray.storage import open_storage
    from soldiom_ray.train.checkpoints import Checkpoints

    checkpoint = Checkpoints(open_storage(small_settings(home)), "checkpoints").newest()
    assert checkpoint is not None
    return checkpoint


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("strategy", ["ddp", *DIVIDED])
def test_every_strategy_goes_on_from_a_checkpoint_of_one_process(
    strategy: str,
    method: str,
    base: Path,
    pair: Group,
    begun: dict[str, Path],
    alone: dict[str, dict[str, Any]],
    tmp_path: Path,
) -> None:
    home = shutil.copytree(begun[method], tmp_path / "two")
    assert_same(alone[method], pair.run(trained, base=base, home=home, strategy=strategy, method=method)[0])
    if strategy in ("fsdp", "zero3"):  # each of them on one rank, too
        home = shutil.copytree(begun[method], tmp_path / "one")
        assert_same(alone[method], trained(base, home, strategy, method))


@pytest.mark.parametrize("strategy", DIVIDED)
def test_bfloat16_computes_and_float32_is_kept(
    strategy: str, base: Path, pair: Group, alone: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    values = {"base": base, "home": tmp_path, "strategy": strategy, "precision": "bfloat16"}
    first, _ = pair.run(trained, method="full", **values)
    assert all(tensor.dtype == np.float32 for tensor in first["whole"].values())
    for expected, point in zip(alone["full"]["curves"], first["curves"], strict=True):
        assert point == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("strategy", DIVIDED)
def test_bfloat16_begins_from_the_weights_as_they_were(strategy: str, base: Path, pair: Group, tmp_path: Path) -> None:
    """From rounded ones small updates would be rounded away for some steps, of all weights alike."""
    from transformers import AutoModelForCausalLM

    first, _ = pair.run(
        trained, base=base, home=tmp_path, strategy=strategy, method="full", until=0, precision="bfloat16"
    )
    model = AutoModelForCausalLM.from_pretrained(base, dtype="float32")
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(first["whole"][name], parameter.detach().numpy(), err_msg=name)


def worked(work: Work) -> None:
    """What one worker of a training does."""
    from soldiom_ray.artifacts import Artifacts
    from soldiom_ray.storage import open_storage
    from soldiom_ray.train.worker import run_worker

    run_worker(work, Artifacts(open_storage(work.settings)), lambda fraction, message: None, lambda record: None)


def task_rows(task: str) -> list[dict[str, Any]]:
    if task == "preference":
        return preferences(60)
    if task == "text_classification":
        return [{"text": text, "metadata": json.dumps({"label": str(len(has))})} for text, has in sentences(120)]
    words = [text for text, _ in sentences(100)]
    both = [[{"role": "user", "content": text}, {"role": "assistant", "content": text[:9]}] for text in words]
    return [{"text": text, "messages": json.dumps(messages)} for text, messages in zip(words, both, strict=True)]


ARCHITECTURES = {
    "text_classification": {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                            "intermediate_size": 64, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "seq2seq_lm": {"model_type": "t5", "d_model": 32, "d_ff": 64, "num_layers": 2, "num_heads": 2, "d_kv": 16},
}  # fmt: skip


def trained_by_two(pair: Group, home: Path, task: str, chosen: Train) -> tuple[dict[str, Any], dict[str, Any]]:
    """(what the run says of itself, its weights), by two workers."""
    context = context_in(home)
    draft, work = prepare_work(context, dataset_of(context.artifacts, task_rows(task)), chosen)
    assert work is not None
    pair.run(worked, work=work)
    run = finish(context, draft, work)
    with load_run(context.artifacts, context.settings, run, dtype="float32") as (model, _):
        return run.details, {name: parameter.detach().numpy().copy() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("task", ["text_classification", "seq2seq_lm", "preference"])
def test_every_task_is_trained_divided_and_saved_whole(task: str, base: Path, pair: Group, tmp_path: Path) -> None:
    """Three labels: a bias of three numbers is not divided evenly by two ranks."""
    values: dict[str, Any] = {"task": task, "max_tokens": 1600, "batch_tokens": 400, "validations": 2, "workers": 2}
    if task in ARCHITECTURES:
        values |= {"architecture": ARCHITECTURES[task], "vocabulary_size": 300}
    expected, weights = trained_by_two(pair, tmp_path / "ddp", task, declared(base, **values, strategy="ddp"))
    for strategy in ["fsdp"] + ["zero3"] * (importlib.util.find_spec("deepspeed") is not None):
        details, actual = trained_by_two(pair, tmp_path / strategy, task, declared(base, **values, strategy=strategy))
        for name in ("parameters", "trainable_parameters", "best_step"):
            assert details[name] == expected[name]
        assert details["best_validation_loss"] == pytest.approx(expected["best_validation_loss"], abs=1e-3)
        for name, weight in weights.items():
            np.testing.assert_allclose(actual[name], weight, atol=2e-3, err_msg=name)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("strategy", ["ddp", *DIVIDED])
def test_preferences_begin_without_any_in_bfloat16_too(
    strategy: str, method: str, base: Path, pair: Group, tmp_path: Path
) -> None:
    """The base model's side of the comparison is rounded as the trained one's is: the loss begins at log 2."""
    context = context_in(tmp_path)
    values: dict[str, Any] = {"task": "preference", "max_tokens": 800, "batch_tokens": 400, "validations": 2}
    chosen = declared(base, **values, method=method, workers=2, strategy=strategy, precision="bfloat16")
    draft, work = prepare_work(context, dataset_of(context.artifacts, task_rows("preference")), chosen)
    assert work is not None
    pair.run(worked, work=work)
    curves = json.loads(context.artifacts.read(finish(context, draft, work), "curves.json"))
    assert curves[0]["validation_loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert curves[0]["validation_reward_margin"] == pytest.approx(0, abs=1e-5)


def own_positions() -> int:
    from torch import distributed

    from soldiom_ray.train.strategies import min_over_ranks

    return min_over_ranks(100 + distributed.get_rank())


def test_ranks_agree_on_the_length_of_a_pass(pair: Group) -> None:
    from soldiom_ray.train.strategies import min_over_ranks

    assert pair.run(own_positions) == [100, 100] and min_over_ranks(7) == 7


def test_strategies_that_do_not_fit_are_refused_by_name(base: Path, tmp_path: Path) -> None:
    context = context_in(tmp_path)
    dataset = dataset_in(context.artifacts)
    for values, message in (
        ({"strategy": "single", "workers": 2}, r"train\.strategy is single.*workers is 2"),
        ({"strategy": "fsdp", "method": "lora", "quantization": "nf4"}, "fsdp cannot divide weights in 4 bits"),
    ):
        with pytest.raises(InputError, match=message):
            prepare_work(context, dataset, declared(base, **values))


def test_zero_without_deepspeed_names_the_package(monkeypatch: pytest.MonkeyPatch, base: Path, tmp_path: Path) -> None:
    known = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "deepspeed" else known(name, *more)
    )
    context = context_in(tmp_path)
    chosen = declared(base, strategy="zero2")
    for refused in (
        lambda: trained(base, tmp_path, "zero2", "full"),
        lambda: prepare_work(context, dataset_in(context.artifacts), chosen),
        lambda: plan_training(context.settings, chosen),
    ):
        with pytest.raises(InputError, match="need the package deepspeed") as caught:
            refused()
        assert "pip install deepspeed" in caught.value.remedy


@needs_deepspeed
def test_zero_needs_no_compiler(
    trained_by_pair: Callable[[str, str], list[dict[str, Any]]], extensions: Path, tmp_path: Path
) -> None:
    """The processes of this file find neither a compiler nor what was compiled before."""
    for strategy in ("zero2", "zero3"):
        assert trained_by_pair(strategy, "lora")
    assert not extensions.exists()


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("strategy", [DIVIDED[0], DIVIDED[2]])
def test_two_ray_workers_divide_a_model(strategy: str, base: Path, tmp_path: Path) -> None:
    from soldiom_ray.train import train

    single, context = context_in(tmp_path / "single"), context_in(tmp_path / "ray")
    local = run_locally(single, dataset_in(single.artifacts), declared(base, method="lora"))
    chosen = declared(base, method="lora", workers=2, strategy=strategy)
    run = train(context, dataset_in(context.artifacts), chosen)
    assert (run.details["strategy"], run.details["workers"]) == (strategy, 2)
    assert run.details["best_validation_loss"] == pytest.approx(local.details["best_validation_loss"], abs=1e-2)
    with load_run(context.artifacts, context.settings, run) as (model, _):
        assert model.peft_config
