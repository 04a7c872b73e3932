"""Ray Tune's parts of a sweep: which settings come next, which trials are stopped early, what is written down."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from soldiom_ray.domains.search import Domain, Sweep
from soldiom_ray.errors import CancelledError, InputError
from soldiom_ray.train.sweeps.trials import SMALLER_IS_BETTER, Trial, TrialBook


class RecordedSearch(Searcher):  # type: ignore[misc]  # Ray does not type it
    """Hands out the settings of unfinished trials first, then new ones, drawn before or by Optuna, then, where trials
    wait at `rungs`, those that go on; every trial gets its number and a place in the book."""

    def __init__(
        self,
        book: TrialBook,
        sweep: Sweep,
        drawn: list[dict[str, Any]] | None,
        mode: str,
        rungs: Sequence[int] = (),
    ) -> None:
        super().__init__(metric="value", mode=mode)
        self.book, self.sweep, self.rungs = book, sweep, rungs
        self.again = book.unfinished()
        self.promoted: list[tuple[Trial, int | None]] = []
        self.live: set[str] = set()
        self.drawn = None if drawn is None else drawn[len(book.trials) :]
        self.optuna = _optuna(book, sweep, mode) if drawn is None else None
        self.by_optuna: set[str] = set()

    def suggest(self, trial_id: str) -> Any:
        """{number, settings, until} of the next trial, which stops at the validation `until`; None: to its end. None
        while it is not known yet."""
        until = self.rungs[0] if self.rungs else None
        if self.again:
            trial = self.again.pop(0)
            return self._handed_out(trial_id, trial, until)
        if len(self.book.trials) >= self.sweep.most_trials:
            return self._promotion(trial_id)
        if self.optuna is not None:
            settings = self.optuna.suggest(trial_id)
            self.by_optuna.add(trial_id)
        elif self.drawn:
            settings = self.drawn.pop(0)
        else:
            return self._promotion(trial_id)
        trial = Trial(number=len(self.book.trials) + 1, settings=dict(settings))
        self.book.put(trial)
        return self._handed_out(trial_id, trial, until)

    def _handed_out(self, trial_id: str, trial: Trial, until: int | None) -> dict[str, Any]:
        self.live.add(trial_id)
        return {"number": trial.number, "settings": dict(trial.settings), "until": until}

    def _promotion(self, trial_id: str) -> Any:
        if not self.promoted and not self.live:
            self.promoted = promotions(self.book, self.rungs, self.sweep.reduction)
        if self.promoted:
            return self._handed_out(trial_id, *self.promoted.pop(0))
        return None if self.live and self.rungs else Searcher.FINISHED

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray Tune writes its parts to disk to begin again from them; a sweep begins again from its book."""
        return {}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Let Optuna know how its settings did."""
        self.live.discard(trial_id)
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


def rungs_of(sweep: Sweep, validations: int) -> list[int]:
    """The validations at which all trials wait for one another; none with other schedulers than `halving`."""
    if sweep.scheduler != "halving":
        return []
    rungs = [1]
    while rungs[-1] * sweep.reduction < validations:
        rungs.append(rungs[-1] * sweep.reduction)
    return rungs


def promotions(book: TrialBook, rungs: Sequence[int], reduction: int) -> list[tuple[Trial, int | None]]:
    """(trial, the rung that it goes on to, None: its end) of the lowest rung at which some are due, the best first: one
    in `reduction` of those that reached it, and one at least (successive halving, Jamieson and Talwalkar 2016).

    It follows from the book alone, so that a sweep that was killed goes on."""
    sign = 1.0 if book.metric in SMALLER_IS_BETTER else -1.0
    for rung, following in zip(rungs, [*rungs[1:], None], strict=True):
        reached = [trial for trial in book.in_order() if len(trial.values) >= rung]
        best = sorted(reached, key=lambda trial: sign * trial.values[rung - 1])[: math.ceil(len(reached) / reduction)]
        waiting = [t for t in best if t.status == "pruned" and (following is None or len(t.values) < following)]
        if waiting:
            return [(trial, following) for trial in waiting]
    return []


class _StopAtRung(FIFOScheduler):  # type: ignore[misc]
    """Ends a trial for now at the validation that its search named."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        until = trial.config["until"]
        is_due = until is not None and result["validated"] >= until and not result.get("finished")
        return str(TrialScheduler.STOP if is_due else TrialScheduler.CONTINUE)


def scheduler_for(sweep: Sweep, validations: int, book: TrialBook, mode: str) -> TrialScheduler:
    """The scheduler, with what earlier trials of this sweep reached at each rung: Ray Tune itself forgets that when it
    is started again."""
    if sweep.scheduler == "none":
        return FIFOScheduler()
    if sweep.scheduler == "halving":
        return _StopAtRung()
    asha = ASHAScheduler(time_attr="validated", max_t=validations + 1, grace_period=1, reduction_factor=sweep.reduction)
    sign = 1.0 if mode == "max" else -1.0
    for bracket in asha._brackets:
        for milestone, recorded in bracket._rungs:
            for trial in book.ended():
                if len(trial.values) >= milestone:
                    recorded[f"earlier-{trial.number}"] = sign * trial.values[int(milestone) - 1]
    return asha


class Watch(tune.Callback):  # type: ignore[misc]
    """Writes what trials report into the book, looks whether the sweep is to end, and tells of actors that were lost:
    `lost` gets the actor's id."""

    def __init__(
        self,
        book: TrialBook,
        look_for_end: Callable[[], bool],
        changed: Callable[[], None],
        lost: Callable[[str], None],
    ) -> None:
        self.book, self.look_for_end, self.changed, self.lost = book, look_for_end, changed, lost
        self.actors: dict[int, str] = {}
        """Trial -> the actor that it runs in."""
        self.seconds_before: dict[int, float] = {}
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
        number = trial.config["number"]
        self.actors[number] = trial.temporary_state.ray_actor._actor_id.hex()
        known = self.book.trials[number]
        self.seconds_before[number] = known.seconds if known.status == "pruned" else 0.0  # it goes on from a rung
        self.book.change(number, status="running", values=(), seconds=self.seconds_before[number])
        self.changed()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A validation, or the last report."""
        number = trial.config["number"]
        known = self.book.trials[number]
        changes: dict[str, Any] = {name: result[name] for name in ("start_seconds", "run")}
        changes["seconds"] = self.seconds_before[number] + result["seconds"]
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
        actor = self.actors.pop(trial.config["number"], None)
        if actor is not None:
            self.lost(actor)
            return
        running = {self.actors.get(each.config["number"]) for each in trials if each.status == "RUNNING"}
        for idle in set(self.actors.values()) - running:  # in one of them it was to begin; Ray Tune does not say which
            self.lost(idle)


class _Stopper(Stopper):  # type: ignore[misc]
    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.watch.look()
