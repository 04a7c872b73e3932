"""The trials of a sweep as they are kept in storage, so that a sweep that was killed goes on where it was."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from soldiom_ray.artifacts import prefix_of
from soldiom_ray.records import Record
from soldiom_ray.storage import Storage

TrialStatus = Literal["running", "completed", "pruned", "failed", "stopped"]
SMALLER_IS_BETTER = ("loss",)


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
