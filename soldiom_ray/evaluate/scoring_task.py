"""The scoring of an evaluation's parts: on Ray by as many workers as the recipe or the cluster gives, else in this
process. Both run the same code on the same parts, and a part that is kept is not computed."""

import math
import os
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from soldiom_ray import compute
from soldiom_ray.artifacts import Artifacts, Context
from soldiom_ray.domains.schema import Evaluate
from soldiom_ray.errors import UnavailableError, own_error
from soldiom_ray.evaluate.loaded import LoadedModels, SystemMissingError
from soldiom_ray.evaluate.parts import Part, Payload, Plan, read_part, write_part
from soldiom_ray.evaluate.score import plan_causal
from soldiom_ray.evaluate.score_samples import plan_samples
from soldiom_ray.metrics.measurement import BASE, PREVIOUS, TUNED, Measurement, NothingToScoreError, NotMeasured
from soldiom_ray.models.task_models import TASK_MODELS
from soldiom_ray.records import Manifest
from soldiom_ray.settings import Settings

TICK_SECONDS = 2.0
MOST_LOST = 3
"""How many workers may be lost before the evaluation fails; what they had finished is kept."""
SHOWN = {TUNED: "tuned model", BASE: "base model", PREVIOUS: "version before"}

Done: TypeAlias = Payload | str
"""Of a part: what it came to, or why its system cannot be scored."""


class Worker:
    """Plans, scores and concludes; it holds one loaded model at a time. On Ray an actor with CPUs of its own."""

    def __init__(
        self,
        settings: Settings,
        artifacts: Artifacts | None,
        run: Manifest,
        dataset: Manifest,
        declared: Evaluate,
        previous: Manifest | None,
    ) -> None:
        if artifacts is None:
            artifacts = _artifacts_of_a_worker(settings)
        self.artifacts, self.run, self.dataset, self.declared = artifacts, run, dataset, declared
        self.models = LoadedModels(settings, artifacts, run, previous)

    def is_ready(self) -> bool:
        """Answered once the worker runs."""
        return True

    def plan(self) -> "Plan | NotMeasured":
        """What is to be scored."""
        generates = TASK_MODELS[self.run.details.get("task", "causal_lm")].generates
        try:
            return (plan_causal if generates else plan_samples)(self.models, self.dataset, self.declared)
        except NothingToScoreError as error:
            return NotMeasured(f"{error.what} {error.remedy}")

    def score(self, plan: Plan, part: Part) -> Done:
        """A part, computed and kept, unless another worker did that meanwhile."""
        if (kept := read_part(self.artifacts, self.dataset, part)) is not None:
            return kept
        self.models.check = plan.check
        try:
            payload = plan.compute(self.models, part)
        except SystemMissingError as error:
            return str(error)
        write_part(self.artifacts, self.dataset, part, payload)
        return payload

    def conclude(self, plan: Plan, payloads: Mapping[Part, Payload], missing: Mapping[str, str]) -> Measurement:
        """What all parts come to."""
        self.models.close()
        return plan.measurement(self.artifacts, payloads, missing)


@dataclass(slots=True)
class Progress:
    """What is done of a plan, and what is left to do, in order."""

    plan: Plan
    context: Context
    payloads: dict[Part, Payload] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    pending: "deque[Part]" = field(default_factory=deque)
    message: str = ""

    @classmethod
    def begun(cls, context: Context, dataset: Manifest, plan: Plan) -> "Progress":
        """With what was scored before."""
        progress = cls(plan, context)
        for part in plan.parts:
            if (kept := read_part(context.artifacts, dataset, part)) is not None:
                progress.payloads[part] = kept
            else:
                progress.pending.append(part)
        progress.message = f"{already_there(progress.reused)} were already there" if progress.payloads else "scoring"
        return progress

    @property
    def reused(self) -> dict[str, dict[str, int]]:
        """{scores or answers: {there, of}}, counted in samples, of the parts that are done."""
        counts: dict[str, dict[str, int]] = {}
        for part in self.plan.parts:
            of_work = counts.setdefault(part.work, {"there": 0, "of": 0})
            of_work["of"] += len(part.places)
            of_work["there"] += len(part.places) if part in self.payloads else 0
        return counts

    def add(self, part: Part, done: Done) -> None:
        """Note a part that is done, or that its system cannot be scored."""
        if isinstance(done, str):
            self.missing[part.system] = done
            self.pending = deque(each for each in self.pending if each.system != part.system)
        else:
            self.payloads[part] = done

    def show(self, part: Part) -> None:
        """Say that a part is begun."""
        mine = [each for each in self.plan.parts if (each.system, each.work) == (part.system, part.work)]
        done = sum(len(each.places) for each in mine if each in self.payloads)
        of = sum(len(each.places) for each in mine)
        verb = "scoring" if part.work == "scores" else "asking"
        noun = "samples" if part.work == "scores" else part.work
        self.message = f"{verb} the {SHOWN[part.system]}: {done} of {of} {noun}"
        self.tick()

    def tick(self) -> None:
        """Report; raises where the job was asked to stop."""
        whole = sum(part.effort for part in self.plan.parts) or 1.0
        left = sum(part.effort for part in self.plan.parts if part not in self.payloads)
        self.context.report(0.05 + 0.87 * (1 - left / whole), self.message)


def score_models(
    context: Context, run: Manifest, dataset: Manifest, declared: Evaluate, previous: Manifest | None
) -> Measurement | NotMeasured:
    """Score a run's model and what it is compared with, reporting progress; a cancelled job also stops the workers."""
    import ray

    started = time.monotonic()
    arguments = (run, dataset, declared, previous)
    context.report(0.02, f"loading the tuned model of {run.id}")
    measurement = (_on_ray if ray.is_initialized() else _here)(context, *arguments)
    if isinstance(measurement, NotMeasured):
        return measurement
    return replace(measurement, seconds=round(time.monotonic() - started, 3))


def already_there(reused: Mapping[str, Mapping[str, int]]) -> str:
    """`120 of 240 answers and 30 of 60 scores`, for people."""
    return " and ".join(f"{each['there']} of {each['of']} {work}" for work, each in sorted(reused.items()))


def _here(
    context: Context, run: Manifest, dataset: Manifest, declared: Evaluate, previous: Manifest | None
) -> Measurement | NotMeasured:
    worker = Worker(context.settings, context.artifacts, run, dataset, declared, previous)
    try:
        plan = worker.plan()
        if isinstance(plan, NotMeasured):
            return plan
        progress = Progress.begun(context, dataset, plan)
        reused = progress.reused
        progress.tick()
        while progress.pending:
            part = progress.pending.popleft()
            progress.show(part)
            progress.add(part, worker.score(plan, part))
        return replace(worker.conclude(plan, progress.payloads, progress.missing), reused=reused)
    finally:
        worker.models.close()


def _on_ray(
    context: Context, run: Manifest, dataset: Manifest, declared: Evaluate, previous: Manifest | None
) -> Measurement | NotMeasured:
    workers = Workers(context, (context.settings, None, run, dataset, declared, previous), declared.workers)
    try:
        plan = workers.call("plan")
        if isinstance(plan, NotMeasured):
            return plan
        progress = Progress.begun(context, dataset, plan)
        reused = progress.reused
        progress.tick()
        workers.score_all(progress)
        measurement: Measurement = workers.call("conclude", plan, progress.payloads, progress.missing)
        return replace(measurement, reused=reused)
    finally:
        workers.end()


class Workers:
    """Actors that score. One that is lost is replaced, and its part goes back to the others."""

    def __init__(self, context: Context, arguments: tuple[Any, ...], wanted: int | None) -> None:
        self.context, self.arguments, self.wanted = context, arguments, wanted
        self.actors: list[Any] = []
        self.started = self.lost = 0

    def call(self, method: str, *arguments: Any) -> Any:
        """One call of any worker."""
        import ray

        while True:
            actor = self.actors[0] if self.actors else self._start()
            reference = getattr(actor, method).remote(*arguments)
            while not ray.wait([reference], timeout=TICK_SECONDS)[0]:
                self.context.report(0.05 if method == "plan" else 0.93, "loading" if method == "plan" else "concluding")
            try:
                return _result(reference)
            except _lost_errors() as error:
                self._replace(actor, error)

    def score_all(self, progress: Progress) -> None:
        """Score what is pending. A worker that finds no room in the cluster is not waited for."""
        import ray

        plan = ray.put(progress.plan)
        while len(self.actors) < min(self.wanted or len(_sizes()), len(progress.pending)):
            self._start()
        busy: dict[Any, tuple[Any, Part | None]] = {actor.is_ready.remote(): (actor, None) for actor in self.actors}
        while progress.pending or any(part for _, part in busy.values()):
            ready, _ = ray.wait(list(busy), timeout=TICK_SECONDS)
            if not ready:
                progress.tick()
            for reference in ready:
                actor, part = busy.pop(reference)
                try:
                    done = _result(reference)
                except _lost_errors() as error:
                    actor = self._replace(actor, error)
                    if part is not None:
                        progress.pending.appendleft(part)
                    busy[actor.is_ready.remote()] = (actor, None)
                    continue
                if part is not None:
                    progress.add(part, done)
                if progress.pending:
                    following = progress.pending.popleft()
                    busy[actor.score.remote(plan, following)] = (actor, following)
                    progress.show(following)

    def end(self) -> None:
        """Stop all of them."""
        import ray

        for actor in self.actors:
            ray.kill(actor)
        self.actors = []

    def _start(self) -> Any:
        import ray

        sizes = _sizes()
        cpus, gpus = sizes[self.started % len(sizes)] if sizes else (0, 0)
        each = max(1, math.ceil((self.wanted or 1) / max(1, len(sizes))))
        options = {"num_cpus": max(1, cpus // each) if cpus else 0, "num_gpus": gpus}
        actor = (
            ray.remote(Worker)
            .options(runtime_env={"env_vars": compute.QUIET_THREADS}, **options)
            .remote(*self.arguments)
        )
        self.started += 1
        self.actors.append(actor)
        return actor

    def _replace(self, actor: Any, error: Exception) -> Any:
        self.actors.remove(actor)
        self.lost += 1
        if self.lost > MOST_LOST:
            raise UnavailableError(
                f"{self.lost} processes that scored the models died, most likely because memory ran out.",
                remedy="lower `evaluate.max_tokens` or `evaluate.workers`, or free memory on the node",
            ) from error
        return self._start()


def _sizes() -> list[tuple[int, int]]:
    """(CPUs, GPUs) of the workers that the cluster has room for, the largest first: one for each GPU, else one for each
    node."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    devices = [(int(node.get("CPU", 0) // node["GPU"]), 1) for node in nodes for _ in range(int(node.get("GPU", 0)))]
    plain = [(int(node.get("CPU", 0)), 0) for node in nodes if node.get("CPU", 0) >= 1]
    return sorted(devices or plain, reverse=True)


def _lost_errors() -> tuple[type[Exception], ...]:
    from ray import exceptions

    return exceptions.RayActorError, exceptions.WorkerCrashedError, exceptions.OutOfMemoryError


def _result(reference: Any) -> Any:
    """What a call came to; an error of ours arrives as it was raised."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if (known := own_error(error)) is not None:
            raise known from None
        raise


def _artifacts_of_a_worker(settings: Settings) -> Artifacts:
    """Storage as this process reaches it, which computes with as many threads as it was given CPUs."""
    import ray
    import torch

    from soldiom_ray.storage import open_storage

    assigned = int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))
    torch.set_num_threads(max(1, min(assigned, os.cpu_count() or 1)))
    return Artifacts(open_storage(settings))
