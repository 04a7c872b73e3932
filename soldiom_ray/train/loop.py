"""The training loop: plain torch, the same for every task, method and strategy, one process or many.

It needs torch, transformers and peft alone, so that it can be profiled and measured without the rest of the system.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from soldiom_ray.errors import CancelledError
from soldiom_ray.train.blocks import Order, Source, batches_by_rank, evenly_spaced
from soldiom_ray.train.laps import Laps
from soldiom_ray.train.saving import Saver
from soldiom_ray.train.state import CheckpointStore, Metrics, Position

if TYPE_CHECKING:
    from torch import Tensor

    from soldiom_ray.train.blocks import Indices
    from soldiom_ray.train.strategies import Strategy

log = logging.getLogger(__name__)
CURVE_POINTS = 200
STOP_CHECK_SECONDS = 2.0
"""About how often the loop asks within a step, or a validation, whether it is to stop."""
PREEMPTION_CHECK_SECONDS = 5.0
"""How often the loop asks whether its node is about to be preempted."""
STATE_PER_WEIGHT = 3
"""Bytes of a checkpoint for each byte of the trained weights: AdamW has two moments."""
WORK_PER_COST = 10.0
"""A checkpoint that the training waits for is written after a validation once this many times its cost was worked
since the last: a tenth of the time at most. `checkpoint_seconds` holds all the same."""


@dataclass(frozen=True)
class Schedule:
    """How long and how: numbers only, so that a test can state them."""

    steps: int
    units_per_step: int
    """Of all ranks together."""
    positions_at_once: int
    """The most positions, padding and a tuned prompt included, in one forward pass of one rank."""
    learning_rate: float
    warmup_steps: int
    validate_every: int
    validation_tokens: int
    patience: int
    seed: int
    checkpoint_seconds: float = 120.0
    virtual_positions: int = 0
    """Of a tuned prompt: what each unit takes in a forward pass besides its own."""

    def rate(self, step: int) -> float:
        """The learning rate of a step (counted from 0): linear warm-up, then half a cosine down to a tenth."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        share = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, share))))


@dataclass
class Outcome:
    """What a training came to. The model then holds the weights of its best validation."""

    steps: int
    tokens: int
    best_step: int
    best_loss: float
    seconds: float
    tokens_per_second: float
    stopped_early: bool
    curves: list[Metrics] = field(default_factory=list)
    seconds_by_part: dict[str, float] = field(default_factory=dict)
    """Of this process: steps, validations, checkpoints."""


class PreemptedError(Exception):
    """This node is about to be preempted. A checkpoint is stored: the training can resume elsewhere."""


class Loop:
    """One training of one model; every rank runs one.

    `report(fraction, message)` is called on rank 0 and may raise CancelledError: a checkpoint is written first.
    `observe` is called on rank 0 with every new point of the curves. Every rank polls `is_preempted()`; True means this
    node is about to be preempted: checkpoint, then raise PreemptedError."""

    def __init__(
        self,
        strategy: "Strategy",
        train: Source,
        validation: Source,
        schedule: Schedule,
        checkpoints: CheckpointStore,
        report: Callable[[float, str], None],
        observe: Callable[[Metrics], None] = lambda point: None,
        is_preempted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.strategy, self.schedule, self.checkpoints = strategy, schedule, checkpoints
        self.report, self.observe, self.is_preempted = report, observe, is_preempted
        self.saver = Saver(checkpoints)
        self.train_units, self.validation_units = train, validation
        self.order = Order(len(train), schedule.units_per_step, schedule.seed)
        self.position = Position()
        self.curves: list[Metrics] = []
        self._saved_at = self._begun_at = self._preemption_checked_at = time.monotonic()
        self._begun_step = 0
        self._saved: Position | None = None
        self._seconds_per_batch, self._batches_per_check = 0.0, 1
        self.laps = Laps()

    @property
    def rank(self) -> int:
        """This process among those that train together; rank 0 reports and writes checkpoints."""
        return self.strategy.rank

    @property
    def _shares(self) -> bool:
        """Whether the tensors of a state are those that the next step changes, not copies from a GPU."""
        return self.strategy.device.type == "cpu"

    def run(self) -> Outcome:
        """Train from the newest valid checkpoint to the end, or until validation no longer improves."""
        self._resume()
        self.laps = Laps()
        started, tokens_before = time.monotonic(), self.position.tokens
        try:
            self._train(started - self.position.seconds)
        except (CancelledError, PreemptedError):
            self._save()
            self.saver.settle()
            raise
        self.laps.end("steps")
        self.saver.settle()
        self._restore_best()
        self.laps.end("checkpoints")
        seconds = time.monotonic() - started
        return Outcome(
            steps=self.position.step,
            tokens=self.position.tokens,
            best_step=self.position.best_step,
            best_loss=self.position.best_loss,
            seconds=self.position.seconds,
            tokens_per_second=(self.position.tokens - tokens_before) / max(seconds, 1e-9),
            stopped_early=self.position.step < self.schedule.steps,
            curves=self.curves,
            seconds_by_part=self.laps.seconds,
        )

    def _train(self, started: float) -> None:
        """Step and validate to the end; `started` is when an undisturbed training would have begun."""
        self._saved_at = self._begun_at = time.monotonic()
        self._begun_step = self.position.step
        self._validate_when_due()
        losses: list[tuple[float, int]] = []
        every, last_point = max(1, self.schedule.steps // CURVE_POINTS), self.position
        while not self._has_ended():
            if self._poll_driver():
                self._save()
            step = self.position.step + 1
            loss, label_count, tokens = self._step(step - 1)
            losses.append((loss, label_count))
            seconds = time.monotonic() - started
            self.position = replace(self.position, step=step, tokens=self.position.tokens + tokens, seconds=seconds)
            if step % every == 0 or step == self.schedule.steps:
                mean = sum(loss for loss, _ in losses) / sum(count for _, count in losses)
                speed = (self.position.tokens - last_point.tokens) / max(seconds - last_point.seconds, 1e-9)
                losses, last_point = [], self.position
                rate = self.schedule.rate(step - 1)
                self._add_point({"train_loss": mean, "learning_rate": rate, "tokens_per_second": round(speed, 1)})
            if self._validate_when_due():
                last_point = replace(last_point, seconds=time.monotonic() - started)
                self._save_validated()

    def _has_ended(self) -> bool:
        return self.position.step >= self.schedule.steps or self.position.bad_validations >= self.schedule.patience

    def _step(self, number: int) -> tuple[float, int, int]:
        """One optimiser step over this rank's share of its units; (summed loss, labels, positions) of all ranks."""
        import torch

        schedule, strategy = self.schedule, self.strategy
        torch.manual_seed(schedule.seed * 1_000_003 + number * strategy.world + strategy.rank)
        step_indices = self.order.step(number)
        label_count = max(1, self.train_units.label_count(step_indices))
        total = torch.zeros((), device=strategy.device)
        batches = self._batches(self.train_units, step_indices)
        began = time.monotonic()
        for batch_number, indices in enumerate(batches, 1):
            if batch_number > 1:
                self._poll_between_batches(batch_number)
            batch = self._batch(self.train_units, indices)
            total += strategy.backward(batch, 1 / label_count, last=batch_number == len(batches))
        strategy.step(schedule.rate(number))
        loss = float(strategy.sum(total))
        self._seconds_per_batch = (time.monotonic() - began) / len(batches)
        return loss, label_count, int(self.train_units.positions(step_indices).sum())

    def _validate_when_due(self) -> bool:
        """Validate where the schedule says so, unless it was done before a restart; whether it was done now."""
        step = self.position.step
        due = step % self.schedule.validate_every == 0 or step == self.schedule.steps
        if not due or self.position.validated_step == step:
            return False
        self.laps.end("steps")
        self._validate(step)
        self.laps.end("validations")
        return True

    def _validate(self, step: int) -> None:
        """Take the validation loss on its fixed units (the train loss decides when there are none)."""
        if len(self.validation_units):
            value, metrics = self._evaluate(self.validation_units)
            self._add_point({"validation_loss": value, **metrics})
        else:
            value = self.curves[-1]["train_loss"] if self.curves else math.inf
        better = value < self.position.best_loss or bool(step and not self.position.best_step)
        self.position = replace(
            self.position,
            best_loss=value if better else self.position.best_loss,
            best_step=step if better else self.position.best_step,
            bad_validations=0 if better or not step else self.position.bad_validations + 1,
            validated_step=step,
        )

    def _evaluate(self, units: Source) -> tuple[float, dict[str, float]]:
        """(loss per label, the task's metrics) over units spread evenly."""
        import torch

        strategy, schedule = self.strategy, self.schedule
        indices = evenly_spaced(units, schedule.validation_tokens)
        total, total_counts = torch.zeros((), device=strategy.device), None
        strategy.objective.eval()
        for batch_number, share in enumerate(self._batches(units, indices), 1):
            self._poll_between_batches(batch_number)
            # A rank without a unit passes another's: sharded weights are gathered by all ranks together.
            loss, counts = strategy.evaluate(self._batch(units, share if len(share) else indices[:1]))
            total += loss * bool(len(share))
            counts = counts.float() * bool(len(share))
            total_counts = counts if total_counts is None else total_counts + counts
        strategy.objective.train()
        value = float(strategy.sum(total)) / max(1, units.label_count(indices))
        metrics = strategy.objective.metrics(strategy.sum(total_counts).cpu()) if total_counts is not None else {}
        return value, {f"validation_{name}": number for name, number in metrics.items()}

    def _add_point(self, values: Metrics) -> None:
        """Add to the curves at the current step."""
        point: Metrics = {
            "step": self.position.step,
            "tokens": self.position.tokens,
            **values,
            "seconds": round(self.position.seconds, 2),
        }
        if self.curves and self.curves[-1]["step"] == point["step"]:
            point = self.curves.pop() | point
        self.curves.append(point)
        if self.rank == 0:
            self.observe(point)

    def _save_validated(self) -> None:
        """Write a checkpoint of the position just validated where it costs little beside the work that a lost process
        would repeat; at the end, where seconds remain, only one that nobody waits for. Else only the weights, where
        they are the best so far and further steps will change them."""
        ended = self._has_ended()
        trained = (weight for weight in self.strategy.objective.parameters() if weight.requires_grad)
        cost = self.saver.seconds(STATE_PER_WEIGHT * sum(weight.nbytes for weight in trained), shared=self._shares)
        worth = not ended and time.monotonic() - self._saved_at >= WORK_PER_COST * cost
        if self._any(self.rank == 0 and (not cost or worth)):
            self._save()
        elif self.position.best_step == self.position.step and not ended:
            self._write(None)

    def _save(self) -> None:
        """Write a checkpoint, unless the last one holds this very position. The optimizer's state, two thirds of method
        full's bytes, is at the end that before the first step: no step needs it any more."""
        import torch

        self._saved_at = time.monotonic()
        if self._saved == self.position:
            return
        self._saved = self.position
        self._write({"step": torch.zeros(())} if self._has_ended() else self.strategy.optimizer_state())

    def _write(self, optimizer_state: "Mapping[str, Tensor] | None") -> None:
        """Have rank 0 write the weights and this state."""
        self.laps.end("steps")
        weights = self.strategy.weights()
        if self.rank == 0:
            position = replace(self.position, curves=tuple(self.curves))
            self.saver.save(position, weights, optimizer_state, shared=self._shares)
        self.laps.end("checkpoints")

    def _resume(self) -> None:
        """Resume from the newest checkpoint that verifies: rank 0 finds it, the other ranks read the same."""
        newest = self.checkpoints.newest() if self.rank == 0 else None
        step = int(self._from_rank_0((-1.0 if newest is None else float(newest[0].step),))[0])
        if step < 0:
            return
        position, weights, optimizer_state = newest or self.checkpoints.read(step)
        self.strategy.load_state(weights, optimizer_state)
        self.position, self.curves = replace(position, curves=()), [dict(point) for point in position.curves]
        self._saved = self.position
        if self.rank == 0:
            for point in self.curves:
                self.observe(point)
            log.info("training resumes from a checkpoint", extra={"data": {"step": step, "of": self.schedule.steps}})

    def _restore_best(self) -> None:
        if self.position.best_step in (0, self.position.step):
            return
        best = self.checkpoints.best_weights(self.position)
        if not self._any(best is None) and best is not None:
            self.strategy.load_state(best)

    def _poll_between_batches(self, batch_number: int) -> None:
        """Poll within a step or a validation, not more often than about every STOP_CHECK_SECONDS."""
        if batch_number % self._batches_per_check == 0:
            self._poll_driver()

    def _poll_driver(self) -> bool:
        """What rank 0 hears from the driver, sent to all ranks in one exchange: raises CancelledError or PreemptedError
        when the training is to stop; returns whether it is time for a checkpoint."""
        error, now = None, time.monotonic()
        signals = (0.0, 0.0, 0.0, 0.0)
        if self.rank == 0:
            try:
                self.report(self.position.step / self.schedule.steps, self._message())
            except CancelledError as caught:
                error = caught
            save = now - self._saved_at > self.schedule.checkpoint_seconds
            check = now - self._preemption_checked_at > PREEMPTION_CHECK_SECONDS
            signals = (float(error is not None), float(save), float(check), self._seconds_per_batch)
        stop, save_now, check_now, seconds = self._from_rank_0(signals)
        self._batches_per_check = max(1, min(int(STOP_CHECK_SECONDS / seconds), 1_000_000)) if seconds else 1
        if stop:
            raise error or CancelledError("The training was asked to stop.")
        if check_now:
            self._preemption_checked_at = now
            if self.is_preempted():
                raise PreemptedError
        return bool(save_now)

    def _message(self) -> str:
        last = next((point for point in reversed(self.curves) if "train_loss" in point), None)
        loss = f", loss {last['train_loss']:.3f}" if last else ""
        done = self.position.step - self._begun_step
        left = ""
        if done:
            seconds = (time.monotonic() - self._begun_at) / done * (self.schedule.steps - self.position.step)
            left = f", {seconds / 60:.0f} min left" if seconds >= 90 else f", {seconds:.0f} s left"
        return f"step {self.position.step}/{self.schedule.steps}{loss}{left}"

    def _batches(self, units: Source, indices: "Indices") -> "Sequence[Indices]":
        """Of these units, this rank's, as many at once as the schedule has positions for."""
        positions, virtual = self.schedule.positions_at_once, self.schedule.virtual_positions
        world, rank = self.strategy.world, self.strategy.rank
        return batches_by_rank(units, indices, world, positions, virtual_positions=virtual)[rank]

    def _batch(self, units: Source, indices: "Indices") -> "tuple[Tensor, ...]":
        """The tensors of `Source.batch` on this rank's device."""
        import torch

        return tuple(torch.from_numpy(array).to(self.strategy.device) for array in units.batch(indices))

    def _any(self, flag: bool) -> bool:
        """Whether it is so on any rank: what all ranks must do together is decided together."""
        return self._sum_over_ranks((float(flag),))[0] > 0

    def _from_rank_0(self, values: tuple[float, ...]) -> tuple[float, ...]:
        return self._sum_over_ranks(values if self.rank == 0 else tuple(0.0 for _ in values))

    def _sum_over_ranks(self, values: tuple[float, ...]) -> tuple[float, ...]:
        if self.strategy.world == 1:
            return values
        import torch

        return tuple(self.strategy.sum(torch.tensor(values, device=self.strategy.device, dtype=torch.float64)).tolist())
