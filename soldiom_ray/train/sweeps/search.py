"""Ray Tune's parts of a sweep: which settings come next, which trials are stopped early, what is written down."""

from collections.abc import Callable
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from soldiom_ray.domains.search import Domain, Sweep
from soldiom_ray.errors import CancelledError, InputError
from soldiom_ray.train.sweeps.trials import Trial, TrialBook


class RecordedSearch(Searcher):  # type: ignore[misc]  # Ray does not type it
    """Hands out the settings of unfinished trials first, then new ones, drawn before or by Optuna; every trial gets its
    number and a place in the book."""

    def __init__(self, book: TrialBook, sweep: Sweep, drawn: list[dict[str, Any]] | None, mode: str) -> None:
        super().__init__(metric="value", mode=mode)
        self.book, self.sweep = book, sweep
        self.again = book.unfinished()
        self.drawn = None if drawn is None else drawn[len(book.trials) :]
        self.optuna = _optuna(book, sweep, mode) if drawn is None else None
        self.by_optuna: set[str] = set()

    def suggest(self, trial_id: str) -> Any:
        """{number, settings} of the next trial."""
        if self.again:
            trial = self.again.pop(0)
            return {"number": trial.number, "settings": trial.settings}
        if self.optuna is not None:
            settings = self.optuna.suggest(trial_id)
            self.by_optuna.add(trial_id)
        elif self.drawn:
            settings = self.drawn.pop(0)
        else:
            return Searcher.FINISHED
        number = len(self.book.trials) + 1
        self.book.put(Trial(number=number, settings=dict(settings)))
        return {"number": number, "settings": dict(settings)}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray Tune writes its parts to disk to begin again from them; a sweep begins again from its book."""
        return {}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Let Optuna know how its settings did."""
        if trial_id in self.by_optuna and self.optuna is not None:
            self.optuna.on_trial_complete(trial_id, result, error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the book has it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the book has it."""


def _optuna(book: TrialBook, sweep: Sweep, mode: str) -> Any:
    try:
        import optuna
        from ray.tune.search.optuna import OptunaSearch
    except ImportError as error:
        raise InputError(
            "sweep.searcher is optuna, which is not installed.",
            remedy="pip install 'soldiom-ray[models]', or use searcher: random",
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seen = [trial for trial in book.ended() if trial.value is not None]
    search = OptunaSearch(
        metric="value",
        mode=mode,
        sampler=optuna.samplers.TPESampler(seed=sweep.seed + len(seen), n_startup_trials=4),
        points_to_evaluate=[trial.settings for trial in seen] or None,
        evaluated_rewards=[trial.value for trial in seen] or None,
    )
    search.set_search_properties("value", mode, {name: _tune_domain(each) for name, each in sweep.domains.items()})
    return search


def _tune_domain(domain: Domain) -> Any:
    if domain.kind == "choice":
        return tune.choice(list(domain.choices))
    if domain.kind == "integers":
        return tune.randint(int(domain.low), int(domain.high) + 1)
    return (tune.uniform if domain.kind == "uniform" else tune.loguniform)(domain.low, domain.high)


def scheduler_for(sweep: Sweep, validations: int, book: TrialBook, mode: str) -> TrialScheduler:
    """The scheduler, with what earlier trials of this sweep reached at each rung: Ray Tune itself forgets that when it
    is started again."""
    if sweep.scheduler == "none":
        return FIFOScheduler()
    asha = ASHAScheduler(time_attr="validated", max_t=validations + 1, grace_period=1, reduction_factor=sweep.reduction)
    sign = 1.0 if mode == "max" else -1.0
    for bracket in asha._brackets:
        for milestone, recorded in bracket._rungs:
            for trial in book.ended():
                if len(trial.values) >= milestone:
                    recorded[f"earlier-{trial.number}"] = sign * trial.values[int(milestone) - 1]
    return asha


class Watch(tune.Callback):  # type: ignore[misc]
    """Writes what trials report into the book, looks whether the sweep is to end, and tells of trials whose actor was
    lost: `lost` gets the first mark of what that reserved, None where it had not reported yet."""

    def __init__(
        self,
        book: TrialBook,
        look_for_end: Callable[[], bool],
        changed: Callable[[], None],
        lost: Callable[[int | None], None],
    ) -> None:
        self.book, self.look_for_end, self.changed, self.lost = book, look_for_end, changed, lost
        self.first_marks: dict[int, int] = {}
        self.cancelled: CancelledError | None = None
        self.is_over = False

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, as of `RecordedSearch`: its functions hold on to the job's connections."""
        return {}

    def stopper(self) -> Stopper:
        """Ends all trials when the budget is used up or the job is cancelled."""
        return _Stopper(self)

    def look(self) -> bool:
        """Whether the sweep is to end now."""
        if not self.is_over:
            try:
                self.is_over = self.look_for_end()
            except CancelledError as error:
                self.cancelled, self.is_over = error, True
        return self.is_over

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial begins, or begins again."""
        self.book.change(trial.config["number"], status="running", values=(), seconds=0.0)
        self.changed()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A validation, or the last report."""
        number = trial.config["number"]
        self.first_marks[number] = result["first_mark"]
        known = self.book.trials[number]
        changes: dict[str, Any] = {name: result[name] for name in ("seconds", "start_seconds", "run")}
        if result.get("finished"):
            values = known.values or ((result["value"],) if result.get("value") is not None else ())
            changes |= {"status": "completed", "values": values}
        elif "failure" in result:
            changes |= {"status": "failed", "reason": result["failure"]}
        elif "value" in result:
            changes["values"] = (*known.values, result["value"])
        self.book.change(number, **changes)
        self.changed()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has ended, or was stopped."""
        number = trial.config["number"]
        if self.book.trials[number].status == "running":
            self.book.change(number, status="stopped" if self.is_over else "pruned")
            self.changed()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial's actor was lost. The book has it as running, so that it is started again."""
        self.lost(self.first_marks.get(trial.config["number"]))


class _Stopper(Stopper):  # type: ignore[misc]
    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.watch.look()
