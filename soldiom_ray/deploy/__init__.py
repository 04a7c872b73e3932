"""deploy: a version becomes an endpoint on Ray Serve."""

import logging
import time
from typing import TYPE_CHECKING, Any

from soldiom_ray.artifacts import Artifacts, Context
from soldiom_ray.domains.schema import Deploy
from soldiom_ray.domains.tasks import CAUSAL_LM, CLASSIFICATIONS, SERVED_TASKS, TEXT_CLASSIFICATION
from soldiom_ray.errors import ConflictError, InputError, SoldiomError
from soldiom_ray.licenses import check_compliance
from soldiom_ray.settings import Settings
from soldiom_ray.storage import open_storage

if TYPE_CHECKING:
    from soldiom_ray.db.tables import Model
    from soldiom_ray.deploy.rollout import Endpoint

logger = logging.getLogger(__name__)


def deploy(context: Context, version_id: str, declared: Deploy) -> dict[str, Any]:
    """Serve a model of the registry (its id, or the id of a version artifact) and answer one request with it.

    Returns {reused, model_id, app, replicas, seconds, answer, url}. NotFoundError when the model or its run does not
    exist; ConflictError when the licence of its base or data forbids the use; UnavailableError when it cannot be loaded
    or does not answer: an endpoint that already served this model goes on as it was.
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
    check_compliance("deployed", row.name, row.lineage, row.license, declared.use)
    if declared.is_canary:
        _check_canary(context.settings, row)
    endpoint = _endpoint(context.settings, context.artifacts, row, declared)
    was_serving = rollout.is_serving(row.id)
    config = declared.model_dump(mode="json", exclude={"only"})
    # A version never changes, so an endpoint of it with the same declaration is the requested one, for any share.
    running = _running_config(context.settings, row.id)
    reused = was_serving and running is not None and running | {"share": declared.share} == config
    try:
        if not reused:
            _record_state(context.settings, row.id, "deploying", serving=was_serving)
            context.report(0.05, f"deploying {row.family}/{row.name} version {row.version}")
            rollout.start(context.settings, endpoint)
            rollout.wait_until_running(endpoint, context.report)
        context.report(0.85, "asking it for a first answer")
        answer = rollout.warm_up(endpoint)
    except BaseException as error:
        _give_up(context.settings, row, was_serving, error)
        raise
    _record_state(context.settings, row.id, "running", serving=True, config=config, replicas=declared.replicas)
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
    """Deploy again what was deployed when the services stopped; {model id: "running" or what went wrong}."""
    from soldiom_ray.deploy import rollout

    artifacts = Artifacts(open_storage(settings))
    endpoints: list[Endpoint] = []
    outcome: dict[str, str] = {}
    for row, declared in _previously_deployed(settings):
        try:
            endpoint = _endpoint(settings, artifacts, row, declared)
            rollout.start(settings, endpoint)
            endpoints.append(endpoint)
        except SoldiomError as error:
            outcome[row.id] = _record_failure(settings, row.id, error)
    for endpoint in endpoints:
        try:
            rollout.wait_until_running(endpoint, lambda fraction, message: None)
        except SoldiomError as error:
            outcome[endpoint.model_id] = _record_failure(settings, endpoint.model_id, error)
        else:
            _record_state(settings, endpoint.model_id, "running", serving=True)
            outcome[endpoint.model_id] = "running"
    return outcome


def _endpoint(settings: Settings, artifacts: Artifacts, row: "Model", declared: Deploy) -> "Endpoint":
    """InputError for a run whose task is not served, and for a content filter that cannot be used."""
    from soldiom_ray.deploy.rollout import Endpoint

    if not row.run_artifact and not row.base_model:
        raise InputError(f"Model {row.id} names neither a run nor a base model.", remedy="register it again")
    if not row.run_artifact:
        classifiers = _filter_classifiers(settings, artifacts, row, declared)
        return Endpoint(row.id, None, row.base_model, declared, classifiers=classifiers)
    run = artifacts.get(row.run_artifact)
    task = str(run.details.get("task", CAUSAL_LM))
    if task not in SERVED_TASKS:
        raise InputError(
            f"The run {run.id} is a model for {task}; endpoints serve {', '.join(SERVED_TASKS)}.",
            remedy=f"load it with transformers' {run.details['auto_class']} from the run's weights",
        )
    scores = artifacts.find(row.scores_artifact) if row.scores_artifact else None
    calibration = scores.details.get("calibration") if scores else None
    if declared.filter and task in CLASSIFICATIONS:
        raise InputError(
            f"Model {row.id} is a classifier, which generates no text for a content filter.",
            remedy="leave out `deploy.filter`",
        )
    if declared.watermark and task != CAUSAL_LM:
        raise InputError(
            f"The run {run.id} is a model for {task}; models that continue texts are watermarked.",
            remedy="leave out `deploy.watermark`",
        )
    classifiers = _filter_classifiers(settings, artifacts, row, declared)
    return Endpoint(row.id, run.id, row.base_model, declared, task, calibration, classifiers)


def _check_canary(settings: Settings, row: "Model") -> None:
    """ConflictError where no version before answers the other requests."""
    from soldiom_ray.db import models
    from soldiom_ray.db.engine import open_session

    with open_session(settings) as session:
        if models.deployed_before(session, models.get(session, row.id)) is None:
            raise ConflictError(
                f"No earlier version of {row.family}/{row.name} is deployed, to which the other requests could go.",
                remedy="deploy that first, or leave out `deploy.share`",
            )


def _filter_classifiers(settings: Settings, artifacts: Artifacts, row: "Model", declared: Deploy) -> dict[str, str]:
    """The ids of the models that the content filter names. InputError for one that is no text classifier or does not
    have the label, ConflictError for one that is not deployed: the endpoint would let nothing pass."""
    from soldiom_ray.db import models
    from soldiom_ray.db.engine import open_session

    ids: dict[str, str] = {}
    for check in declared.content_filter.classifiers if declared.content_filter else ():
        with open_session(settings, reach="asked") as session:
            classifier = models.get_served(session, check.model, row.tenant)
        details = artifacts.get(classifier.run_artifact).details if classifier.run_artifact else {}
        labels = list(details.get("configuration", {}).get("id2label", {}).values())
        if details.get("task") != TEXT_CLASSIFICATION or check.label not in labels:
            known = f"its labels are {', '.join(map(str, labels))}" if labels else "it is no text classifier"
            raise InputError(
                f"The content filter looks for {check.label!r} of model {check.model!r}; {known}.",
                remedy="name a text classifier of the registry and one of its labels in `deploy.filter.classifiers`",
            )
        if not classifier.deployed:
            raise ConflictError(
                f"The content filter's classifier {classifier.id} is not deployed, and nothing would pass without it.",
                remedy=f"deploy it first: `soldiom deploy {classifier.id}`",
            )
        ids[check.model] = classifier.id
    return ids


def _running_config(settings: Settings, model_id: str) -> dict[str, Any] | None:
    """The declaration that a running endpoint was deployed with; None where none runs."""
    from soldiom_ray.db import deployments
    from soldiom_ray.db.engine import open_session

    with open_session(settings) as session:
        deployment = deployments.get(session, model_id)
        return dict(deployment.config) if deployment and deployment.status == "running" else None


def _previously_deployed(settings: Settings) -> list[tuple["Model", Deploy]]:
    """Models whose deployment is recorded as running or coming up, each with the declaration it was deployed with."""
    from soldiom_ray.db import deployments, models
    from soldiom_ray.db.engine import open_session

    models_and_declarations = {}
    with open_session(settings) as session:
        running = {row.model_id for row in deployments.running(session)}
        cursor = None
        while True:
            page, cursor = models.list_models(session, None, cursor=cursor, limit=200)
            for row in page:
                if row.deployed or row.id in running:
                    deployment = deployments.get(session, row.id)
                    config = deployment.config if deployment and deployment.config else {}
                    models_and_declarations[row.id] = (row, Deploy.model_validate(config))
            if cursor is None:
                return list(models_and_declarations.values())


def _give_up(settings: Settings, row: "Model", was_serving: bool, error: BaseException) -> None:
    """Roll back to the previous deployment, or remove the failed one, and record the failure."""
    from soldiom_ray.db import deployments
    from soldiom_ray.db.engine import open_session
    from soldiom_ray.deploy import rollout

    what = error.what if isinstance(error, SoldiomError) else type(error).__name__
    try:
        with open_session(settings) as session:
            deployment = deployments.get(session, row.id)
        if was_serving and deployment is not None and deployment.config:
            declared = Deploy.model_validate(deployment.config)
            rollout.start(settings, _endpoint(settings, Artifacts(open_storage(settings)), row, declared))
        elif not was_serving:
            rollout.stop(row.id)
        _record_state(settings, row.id, "failed", serving=was_serving, error=what)
    except Exception:
        # The caller raises the first error, which is the one to report.
        logger.exception("could not clean up after a failed deployment", extra={"data": {"model": row.id}})


def _record_failure(settings: Settings, model_id: str, error: SoldiomError) -> str:
    logger.error("model not restored", extra={"data": {"model": model_id, "error": error.what}})
    _record_state(settings, model_id, "failed", serving=False, error=error.what)
    return error.what


def _record_state(settings: Settings, model_id: str, status: str, *, serving: bool, **values: Any) -> None:
    """Record an endpoint's state; `models.deployed` says whether an endpoint answers, also while a new one comes up."""
    from soldiom_ray.db import deployments, models
    from soldiom_ray.db.engine import open_session

    with open_session(settings) as session:
        deployments.set_state(session, model_id, status, **values)
        models.update(session, model_id, deployed=serving)
