"""What users think of answers: given by them, reviewed by trainers."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query

from soldiom_ray.api.auth import AppMetrics, AppSettings, CurrentCaller, GuardedRoute, needs
from soldiom_ray.api.bodies import AcceptanceBody, FeedbackBody
from soldiom_ray.api.routes.jobs import Cursor, Limit
from soldiom_ray.db import answers, feedback, models
from soldiom_ray.db.engine import open_session
from soldiom_ray.errors import NotFoundError

router = APIRouter(route_class=GuardedRoute, tags=["feedback"])
Model = Annotated[str | None, Query(max_length=256, description="a model's id or family/name: all its versions")]


@router.post("/api/feedback", status_code=201, openapi_extra=needs("user"))
def give_feedback(
    body: FeedbackBody, caller: CurrentCaller, settings: AppSettings, metrics: AppMetrics
) -> dict[str, Any]:
    """Say whether an answer is good, what it should have been, and why. Said again by the same user, it replaces what
    was said before, until that is reviewed (409). A key of the role `user` rates the answers that it asked for, a
    trainer's also those of the trainer's and the tenant's models."""
    with open_session(settings) as session:
        answer = answers.get(session, body.answer_id, caller.tenant)
        if answer.owner != caller.user and not caller.may("trainer"):
            raise NotFoundError(f"No answer {body.answer_id!r} of this key is stored.")
        row = feedback.give(
            session,
            answer,
            user_id=body.user_id or answer.user_id,
            rating=body.rating,
            correction=body.correction,
            reason=body.reason,
            encryption_keys=settings.encryption_keys,
        )
        metrics.rated(row.model_id, row.rating)
        names = ("id", "answer_id", "model_id", "user_id", "rating", "status")
        return {**{name: getattr(row, name) for name in names}, "created_at": row.created_at.isoformat()}


@router.get("/api/feedback", openapi_extra=needs("trainer"))
def list_feedback(
    caller: CurrentCaller,
    settings: AppSettings,
    model: Model = None,
    status: Literal["new", "accepted", "rejected"] | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> dict[str, Any]:
    """Feedback on the caller's and the tenant's models, with the questions and answers that it is about, newest first;
    for an admin that on every model."""
    with open_session(settings) as session:
        ids = None
        if model is not None:
            ids = [row.id for row in feedback.versions_of(session, models.get(session, model, caller.tenant))]
        chosen = {"model_ids": ids, "status": status, "cursor": cursor, "limit": limit}
        items, following = feedback.list_as_dicts(session, caller.tenant, settings.encryption_keys, **chosen)
        return {"items": items, "next": following}


@router.get("/api/feedback/{feedback_id}", openapi_extra=needs("trainer"))
def show_feedback(feedback_id: str, caller: CurrentCaller, settings: AppSettings) -> dict[str, Any]:
    """One feedback with its question and answer."""
    with open_session(settings) as session:
        row = feedback.get(session, feedback_id, caller.tenant)
        return feedback.as_dict(session, row, settings.encryption_keys)


@router.post("/api/feedback/{feedback_id}/accept", openapi_extra=needs("trainer"))
def accept_feedback(
    feedback_id: str, caller: CurrentCaller, settings: AppSettings, body: AcceptanceBody | None = None
) -> dict[str, Any]:
    """Let a model learn from it: the better answer becomes an example, the worse one what it is preferred to. 422 for a
    bad answer that nobody has corrected."""
    with open_session(settings) as session:
        row = feedback.accept(
            session,
            feedback_id,
            caller.tenant,
            reviewer=caller.key_id,
            correction=(body or AcceptanceBody()).correction,
            encryption_keys=settings.encryption_keys,
        )
        return feedback.as_dict(session, row, settings.encryption_keys)


@router.post("/api/feedback/{feedback_id}/reject", openapi_extra=needs("trainer"))
def reject_feedback(feedback_id: str, caller: CurrentCaller, settings: AppSettings) -> dict[str, Any]:
    """Let no model learn from it; also what was accepted before. It does not count for the satisfaction."""
    with open_session(settings) as session:
        row = feedback.reject(session, feedback_id, caller.tenant, reviewer=caller.key_id)
        return feedback.as_dict(session, row, settings.encryption_keys)
