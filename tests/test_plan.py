"""The planner: what a training needs, how it is run, what is refused and what would fit instead."""

import ctypes
import json
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from conftest import Home
from test_train import context_in, dataset_in

from soldiom_ray.domains.builtin_models import BUILTIN_FOLDER
from soldiom_ray.domains.schema import Train
from soldiom_ray.errors import InputError
from soldiom_ray.models.planning.cache import PlanCache
from soldiom_ray.models.planning.headers import weight_headers
from soldiom_ray.models.planning.machine import GIB, Cluster, Node, hypothetical_cluster, local_machine, ray_cluster
from soldiom_ray.models.planning.memory import footprint
from soldiom_ray.models.planning.planner import Planner, planner_for, reduce_to_memory, require_setup
from soldiom_ray.models.planning.report import plan_report
from soldiom_ray.models.planning.shape import TASK_MODELS, Shape, enable_activation_checkpointing, shape_of
from soldiom_ray.models.planning.trace import Moments, Peak, extrapolate
from soldiom_ray.train.blocks import Blocks, Rows, batches_by_rank

TINY = BUILTIN_FOLDER / "tiny"
MMAP_THRESHOLD = -3
"""mallopt(3)"""
EIGHT_BILLION = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}  # fmt: skip
SHAPES = {
    "seq2seq_lm": {"model_type": "t5", "d_model": 32, "d_ff": 64, "num_layers": 3, "num_heads": 2, "d_kv": 16},
    "text_classification": {
        "model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 64,
    },
    "image_classification": {
        "model_type": "vit", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 64, "image_size": 64, "patch_size": 16,
    },
}  # fmt: skip


def cluster(memory: float, *, nodes: int = 1, gpus: int = 0, gpu_memory: float = 0.0) -> Cluster:
    return Cluster((Node(8, memory * GIB, gpus, gpu_memory * GIB),) * nodes, "test")


def folder_of(path: Path, config: dict[str, object]) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_gradients_and_moments_follow_from_what_is_trained() -> None:
    full = planner_for(TINY, Train(method="full", sequence_length=64, batch_tokens=64), cluster(8))
    lora = planner_for(TINY, Train(method="lora", sequence_length=64, batch_tokens=64), cluster(8))
    assert full.sizes.trainable == full.sizes.parameters
    assert 0 < lora.sizes.trainable < 0.1 * lora.sizes.parameters
    taken = full.choose().footprint.parts
    assert taken["gradients"] == 4 * full.sizes.trainable and taken["optimizer"] == 8 * full.sizes.trainable
    assert taken["weights"] == pytest.approx(4 * full.sizes.parameters, rel=0.01)


@pytest.mark.parametrize("task", SHAPES)
def test_every_kind_of_model_is_planned(task: str) -> None:
    declared = Train.model_validate(
        {"task": task, "method": "full", "architecture": SHAPES[task], "sequence_length": 64, "batch_tokens": 512}
    )
    planner = planner_for(None, declared, cluster(8))
    stored, recomputed = (
        planner.setup("single", activation_checkpointing=enabled, offload=False) for enabled in (False, True)
    )
    assert stored.fits and stored.footprint.parts["activations"] > recomputed.footprint.parts["activations"] > 0
    assert planner.shape.unit == {"seq2seq_lm": 128, "text_classification": 64, "image_classification": 17}[task]


def test_a_network_of_stages_is_planned_whole() -> None:
    peaks = []
    for depths in ([1, 1, 1], [4, 4, 4]):
        shape = {"model_type": "convnext", "image_size": 28, "patch_size": 2, "num_stages": 3, "depths": depths}
        shape |= {"hidden_sizes": [8, 16, 32]}
        declared = Train.model_validate({"task": "image_classification", "method": "full", "architecture": shape})
        planner = planner_for(None, declared, cluster(8))
        assert planner.shape.unit == 197 and planner.choose().fits
        peaks.append(planner.shape.peak(4, activation_checkpointing=False).parts["activations"])
    assert peaks[1] > 2 * peaks[0]


def test_the_planner_and_the_tasks_mean_the_same_models() -> None:
    from soldiom_ray.train.tasks import task_of

    for name, kind in TASK_MODELS.items():
        task = task_of(name)
        assert (task.auto_class, task.peft_type, tuple(task.head)) == (kind.auto_class, kind.peft_type, kind.head)


def tiny_with(layers: int, path: Path) -> Path:
    """The configuration of builtin/tiny with another depth."""
    config = json.loads((TINY / "config.json").read_text())
    return folder_of(path, config | {"num_hidden_layers": layers, "layer_types": None})


def test_a_deep_model_is_planned_from_a_shallow_one(tmp_path: Path) -> None:
    declared = Train(method="full", sequence_length=512, batch_tokens=512)
    peaks = []
    for layers in (4, 8):
        folder = tiny_with(layers, tmp_path / str(layers))
        peaks.append(shape_of(folder, declared).peak(1, activation_checkpointing=False))
    block = (planner_for(TINY, declared, cluster(8)).sizes.block) * 4
    assert peaks[1].parts["weights"] - peaks[0].parts["weights"] == pytest.approx(4 * block, rel=0.01)
    assert peaks[1].parts["activations"] > 1.5 * peaks[0].parts["activations"] * 0.7


def test_a_deep_models_peak_may_be_a_moment_that_is_not_a_shallow_ones() -> None:
    few: Moments = {"forward": Peak({"activations": 10.0}, 0.0), "end": Peak({"logits": 50.0}, 0.0)}
    more: Moments = {"forward": Peak({"activations": 20.0}, 0.0), "end": Peak({"logits": 50.0}, 0.0)}
    assert extrapolate(few, more, 3) == Peak({"logits": 50.0}, 0.0)
    assert extrapolate(few, more, 10) == Peak({"activations": 110.0}, 0.0)


def test_a_plan_does_not_depend_on_what_ran_before_in_its_process() -> None:
    import torch

    declared = Train(method="full", sequence_length=64, batch_tokens=64, precision="bfloat16")
    shape = planner_for(TINY, declared, cluster(8)).shape
    planned = shape.peak(1, activation_checkpointing=True)
    torch.set_autocast_cache_enabled(False)
    try:
        assert shape.peak(1, activation_checkpointing=True) == planned
    finally:
        torch.set_autocast_cache_enabled(True)


PLANNER = """
import gc, json, sys
from pathlib import Path
lightly = sys.argv[1] == "lightly"
if lightly:
    gc.disable()
    from soldiom_ray.models.planning.light_imports import import_lightly
    import_lightly()
from soldiom_ray.domains.schema import Train
from soldiom_ray.models.planning.report import plan_report
plans = [
    plan_report(Path(folder), Train.model_validate(declared), 8.0 * 2**30, all_strategies=True)
    for folder, declared in json.load(sys.stdin)
]
import torch
early = [name for name in ("scipy", "boto3", "torch._dynamo.eval_frame") if sys.modules.get(name)]
import boto3
torch._dynamo.reset()
json.dump({"plans": plans, "early": early, "late": "torch._dynamo.eval_frame" in sys.modules}, sys.stdout)
"""
"""Both ways begin in a process of their own: what other tests of this process left behind is in neither."""


@pytest.mark.long
def test_the_planners_process_imports_little_and_plans_the_same(tmp_path: Path) -> None:
    asked: list[tuple[str, dict[str, object]]] = [
        (str(TINY), {"method": method, "sequence_length": 64}) for method in ("lora", "full", "prompt")
    ]
    for task, config in SHAPES.items():
        folder = folder_of(tmp_path / task, config | {"decoder_start_token_id": 0, "pad_token_id": 0})
        asked.append((str(folder), {"task": task, "method": "full", "base_model": str(folder), "sequence_length": 64}))
    answers = {}
    for imports in ("lightly", "whole"):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PLANNER, imports],
            input=json.dumps(asked), capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        answers[imports] = json.loads(done.stdout)
    assert answers["lightly"]["early"] == [] and answers["lightly"]["late"] and answers["whole"]["early"]
    plans = zip(asked, answers["lightly"]["plans"], answers["whole"]["plans"], strict=True)
    for (_, declared), planned, expected in plans:
        assert planned == expected, declared


def test_a_tuned_prompt_counts_among_the_positions_of_each_sample() -> None:
    declared = Train(method="prompt", virtual_tokens=16, sequence_length=48, batch_tokens=512)
    chosen = planner_for(TINY, declared, cluster(8)).choose()
    assert (chosen.units, chosen.positions) == (10, 10 * (48 + 16))
    stream = np.arange(1, 2001, dtype=np.uint16)
    rows = Rows.of(Blocks(stream, 48, sample_lengths=np.full(100, 20)))
    (batches,) = batches_by_rank(rows, np.arange(100), 1, chosen.positions, virtual_positions=16)
    assert max(len(batch) for batch in batches) == chosen.positions // (19 + 16)


def test_a_part_that_a_deeper_model_holds_less_of_at_its_peak_is_never_planned_below_nothing() -> None:
    few = Peak({"activations": 100.0, "logits": 50.0}, 40.0)
    deep = few.extrapolated(Peak({"activations": 180.0}, 30.0), 15)
    assert deep == Peak({"activations": 1300.0, "logits": 50.0}, 40.0)


@pytest.mark.long
def test_recomputed_activations_lower_the_measured_peak_and_leave_the_gradients_as_they_are() -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:  # memory that others freed would hide the peak
        stored, recomputed, equal = fresh.submit(peaks_of_a_step).result()
    assert recomputed < 0.6 * stored
    assert equal


def peaks_of_a_step() -> tuple[float, float, bool]:
    """Bytes that a step adds at its peak, without and with recomputation; whether the gradients are the same."""
    import peft
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=8,
        num_attention_heads=4,
        use_cache=False,
    )
    model = peft.get_peft_model(LlamaForCausalLM(config), peft.LoraConfig(target_modules="all-linear")).train()
    ids = torch.randint(0, 256, (8, 256))
    ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, 64 << 10)  # what is freed goes back at once: the peak is that of tensors

    def step() -> tuple[float, list[torch.Tensor]]:
        model.zero_grad()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        before = resident("VmRSS")
        model(input_ids=ids, labels=ids).loss.backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        return resident("VmHWM") - before, gradients

    step()
    stored, gradients = step()
    enable_activation_checkpointing(model)
    recomputed, same = step()
    pairs = list(zip(gradients, same, strict=True))
    return stored, recomputed, bool(pairs) and all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)


def resident(name: str) -> float:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return float(lines[name].split()[0])


def test_a_refusal_names_settings_that_fit_by_the_same_arithmetic(tmp_path: Path) -> None:
    declared = Train(method="full", sequence_length=512, batch_tokens=512, activation_checkpointing=False)
    deep = tiny_with(24, tmp_path / "deep")
    least = planner_for(deep, declared, cluster(8)).choose().footprint.total
    too_small = cluster(0.999 * least / 0.9 / GIB)
    with pytest.raises(InputError) as caught:
        require_setup(planner_for(deep, declared, too_small))
    assert "GiB per worker" in caught.value.what and "are free" in caught.value.what
    assert "activation_checkpointing: true" in str(caught.value.remedy) and "sequence_length: 256" in str(
        caught.value.remedy
    )
    assert require_setup(planner_for(deep, declared.model_copy(update={"sequence_length": 256}), too_small)).fits


def test_activations_are_recomputed_only_where_they_do_not_fit_otherwise() -> None:
    declared = Train(method="full", sequence_length=512, batch_tokens=4096)
    roomy = planner_for(TINY, declared, cluster(8)).choose()
    assert roomy.fits and not roomy.activation_checkpointing and roomy.positions == 2048
    single = planner_for(TINY, declared.model_copy(update={"batch_tokens": 512}), cluster(8))
    setups = [single.setup("single", activation_checkpointing=enabled, offload=False) for enabled in (False, True)]
    totals = [setup.footprint.total for setup in setups]
    tight = planner_for(TINY, declared, cluster(sum(totals) / 2 / GIB / 0.9)).choose()
    assert tight.fits and tight.activation_checkpointing and tight.positions < 2048


@pytest.mark.long
def test_a_worker_with_less_memory_takes_fewer_positions_at_once_and_refuses_when_none_fit(tmp_path: Path) -> None:
    declared = Train(method="full", sequence_length=256, batch_tokens=4096)
    planner = planner_for(tiny_with(24, tmp_path / "deep"), declared, cluster(8))
    setup = planner.choose()
    assert reduce_to_memory(setup, 8 * GIB, planner) == setup
    fewer = reduce_to_memory(setup, setup.footprint.total, planner)
    assert fewer.fits and fewer.positions < setup.positions
    with pytest.raises(InputError, match="are free"):
        reduce_to_memory(setup, 0.3 * GIB, planner)


@pytest.mark.long
def test_a_model_of_eight_billion_parameters_needs_several_gpus_whole_and_one_with_qlora(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "8b", EIGHT_BILLION)
    full = Train(method="full", sequence_length=2048, workers=8, batch_tokens=65536)
    eight = planner_for(folder, full, cluster(2000, gpus=8, gpu_memory=80))
    assert eight.sizes.parameters == 8_030_261_248
    assert not eight.setup("ddp", activation_checkpointing=True, offload=False).fits
    chosen = eight.choose()
    assert chosen.strategy == "fsdp" and chosen.fits
    alone = planner_for(folder, full.model_copy(update={"workers": 1}), cluster(2000, gpus=1, gpu_memory=80))
    assert not alone.choose().fits
    lora = full.model_copy(update={"workers": 1, "method": "lora", "quantization": "nf4", "batch_tokens": 2048})
    assert planner_for(folder, lora, cluster(64, gpus=1, gpu_memory=24)).choose().fits
    on_cpu = plan_report(folder, full.model_copy(update={"workers": 1}), cluster(16))
    assert not on_cpu["fits"] and "8.0 B" in on_cpu["advice"] and "on GPUs of 80 GiB" in on_cpu["refusal"]


def test_sharded_strategies_divide_what_they_hold_and_offload_moves_it_to_the_host() -> None:
    sizes = planner_for(TINY, Train(method="full"), cluster(8)).sizes
    peak = Peak({"weights": 4.0 * sizes.parameters, "activations": 1e9}, 0.0)

    def taken(strategy: str, workers: int, *, offload: bool = False) -> dict[str, float]:
        needed = footprint(
            peak, sizes, strategy=strategy, workers=workers, offload=offload, quantized=False, bfloat16=True,
            device="cuda", stored_bytes=0,
        )  # fmt: skip
        return needed.parts | {"host": needed.host}

    for strategy in ("fsdp", "zero2", "zero3"):
        two, four = taken(strategy, 2), taken(strategy, 4)
        assert four["optimizer"] == two["optimizer"] / 2 and four["gradients"] == two["gradients"] / 2
        assert taken(strategy, 2, offload=True)["optimizer"] == 0
        assert taken(strategy, 2, offload=True)["host"] > two["host"]
    assert taken("zero3", 4)["weights"] < taken("zero2", 4)["weights"]
    assert taken("ddp", 4)["optimizer"] == 8.0 * sizes.trainable


def test_clusters_come_from_ray_from_this_machine_or_from_what_is_asked() -> None:
    local = local_machine()
    assert local.nodes[0].cpus >= 1 and local.nodes[0].memory > 0
    asked = hypothetical_cluster(local, gpus=4, gpu_memory=24, nodes=2)
    assert asked.gpus == 8 and asked.device(8) == "cuda" and asked.device(9) == "cpu"
    resources = {"CPU": 8.0, "GPU": 1.0, "memory": 4.0 * GIB, "object_store_memory": 1.0 * GIB}
    nodes = [{"Alive": True, "NodeManagerAddress": f"10.9.8.{number}", "Resources": resources} for number in (1, 2)]
    known = ray_cluster([*nodes, {"Alive": False, "Resources": resources}])
    assert len(known.nodes) == 2 and known.nodes[0].memory == 5 * GIB and known.gpus == 2
    assert cluster(8, nodes=2).share(2)[0] == 8 * GIB and cluster(8, nodes=2).share(4)[0] == 4 * GIB


def test_headers_tell_parameters_and_kinds_without_reading_weights() -> None:
    stored = weight_headers(TINY)
    assert sum(stored["parameters"].values()) == planner_for(TINY, Train(method="full"), cluster(8)).sizes.parameters
    assert stored["bytes"] == (TINY / "model.safetensors").stat().st_size


def test_a_plan_with_data_tells_what_would_be_cut_and_how_long_it_takes(tmp_path: Path) -> None:
    from soldiom_ray.train.planning import plan_training

    context = context_in(tmp_path)
    dataset = dataset_in(context.artifacts)
    declared = Train(base_model="builtin/tiny", sequence_length=64, batch_tokens=64, epochs=2)
    planned = plan_training(context.settings, declared, dataset.id, {"nodes": 1})
    fit = planned["samples"]
    assert fit["samples"] == 60 and fit["cut_samples"] == 60 and fit["cut_tokens"] > 0
    assert fit["percentiles"]["50%"] <= fit["percentiles"]["99%"] <= fit["longest_tokens"]
    assert planned["tokens"] == 2 * fit["tokens"] and planned["seconds"] > 0
    assert "an estimate" in planned["speed_from"]
    longer = plan_training(
        context.settings, declared.model_copy(update={"sequence_length": fit["longest_tokens"]}), dataset.id
    )
    assert longer["samples"]["cut_samples"] == 0


@pytest.mark.service
def test_training_refuses_on_ray_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from soldiom_ray.train import train

    short = tempfile.mkdtemp(prefix="ray-")  # paths of sockets must be short
    monkeypatch.setenv("RAY_TMPDIR", short)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    context = context_in(tmp_path / "home")
    dataset = dataset_in(context.artifacts)
    ray.init(
        address="local", num_cpus=2, _memory=200 << 20, object_store_memory=80 << 20, include_dashboard=False,
        log_to_driver=False,
    )  # fmt: skip
    try:
        with pytest.raises(InputError, match=r"needs 0\.\d GiB per worker; 0\.3 GiB are free"):
            train(context, dataset, Train(base_model="builtin/tiny", method="full"))
    finally:
        ray.shutdown()
        shutil.rmtree(short, ignore_errors=True)
    assert context.artifacts.storage.keys("tokens") == []


@pytest.mark.long
def test_the_command_prints_a_plan_for_machines_that_are_not_there(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    recipe = tmp_path / "recipe.yaml"
    tiny = "{base_model: builtin/tiny, method: full, sequence_length: 64, batch_tokens: 128}"
    recipe.write_text(f"name: small\ndataset: none\ntrain: {tiny}\n")
    planned = home.json("plan", "--recipe", str(recipe), "--gpus", "2", "--gpu-memory", "24", "--workers", "2")
    assert planned["fits"] and planned["device"] == "cuda" and planned["strategy"] == "ddp"
    assert {way["strategy"] for way in planned["strategies"]} == {"ddp", "fsdp", "zero2", "zero3"}
    shown = home.run("plan", "--recipe", str(recipe), "--memory", "0.4").stdout
    assert "It does not fit" in shown and "gradients" in shown and "fitted on one machine" in shown
    wrong = home.run("plan", "--base", "builtin/none", code=2)
    assert "does not come with Soldiom" in wrong.stderr


def test_a_short_training_is_planned_with_the_steps_that_it_will_take() -> None:
    declared = Train(base_model="builtin/tiny", sequence_length=64)
    planner = planner_for(TINY, declared, cluster(8))
    short = replace(planner, epoch_tokens=64 * 64)
    assert planner.choose().positions == 2048 and short.choose().positions == 64
    assert short.choose().footprint.total < planner.choose().footprint.total


def test_a_linear_head_is_planned_as_a_base_that_is_read_once(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "base", SHAPES["text_classification"])
    linear, by_steps = (
        plan_report(
            folder,
            Train.model_validate({"task": "text_classification", "base_model": str(folder)} | more),
            cluster(8),
            train_tokens=10_000,
            matrix_rate=1e10,
        )
        for more in ({}, {"method": "lora"})
    )
    assert (linear["head"], linear["trainable_parameters"], by_steps["head"]) == ("linear", 0, "network")
    assert linear["fits"] and linear["bytes"] == by_steps["bytes"] and linear["seconds"] < by_steps["seconds"]


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model we know for the task seq2seq_lm"):
        shape_of(TINY, Train(base_model="builtin/tiny", task="seq2seq_lm"))


def test_planning_twice_asks_the_model_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declared = Train(sequence_length=64, batch_tokens=64)
    planner = planner_for(TINY, declared, cluster(8), home=tmp_path)
    chosen = planner.choose()
    assert chosen == planner.choose() and isinstance(planner, Planner)
    monkeypatch.setattr(Shape, "peak", None)
    monkeypatch.setattr(Shape, "sizes", None)
    later = declared.model_copy(update={"max_tokens": 9, "seed": 3})
    assert planner_for(TINY, later, cluster(8), home=tmp_path).choose() == chosen
    with pytest.raises(TypeError):  # another training is run
        planner_for(TINY, declared.model_copy(update={"rank": 2}), cluster(8), home=tmp_path).choose()
    (tmp_path / "run" / "plans.json").write_text("{")
    assert PlanCache(tmp_path).entries == {}
