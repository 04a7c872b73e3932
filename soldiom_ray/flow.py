"""Run the stages of a recipe in order; what a Ray job executes.

A stage whose artifact exists already costs nothing and is marked as reused, so running a recipe again continues where
it stopped. All states are written to the database as they change.
"""

import argparse
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from soldiom_ray import batches, compute, logs, tracing
from soldiom_ray.artifacts import Artifacts, Context
from soldiom_ray.db import datasets, documents, evaluations, feedback, jobs, models, watches
from soldiom_ray.db.engine import open_session
from soldiom_ray.db.ownership import act_as, reader_of_job
from soldiom_ray.db.tables import Job
from soldiom_ray.domains.access import access_of_job, check_access
from soldiom_ray.domains.federation import FEDERATION
from soldiom_ray.domains.judge import Judge
from soldiom_ray.domains.names import pin, with_bases
from soldiom_ray.domains.recipes import as_dict, load_recipe, read_stored_recipe, validate_recipe, with_absolute_paths
from soldiom_ray.domains.schema import Recipe
from soldiom_ray.domains.secrets import hide_secrets
from soldiom_ray.errors import CancelledError, InputError, SoldiomError, origin, own_error
from soldiom_ray.heartbeat import Heartbeat
from soldiom_ray.launch import create_job
from soldiom_ray.records import COMMAND_LINE, ENDED, Manifest, now
from soldiom_ray.settings import HOME_TENANT, NO_TOKEN, Settings, load_settings
from soldiom_ray.storage import open_storage

if TYPE_CHECKING:
    from soldiom_ray.evaluate.judge import Judging

STAGES = ("collect", "prepare", "embed", "train", "compress", "evaluate", "register", "deploy")
SOURCE_NAMES = {"files": "user", "database": "user", "url": "user"}
"""Source of a recipe -> source in a dataset's row, where they differ."""
Value = TypeVar("Value")

MEMORY_FAILURES = ("MemoryError", "OutOfMemoryError", "WorkerCrashedError", "ActorDiedError")
"""Exceptions whose usual cause is memory that ran out: Python's, torch's and Ray's, and what Ray says of a process that
the kernel killed."""

logger = logging.getLogger("soldiom_ray.flow")


@dataclass
class WorkflowState:
    """What the stages have made so far, or the recipe has named."""

    documents: list[Manifest] = field(default_factory=list)
    dataset: Manifest | None = None
    index: Manifest | None = None
    run: Manifest | None = None
    sweep: Manifest | None = None
    reasons: list[str] = field(default_factory=list)
    """Why the training has the settings that it has."""
    scores: Manifest | None = None
    version: Manifest | None = None
    model_id: str | None = None
    endpoint: dict[str, Any] | None = None


def declared_stages(recipe: Recipe) -> list[str]:
    """The stages that a recipe names, in order."""
    return [stage for stage in STAGES if _declaration(recipe, stage) is not None]


def run_job(job_id: str) -> int:
    """Run a job whose row is in the database; returns the process's exit code."""
    settings = load_settings()
    logs.start_logging()
    logs.job_id.set(job_id)
    tracing.start_tracing(settings, "job")
    try:
        with tracing.span("job", settings.trace_parent, job=job_id) as mark:
            return _run_job(settings, job_id, mark)
    finally:
        act_as(None)
        tracing.flush()


def _run_job(settings: Settings, job_id: str, mark: tracing.Mark) -> int:
    with open_session(settings) as session:
        job = jobs.get(session, job_id)
        if job.status in ENDED:
            return 0
        mark.rename(f"job {job.kind}")
        access = access_of_job(settings, job.owner, job.tenant)
        act_as(reader_of_job(job))
        jobs.update(session, job_id, status="running", started_at=job.started_at or now(), heartbeat_at=now())
    heartbeat = Heartbeat(settings, job_id)
    try:
        compute.connect(settings)
        signal.signal(signal.SIGTERM, lambda *_: heartbeat.cancelled.set())
        if job.kind == batches.KIND:
            return heartbeat.end("completed", progress=1.0, result=_answer_batch(settings, job, heartbeat))
        recipe = read_stored_recipe(job.config, f"job {job_id}")
        check_access(recipe, access)
        context = Context(
            _tenant_settings(settings, job.tenant),
            Artifacts(open_storage(settings)),
            heartbeat.report,
            job_id,
            job.tenant,
            recipe.name,
            heartbeat.notify,
            access.folders,
            heartbeat.show,
            job.owner,
        )
        with open_session(settings) as session:
            recipe = with_bases(session, recipe, job.tenant)
        outcome = _run_stages(context, recipe, heartbeat)
    except CancelledError:
        return heartbeat.fail(heartbeat.refusal) if heartbeat.refusal else heartbeat.end("cancelled")
    except Exception as error:
        own = own_error(error)
        if own is not None:
            logger.error("job failed", extra={"data": {"type": type(own).__name__, "error": str(own)}})
        else:
            logger.exception("job failed unexpectedly")
        mark.failed(type(own or error).__name__)
        return heartbeat.fail(own or _unexpected(error, heartbeat.stage, job_id))
    return heartbeat.end("completed", progress=1.0, **outcome)


def _answer_batch(settings: Settings, job: Job, heartbeat: Heartbeat) -> dict[str, Any]:
    """Answer the inputs of a batch; the job's result."""
    from soldiom_ray.deploy.batch import answer_batch

    heartbeat.stages, heartbeat.devices = [batches.KIND], 0
    with open_session(settings) as session:
        jobs.set_stage(session, job.id, batches.KIND, position=0, status="running")
    heartbeat.begin(batches.KIND)
    began = time.monotonic()
    result = answer_batch(settings, job, heartbeat.report)
    with open_session(settings) as session:
        done = {"status": "completed", "progress": 1.0, "message": "", "seconds": round(time.monotonic() - began, 2)}
        jobs.set_stage(session, job.id, batches.KIND, **done)
    return result


def _unexpected(error: Exception, stage: str, job_id: str) -> SoldiomError:
    """What the row says of an exception that nobody foresaw: its type and place. Its message, which may hold a user's
    text, stays in the job's log."""
    cause = getattr(error, "cause", None)
    name = type(cause if isinstance(cause, Exception) else error).__name__
    location = origin(error)
    remedy = f"`soldiom jobs logs {job_id}` shows the message and the traceback"
    if name in MEMORY_FAILURES:
        remedy = f"free memory or ask for less of it (fewer workers, shorter sequences, smaller batches); {remedy}"
    return SoldiomError(f"{name} in stage {stage or 'start'}{f', at {location}' if location else ''}.", remedy=remedy)


def _tenant_settings(settings: Settings, tenant: str) -> Settings:
    """The settings of a tenant's job: the token that opens gated and private models of the Hub is the home's own, and
    so are the copies that were made with it."""
    is_own = tenant == HOME_TENANT or settings.hf_token is None
    return settings if is_own else replace(settings, hf_token=NO_TOKEN)


def _run_stages(context: Context, recipe: Recipe, heartbeat: Heartbeat) -> dict[str, Any]:
    """Run what the recipe declares; the columns `metrics` and `result` of the job's row."""
    settings, job_id = context.settings, context.job_id
    state = _initial_state(context, recipe)
    _check_base(context, recipe)
    heartbeat.stages = declared_stages(recipe)
    with open_session(settings) as session:
        for position, stage in enumerate(heartbeat.stages):
            jobs.set_stage(session, job_id, stage, position=position, status="pending")
    for stage in heartbeat.stages:
        logs.stage.set(stage)
        with open_session(settings) as session:
            jobs.set_stage(session, job_id, stage, status="running")
        heartbeat.begin(stage)
        heartbeat.devices = recipe.train.workers if stage == "train" and recipe.train else 1
        with tracing.span(f"stage {stage}"):
            _run_stage(context, recipe, stage, state)
    return {"metrics": state.scores.details if state.scores else {}, "result": _result(state)}


def _run_stage(context: Context, recipe: Recipe, stage: str, state: WorkflowState) -> None:
    """Run one stage and record what it made."""
    began, started = now(), time.monotonic()
    manifest = RUN[stage](context, recipe, state)
    reused = manifest.created_at < began if manifest else bool((state.endpoint or {}).get("reused"))
    _record(context, recipe, stage, manifest)
    seconds = round(time.monotonic() - started, 2)
    with open_session(context.settings) as session:
        jobs.set_stage(
            session,
            context.job_id,
            stage,
            status="completed",
            progress=1.0,
            message="",
            seconds=seconds,
            reused=reused,
            artifact_id=manifest.id if manifest else None,
            details=_stage_details(stage, manifest, state),
        )
    logger.info("stage done", extra={"data": {"seconds": seconds, "reused": reused}})


def _initial_state(context: Context, recipe: Recipe) -> WorkflowState:
    """The artifacts that the recipe names by id instead of making them."""
    state = WorkflowState()
    artifacts = context.artifacts
    with open_session(context.settings) as session:
        for name in recipe.documents:
            state.documents.append(artifacts.get(datasets.get(session, name, context.tenant).artifact_id))
        if recipe.dataset:
            state.dataset = artifacts.get(datasets.get(session, recipe.dataset, context.tenant).artifact_id)
    if recipe.run:
        state.run = artifacts.get(recipe.run)
        state.dataset = state.dataset or artifacts.get(state.run.parents[0])
    if recipe.version:
        state.model_id = recipe.version
    return state


def _check_base(context: Context, recipe: Recipe) -> None:
    """InputError for a base that cannot be trained, before the stages that come first cost anything."""
    train = recipe.train
    if train is None or not train.base_model or train.base_model.startswith(("builtin/", "run-")):
        return
    if declared_stages(recipe)[0] == "train":
        return  # which checks it first of all
    from soldiom_ray.models.base_check import check_base
    from soldiom_ray.models.planning.headers import model_description

    with model_description(context.settings, context.artifacts, train.base_model) as (folder, _):
        check_base(folder, train)


def _collect(context: Context, recipe: Recipe, state: WorkflowState) -> Manifest:
    from soldiom_ray.collect import collect

    collected = collect(context, recipe.collect or ())
    state.documents.insert(0, collected)
    return collected


def _prepare(context: Context, recipe: Recipe, state: WorkflowState) -> Manifest:
    from soldiom_ray.prepare import prepare

    state.dataset = prepare(context, state.documents, _require(recipe.prepare, "prepare"))
    return state.dataset


def _embed(context: Context, recipe: Recipe, state: WorkflowState) -> Manifest:
    from soldiom_ray.embed import embed
    from soldiom_ray.embed.serve import serve_search

    state.index = embed(context, _require(state.dataset, "dataset"), _require(recipe.embed, "embed"))
    serve_search(context.settings)
    return state.index


def _train(context: Context, recipe: Recipe, state: WorkflowState) -> Manifest:
    from soldiom_ray.train import sweep, train, train_auto

    if recipe.federate is not None:
        from soldiom_ray.federate import federate

        state.run = federate(context, _require(recipe.train, "train"), recipe.federate)
        return state.run
    dataset, declared = _require(state.dataset, "dataset"), _require(recipe.train, "train")
    if recipe.auto is not None:
        state.run, state.sweep, state.reasons = train_auto(context, dataset, declared, recipe.auto)
    elif recipe.sweep is not None:
        state.run, state.sweep = sweep(context, dataset, declared, recipe.sweep)
    else:
        state.run = train(context, dataset, declared)
    return state.run


def _compress(context: Context, recipe: Recipe, state: WorkflowState) -> Manifest:
    from soldiom_ray.compress import compress

    run, declared = _require(state.run, "run"), _require(recipe.compress, "compress")
    with open_session(context.settings) as session:
        if models.of_run(session, run.id, context.tenant) is None:
            raise InputError(f"The run {run.id} is not registered.", remedy="register it first, and name the model")
    state.run = compress(context, run, declared)
    return state.run


def _evaluate(context: Context, recipe: Recipe, state: WorkflowState) -> Manifest:
    from soldiom_ray.evaluate import evaluate

    run, dataset = _require(state.run, "run"), _require(state.dataset, "dataset")
    previous, declared = _previous_run(context, recipe, run), _require(recipe.evaluate, "evaluate")
    judging = reach_judge(context, declared.judge) if declared.judge else None
    state.scores = evaluate(context, run, dataset, declared, previous, judging)
    with open_session(context.settings) as session:
        evaluations.record(
            session,
            run_artifact=run.id,
            scores=state.scores.details,
            scores_artifact=state.scores.id,
            tenant=context.tenant,
            owner=context.owner,
        )
    return state.scores


def reach_judge(context: Context, judge: Judge) -> "Judging":
    """The judge with the way to it: the key of the home goes to the home's own address alone, which may be private, and
    a recipe's own address is checked as every address of a user is. InputError where none is named."""
    from functools import partial

    from soldiom_ray.collect.http.post import post_json
    from soldiom_ray.evaluate.judge import Judging

    settings = context.settings
    url = judge.url or settings.judge_url
    if url is None:
        raise InputError("`evaluate.judge` has no address.", remedy="set `evaluate.judge.url`, or SOLDIOM_JUDGE_URL")
    is_own = url == settings.judge_url
    headers = {"Authorization": f"Bearer {settings.judge_api_key}"} if is_own and settings.judge_api_key else {}
    send = partial(
        post_json,
        f"{url}/chat/completions",
        headers,
        allowed=settings.private_hosts,
        private=judge.private or is_own,
        seconds=judge.timeout_seconds,
    )
    return Judging(judge, url, send, _rated_pairs(context, judge.ratings))


def _rated_pairs(context: Context, limit: int) -> list[feedback.RatedPair]:
    if not limit:
        return []
    with open_session(context.settings) as session:
        return feedback.rated_pairs(session, context.tenant, context.settings.encryption_keys, limit)


def _previous_run(context: Context, recipe: Recipe, run: Manifest) -> Manifest | None:
    """The run of the version that this one would follow as the champion of its name; None for a first version."""
    family = recipe.register_.family if recipe.register_ else "fine-tuned"
    name = (recipe.register_ and recipe.register_.name) or recipe.name
    with open_session(context.settings) as session:
        before = models.champion_before(session, context.tenant, family, name, run.id, context.owner)
    manifest = context.artifacts.find(before) if before else None
    return manifest if manifest and manifest.details.get("task") == run.details.get("task") else None


def _register(context: Context, recipe: Recipe, state: WorkflowState) -> Manifest:
    from soldiom_ray.register import register

    declared = _require(recipe.register_, "register")
    name = declared.name or recipe.name
    run = _require(state.run, "run")
    dataset = _require(state.dataset, "dataset") if recipe.federate is None else context.artifacts.get(run.parents[0])
    state.version = register(context, name, run, state.scores, dataset, declared, state.reasons)
    state.model_id = str(state.version.details["model_id"])
    return state.version


def _deploy(context: Context, recipe: Recipe, state: WorkflowState) -> None:
    from soldiom_ray.deploy import deploy

    declared, model_id = _require(recipe.deploy, "deploy"), _require(state.model_id, "version")
    if declared.only == "promoted":
        with open_session(context.settings) as session:
            gate = models.get(session, model_id, context.tenant).gate
        if not gate.get("promoted"):
            state.endpoint = {"model_id": model_id, "deployed": False, "notes": [NOT_PROMOTED]}
            return
    state.endpoint = dict(deploy(context, model_id, declared.model_copy(update={"only": None})))
    if declared.only == "promoted" or declared.is_canary:
        with open_session(context.settings) as session:
            version = models.get(session, model_id, context.tenant)
            row = watches.begin(session, version, again=declared.is_canary)
            state.endpoint["watched_until"] = row.ends_at.isoformat() if row else None


NOT_PROMOTED = "the version is not served: its gate did not pass"

RUN: dict[str, Callable[[Context, Recipe, WorkflowState], Manifest | None]] = {
    "collect": _collect,
    "prepare": _prepare,
    "embed": _embed,
    "train": _train,
    "compress": _compress,
    "evaluate": _evaluate,
    "register": _register,
    "deploy": _deploy,
}


def _require(value: Value | None, name: str) -> Value:
    if value is None:
        raise InputError(f"The recipe names no {name}.", remedy=f"add the stage that makes a {name}, or its id")
    return value


def _declaration(recipe: Recipe, stage: str) -> object:
    return recipe.register_ if stage == "register" else getattr(recipe, stage)


def _record(context: Context, recipe: Recipe, stage: str, manifest: Manifest | None) -> None:
    """Write the row of an artifact that users refer to by id: documents, a dataset or an index."""
    kinds = {"collect": "documents", "prepare": "dataset", "embed": "index"}
    if manifest is None or stage not in kinds:
        return
    names = {SOURCE_NAMES.get(source.source, source.source) for source in recipe.collect or ()}
    source = next(iter(sorted(names)), "local")
    with open_session(context.settings) as session:
        if stage == "collect":
            documents.record(session, manifest.id, context.artifacts.rows(manifest, "documents/", documents.COLUMNS))
        datasets.record(
            session,
            manifest,
            name=recipe.name,
            source=source,
            stage=kinds[stage],
            data_type=str(manifest.details.get("data_type", "text")),
            tenant=context.tenant,
            owner=context.owner,
        )


def _stage_details(stage: str, manifest: Manifest | None, state: WorkflowState) -> dict[str, Any]:
    if stage == "deploy":
        return state.endpoint or {}
    if manifest is None:
        return {}
    small = {
        key: value
        for key, value in manifest.details.items()
        if key in ("notes", FEDERATION) or len(json.dumps(value, default=str)) < 2000
    }
    if stage == "train" and state.sweep is not None:
        small |= {"sweep": state.sweep.id, "trials": state.sweep.details["trials"]}
        small["notes"] = [*small.get("notes", ()), *state.reasons]
    return {"counts": manifest.counts, **small}


def _result(state: WorkflowState) -> dict[str, Any]:
    return {
        "documents": [manifest.id for manifest in state.documents],
        "dataset": state.dataset.id if state.dataset else None,
        "index": state.index.id if state.index else None,
        "run": state.run.id if state.run else None,
        "sweep": state.sweep.id if state.sweep else None,
        "scores": state.scores.id if state.scores else None,
        "version": state.version.id if state.version else None,
        "model_id": state.model_id,
        "endpoint": state.endpoint,
    }


def main(stage: str | None = None, arguments: Sequence[str] | None = None) -> int:
    """Run a recipe, or one of its stages, in this process, which is a Ray job: the entry point of the scripts in jobs/.
    Returns the exit code."""
    options = _parse(stage, arguments)
    try:
        settings = load_settings()
        recipe = hide_secrets(settings, _recipe(options, stage), HOME_TENANT)
        with open_session(settings) as session:
            recipe = pin(session, recipe, HOME_TENANT)
            job = create_job(session, recipe, kind=stage or "workflow", owner=COMMAND_LINE)
            jobs.update(session, job.id, submission_id=_submission_id())
            job_id = job.id
    except SoldiomError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"job {job_id}", flush=True)
    code = run_job(job_id)
    with open_session(settings) as session:
        job = jobs.get(session, job_id)
        print(json.dumps(jobs.as_dict(job, jobs.stages(session, job_id)), indent=2, default=str))
    return code


INPUTS = {"documents": "collected documents", "dataset": "a dataset", "run": "a run", "version": "a model"}
"""Keys of a recipe that refer to an existing artifact, also options of the scripts in jobs/."""


def _parse(stage: str | None, arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=f"Run {'the whole workflow' if stage is None else 'stage ' + stage}.")
    parser.add_argument("recipe", type=Path, help="a recipe file (YAML)")
    for name, noun in INPUTS.items():
        action = "append" if name == "documents" else "store"
        parser.add_argument(f"--{name}", help=f"id of {noun} made before", action=action)
    return parser.parse_args(arguments)


def _recipe(options: argparse.Namespace, stage: str | None) -> Recipe:
    """The recipe of the file, with the headings of one stage only if one is named, and with the ids of the options."""
    content = as_dict(load_recipe(options.recipe))
    if stage is not None:
        if stage not in content:
            raise InputError(f"{options.recipe} has no heading `{stage}`.", remedy="add it, or run jobs/workflow.py")
        content = {key: value for key, value in content.items() if key not in STAGES or key == stage}
    content |= {name: value for name in INPUTS if (value := getattr(options, name))}
    return with_absolute_paths(validate_recipe(content, str(options.recipe)))


def restore() -> int:
    """Restore the endpoints that ran before the services stopped, and collections that Chroma lacks, as in a home that
    was made from a backup; returns the exit code."""
    from soldiom_ray.deploy import restore as restore_models
    from soldiom_ray.embed.serve import serve_search

    settings = load_settings()
    logs.start_logging()
    compute.connect(settings)
    if fill_collections(settings):
        serve_search(settings)
    restore_models(settings)
    return 0


def fill_collections(settings: Settings) -> int:
    """Let Chroma hold what every index has, from storage; returns how many there are. One whose files are gone is
    left as it is."""
    from soldiom_ray.embed.index import repair

    artifacts, cursor, indexes = Artifacts(open_storage(settings)), None, list[str]()
    with open_session(settings) as session:
        while True:
            rows, cursor = datasets.list_datasets(session, None, stage="index", cursor=cursor)
            indexes += [row.artifact_id for row in rows]
            if cursor is None:
                break
    for index in dict.fromkeys(indexes):
        try:
            repair(Context(settings, artifacts, lambda *_: None), artifacts.get(index))
        except SoldiomError as error:
            logger.warning("collection not filled", extra={"data": {"index": index, "reason": error.what}})
    return len(indexes)


def _submission_id() -> str | None:
    """Ray's id of the job that this process is, or None."""
    try:
        config = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
        return str(config["metadata"]["job_submission_id"])
    except (ValueError, KeyError):
        return None


if __name__ == "__main__":
    # Run as `python -m soldiom_ray.flow JOB`: os._exit skips the slow teardown of libraries once the row is written.
    code = restore() if sys.argv[1] == "--restore" else run_job(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
