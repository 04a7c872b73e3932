"""A sweep where its job runs: prepare what all trials share, let Ray Tune run them, take the best."""

import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any

from soldiom_ray import tracing
from soldiom_ray.artifacts import Context, Draft, prefix_of
from soldiom_ray.domains.schema import Train, hash_input
from soldiom_ray.domains.search import Sweep, draw_trials
from soldiom_ray.domains.training_size import tokens_to_read, validations
from soldiom_ray.errors import CancelledError, SoldiomError
from soldiom_ray.records import Manifest
from soldiom_ray.train.checkpoints import Checkpoints
from soldiom_ray.train.driver import run_on_ray
from soldiom_ray.train.ray_train import Placement, placement_of, release_after_loss
from soldiom_ray.train.splits import TRAIN
from soldiom_ray.train.sweeps.search import RecordedSearch, Watch, promotions, rungs_of, scheduler_for
from soldiom_ray.train.sweeps.tracking import settle_trials
from soldiom_ray.train.sweeps.trial import TrialSetup, declared_with, marks_of, run_trial
from soldiom_ray.train.sweeps.trials import Measure, Trial, TrialBook, settings_text
from soldiom_ray.train.tracking import Origin, Tracker
from soldiom_ray.train.work import prepare_work

log = logging.getLogger(__name__)
STAGE_VERSION = 1
VALIDATIONS = 8
"""How often each trial is validated where that is left open: at each of them it can be stopped."""
LEAST_VALIDATION_TOKENS = 8192
"""Trials are compared by so much of the validation side at least, more than a single short training spends on it."""
MARKS = 1 << 20
CPUS_PER_TRIAL = 4
"""Beyond these, more threads make one training of a small model little faster, and another trial runs beside it."""
RESTARTS = 3
"""How often trials whose actor was lost are started again."""


def run_sweep(
    context: Context,
    dataset: Manifest,
    declared: Train,
    search: Sweep,
    candidates: Sequence[dict[str, Any]] = (),
    known: Trial | None = None,
    bits_per_loss: Mapping[str, float] | None = None,
) -> tuple[Manifest, Manifest]:
    """Run the trials on the connected Ray: (the run of the best one, the sweep's own artifact, whose details have the
    trials). A sweep made before is returned at once.

    `candidates` are tried instead of settings drawn from the space, after `known`, a trial that was completed before;
    they may name bases, for each of which `bits_per_loss` has its number where the metric is bits_per_byte.
    Killed or cancelled, a second call goes on: trials that have ended stay as they are, the one that was running goes
    on from its newest checkpoint. `context.show` gets the trials whenever one changes. Raises what a training
    with the common settings would raise before it starts, and SoldiomError when every trial fails."""
    declared = declared if declared.validations else declared.model_copy(update={"validations": VALIDATIONS})
    run_draft, work = prepare_work(context, dataset, declared)  # tokenised once, and refused once
    made_from = {
        "code": STAGE_VERSION,
        "declared": hash_input("train", declared),
        "sweep": search.model_dump(mode="json"),
        "dataset": dataset.id,
        "base": run_draft.made_from["base"],
    }
    if candidates:
        made_from["candidates"] = list(candidates)
    draft = context.artifacts.draft("sweep", made_from, parents=[dataset.id])
    if (made := draft.finished()) is not None:
        return context.artifacts.get(made.details["best_run"]), made
    counts = context.artifacts.get(work.tokens).counts if work is not None else {}
    declared = _validated_alike(declared, counts.get(TRAIN))
    if search.metric == "bits_per_byte" and bits_per_loss is None:
        from soldiom_ray.train.sweeps.bases import bits_per_loss as measured

        bits_per_loss = {declared.base_model: measured(context, dataset, declared)}
    measure = Measure(search.metric, bits_per_loss or {})
    return _Search(context, dataset, declared, search, measure, draft, candidates, known).run()


def _validated_alike(declared: Train, epoch_tokens: float | None) -> Train:
    """The shared settings with the same part of the validation side for all trials: left open, it would follow from
    each one's number of passes, and their losses would not compare."""
    if declared.validation_tokens is not None:
        return declared
    run_tokens = tokens_to_read(declared, epoch_tokens) or 0
    tokens = max(LEAST_VALIDATION_TOKENS, validations(declared, run_tokens)[1])
    return declared.model_copy(update={"validation_tokens": tokens})


class _Search:
    """One call of `run_sweep` that has something to do."""

    def __init__(
        self,
        context: Context,
        dataset: Manifest,
        declared: Train,
        search: Sweep,
        measure: Measure,
        draft: Draft,
        candidates: Sequence[dict[str, Any]],
        known: Trial | None,
    ) -> None:
        self.context, self.dataset, self.declared, self.search = context, dataset, declared, search
        self.measure, self.draft = measure, draft
        self.book = TrialBook(context.artifacts.storage, draft.id, search.metric)
        self.drawn = draw_trials(search) if search.searcher == "random" else None
        if candidates:
            self.drawn = ([known.settings] if known else []) + list(candidates)
        if known is not None and known.number not in self.book.trials:
            self.book.put(known)
        self.rungs = rungs_of(search, declared.validations or VALIDATIONS)
        self.most = len(self.drawn) if self.drawn is not None else search.most_trials
        self.spent = sum(trial.seconds for trial in self.book.ended())
        self.began = time.monotonic()

    def run(self) -> tuple[Manifest, Manifest]:
        """Run what is left of the trials, and make the sweep's artifact."""
        parameters = {"sweep": self.search.model_dump(mode="json"), "dataset": self.dataset.id}
        experiment = self.context.recipe or "soldiom"
        origin = Origin(parameters, {"soldiom.dataset": self.dataset.id}, self.dataset.id, self.dataset.counts)
        tracker = Tracker(self.context.settings.mlflow_url, experiment, self.draft.id, origin)
        status, numbers = "FAILED", {}
        try:
            tracker.settle()
            self._run_trials(tracker.run_id, experiment)
            run, sweep = self._finish()
            status, numbers = "FINISHED", {f"best_{self.search.metric}": float(sweep.details["best_value"])}
            return run, sweep
        except CancelledError:
            status = "KILLED"
            raise
        finally:
            statuses = {trial.number: trial.status for trial in self.book.in_order()}
            settle_trials(self.context.settings.mlflow_url, tracker.run_id, statuses)
            tracker.end(status, numbers, {"trials.json": json.dumps(self.book.table(), default=str).encode()})

    def seconds_left(self) -> float | None:
        """Until the budget in minutes is used up; None where there is none."""
        if self.search.minutes is None:
            return None
        return 60 * self.search.minutes - self.spent - (time.monotonic() - self.began)

    def _run_trials(self, parent_run: str | None, experiment: str) -> None:
        concurrent, placement = self._places()
        mark = 1 + secrets.randbelow(1 << 20) * 2
        setup = TrialSetup(
            self.context.settings,
            self.dataset,
            self.declared,
            self.measure,
            experiment,
            self.draft.id,
            parent_run,
            self.context.tenant,
            placement,
            range(mark, mark + MARKS),
            tracing.traceparent(),
        )
        try:
            for _ in range(1 + RESTARTS):
                left = self.most - len(self.book.ended())
                if self._is_over() or (left <= 0 and not promotions(self.book, self.rungs, self.search.reduction)):
                    return
                most_promotions = self.most + len(self.rungs) if self.rungs else 0
                self._tune(setup, max(0, left) + most_promotions, concurrent)
                if not self.book.unfinished():
                    return
        finally:
            release_after_loss(setup.marks)

    def _tune(self, setup: TrialSetup, left: int, concurrent: int) -> None:
        """One run of Ray Tune, to the end of all trials, of the budget or of the job."""
        os.environ |= {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1"}
        from ray import tune
        from ray.tune.execution.placement_groups import PlacementGroupFactory

        def lost(actor: str) -> None:
            """Free what the workers of a lost actor held: the next trial would wait for it for ever."""
            release_after_loss(marks_of(setup.marks, actor))

        mode = self.measure.mode
        watch = Watch(self.book, self._look_for_end, self._shown, lost)
        node = PlacementGroupFactory([{"CPU": 0.0, **_this_node()}])
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(run_trial, setup=setup), node),
            tune_config=tune.TuneConfig(
                metric="value",
                mode=mode,
                search_alg=RecordedSearch(self.book, self.search, self.drawn, mode, self.rungs),
                scheduler=scheduler_for(self.search, self.declared.validations or VALIDATIONS, self.book, mode),
                num_samples=left,
                max_concurrent_trials=concurrent,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=self.draft.id,
                storage_path=str(self.context.settings.home / "ray-tune"),
                callbacks=[watch],
                stop=watch.stopper(),
                verbose=0,
            ),
        )
        logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it misses the result files that are switched off
        try:
            tuner.fit()
        finally:
            shutil.rmtree(self.context.settings.home / "ray-tune" / self.draft.id, ignore_errors=True)
        if watch.cancelled is not None:
            raise watch.cancelled

    def _places(self) -> tuple[int, Placement]:
        """(trials at a time, placement of each one's workers)."""
        import ray

        resources, threads = placement_of(self.declared)
        workers = self.declared.workers
        total = ray.cluster_resources()
        if "GPU" in resources:
            room = int(total.get("GPU", 0)) // workers
            concurrent = min(self.most, self.search.concurrent or max(1, room))
            return concurrent, (resources, threads)
        cpus = int(total.get("CPU", 1))
        concurrent = min(self.most, self.search.concurrent or max(1, cpus // (CPUS_PER_TRIAL * workers)))
        share = int(50 * resources["CPU"] / concurrent) / 100  # half: lost workers are replaced before theirs are freed
        return concurrent, ({"CPU": max(0.01, share)}, max(1, threads // concurrent))

    def _is_over(self) -> bool:
        left = self.seconds_left()
        return left is not None and left <= 0

    def _look_for_end(self) -> bool:
        """Whether the budget is used up; CancelledError when the job was cancelled."""
        ended, best = len(self.book.ended()), self.book.best(("completed", "running"))
        each = self.declared.validations or VALIDATIONS
        running = [len(trial.values) for trial in self.book.in_order() if trial.status == "running"]
        share = (ended + sum(min(1.0, count / each) for count in running)) / self.most
        if (left := self.seconds_left()) is not None and self.search.minutes:
            share = max(share, 1 - left / (60 * self.search.minutes))
        shown = f", best {self.search.metric} {best.value:.4f} ({settings_text(best.settings)})" if best else ""
        counts = "" if self.search.trials is None and self.search.minutes else f" of {self.most}"
        furthest = max(running, default=0)
        where = f", validation {furthest} of {each}" if furthest else ""
        message = f"trial {min(ended + 1, self.most)}{counts}{where}{shown}"
        self.context.report(min(1.0, max(0.0, share)), message)
        return self._is_over()

    def _shown(self) -> None:
        self.context.show({"trials": self.book.table(), "sweep": self.draft.id})

    def _finish(self) -> tuple[Manifest, Manifest]:
        """Take the best trial, and leave no checkpoint of the others."""
        best = self.book.best()
        if best is None and (ahead := self.book.best(("stopped", "pruned", "running"))) is not None:
            self.context.notify([f"The time was over before a trial had ended: trial {ahead.number} is trained on."])
            declared = declared_with(self.declared, ahead.settings)
            run = run_on_ray(self.context, self.dataset, declared)
            value = self.measure.value(run.details["best_validation"], declared.base_model)
            self.book.change(ahead.number, status="completed", run=run.id, values=(*ahead.values, value))
            best = self.book.best()
        if best is None or best.run is None:
            raise self._nothing()
        self._clear_checkpoints()
        self._shown()
        details = {
            "trials": self.book.table(),
            "metric": self.search.metric,
            "best_trial": best.number,
            "best_settings": best.settings,
            "best_run": best.run,
            "best_value": best.value,
        }
        self.draft.write("trials.json", json.dumps([t.model_dump() for t in self.book.in_order()]).encode())
        manifest = self.draft.commit(counts={"trials": len(self.book.trials)}, details=details)
        self.context.artifacts.storage.remove(self.book.prefix)
        return self.context.artifacts.get(best.run), manifest

    def _nothing(self) -> SoldiomError:
        reasons = {trial.reason: trial.number for trial in self.book.in_order() if trial.reason}
        why = "; ".join(f"trial {number}: {reason}" for reason, number in list(reasons.items())[:3])
        if not why:
            return SoldiomError(
                "The time was over before the first validation of the first trial.",
                remedy="give more `minutes`, fewer `epochs`, or a smaller base",
            )
        self.context.artifacts.storage.remove(self.book.prefix)  # so that a second call tries again
        return SoldiomError(
            f"None of the {len(self.book.trials)} trials came to an end ({why}).",
            remedy="narrow `sweep.space` to settings that train, such as a lower learning_rate or a smaller base",
        )

    def _clear_checkpoints(self) -> None:
        for trial in self.book.in_order():
            if trial.run is not None and self.context.artifacts.find(trial.run) is None:
                Checkpoints(self.context.artifacts.storage, f"{prefix_of(trial.run)}/checkpoints").clear()


def _this_node() -> dict[str, float]:
    """A resource that only this node has: trials' actors stay beside the sweep, their workers go anywhere."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == here)
    name = next(name for name in node["Resources"] if name.startswith("node:") and "internal" not in name)
    return {name: 0.001}
