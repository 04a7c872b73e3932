"""The registry: list, show, deploy, delete."""

from typing import Annotated, Any

from fastapi import APIRouter, Header
from sqlalchemy.orm import Session
from starlette.responses import Response

from soldiom_ray import launch, registry
from soldiom_ray.api import submit
from soldiom_ray.api.auth import AppSettings, CurrentCaller, GuardedRoute, needs
from soldiom_ray.api.bodies import PromotionBody, RetrainingBody, SharingBody
from soldiom_ray.api.routes.jobs import Cursor, Limit
from soldiom_ray.artifacts import Artifacts
from soldiom_ray.db import (
    answers,
    deployments,
    drift,
    evaluations,
    feedback,
    models,
    ownership,
    readings,
    usage,
    watches,
)
from soldiom_ray.db.engine import open_session
from soldiom_ray.db.tables import Model
from soldiom_ray.domains.compression import COMPRESS, compression
from soldiom_ray.domains.hosting import served_by
from soldiom_ray.domains.retraining import RETRAIN, retraining
from soldiom_ray.domains.schema import Compress, Deploy, Recipe
from soldiom_ray.examples import examples_as_dicts, read_examples
from soldiom_ray.records import Family
from soldiom_ray.storage import open_storage

router = APIRouter(route_class=GuardedRoute, tags=["models"])
MOST_VERSIONS = 50


@router.get("/api/models", openapi_extra=needs("viewer"))
def list_models(
    caller: CurrentCaller,
    settings: AppSettings,
    family: Family | None = None,
    specialization: str | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> dict[str, Any]:
    """Versions of models, newest first: the caller's, those that are shared, and, as far as who asks them needs it,
    those of others that are deployed."""
    with open_session(settings, reach="asked") as session:
        rows, next_cursor = models.list_models(
            session, caller.tenant, family=family, specialization=specialization, cursor=cursor, limit=limit
        )
        return {"items": [_shown(session, row) for row in rows], "next": next_cursor}


@router.get("/api/models/catalog", openapi_extra=needs("viewer"))
def list_base_models(caller: CurrentCaller) -> dict[str, Any]:
    """Well-known base models: what `base_model` takes, license, size, tasks, and what the license asks for."""
    return {"items": registry.catalog()}


@router.get("/api/models/{model_id:path}/metrics", openapi_extra=needs("viewer"))
def show_model_metrics(model_id: str, caller: CurrentCaller, settings: AppSettings) -> dict[str, Any]:
    """Scores of the model, its evaluations, and its examples: held-out prompts answered before and after; of a served
    one what it did by day (answers, errors, seconds, satisfaction), what it cost, whether its questions differ from its
    training set, which share of the requests to its name each version answers and how satisfied its raters are, and
    which of them are or were watched."""
    with open_session(settings) as session:
        model = models.get(session, model_id, caller.tenant)
        rows = evaluations.of_model(session, model.id, caller.tenant)
        scored = [{"id": row.id, "scores": row.scores, "created_at": row.created_at.isoformat()} for row in rows]
        examples = examples_as_dicts(read_examples(Artifacts(open_storage(settings)), model.scores_artifact))
        metrics = {"metrics": model.performance_metrics, "gate": model.gate, "examples": examples}
        versions: list[dict[str, Any]] = [
            {"id": row.id, "version": row.version} for row in feedback.versions_of(session, model)[:MOST_VERSIONS]
        ]
        watched = [watches.as_dict(row) for row in watches.of_models(session, [version["id"] for version in versions])]
    with open_session(settings, reach="all") as session:  # counts and means of what others asked
        shares = models.shares(session, model)
        versions = [
            {**each, "requests_share": shares.get(each["id"], 0.0), **feedback.satisfaction(session, each["id"])}
            for each in versions
        ]
        costs = usage.of_version(session, model)
        traffic = answers.traffic(session, model.id)
        served: dict[str, Any] = {"traffic": traffic, "costs": costs, "satisfaction": versions, "watches": watched}
        served |= {"drift": drift.of_model(session, model.id), "by_day": readings.by_day(session, model.id)}
        return {"id": model.id, **metrics, "evaluations": scored, **served}


@router.post("/api/models/{model_id:path}/deploy", status_code=202, openapi_extra=needs("trainer"))
def deploy_model(
    model_id: str,
    caller: CurrentCaller,
    settings: AppSettings,
    response: Response,
    body: Deploy | None = None,
    idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
) -> dict[str, Any]:
    """Serve the model, as one job; 409 when the licence of its base or data forbids the use."""
    with open_session(settings) as session:
        model = models.get(session, model_id, caller.tenant)
    registry.check_deployment(model, body or Deploy())
    recipe = Recipe.model_validate({"name": model.name, "version": model.id, "deploy": body or {}})
    return submit.start(settings, caller, recipe, "deploy", idempotency_key, response)


@router.post("/api/models/{model_id:path}/retrain", status_code=202, openapi_extra=needs("trainer"))
def retrain_model(
    model_id: str,
    caller: CurrentCaller,
    settings: AppSettings,
    response: Response,
    body: RetrainingBody | None = None,
    idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
) -> dict[str, Any]:
    """Make the next version from accepted feedback, as one job of the model's owner: trained as before on the former
    data and the examples, promoted and served if it beats the version before. 409 without accepted feedback."""
    with open_session(settings) as session:
        recipe = retraining(session, model_id, caller.tenant, (body or RetrainingBody()).method)
        owner = models.get_served(session, model_id, caller.tenant).owner
    return submit.start(settings, caller, recipe, RETRAIN, idempotency_key, response, owner=owner)


@router.post("/api/models/{model_id:path}/compress", status_code=202, openapi_extra=needs("trainer"))
def compress_model(
    model_id: str,
    body: Compress,
    caller: CurrentCaller,
    settings: AppSettings,
    response: Response,
    idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
) -> dict[str, Any]:
    """Make a version with smaller weights, as one job: compressed, scored against the model itself on the held-out
    data, registered as NAME-FORMAT."""
    with open_session(settings) as session:
        recipe = compression(session, model_id, caller.tenant, body.to)
    return submit.start(settings, caller, recipe, COMPRESS, idempotency_key, response)


@router.post("/api/models/{model_id:path}/promote", openapi_extra=needs("trainer"))
def promote_model(
    model_id: str, caller: CurrentCaller, settings: AppSettings, body: PromotionBody | None = None
) -> dict[str, Any]:
    """Make the version the champion of its name; 409 when its gate did not pass. An admin may override that with
    `force` and a `reason`, which go to the audit trail."""
    asked = body or PromotionBody()
    return registry.promote(
        settings,
        model_id,
        actor=caller.key_id,
        is_admin=caller.may("admin"),
        tenant=caller.tenant,
        force=asked.force,
        reason=asked.reason,
    )


@router.post("/api/models/{model_id:path}/rollback", openapi_extra=needs("trainer"))
def roll_back(model_id: str, caller: CurrentCaller, settings: AppSettings) -> dict[str, Any]:
    """Make the champion before this one the champion of the model's name again; 409 when there was none."""
    return registry.rollback(settings, model_id, actor=caller.key_id, tenant=caller.tenant)


@router.get("/api/models/{model_id:path}/lineage", openapi_extra=needs("viewer"))
def show_lineage(model_id: str, caller: CurrentCaller, settings: AppSettings) -> dict[str, Any]:
    """What the version was made from, down to documents and licences, what it was built on, and what on it."""
    return registry.lineage(settings, model_id, caller.tenant)


@router.get("/api/models/{model_id:path}/sbom", openapi_extra=needs("viewer"))
def show_bill_of_materials(model_id: str, caller: CurrentCaller, settings: AppSettings) -> dict[str, Any]:
    """The version's bill of materials (CycloneDX 1.6): weights with their hashes, bases, data by licence, libraries."""
    return registry.materials(settings, model_id, caller.tenant)


@router.post("/api/models/{model_id:path}/share", openapi_extra=needs("trainer"))
def share_model(
    model_id: str, caller: CurrentCaller, settings: AppSettings, body: SharingBody | None = None
) -> dict[str, Any]:
    """Let all of the tenant see the version and train on it, or, with `{"shared": false}`, its owner and admins alone.
    Whoever may ask a deployed model, all of the tenant may, shared or not."""
    with open_session(settings) as session:
        model = models.get(session, model_id, caller.tenant)
        ownership.share(session, model, f"Model {model.id}", shared=(body or SharingBody()).shared)
        return models.as_dict(model)


@router.delete("/api/models/{model_id:path}/deploy", status_code=202, openapi_extra=needs("trainer"))
def undeploy_model(model_id: str, caller: CurrentCaller, settings: AppSettings) -> dict[str, Any]:
    """Stop serving the model."""
    with open_session(settings) as session:
        model = models.get(session, model_id, caller.tenant)
    launch.undeploy(settings, model.id, caller.tenant)
    return {"id": model.id, "deployed": False}


@router.get("/api/models/{model_id:path}", openapi_extra=needs("viewer"))
def show_model(model_id: str, caller: CurrentCaller, settings: AppSettings) -> dict[str, Any]:
    """One version (by id, name or name@version) with card, lineage, license, notices, endpoint, other versions; of a
    deployed one of another user, who does not share it, what those who ask it need: card, license and notices."""
    with open_session(settings, reach="asked") as session:
        model = models.get(session, model_id, caller.tenant)
        named: dict[str, Any] = {"family": model.family, "name": model.name, "owner": model.owner}
        versions, _ = models.list_models(session, caller.tenant, **named, limit=200)
        endpoint = deployments.get(session, model.id) if ownership.is_seen(session, model) else None
        return _shown(session, model, with_card=True) | {
            "versions": [{"id": row.id, "version": row.version, "deployed": row.deployed} for row in versions],
            "deployment": deployments.as_dict(endpoint) if endpoint else None,
            "notices": registry.notices(model),
        }


@router.delete("/api/models/{model_id:path}", status_code=204, openapi_extra=needs("trainer"))
def delete_model(model_id: str, caller: CurrentCaller, settings: AppSettings) -> None:
    """Delete the version; 409 while it is deployed or another is built on it. The artifacts of its run
    remain."""
    registry.remove(settings, model_id, tenant=caller.tenant)


def _shown(session: Session, model: Model, *, with_card: bool = False) -> dict[str, Any]:
    """A version as the caller may see it: whole, or what it takes to ask it. `served_by` is the model whose endpoint
    answers for it, of an adapter perhaps its base."""
    shown = models.as_dict(model, with_card=with_card) | {"served_by": served_by(session, model)}
    if ownership.is_seen(session, model):
        return shown
    empty: dict[str, Any] = {"performance_metrics": {}, "gate": {}, **({"lineage": {}} if with_card else {})}
    return shown | empty | dict.fromkeys(MADE_FROM)


MADE_FROM = (
    "base_model_id",
    "training_job_id",
    "dataset_id",
    "run_artifact",
    "scores_artifact",
    "mlflow_name",
    "mlflow_version",
)
"""Of a model that is asked, but not shared, what leads to things of its owner."""
