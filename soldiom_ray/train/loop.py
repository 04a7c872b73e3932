"""The training loop: plain torch, the same for full, LoRA and prompt training, one process or many (DDP)."""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from soldiom_ray.errors import CancelledError
from soldiom_ray.train.checkpoints import Checkpoints, Position
from soldiom_ray.train.data import Blocks, Order

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

log = logging.getLogger(__name__)
Record = dict[str, float | int]
POINTS = 200
"""Points of the training curve."""


@dataclass(frozen=True)
class Schedule:
    """How long and how: numbers only, so that a test can say them."""

    steps: int
    blocks_per_step: int
    blocks_at_once: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    gradient_clip: float
    validate_every: int
    validation_tokens: int
    patience: int
    bfloat16: bool
    seed: int
    checkpoint_seconds: float = 120.0

    def rate(self, step: int) -> float:
        """The learning rate of a step: linear warm-up, then half a cosine down to a tenth."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        share = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, share))))


@dataclass
class Outcome:
    """What a training came to. `model` then holds the weights of its best validation."""

    steps: int
    tokens: int
    best_step: int
    best_loss: float
    seconds: float
    tokens_per_second: float
    stopped_early: bool
    curves: list[Record] = field(default_factory=list)


class Loop:
    """One training of one model. `report(fraction, message)` may raise CancelledError: a checkpoint is written first.

    `observe` is called on rank 0 with every new point of the curves."""

    def __init__(
        self,
        model: "nn.Module",
        train: Blocks,
        validation: Blocks,
        schedule: Schedule,
        checkpoints: Checkpoints,
        report: Callable[[float, str], None],
        observe: Callable[[Record], None] = lambda record: None,
    ) -> None:
        import torch
        from torch import distributed

        from soldiom_ray.models.loss import CausalLoss

        together = distributed.is_available() and distributed.is_initialized()
        self.rank, self.world = (distributed.get_rank(), distributed.get_world_size()) if together else (0, 1)
        self.model, self.schedule, self.checkpoints = model, schedule, checkpoints
        self.report, self.observe = report, observe
        self.train_blocks, self.validation_blocks = train, validation
        self.order = Order(len(train), schedule.blocks_per_step, schedule.seed)
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.device = next(iter(self.parameters.values())).device
        decayed = [p for p in self.parameters.values() if p.dim() > 1]
        flat = [p for p in self.parameters.values() if p.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": schedule.weight_decay}, {"params": flat, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=(0.9, 0.95), fused=True)
        self.loss: Any = CausalLoss(model)
        self.stepped: Any = self.loss
        if self.world > 1:
            devices = [self.device] if self.device.type == "cuda" else None
            self.stepped = torch.nn.parallel.DistributedDataParallel(self.loss, device_ids=devices)
        self.position = Position(
            step=0, tokens=0, seconds=0.0, best_step=0, best_loss=math.inf, bad_validations=0, curves=()
        )
        self.curves: list[Record] = []

    def run(self) -> Outcome:
        """Train from the newest valid checkpoint to the end, or until validation no longer improves."""
        self._resume()
        started, before, tokens_before = time.monotonic(), self.position.seconds, self.position.tokens
        self._saved_at = started
        if self.position.step == 0 and not self.curves:
            self._validate(0, 0, 0.0)
        waiting: list[tuple[float, int]] = []
        every = max(1, self.schedule.steps // POINTS)
        while self.position.step < self.schedule.steps and self.position.bad_validations < self.schedule.patience:
            step, cancelled = self.position.step, self._cancelled()
            if cancelled is not None:
                self._save()
                raise cancelled
            loss, learnt = self._step(step)
            waiting.append((loss, learnt))
            tokens = self.schedule.blocks_per_step * self.train_blocks.width
            seconds = before + time.monotonic() - started
            self.position = self.position.model_copy(
                update={"step": step + 1, "tokens": self.position.tokens + tokens, "seconds": seconds}
            )
            if (step + 1) % every == 0 or step + 1 == self.schedule.steps:
                mean = sum(a for a, _ in waiting) / sum(b for _, b in waiting)
                waiting = []
                self._note({"train_loss": mean, "learning_rate": self.schedule.rate(step)})
            if (step + 1) % self.schedule.validate_every == 0 or step + 1 == self.schedule.steps:
                self._validate(step + 1, self.position.tokens, seconds)
                self._save()
            elif time.monotonic() - self._saved_at > self.schedule.checkpoint_seconds:
                self._save()
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

    def _step(self, number: int) -> tuple[float, int]:
        """One optimiser step over this rank's share of the step's blocks; (summed loss, labels learnt) of all ranks."""
        import torch

        schedule = self.schedule
        torch.manual_seed(schedule.seed * 1_000_003 + number * self.world + self.rank)
        everyones = self.order.step(number)
        mine, learnt = everyones[self.rank :: self.world], max(1, self.train_blocks.learnt(everyones))
        for group in self.optimizer.param_groups:
            group["lr"] = schedule.rate(number)
        total = torch.zeros((), device=self.device)
        starts = range(0, len(mine), schedule.blocks_at_once)
        for start in starts:
            ids, labels = self._batch(self.train_blocks, mine[start : start + schedule.blocks_at_once])
            held = self.world > 1 and start != starts[-1]
            with self.stepped.no_sync() if held else contextlib.nullcontext(), self._precision():
                loss = self.stepped(ids, labels)
                (loss * (self.world / learnt)).backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), schedule.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return self._sum(total), learnt

    def _validate(self, step: int, tokens: int, seconds: float) -> None:
        """Take the validation loss on its fixed blocks (the train loss decides when there are none)."""
        import torch

        if len(self.validation_blocks):
            indices = self.validation_blocks.spread(self.schedule.validation_tokens)
            mine, total = indices[self.rank :: self.world], torch.zeros((), device=self.device)
            training = self.model.training
            self.model.eval()
            with torch.no_grad(), self._precision():
                for start in range(0, len(mine), self.schedule.blocks_at_once):
                    total += self.loss(
                        *self._batch(self.validation_blocks, mine[start : start + self.schedule.blocks_at_once])
                    )
            self.model.train(training)
            value = self._sum(total) / max(1, self.validation_blocks.learnt(indices))
            self._note({"validation_loss": value})
        else:
            value = self.curves[-1]["train_loss"] if self.curves else math.inf
        better = value < self.position.best_loss or (step and not self.position.best_step)
        self.position = self.position.model_copy(
            update={
                "best_loss": value if better else self.position.best_loss,
                "best_step": step if better else self.position.best_step,
                "bad_validations": 0 if better else self.position.bad_validations + 1,
            }
        )

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
        self._saved_at = time.monotonic()
        if self.rank != 0:
            return
        position = self.position.model_copy(update={"curves": tuple(self.curves)})
        self.checkpoints.write(position, self.parameters, self.optimizer.state_dict())

    def _resume(self) -> None:
        found = self.checkpoints.newest()
        if found is None:
            return
        position, weights, optimizer = found
        self._put(weights)
        self.optimizer.load_state_dict(optimizer)
        self.position, self.curves = position, [dict(record) for record in position.curves]
        if self.rank == 0:
            for record in self.curves:
                self.observe(record)
            log.info(
                "training goes on from a checkpoint", extra={"data": {"step": position.step, "of": self.schedule.steps}}
            )

    def _restore_best(self) -> None:
        if self.position.best_step not in (0, self.position.step) and (
            best := self.checkpoints.best_weights(self.position)
        ):
            self._put(best)

    def _put(self, weights: dict[str, "Tensor"]) -> None:
        import torch

        if missing := self.parameters.keys() ^ weights.keys():
            raise ValueError(f"the checkpoint's weights are not those of this model: {sorted(missing)[:3]}")
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])

    def _cancelled(self) -> CancelledError | None:
        """Ask whether to go on, all ranks alike: rank 0 reports and hears, the others are told."""
        stop, error = 0.0, None
        if self.rank == 0:
            try:
                self.report(self.position.step / self.schedule.steps, self._message())
            except CancelledError as caught:
                stop, error = 1.0, caught
        if self.world > 1:
            import torch

            stop = self._sum(torch.tensor(stop, device=self.device))
        return error or (CancelledError("The training was asked to stop.") if stop else None)

    def _message(self) -> str:
        last = next((record for record in reversed(self.curves) if "train_loss" in record), None)
        loss = f", loss {last['train_loss']:.3f}" if last else ""
        return f"step {self.position.step}/{self.schedule.steps}{loss}"

    def _batch(self, blocks: Blocks, indices: Any) -> tuple["Tensor", "Tensor"]:
        import torch

        ids, labels = blocks.batch(indices)
        return torch.from_numpy(ids).to(self.device), torch.from_numpy(labels).to(self.device)

    def _sum(self, value: "torch.Tensor") -> float:
        if self.world > 1:
            from torch import distributed

            distributed.all_reduce(value)
        return float(value)

    @contextlib.contextmanager
    def _precision(self) -> Iterator[None]:
        import torch

        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.schedule.bfloat16):
            yield
