"""Which endpoint answers for a model: its own, or for an adapter without one that of the model it was trained on."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from soldiom_ray.db import deployments, models
from soldiom_ray.db.tables import Model
from soldiom_ray.domains.tasks import CHAT_TASKS
from soldiom_ray.errors import ConflictError
from soldiom_ray.licenses import check_compliance, compliance_of
from soldiom_ray.records import application_name

_notices: dict[tuple[str, str, str], tuple[str, ...]] = {}
"""What licences want said of (model, use, when its row changed), of which they permit it: to read them takes
milliseconds."""


@dataclass(frozen=True, slots=True)
class Address:
    """The application on Ray Serve that answers, and the run whose adapter it does it with, where it is not the
    endpoint's own model; and the notices that go with its answers."""

    application: str
    adapter: str | None = None
    notices: tuple[str, ...] = ()


def address_of(session: Session, model: Model) -> Address:
    """Where a model is asked. ConflictError when neither it nor the model that it was trained on is deployed, or when
    its gate or its licences keep it from answering without a deployment of its own."""
    if model.deployed:
        return Address(application_name(model.id), None, _terms(model, "", checked=False))
    host = models.host_of(session, model) if (models.task_of(model) or CHAT_TASKS[0]) in CHAT_TASKS else None
    if host is None:
        raise ConflictError(
            f"Model {model.id} is not deployed.",
            remedy=f"deploy it: POST /api/models/{model.id}/deploy or `soldiom deploy {model.id}`",
        )
    if model.gate.get("passed") is False:
        raise ConflictError(
            f"Model {model.id} did not pass its gate; the endpoint of {host.id}, its base, does not answer for it.",
            remedy=f"deploy it by itself: `soldiom deploy {model.id}`",
        )
    deployment = deployments.get(session, host.id)
    use = (deployment.config or {}).get("use") if deployment else None
    return Address(application_name(host.id), model.run_artifact, _terms(model, use or "own", checked=True))


def _terms(model: Model, use: str, *, checked: bool) -> tuple[str, ...]:
    """The notices of a model; `checked` for a use, which licences may forbid."""
    key = (model.id, use, str(model.updated_at))
    if key not in _notices:
        declared: Any = None if use in ("", "own") else use
        if checked:
            check_compliance("served", model.name, model.lineage, model.license, declared)
        if len(_notices) > 10_000:
            _notices.clear()
        _notices[key] = tuple(compliance_of(model.name, model.lineage, model.license, declared).notices)
    return _notices[key]
