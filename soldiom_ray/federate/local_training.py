"""What a site does with its data in one round: train from the adapter of all, with the loop of every other training."""

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from soldiom_ray.artifacts import Context
from soldiom_ray.domains.schema import Train
from soldiom_ray.errors import InputError
from soldiom_ray.federate.messages import RoundTask, SiteReport
from soldiom_ray.models.load import context_length, has_bfloat16, load_processor, model_folder
from soldiom_ray.models.planning.machine import current_cluster, free_bytes
from soldiom_ray.models.planning.planner import planner_for, reduce_to_memory, require_setup
from soldiom_ray.models.planning.shape import enable_activation_checkpointing
from soldiom_ray.records import Manifest
from soldiom_ray.train import methods
from soldiom_ray.train.data import folder_hash, tokenizer_hash
from soldiom_ray.train.labels import configuration
from soldiom_ray.train.loop import Loop, Schedule
from soldiom_ray.train.strategies import Optimization
from soldiom_ray.train.strategies.replicas import Replicas
from soldiom_ray.train.tasks import task_of
from soldiom_ray.train.tasks.classification import TextClassificationTask
from soldiom_ray.train.tasks.task import Task
from soldiom_ray.train.work import TOKENISING_SHARE, part_of
from soldiom_ray.train.worker import schedule_of

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from soldiom_ray.models.loss import Objective
    from soldiom_ray.train.state import Position

Arrays = dict[str, "npt.NDArray[np.float32]"]


def federated_task(declared: Train, labels: tuple[str, ...]) -> Task:
    """The task with the labels of all sites, which no single one need have seen."""
    return TextClassificationTask(tuple(sorted(labels))) if labels else task_of(declared.task)


def base_fingerprint(folder: "Path") -> str:
    """Which weights an adapter belongs to."""
    return folder_hash(folder, ("config.json", *sorted(path.name for path in folder.glob("*.safetensors"))))


def build_model(folder: "Path", processor: Any, declared: Train, labels: tuple[str, ...]) -> tuple[Any, bool]:
    """(the base with a new adapter, whether its passes are in bfloat16): the same everywhere."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    bfloat16 = declared.precision == "bfloat16" or (declared.precision == "auto" and has_bfloat16(device))
    task = federated_task(declared, labels)
    names = configuration_of(processor, labels, several=declared.multi_label)
    return methods.build(task, folder, processor, declared, names, bfloat16=bfloat16, device=device), bfloat16


def configuration_of(processor: Any, labels: tuple[str, ...], *, several: bool) -> dict[str, Any]:
    """The part of the model's configuration that labels decide."""
    if not labels:
        return {}
    return configuration(sorted(labels), several=several) | {"pad_token_id": int(processor.pad_token_id or 0)}


def trained(model: Any) -> Arrays:
    """The trainable parameters of a model by name."""
    return {
        name: parameter.detach().float().cpu().numpy().copy()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


class SiteTraining:
    """One federation at one site: the tokens and the model stay in memory from round to round. Close it at the end."""

    def __init__(self, context: Context, dataset: Manifest, task: RoundTask) -> None:
        """InputError for another base than the coordinator's, or samples with labels that it does not know."""
        self.context, self.declared = context, task.train
        self._stack = ExitStack()
        try:
            self._open(dataset, task)
        except BaseException:
            self.close()
            raise

    def _open(self, dataset: Manifest, task: RoundTask) -> None:
        context, declared, stack = self.context, task.train, self._stack
        folder = stack.enter_context(model_folder(context.settings, context.artifacts, declared.base_model))
        if base_fingerprint(folder) != task.base:
            raise InputError(
                f"The base {declared.base_model!r} of this site is not the coordinator's: its weights differ.",
                remedy="use the same version of Soldiom, or the same revision of the model, at all sites",
            )
        processor = load_processor(folder)
        self.task = federated_task(declared, task.labels)
        planner = planner_for(folder, declared, current_cluster(), processor=processor, home=context.settings.home)
        setup = require_setup(planner)
        report = part_of(context.report, 0.0, TOKENISING_SHARE)
        tokens = self.task.tokenize(context.artifacts, dataset, processor, tokenizer_hash(folder), declared, report)
        self.model, self.bfloat16 = build_model(folder, processor, declared, task.labels)
        setup = reduce_to_memory(setup, free_bytes(next(self.model.parameters()).device.type), planner)
        if setup.activation_checkpointing:
            enable_activation_checkpointing(self.model)
        self.length = min(declared.sequence_length, context_length(self.model))
        stack.enter_context(self.task.reading(self.model))
        self.train, self.validation = stack.enter_context(
            self.task.open(context.artifacts, tokens, self.length, processor)
        )
        self.schedule = schedule_of(declared, self.train, setup.positions, planner.shape.virtual_positions)
        self.objective = self.task.objective(self.model, tokens, declared)
        self.prompt_format = self.task.prompt_format(tokens)

    def run(self, task: RoundTask, weights: Mapping[str, Any]) -> tuple[Arrays, SiteReport]:
        """(update, report) of a round that begins with these weights: what was trained less what it began with. The
        update of a round that only measures is empty. CancelledError when `context.report` says so."""
        import torch

        own = {name: torch.from_numpy(array) for name, array in weights.items()}
        schedule = _round_schedule(self.schedule, task)
        optimization = Optimization(
            schedule.learning_rate, self.declared.weight_decay, self.declared.gradient_clip, self.bfloat16
        )
        strategy = Proximal(self.objective, optimization, task.mu)
        strategy.begin(own)
        report = part_of(self.context.report, TOKENISING_SHARE, 1.0)
        loop = Loop(strategy, self.train, self.validation, schedule, _Nowhere(), report)
        outcome = loop.run()
        begun = next((point for point in outcome.curves if point["step"] == 0 and "validation_loss" in point), {})
        update: Arrays = {}
        if task.learns:
            after = strategy.weights()
            update = clipped({name: (after[name] - own[name]).numpy() for name in own}, task.clip_norm)
        norms = {name: norm_of({name: array}) for name, array in update.items()}
        return update, SiteReport(
            samples=self._labels(self.train),
            validation_samples=self._labels(self.validation),
            validation_loss=begun.get("validation_loss"),
            metrics={name: float(value) for name, value in begun.items() if name.startswith("validation_")},
            prompt_format=self.prompt_format,
            sequence_length=self.length,
            seconds=round(outcome.seconds, 2),
            norm=norm_of(update),
            tensors={name: (array.shape, norms[name]) for name, array in update.items()},
            size_bytes=sum(array.nbytes for array in update.values()),
        )

    def close(self) -> None:
        """Let go of the model and the tokens."""
        self._stack.close()

    def _labels(self, units: Any) -> int:
        import numpy as np

        return int(units.label_count(np.arange(len(units), dtype=np.int64))) if len(units) else 0


def norm_of(update: Arrays) -> float:
    """Euclidean norm over all tensors."""
    import numpy as np

    return math.sqrt(sum(float(np.square(array, dtype=np.float64).sum()) for array in update.values()))


def clipped(update: Arrays, norm: float | None) -> Arrays:
    """The update, shortened to a norm where it is longer."""
    length = norm_of(update)
    if norm is None or length <= norm:
        return update
    return {name: array * (norm / length) for name, array in update.items()}


@dataclass(frozen=True)
class _RoundSchedule(Schedule):
    """The learning rate falls over all rounds together, not in each anew."""

    whole: Schedule | None = None
    done: int = 0

    def rate(self, step: int) -> float:
        return self.whole.rate(self.done + step) if self.whole else super().rate(step)


def _round_schedule(per_round: Schedule, task: RoundTask) -> _RoundSchedule:
    """A round as its own loop: validated at its beginning, which is the adapter of all, and at its end. One that only
    measures has no patience to take a step."""
    steps = per_round.steps
    warmup = max(1, round(task.train.warmup_ratio * steps * task.rounds))
    whole = replace(per_round, steps=steps * task.rounds, warmup_steps=warmup)
    values = {each.name: getattr(per_round, each.name) for each in fields(Schedule)} | {
        "validate_every": steps,
        "patience": 1 << 30 if task.learns else 0,
        "seed": per_round.seed * 1009 + task.round,
    }
    return _RoundSchedule(**values, whole=whole, done=steps * (task.round - 1))


class Proximal(Replicas):
    """One process whose loss has `mu` / 2 times the squared distance from where it began (FedProx, Li et al. 2020);
    with `mu` 0 it is FedAvg's."""

    def __init__(self, objective: "Objective", optimization: Optimization, mu: float) -> None:
        super().__init__(objective, optimization)
        self.mu = mu
        self._anchor: dict[str, Tensor] = {}

    def begin(self, weights: "Mapping[str, Tensor]") -> None:
        """Begin with these weights, and stay near them."""
        self.load_state(weights)
        self._anchor = {name: weights[name].to(self.device) for name in self.parameters} if self.mu else {}

    def step(self, learning_rate: float) -> None:
        for name, anchor in self._anchor.items():
            parameter = self.parameters[name]
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - anchor, alpha=self.mu)
        super().step(learning_rate)


class _Nowhere:
    """No checkpoints: a round is short, and its end is what counts, not its best validation at one site."""

    def write(
        self, position: "Position", weights: "Mapping[str, Tensor]", optimizer_state: "Mapping[str, Tensor] | None"
    ) -> None:
        return None

    def newest(self) -> "tuple[Position, dict[str, Tensor], dict[str, Tensor]] | None":
        return None

    def read(self, step: int) -> "tuple[Position, dict[str, Tensor], dict[str, Tensor]]":
        raise KeyError(step)

    def best_weights(self, position: "Position") -> "dict[str, Tensor] | None":
        return None
