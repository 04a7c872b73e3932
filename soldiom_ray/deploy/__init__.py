"""deploy: a version becomes an endpoint on Ray Serve."""

import logging
import time
from typing import TYPE_CHECKING, Any

from soldiom_ray.artifacts import Context
from soldiom_ray.domains.schema import Deploy
from soldiom_ray.errors import InputError, SoldiomError
from soldiom_ray.models.task_models import TASK_MODELS
from soldiom_ray.records import Manifest
from soldiom_ray.settings import Settings

if TYPE_CHECKING:
    from soldiom_ray.db.tables import Model
    from soldiom_ray.deploy.rollout import Endpoint

logger = logging.getLogger(__name__)


def deploy(context: Context, version_id: str, declared: Deploy) -> dict[str, Any]:
    """Serve a model of the registry (its id, or the id of a version artifact) and answer one request with it.

    Returns {reused, model_id, app, replicas, seconds, answer, url}. NotFoundError when the model or its run does not
    exist; UnavailableError when it cannot be loaded or does not answer: an endpoint that served this model before then
    goes on as it was.
    """
    from soldiom_ray.db import models
    from soldiom_ray.db.engine import open_session
    from soldiom_ray.deploy import rollout
    from soldiom_ray.records import application_name

    started = time.monotonic()
    if version_id.startswith("version-"):
        version_id = str(context.artifacts.get(version_id).details["model_id"])
    with open_session(context.settings) as session:
        row = models.get(session, version_id, context.tenant)
    endpoint = _endpoint(row, declared)
    if endpoint.run:
        _generates(context.artifacts.get(endpoint.run))
    before = rollout.serving(row.id)
    config = declared.model_dump(mode="json")
    # A version never changes, so an endpoint of it with the same declaration is the one that was asked for.
    reused = before and _kept_config(context.settings, row.id) == config
    try:
        if not reused:
            _note(context.settings, row.id, "deploying", serving=before)
            context.report(0.05, f"deploying {row.family}/{row.name} version {row.version}")
            rollout.start(context.settings, endpoint)
            rollout.wait(endpoint, context.report)
        context.report(0.85, "asking it for a first answer")
        answer = rollout.warm_up(endpoint)
    except BaseException as error:
        _give_up(context.settings, row, before, error)
        raise
    _note(context.settings, row.id, "running", serving=True, config=config, replicas=declared.replicas)
    context.report(1.0, "serving")
    return {
        "reused": reused,
        "model_id": row.id,
        "app": application_name(row.id),
        "replicas": declared.replicas,
        "seconds": round(time.monotonic() - started, 3),
        "answer": answer,
        "url": f"{context.settings.api_url}/api/inference/{row.id}",
    }


def restore(settings: Settings) -> dict[str, str]:
    """Serve again what was served when the services stopped; {model id: "running" or what went wrong}."""
    from soldiom_ray.deploy import rollout

    endpoints: list[Endpoint] = []
    outcome: dict[str, str] = {}
    for row, declared in _wanted(settings):
        try:
            endpoint = _endpoint(row, declared)
            rollout.start(settings, endpoint)
            endpoints.append(endpoint)
        except SoldiomError as error:
            outcome[row.id] = _failed(settings, row.id, error)
    for endpoint in endpoints:
        try:
            rollout.wait(endpoint, lambda fraction, message: None)
        except SoldiomError as error:
            outcome[endpoint.model_id] = _failed(settings, endpoint.model_id, error)
        else:
            _note(settings, endpoint.model_id, "running", serving=True)
            outcome[endpoint.model_id] = "running"
    return outcome


def _generates(run: Manifest) -> None:
    """InputError for a model that does not write text: the endpoints generate."""
    if not TASK_MODELS[run.details.get("task", "causal_lm")].generates:
        raise InputError(
            f"The run {run.id} is a model for {run.details['task']}; endpoints serve causal language models so far.",
            remedy=f"load it with transformers' {run.details['auto_class']} from the run's weights",
        )


def _endpoint(row: "Model", declared: Deploy) -> "Endpoint":
    from soldiom_ray.deploy.rollout import Endpoint

    if not row.run_artifact and not row.base_model:
        raise InputError(f"Model {row.id} names neither a run nor a base model.", remedy="register it again")
    return Endpoint(row.id, row.run_artifact, row.base_model, declared)


def _kept_config(settings: Settings, model_id: str) -> dict[str, Any] | None:
    from soldiom_ray.db import deployments
    from soldiom_ray.db.engine import open_session

    with open_session(settings) as session:
        kept = deployments.get(session, model_id)
        return dict(kept.config) if kept and kept.status == "running" else None


def _wanted(settings: Settings) -> list[tuple["Model", Deploy]]:
    """Models that are, or were coming, up, each with the declaration it was deployed with."""
    from soldiom_ray.db import deployments, models
    from soldiom_ray.db.engine import open_session

    found = {}
    with open_session(settings) as session:
        rows = {row.model_id for row in deployments.running(session)}
        cursor = None
        while True:
            page, cursor = models.list_models(session, None, cursor=cursor, limit=200)
            for row in page:
                if row.deployed or row.id in rows:
                    kept = deployments.get(session, row.id)
                    found[row.id] = (row, Deploy.model_validate(kept.config if kept and kept.config else {}))
            if cursor is None:
                return list(found.values())


def _give_up(settings: Settings, row: "Model", before: bool, error: BaseException) -> None:
    """After a failed roll-out: bring Serve back to what it served, or take the ruin away, and write it down."""
    from soldiom_ray.db import deployments
    from soldiom_ray.db.engine import open_session
    from soldiom_ray.deploy import rollout

    what = error.what if isinstance(error, SoldiomError) else type(error).__name__
    try:
        with open_session(settings) as session:
            kept = deployments.get(session, row.id)
        if before and kept is not None and kept.config:
            rollout.start(settings, _endpoint(row, Deploy.model_validate(kept.config)))
        elif not before:
            rollout.stop(row.id)
        _note(settings, row.id, "failed", serving=before, error=what)
    except Exception:
        # The first error is the one to tell.
        logger.exception("could not clean up after a failed deployment", extra={"data": {"model": row.id}})


def _failed(settings: Settings, model_id: str, error: SoldiomError) -> str:
    logger.error("model not restored", extra={"data": {"model": model_id, "error": error.what}})
    _note(settings, model_id, "failed", serving=False, error=error.what)
    return error.what


def _note(settings: Settings, model_id: str, status: str, *, serving: bool, **values: Any) -> None:
    """Write an endpoint's state; `models.deployed` says whether something answers, also while a new one comes up."""
    from soldiom_ray.db import deployments, models
    from soldiom_ray.db.engine import open_session

    with open_session(settings) as session:
        deployments.set_state(session, model_id, status, **values)
        models.update(session, model_id, deployed=serving)
