"""`soldiom plan`: what a training will need, before it is started."""

import json as document
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from soldiom_ray.cli.output import Json, print_json, print_table
from soldiom_ray.errors import SoldiomError

PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "exchange", "allocator", "process")
WORDS = {
    "exchange": "exchange between workers",
    "allocator": "the allocator's gaps",
    "process": "the process itself",
    "activations": "activations and copies",
}


def plan(
    base: Annotated[
        str | None, typer.Option(help="builtin/tiny, a Hugging Face folder or hub id, or a full run's id.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="full, lora or prompt.")] = None,
    task: Annotated[str | None, typer.Option(help="causal_lm, preference, seq2seq_lm, ...")] = None,
    data: Annotated[
        str | None, typer.Option(help="Id of a prepared dataset: how its samples fit, and the time.")
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="Plan the `train` heading of this recipe.")] = None,
    sequence_length: Annotated[int | None, typer.Option(help="Tokens per sequence (512).")] = None,
    batch_tokens: Annotated[int | None, typer.Option(help="Tokens per step (8192).")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Stop after so many tokens.")] = None,
    rank: Annotated[int | None, typer.Option(help="LoRA rank (16).")] = None,
    quantization: Annotated[str | None, typer.Option(help="none or nf4 (QLoRA, GPU).")] = None,
    strategy: Annotated[str | None, typer.Option(help="auto, single, ddp, fsdp, zero2 or zero3.")] = None,
    workers: Annotated[int | None, typer.Option(help="Workers (1).")] = None,
    activation_checkpointing: Annotated[
        bool | None, typer.Option(help="Compute activations again in the backward pass instead of storing them.")
    ] = None,
    offload: Annotated[bool | None, typer.Option(help="Optimiser in the host's memory.")] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="Plan for so many GPUs in each node.")] = None,
    gpu_memory: Annotated[float | None, typer.Option(help="GiB of each GPU (80).")] = None,
    nodes: Annotated[int | None, typer.Option(min=1, help="Plan for so many nodes.")] = None,
    memory: Annotated[float | None, typer.Option(help="GiB of each node.")] = None,
    json: Json = False,
) -> None:
    """Say what a training needs, whether and how it fits, and how long it takes, before it is started."""
    declared = {
        "base_model": base, "method": method, "task": task, "sequence_length": sequence_length,
        "batch_tokens": batch_tokens, "max_tokens": max_tokens, "rank": rank, "quantization": quantization,
        "strategy": strategy, "workers": workers, "activation_checkpointing": activation_checkpointing,
        "offload": offload,
    }  # fmt: skip
    asked = {"gpus": gpus, "gpu_memory": gpu_memory, "nodes": nodes, "memory": memory}
    request = {
        "train": _train_heading(recipe, {name: value for name, value in declared.items() if value is not None}),
        "dataset": data,
        "cluster": {name: value for name, value in asked.items() if value is not None},
    }
    planned = _ask(request)
    print_json(planned) if json else _show(planned)


def _train_heading(path: Path | None, declared: dict[str, Any]) -> dict[str, Any]:
    """The recipe's `train` heading with the options over it, checked."""
    from soldiom_ray.domains.recipes import load_recipe, validate_recipe

    heading: dict[str, Any] = {}
    if path is not None:
        train = load_recipe(path).train
        heading = train.model_dump(mode="json", exclude_defaults=True) if train else {}
    checked = validate_recipe({"name": "plan", "dataset": "none", "train": heading | declared}, "soldiom plan")
    return checked.train.model_dump(mode="json") if checked.train else {}


def _ask(request: dict[str, Any]) -> dict[str, Any]:
    """The plan, made by a process of its own: torch is not loaded here. Raises what went wrong there."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "soldiom_ray.train.planning"],
        input=document.dumps(request),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    try:
        answer: dict[str, Any] = document.loads(done.stdout)
    except ValueError as error:
        raise SoldiomError("The planner ended without an answer.", remedy="its messages stand above") from error
    if "error" in answer:
        raise SoldiomError.from_dict(answer["error"])
    return answer


def _show(planned: dict[str, Any]) -> None:
    sizes = planned["bytes"]
    rows = [{"part": WORDS.get(name, name), "GiB": f"{sizes[name] / 2**30:.2f}"} for name in PARTS if sizes[name]]
    rows.append({"part": "together, at the peak", "GiB": f"{sizes['total'] / 2**30:.2f}"})
    rows.append({"part": "free for a worker", "GiB": f"{sizes['available'] / 2**30:.2f}"})
    print(
        f"{planned['base_model']}: {planned['parameters'] / 1e6:,.1f} M parameters,"
        f" {planned['trainable_parameters'] / 1e6:,.2f} M of them trained ({planned['method']}, {planned['task']})"
    )
    print_table(rows, ["part", "GiB"])
    print(_verdict(planned))
    for text in (
        planned["refusal"],
        planned["advice"],
        _cuts(planned.get("samples") or {}, planned["sequence_length"]),
    ):
        if text:
            print(f"{text[0].upper()}{text[1:]}.".replace("..", "."))
    ways = [
        {
            "strategy": way["strategy"],
            "recompute": way["recompute"],
            "offload": way["offload"],
            "positions at once": way["positions_at_once"],
            "GiB": f"{way['bytes']['total'] / 2**30:.2f}",
            "host GiB": f"{way['bytes']['host'] / 2**30:.2f}" if way["bytes"]["host"] else "",
            "fits": way["fits"],
        }
        for way in planned["strategies"]
    ]
    print_table(ways, ["strategy", "recompute", "offload", "positions at once", "GiB", "host GiB", "fits"])


def _verdict(planned: dict[str, Any]) -> str:
    how = f"{planned['workers']} worker{'s' * (planned['workers'] > 1)} on {planned['device'].upper()}"
    how += f", strategy {planned['strategy']}, {planned['precision']}"
    how += ", activations recomputed" if planned["recompute"] else ""
    if not planned["fits"]:
        return f"It does not fit: {how}."
    spent = f", {planned['accumulation']} times a step" if planned["accumulation"] > 1 else ""
    text = f"It fits: {how}; {planned['positions_at_once']} positions at once{spent}."
    if planned["seconds"]:
        minutes = planned["seconds"] / 60
        lasts = (
            f"{minutes / 60:.1f} hours"
            if minutes > 120
            else f"{minutes:.0f} min"
            if minutes > 3
            else f"{planned['seconds']:.0f} s"
        )
        text += f" {planned['tokens']:,} tokens take about {lasts} ({planned['speed_from']})."
    return text


def _cuts(samples: dict[str, Any], length: int) -> str:
    if not samples:
        return ""
    if not samples["cut_samples"]:
        return f"none of {samples['samples']:,} samples is longer than {length} tokens"
    spread = ", ".join(f"{share} within {count}" for share, count in samples["percentiles"].items())
    return (
        f"{samples['cut_samples']:,} of {samples['samples']:,} samples are longer than {length} tokens, by"
        f" {samples['cut_tokens']:,} tokens together ({spread}); sequence_length {samples['longest_tokens']} cuts none"
    )
