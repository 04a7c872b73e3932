"""The trials of a sweep as they are kept in storage, so that a sweep that was killed goes on where it was."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from soldiom_ray.artifacts import prefix_of
from soldiom_ray.errors import SoldiomError
from soldiom_ray.records import Record
from soldiom_ray.storage import Storage

TrialStatus = Literal["running", "completed", "pruned", "failed", "stopped"]
SMALLER_IS_BETTER = ("loss", "bits_per_byte")


class Trial(Record):
    """One trial: its settings, what it reached, and how it ended."""

    number: int
    settings: dict[str, Any]
    status: TrialStatus = "running"
    values: tuple[float, ...] = ()
    """The best value until each validation, in order."""
    run: str | None = None
    """Its run's id; only a completed trial's run exists, the others have left checkpoints at most."""
    seconds: float = 0.0
    start_seconds: float = 0.0
    """Of these, until the first step: workers that start, the model that is loaded."""
    reason: str = ""
    """Why it failed."""

    @property
    def value(self) -> float | None:
        """The best value that it reached."""
        return self.values[-1] if self.values else None


@dataclass(frozen=True)
class Measure:
    """What trials are compared by. `bits_per_loss` has for each base what turns its loss per token into bits per byte:
    losses per token of two tokenizers do not compare."""

    metric: str
    bits_per_loss: Mapping[str, float] = field(default_factory=dict)

    @property
    def mode(self) -> str:
        """Ray Tune's word for whether less is better."""
        return "min" if self.metric in SMALLER_IS_BETTER else "max"

    def value(self, point: Mapping[str, float], base: str) -> float:
        """The metric at a validation of a training of this base; SoldiomError where its task does not have it."""
        if self.metric == "bits_per_byte":
            return float(point["validation_loss"]) * self.bits_per_loss[base]
        name = f"validation_{self.metric}"
        if name not in point:
            known = ", ".join(key.removeprefix("validation_") for key in point if key.startswith("validation_"))
            raise SoldiomError(f"The metric {self.metric!r} is not measured; known here: {known}.")
        return float(point[name])


class TrialBook:
    """The trials of one sweep. Only the sweep's driver writes."""

    def __init__(self, storage: Storage, sweep_id: str, metric: str) -> None:
        self.storage, self.prefix, self.metric = storage, f"{prefix_of(sweep_id)}/trials", metric
        self.trials: dict[int, Trial] = {}
        for key in storage.keys(self.prefix):
            trial = Trial.model_validate_json(storage.read(key))
            self.trials[trial.number] = trial

    def put(self, trial: Trial) -> None:
        """Write a trial's new state."""
        self.trials[trial.number] = trial
        self.storage.write(f"{self.prefix}/{trial.number:04d}.json", trial.model_dump_json().encode())

    def change(self, number: int, **values: Any) -> None:
        """Change some of a trial's state."""
        self.put(self.trials[number].model_copy(update=values))

    def unfinished(self) -> list[Trial]:
        """Trials that were running when the sweep was stopped."""
        return [trial for trial in self.in_order() if trial.status in ("running", "stopped")]

    def ended(self) -> list[Trial]:
        """Trials that have nothing left to do."""
        return [trial for trial in self.in_order() if trial.status not in ("running", "stopped")]

    def in_order(self) -> list[Trial]:
        """All trials by number."""
        return [self.trials[number] for number in sorted(self.trials)]

    def best(self, statuses: Iterable[TrialStatus] = ("completed",)) -> Trial | None:
        """The best trial among those of these statuses."""
        scored = [trial for trial in self.in_order() if trial.status in statuses and trial.value is not None]
        sign = 1 if self.metric in SMALLER_IS_BETTER else -1
        return min(scored, key=lambda trial: sign * (trial.value or 0.0), default=None)

    def table(self) -> list[dict[str, Any]]:
        """The trials as rows for people, with the settings under `settings`."""
        best = self.best()
        return [
            {
                "trial": trial.number,
                "settings": trial.settings,
                "status": "best" if best is not None and trial.number == best.number else trial.status,
                self.metric: None if trial.value is None else round(trial.value, 5),
                "validations": len(trial.values),
                "seconds": round(trial.seconds, 1),
                "start_seconds": round(trial.start_seconds, 1),
                "reason": trial.reason,
            }
            for trial in self.in_order()
        ]


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings on one line."""
    shown = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in settings.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items())
