"""The training loop: plain torch, the same for every task, method and strategy, one process or many.

It needs torch, transformers and peft alone, so that it can be profiled and measured without the rest of the system.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from soldiom_ray.errors import CancelledError
from soldiom_ray.train.blocks import Order, Source, shares, spread
from soldiom_ray.train.saving import Saver

if TYPE_CHECKING:
    from torch import Tensor

    from soldiom_ray.train.blocks import Indices
    from soldiom_ray.train.strategies import Strategy

log = logging.getLogger(__name__)
Record = dict[str, float | int]
POINTS = 200
"""Points of the training curve."""
ASK_SECONDS = 2.0
"""About how often the loop asks within a step, or a validation, whether it is to stop."""
LOOK_SECONDS = 5.0
"""How often the loop looks whether its machine will be taken away."""


@dataclass(frozen=True)
class Schedule:
    """How long and how: numbers only, so that a test can say them."""

    steps: int
    units_per_step: int
    positions_at_once: int
    learning_rate: float
    warmup_steps: int
    validate_every: int
    validation_tokens: int
    patience: int
    seed: int
    checkpoint_seconds: float = 120.0

    def rate(self, step: int) -> float:
        """The learning rate of a step: linear warm-up, then half a cosine down to a tenth."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        share = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, share))))


@dataclass(frozen=True)
class Position:
    """Where a training stands, besides its tensors."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_step: int = 0
    best_loss: float = math.inf
    bad_validations: int = 0
    validated_step: int = -1
    curves: tuple[Record, ...] = ()


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
    curves: list[Record] = field(default_factory=list)


class LeavingError(Exception):
    """This machine will be taken away. The state is kept: the training can go on elsewhere."""


class Keeper(Protocol):
    """Where a training's states are kept: see `checkpoints`."""

    def write(self, position: Position, weights: "Mapping[str, Tensor]", moments: "Mapping[str, Tensor]") -> None: ...

    def newest(self) -> "tuple[Position, dict[str, Tensor], dict[str, Tensor]] | None": ...

    def read(self, step: int) -> "tuple[Position, dict[str, Tensor], dict[str, Tensor]]": ...

    def best_weights(self, position: Position) -> "dict[str, Tensor] | None": ...


class Loop:
    """One training of one model. `report(fraction, message)` may raise CancelledError: a checkpoint is written first.

    `observe` is called on rank 0 with every new point of the curves. `leaving` is called by all ranks alike now and
    then: whether this machine will be taken away, which ends the run with LeavingError after a checkpoint."""

    def __init__(
        self,
        strategy: "Strategy",
        train: Source,
        validation: Source,
        schedule: Schedule,
        checkpoints: Keeper,
        report: Callable[[float, str], None],
        observe: Callable[[Record], None] = lambda record: None,
        leaving: Callable[[], bool] = lambda: False,
    ) -> None:
        self.strategy, self.schedule, self.checkpoints = strategy, schedule, checkpoints
        self.report, self.observe, self.leaving = report, observe, leaving
        self.saver = Saver(checkpoints)
        self.train_units, self.validation_units = train, validation
        self.order = Order(len(train), schedule.units_per_step, schedule.seed)
        self.position = Position()
        self.curves: list[Record] = []
        self._saved_at = self._begun_at = self._looked_at = time.monotonic()
        self._begun_step = 0
        self._saved: Position | None = None
        self._seconds_per_batch, self._ask_every = 0.0, 1

    @property
    def rank(self) -> int:
        """This process among those that train together; 0 speaks for all."""
        return self.strategy.rank

    def run(self) -> Outcome:
        """Train from the newest valid checkpoint to the end, or until validation no longer improves."""
        self._resume()
        started, tokens_before = time.monotonic(), self.position.tokens
        try:
            self._train(started - self.position.seconds)
        except (CancelledError, LeavingError):
            self._save()
            self.saver.settle()
            raise
        self.saver.settle()
        self._restore_best()
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
        )

    def _train(self, started: float) -> None:
        """Step and validate to the end; `started` is when an undisturbed training would have begun."""
        self._saved_at = self._begun_at = time.monotonic()
        self._begun_step = self.position.step
        self._validate_when_due()
        waiting: list[tuple[float, int]] = []
        every, mark = max(1, self.schedule.steps // POINTS), self.position
        while self.position.step < self.schedule.steps and self.position.bad_validations < self.schedule.patience:
            if self._ask():
                self._save()
            step = self.position.step + 1
            loss, learnt, tokens = self._step(step - 1)
            waiting.append((loss, learnt))
            seconds = time.monotonic() - started
            self.position = replace(self.position, step=step, tokens=self.position.tokens + tokens, seconds=seconds)
            if step % every == 0 or step == self.schedule.steps:
                mean = sum(a for a, _ in waiting) / sum(b for _, b in waiting)
                speed = (self.position.tokens - mark.tokens) / max(seconds - mark.seconds, 1e-9)
                waiting, mark = [], self.position
                rate = self.schedule.rate(step - 1)
                self._note({"train_loss": mean, "learning_rate": rate, "tokens_per_second": round(speed, 1)})
            if self._validate_when_due():
                mark = replace(mark, seconds=time.monotonic() - started)
                self._save()

    def _step(self, number: int) -> tuple[float, int, int]:
        """One optimiser step over this rank's share of its units; (summed loss, labels learnt, positions) of all."""
        import torch

        schedule, strategy = self.schedule, self.strategy
        torch.manual_seed(schedule.seed * 1_000_003 + number * strategy.world + strategy.rank)
        everyones = self.order.step(number)
        learnt = max(1, self.train_units.learnt(everyones))
        total = torch.zeros((), device=strategy.device)
        batches = shares(self.train_units, everyones, strategy.world, schedule.positions_at_once)[strategy.rank]
        began = time.monotonic()
        for place, indices in enumerate(batches, 1):
            if place > 1:
                self._ask_within(place)
            batch = self._batch(self.train_units, indices)
            total += strategy.backward(batch, 1 / learnt, last=place == len(batches))
        strategy.step(schedule.rate(number))
        loss = float(strategy.sum(total))
        self._seconds_per_batch = (time.monotonic() - began) / len(batches)
        return loss, learnt, int(self.train_units.positions(everyones).sum())

    def _validate_when_due(self) -> bool:
        """Validate where the schedule says so and it is not done yet (it was, or it was broken off, before a restart);
        whether it was done now."""
        step = self.position.step
        due = step % self.schedule.validate_every == 0 or step == self.schedule.steps
        if not due or self.position.validated_step == step:
            return False
        self._validate(step)
        return True

    def _validate(self, step: int) -> None:
        """Take the validation loss on its fixed units (the train loss decides when there are none)."""
        if len(self.validation_units):
            value, metrics = self._judge(self.validation_units)
            self._note({"validation_loss": value, **metrics})
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

    def _judge(self, units: Source) -> tuple[float, dict[str, float]]:
        """(loss per label, the task's metrics) over units spread evenly."""
        import torch

        strategy, schedule = self.strategy, self.schedule
        indices = spread(units, schedule.validation_tokens)
        total, counted = torch.zeros((), device=strategy.device), None
        strategy.objective.eval()
        batches = shares(units, indices, strategy.world, schedule.positions_at_once)[strategy.rank]
        for place, mine in enumerate(batches, 1):
            self._ask_within(place)
            loss, counts = strategy.judge(self._batch(units, mine if len(mine) else indices[:1]))
            total += loss * bool(len(mine))
            counts = counts.float() * bool(len(mine))
            counted = counts if counted is None else counted + counts
        strategy.objective.train()
        value = float(strategy.sum(total)) / max(1, units.learnt(indices))
        metrics = strategy.objective.metrics(strategy.sum(counted).cpu()) if counted is not None else {}
        return value, {f"validation_{name}": number for name, number in metrics.items()}

    def _note(self, values: Record) -> None:
        record: Record = {
            "step": self.position.step,
            "tokens": self.position.tokens,
            **values,
            "seconds": round(self.position.seconds, 2),
        }
        if self.curves and self.curves[-1]["step"] == record["step"]:
            record = self.curves.pop() | record
        self.curves.append(record)
        if self.rank == 0:
            self.observe(record)

    def _save(self) -> None:
        """Keep the state as it is now, unless it is kept already."""
        self._saved_at = time.monotonic()
        if self._saved == self.position:
            return
        self._saved = self.position
        weights, moments = self.strategy.weights(), self.strategy.moments()
        if self.rank == 0:
            position = replace(self.position, curves=tuple(self.curves))
            self.saver.save(position, weights, moments, shared=self.strategy.device.type == "cpu")

    def _resume(self) -> None:
        """Go on from the newest checkpoint that verifies: rank 0 finds it, the others read the same."""
        found = self.checkpoints.newest() if self.rank == 0 else None
        step = int(self._of_rank_0((-1.0 if found is None else float(found[0].step),))[0])
        if step < 0:
            return
        position, weights, moments = found or self.checkpoints.read(step)
        self.strategy.put(weights, moments)
        self.position, self.curves = replace(position, curves=()), [dict(record) for record in position.curves]
        self._saved = self.position
        if self.rank == 0:
            for record in self.curves:
                self.observe(record)
            log.info("training goes on from a checkpoint", extra={"data": {"step": step, "of": self.schedule.steps}})

    def _restore_best(self) -> None:
        if self.position.best_step in (0, self.position.step):
            return
        best = self.checkpoints.best_weights(self.position)
        if not self._any(best is None) and best is not None:
            self.strategy.put(best)

    def _ask_within(self, place: int) -> None:
        """Ask between the batches of a step or a validation, not more often than about every ASK_SECONDS."""
        if place % self._ask_every == 0:
            self._ask()

    def _ask(self) -> bool:
        """What rank 0 hears, told to all ranks in one exchange: raises CancelledError or LeavingError when it is to
        stop; returns whether it is time for a checkpoint."""
        error, now = None, time.monotonic()
        told = (0.0, 0.0, 0.0, 0.0)
        if self.rank == 0:
            try:
                self.report(self.position.step / self.schedule.steps, self._message())
            except CancelledError as caught:
                error = caught
            save = now - self._saved_at > self.schedule.checkpoint_seconds
            look = now - self._looked_at > LOOK_SECONDS
            told = (float(error is not None), float(save), float(look), self._seconds_per_batch)
        stop, save_now, look_now, seconds = self._of_rank_0(told)
        self._ask_every = max(1, min(int(ASK_SECONDS / seconds), 1_000_000)) if seconds else 1
        if stop:
            raise error or CancelledError("The training was asked to stop.")
        if look_now:
            self._looked_at = now
            if self.leaving():
                raise LeavingError
        return bool(save_now)

    def _message(self) -> str:
        last = next((record for record in reversed(self.curves) if "train_loss" in record), None)
        loss = f", loss {last['train_loss']:.3f}" if last else ""
        done = self.position.step - self._begun_step
        left = ""
        if done:
            seconds = (time.monotonic() - self._begun_at) / done * (self.schedule.steps - self.position.step)
            left = f", {seconds / 60:.0f} min left" if seconds >= 90 else f", {seconds:.0f} s left"
        return f"step {self.position.step}/{self.schedule.steps}{loss}{left}"

    def _batch(self, units: Source, indices: "Indices") -> "tuple[Tensor, ...]":
        import torch

        return tuple(torch.from_numpy(array).to(self.strategy.device) for array in units.batch(indices))

    def _any(self, mine: bool) -> bool:
        """Whether it is so on any rank: what all ranks must do together is decided together."""
        return self._of_all((float(mine),))[0] > 0

    def _of_rank_0(self, values: tuple[float, ...]) -> tuple[float, ...]:
        return self._of_all(values if self.rank == 0 else tuple(0.0 for _ in values))

    def _of_all(self, values: tuple[float, ...]) -> tuple[float, ...]:
        """Their sums over ranks."""
        if self.strategy.world == 1:
            return values
        import torch

        return tuple(self.strategy.sum(torch.tensor(values, device=self.strategy.device, dtype=torch.float64)).tolist())
