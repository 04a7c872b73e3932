"""Which endpoint answers for a model: its own, or for an adapter without one that of the model it was trained on."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from soldiom_ray.db import deployments, models
from soldiom_ray.db.tables import Model
from soldiom_ray.domains.tasks import CHAT_TASKS
from soldiom_ray.errors import ConflictError, SoldiomError
from soldiom_ray.licenses import check_compliance, compliance_of
from soldiom_ray.records import application_name

_notices: dict[tuple[str, str, str], tuple[str, ...]] = {}
"""What licences want said of (model, use, when its row changed), of which they permit it: to read them takes
milliseconds."""


@dataclass(frozen=True, slots=True)
class Address:
    """The model whose application on Ray Serve answers, and the run whose adapter it does it with, where it is not the
    endpoint's own model; and the notices that go with its answers."""

    host: str
    adapter: str | None = None
    notices: tuple[str, ...] = ()

    @property
    def application(self) -> str:
        """The application's name."""
        return application_name(self.host)


def address_of(session: Session, model: Model) -> Address:
    """Where a model is asked. ConflictError when neither it nor the model that it was trained on is deployed, or when
    its gate or its licences keep it from answering without a deployment of its own."""
    if model.deployed:
        return Address(model.id, None, _terms(model, "", checked=False))
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
    config, own = _config_of(session, host), _config_of(session, model)
    if not _is_filtered_as(own, config):
        raise ConflictError(
            f"Model {model.id} was deployed with a content filter; the endpoint of {host.id}, its base, has another or"
            " none, and does not answer for it.",
            remedy=f"deploy it by itself: `soldiom deploy {model.id}`, or its base with the same `deploy.filter`",
        )
    use = config.get("use")
    return Address(host.id, model.run_artifact, _terms(model, use or "own", checked=True))


def served_by(session: Session, model: Model) -> str | None:
    """The id of the model whose endpoint answers for this one: its own, or its base's; None where none does."""
    try:
        return address_of(session, model).host
    except SoldiomError:  # not deployed, not passed, not permitted
        return None


def _config_of(session: Session, model: Model) -> dict[str, Any]:
    """What a model's endpoint was last declared with."""
    deployment = deployments.get(session, model.id)
    return deployment.config or {} if deployment else {}


def _is_filtered_as(own: dict[str, Any], host: dict[str, Any]) -> bool:
    """Whether an adapter's answers are filtered by its base's endpoint as its own deployment, if it had one, was."""
    return not own.get("filter") or own["filter"] == host.get("filter")


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
