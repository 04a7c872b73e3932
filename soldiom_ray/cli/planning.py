"""`soldiom plan`: what a training will need, before it is started."""

import json as document
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from soldiom_ray.cli.options import RecipeCommand, drop_unset, recipe_option
from soldiom_ray.cli.output import Json, print_json, print_table, say
from soldiom_ray.domains.door_defaults import PLANNED_GPU_GIB
from soldiom_ray.domains.tasks import TEXT_CLASSIFICATION
from soldiom_ray.errors import SoldiomError, UnavailableError
from soldiom_ray.settings import HOME_TENANT, load_settings

PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "exchange", "allocator", "process")
WORDS = {
    "exchange": "exchange between workers",
    "allocator": "the allocator's gaps",
    "process": "the process itself",
    "activations": "activations and copies",
}


def add_commands(app: typer.Typer) -> None:
    """Put this module's command under the program."""
    app.command(cls=RecipeCommand)(plan)


def plan(
    base: Annotated[str | None, recipe_option("train.base_model")] = None,
    method: Annotated[str | None, recipe_option("train.method")] = None,
    task: Annotated[str | None, recipe_option("train.task")] = None,
    data: Annotated[
        str | None, typer.Option(help="Id of a prepared dataset: how its samples fit, and the time.")
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="Plan the `train` heading of this recipe.")] = None,
    sequence_length: Annotated[int | None, recipe_option("train.sequence_length")] = None,
    batch_tokens: Annotated[int | None, recipe_option("train.batch_tokens")] = None,
    max_tokens: Annotated[int | None, recipe_option("train.max_tokens")] = None,
    rank: Annotated[int | None, recipe_option("train.rank")] = None,
    quantization: Annotated[str | None, recipe_option("train.quantization")] = None,
    strategy: Annotated[str | None, recipe_option("train.strategy")] = None,
    workers: Annotated[int | None, recipe_option("train.workers")] = None,
    activation_checkpointing: Annotated[bool | None, recipe_option("train.activation_checkpointing")] = None,
    offload: Annotated[bool | None, recipe_option("train.offload")] = None,
    template_gaps: Annotated[str | None, recipe_option("train.template_gaps")] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="Plan for this many GPUs in each node.")] = None,
    gpu_memory: Annotated[float | None, typer.Option(help=f"Memory of each GPU in GiB ({PLANNED_GPU_GIB}).")] = None,
    nodes: Annotated[int | None, typer.Option(min=1, help="Plan for this many nodes.")] = None,
    memory: Annotated[float | None, typer.Option(help="Memory of each node in GiB.")] = None,
    json: Json = False,
) -> None:
    """Say what a training needs, whether and how it fits, and how long it takes, before it is started."""
    with _planner() as planner:
        options = drop_unset(
            base_model=base,
            method=method,
            task=task,
            sequence_length=sequence_length,
            batch_tokens=batch_tokens,
            max_tokens=max_tokens,
            rank=rank,
            quantization=quantization,
            strategy=strategy,
            workers=workers,
            activation_checkpointing=activation_checkpointing,
            offload=offload,
            template_gaps=template_gaps,
        )
        request = {
            "train": _train_heading(recipe, options),
            "dataset": data,
            "cluster": drop_unset(gpus=gpus, gpu_memory=gpu_memory, nodes=nodes, memory=memory),
        }
        result = _answer(planner, request)
    print_json(result) if json else _print_plan(result)


def _base(name: str) -> str:
    """The base by a name that the planner's process can load: a model of the registry, by whatever names it, as what
    holds its weights. Only names that can be nothing else need the database."""
    from soldiom_ray.db import models
    from soldiom_ray.db.engine import open_session
    from soldiom_ray.domains.names import base_of
    from soldiom_ray.domains.recipes import absolute_model
    from soldiom_ray.domains.references import is_local_path
    from soldiom_ray.records import FAMILIES, RUN_ID

    local = absolute_model(name)
    if local != name or is_local_path(name) or name.startswith("builtin/") or RUN_ID.fullmatch(name):
        return local
    registered = name.partition("/")[0] in FAMILIES
    try:
        with open_session(load_settings()) as session:
            asked = models.get(session, name, HOME_TENANT).id if registered else name
            return base_of(session, asked, HOME_TENANT)
    except UnavailableError:
        if registered:
            raise
        return name


def _train_heading(path: Path | None, options: dict[str, Any]) -> dict[str, Any]:
    """The recipe's `train` heading with the options over it, checked."""
    from soldiom_ray.domains.recipes import load_recipe, validate_recipe
    from soldiom_ray.domains.schema import DEFAULT_BASES

    heading: dict[str, Any] = {}
    if path is not None:
        train = load_recipe(path).train
        heading = train.model_dump(mode="json", exclude_defaults=True) if train else {}
        if train and train.base_model == DEFAULT_BASES.get(train.task):
            del heading["base_model"]  # another task may be planned, which has another default
        if train and (train.head == "linear" or train.task != TEXT_CLASSIFICATION):
            del heading["head"]  # the options may ask for another
            heading.pop("method" if train.head == "linear" else "head", None)
    checked = validate_recipe({"name": "plan", "dataset": "none", "train": heading | options}, "soldiom plan")
    filled: dict[str, Any] = checked.train.model_dump(mode="json") if checked.train else {}
    return filled | ({"base_model": _base(filled["base_model"])} if filled.get("base_model") else {})


@contextmanager
def _planner() -> Iterator["subprocess.Popen[str]"]:
    """The process that makes the plan, another one because it loads torch: which it does while the request is read."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "soldiom_ray.train.planning"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _answer(planner: "subprocess.Popen[str]", request: dict[str, Any]) -> dict[str, Any]:
    """The plan. Raises the error that the planner reports."""
    out, _ = planner.communicate(document.dumps(request))
    try:
        answer: dict[str, Any] = document.loads(out)
    except ValueError as error:
        raise SoldiomError("The planner ended without an answer.", remedy="read its messages above") from error
    if "error" in answer:
        raise SoldiomError.from_dict(answer["error"])
    return answer


def _print_plan(plan: dict[str, Any]) -> None:
    sizes = plan["bytes"]
    rows = [{"part": WORDS.get(name, name), "GiB": f"{sizes[name] / 2**30:.2f}"} for name in PARTS if sizes[name]]
    rows.append({"part": "together, at the peak", "GiB": f"{sizes['total'] / 2**30:.2f}"})
    rows.append({"part": "free for a worker", "GiB": f"{sizes['available'] / 2**30:.2f}"})
    say(
        f"{plan['base_model'] or 'From random weights'}: {plan['parameters'] / 1e6:,.1f} M parameters,"
        f" {plan['trainable_parameters'] / 1e6:,.2f} M of them trained"
        f" ({'head: linear' if plan['head'] == 'linear' else plan['method']}, {plan['task']})"
    )
    print_table(rows, ["part", "GiB"])
    say(_verdict(plan))
    for text in (
        plan["refusal"],
        plan["advice"],
        f"of the memory {plan['fitted']}",
        *plan.get("notes", ()),
        _cuts(plan.get("samples") or {}, plan["sequence_length"]),
    ):
        if text:
            say(f"{text[0].upper()}{text[1:]}.".replace("..", "."))
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
        for way in plan["strategies"]
    ]
    print_table(ways, ["strategy", "recompute", "offload", "positions at once", "GiB", "host GiB", "fits"])


def _verdict(plan: dict[str, Any]) -> str:
    how = f"{plan['workers']} worker{'s' * (plan['workers'] > 1)} on {plan['device'].upper()}"
    how += f", strategy {plan['strategy']}, {plan['precision']}"
    how += ", activations recomputed" if plan["recompute"] else ""
    if not plan["fits"]:
        return f"It does not fit: {how}."
    if plan["head"] == "linear":
        steps = "the base stays as it is, and a linear head is fitted on it (`head: linear`)"
    else:
        steps = f"{plan['steps']:,} steps" if plan["steps"] else "steps"
        steps += f" of {plan['batch_tokens']:,} tokens" + ("" if plan["steps"] else " or fewer")
    text = f"It fits: {how}; {steps}, {plan['positions_at_once']} positions at once."
    if plan["seconds"]:
        minutes = plan["seconds"] / 60
        lasts = (
            f"{minutes / 60:.1f} hours"
            if minutes > 120
            else f"{minutes:.0f} min"
            if minutes > 3
            else f"{plan['seconds']:.0f} s"
        )
        text += f" {plan['tokens']:,} tokens take about {lasts} ({plan['speed_from']})."
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
