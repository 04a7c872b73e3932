"""MLflow's model registry: one registered model per `family/name`, one version per row of ours.

MLflow names hold no `/`, so `fine-tuned/legal` is `fine-tuned.legal` there. A version is identified by its tag
`model_id`, so that registering twice gives one version. MLflow takes no `file://` source for a version, so a local
artifact is named by our own scheme, `soldiom:///<artifact>/weights`.
"""

import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy.orm import Session

from soldiom_ray.artifacts import Artifacts, prefix_of
from soldiom_ray.db import audit, locks, models
from soldiom_ray.db.engine import open_session
from soldiom_ray.db.ownership import check_change, may_change
from soldiom_ray.db.tables import Model
from soldiom_ray.domains.base_catalog import CATALOG
from soldiom_ray.domains.schema import Deploy
from soldiom_ray.errors import ConflictError, DeniedError, InputError, SoldiomError, UnavailableError
from soldiom_ray.licenses import Ingredient, check_compliance, compliance_of, judge
from soldiom_ray.licenses.bill_of_materials import bill_of_materials
from soldiom_ray.licenses.model_rules import RULES
from soldiom_ray.settings import HOME_TENANT, Settings
from soldiom_ray.storage import open_storage

CHAMPION = "champion"
"""Alias of the version that passed its gate last."""
PREVIOUS = "previous"
"""Alias of the version that was champion before."""

MLFLOW_LIMITS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""With MLflow's own values a call to a dead server blocks for minutes (measured: 246 s; with these 2.3 s)."""


def registered_name(family: str, name: str, tenant: str, owner: str = "") -> str:
    """The name of a registered model in MLflow. Each owner has names of its own."""
    return ".".join((*(() if tenant == HOME_TENANT else (tenant,)), *((owner,) if owner else ()), family, name))


def source_of(settings: Settings, artifact: str) -> str:
    """URL of an artifact's weights, as MLflow stores it."""
    if settings.storage.startswith("s3://"):
        return f"{settings.storage.rstrip('/')}/{prefix_of(artifact)}/weights"
    return f"soldiom:///{prefix_of(artifact)}/weights"


def put_version(
    settings: Settings,
    name: str,
    *,
    source: str,
    run_id: str | None,
    tags: Mapping[str, str],
    description: str,
) -> str:
    """The number of the version with the tag `model_id` of `tags`, created when it is missing."""
    with _client(settings) as client:
        _ensure_registered(client, name, tags)
        versions = (v for v in _versions(client, name) if v.tags.get("model_id") == tags["model_id"])
        version = next(versions, None)
        if version is None:
            version = client.create_model_version(
                name, source, run_id=run_id or None, tags=dict(tags), description=description
            )
        return str(version.version)


class ChampionChange:
    """A change of the champion of one name under way (see `changing_champion`). `details` go to the audit trail."""

    def __init__(self, settings: Settings, session: Session, name: str) -> None:
        self.session, self.details = session, dict[str, Any]()
        self._settings, self._name = settings, name
        self._former: dict[str, str] = {}
        self._version = ""

    def set(self, version: str) -> None:
        """Point the alias `champion` at a version, and `previous` at the one that was champion before."""
        with _client(self._settings) as client:
            self._former = _aliases(client, self._name)
            self._version = version
            champion = self._former.get(CHAMPION)
            if champion is not None and champion != version:
                client.set_registered_model_alias(self._name, PREVIOUS, champion)
            client.set_registered_model_alias(self._name, CHAMPION, version)

    def undo(self) -> None:
        """Put the aliases back, unless somebody has set them since."""
        if not self._version:
            return
        with _client(self._settings) as client:
            now = _aliases(client, self._name)
            if now.get(CHAMPION) not in (self._version, self._former.get(CHAMPION)):
                return
            for alias in (CHAMPION, PREVIOUS):
                if alias in self._former:
                    client.set_registered_model_alias(self._name, alias, self._former[alias])
                elif alias in now:
                    client.delete_registered_model_alias(self._name, alias)


@contextmanager
def changing_champion(
    settings: Settings, row: Model, action: str, actor: str, details: Mapping[str, Any]
) -> Iterator[ChampionChange]:
    """One change of the champion of a version's name at a time, in the database, in MLflow and in the audit trail:
    whole or, after an error in the block, not at all. A refused one is in the trail as denied; one that failed, with
    the name of its error."""
    change = None
    try:
        with open_session(settings) as session:
            name = row.mlflow_name or registered_name(row.family, row.name, row.tenant, row.owner)
            locks.hold(session, f"champion {hashlib.sha256(name.encode()).hexdigest()}")
            change = ChampionChange(settings, session, name)
            yield change
            audit.append(session, actor, action, row.id, "allow", {**details, **change.details}, row.tenant)
    except Exception as error:
        told = {**details, **(change.details if change else {})}
        refused = isinstance(error, (ConflictError, DeniedError, InputError))
        try:
            if change is not None:
                change.undo()
        except SoldiomError:
            told["not_undone"] = True
        with suppress(SoldiomError):  # the error that comes out is the first one
            _audit_failure(settings, row, action, actor, told if refused else told | {"failed": type(error).__name__})
        raise


def _audit_failure(settings: Settings, row: Model, action: str, actor: str, details: dict[str, Any]) -> None:
    decision = "allow" if "failed" in details else "deny"
    with open_session(settings) as session:
        audit.append(session, actor, action, row.id, decision, details, row.tenant)


def _aliases(client: Any, name: str) -> dict[str, str]:
    aliases = client.get_registered_model(name).aliases
    return {alias: str(aliases[alias]) for alias in (CHAMPION, PREVIOUS) if alias in aliases}


def log_metrics(settings: Settings, run_id: str, metrics: Mapping[str, float]) -> None:
    """Add metrics to a training's run, in as many calls as MLflow's limit of a thousand asks for. A run that MLflow
    does not have any more is left alone: the scores are in the version's row all the same."""
    from mlflow.entities import Metric
    from mlflow.exceptions import MlflowException

    stamp = time.time_ns() // 1_000_000
    entities = [Metric(name, float(value), stamp, 0) for name, value in metrics.items()]
    with _client(settings) as client:
        try:
            for first in range(0, len(entities), 1000):
                client.log_batch(run_id, metrics=entities[first : first + 1000])
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise


def champion(settings: Settings, name: str, alias: str = CHAMPION) -> str | None:
    """The version that the alias `champion` (or `previous`) points at, or None."""
    with _client(settings) as client:
        return _aliases(client, name).get(alias)


def rollback(settings: Settings, model_id: str, *, actor: str, tenant: str | None = None) -> dict[str, Any]:
    """Make the version that was champion before the champion of the model's name again; returns it as the API shows it.

    ConflictError when there is none, or when its licence forbids it by now. Done twice, all is as it was."""
    row = _to_change(settings, model_id, tenant)
    details = {"name": f"{row.family}/{row.name}"}
    with changing_champion(settings, row, "rollback", actor, details) as change:
        version = champion(settings, row.mlflow_name, PREVIOUS) if row.mlflow_name else None
        former = models.of_mlflow_version(change.session, str(row.mlflow_name), version) if version else None
        if former is None:
            raise ConflictError(
                f"{row.family}/{row.name} has no previous champion to go back to.",
                remedy=f"promote a version of it: `soldiom models promote {row.family}/{row.name}@VERSION`",
            )
        change.details |= {"champion": former.id, "version": former.version}
        check_compliance("promoted", former.name, former.lineage, former.license)
        current = champion(settings, str(row.mlflow_name))
        # Comparisons with the champion before ask the rows: the one that went may not stand for it.
        withdrawn = models.of_mlflow_version(change.session, str(row.mlflow_name), current) if current else None
        if withdrawn is not None and current != version:
            models.update(change.session, withdrawn.id, gate=dict(withdrawn.gate) | {"promoted": False})
        models.update(change.session, former.id, gate=dict(former.gate) | {"promoted": True})
        change.set(str(version))
        return models.as_dict(former)


def step_down(settings: Settings, model_id: str, previous_id: str, *, actor: str) -> bool:
    """Where a version is its name's champion, make another one that was promoted the champion again; whether it did.
    ConflictError when the other's licence forbids it by now. Done twice, the second time does nothing."""
    with open_session(settings) as session:
        row, previous = models.get(session, model_id), models.get(session, previous_id)
    name = row.mlflow_name
    if name is None or champion(settings, name) != row.mlflow_version or not previous.gate.get("promoted"):
        return False
    details = {"name": f"{row.family}/{row.name}", "champion": previous.id, "version": previous.version}
    with changing_champion(settings, row, "rollback", actor, details) as change:
        if champion(settings, name) != row.mlflow_version:
            change.details |= {"unchanged": True}
            return False
        check_compliance("promoted", previous.name, previous.lineage, previous.license)
        models.update(change.session, row.id, gate=dict(row.gate) | {"promoted": False})
        change.set(str(previous.mlflow_version))
        return True


def lineage(settings: Settings, model_id: str, tenant: str | None = None) -> dict[str, Any]:
    """What a version was made from (run, scores, dataset, documents, licences), the models that it was built on up to
    the first, and the models that were built on it."""
    with open_session(settings) as session:
        row = models.get(session, model_id, tenant)
        built = models.built_on(session, row.id)
        return {
            "model": _named(row),
            "made_from": {name: row.lineage.get(name) for name in ("run", "scores", "dataset", "documents")},
            "ingredients": row.lineage.get("ingredients") or [],
            "built_on": [_named(base) for base in _bases(session, row)],
            "bases_of": [_named(each) for each in built],
        }


def materials(settings: Settings, model_id: str, tenant: str | None = None) -> dict[str, Any]:
    """A version's bill of materials: CycloneDX 1.6 as JSON."""
    with open_session(settings) as session:
        row = models.get(session, model_id, tenant)
        run = Artifacts(open_storage(settings)).find(row.run_artifact) if row.run_artifact else None
        return bill_of_materials(row, _bases(session, row), run)


def _to_change(settings: Settings, model_id: str, tenant: str | None) -> Model:
    """A version that is about to be changed. DeniedError for one that another user shares."""
    with open_session(settings) as session:
        row = models.get(session, model_id, tenant)
        check_change(session, row, f"Model {row.id}")
        return row


MOST_BASES = 100


def _bases(session: Session, row: Model) -> list[Model]:
    """The models that a version was built on, the nearest first, up to one that another user does not share."""
    bases: list[Model] = []
    above = row.base_model_id
    while above is not None and len(bases) < MOST_BASES:
        base = session.get(Model, above)
        if base is None:
            break
        bases.append(base)
        above = base.base_model_id
    return bases


def _named(row: Model) -> dict[str, Any]:
    return {"id": row.id, "name": f"{row.family}/{row.name}", "version": row.version, "license": row.license}


def promote(
    settings: Settings,
    model_id: str,
    *,
    actor: str,
    is_admin: bool,
    tenant: str | None = None,
    force: bool = False,
    reason: str = "",
) -> dict[str, Any]:
    """Make a version its model's champion; returns the model as the API shows it. `actor` is who asks.

    ConflictError when its gate did not pass or it was never evaluated, and, whoever asks, when the licence of its base
    or data forbids it (`licenses.check_compliance`). Of a gate an administrator may override that with
    `force` and a `reason` (else DeniedError, InputError); it stays visible in the version's gate. Every promotion is
    in the audit trail, refused ones too.
    """
    row = _to_change(settings, model_id, tenant)
    details = {"name": f"{row.family}/{row.name}", "version": row.version, "reason": reason[:2000]}
    with changing_champion(settings, row, "promote", actor, details) as change:
        row = models.get(change.session, row.id, tenant)
        passed = bool(row.gate.get("passed"))
        forced = force and not passed
        change.details |= {"forced": forced, "verdict": str(row.gate.get("verdict") or "")[:2000]}
        _check_promotion(row, passed=passed, forced=forced, is_admin=is_admin, reason=reason)
        override = {"forced": forced} | ({"reason": reason, "forced_by": actor} if forced else {})
        row = models.update(change.session, row.id, tenant, gate=dict(row.gate) | {"promoted": True} | override)
        change.set(str(row.mlflow_version))
        return models.as_dict(row)


def _check_promotion(row: Model, *, passed: bool, forced: bool, is_admin: bool, reason: str) -> None:
    if not passed and not forced:
        verdict = row.gate.get("verdict") or "It was never evaluated."
        raise ConflictError(
            f"Model {row.id} may not be promoted. {verdict}",
            remedy="train again, or have an administrator promote it with force and a reason",
        )
    if forced and not is_admin:
        raise DeniedError(f"Only an administrator may override the gate of model {row.id}.", remedy="ask one")
    if forced and not reason.strip():
        raise InputError(f"To override the gate of model {row.id} give a reason.", remedy="it goes to the audit trail")
    check_compliance("promoted", row.name, row.lineage, row.license)
    if row.mlflow_name is None or row.mlflow_version is None:
        raise ConflictError(f"Model {row.id} is not in MLflow yet.", remedy="run its workflow again, it goes on there")


def check_deployment(row: Model, declared: Deploy) -> None:
    """ConflictError when the licence of a version's base or data forbids the use that a deployment declares."""
    check_compliance("deployed", row.name, row.lineage, row.license, declared.use)


def notices(row: Model) -> list[str]:
    """What has to be said with a version, by the licences of its base and data."""
    return compliance_of(row.name, row.lineage, row.license).notices


def catalog() -> list[dict[str, Any]]:
    """The base models of the catalogue, each with what its licence asks of a model made from it."""
    entries = []
    for entry in CATALOG:
        base = Ingredient("base", entry.license, entry.model)
        judged = judge("", [base], "commercial")
        names = [rule.name_starts_with for rule in RULES if entry.license in rule.licenses and rule.name_starts_with]
        asks = {"name_starts_with": names[0] if names else "", "notices": judged.notices}
        entries.append(entry.as_dict() | asks | {"duties": [duty for _, duty in judged.duties]})
    return entries


def remove(settings: Settings, model_id: str, *, tenant: str | None = None) -> None:
    """Delete a version in our database and in MLflow; ConflictError while it is deployed or a model is built on it.

    When MLflow cannot be reached the row stays, so that the call can be repeated.
    """
    model_id = _to_change(settings, model_id, tenant).id
    with open_session(settings, reach="all") as session:
        row = models.get(session, model_id, tenant)
        if built := models.built_on(session, row.id):
            names = ", ".join(_told(session, each, f"{each.family}/{each.name}@{each.version}") for each in built[:5])
            more = f" and {len(built) - 5} more" if len(built) > 5 else ""
            raise ConflictError(
                f"Model {row.id} may not be deleted: {names}{more} {'is' if len(built) == 1 else 'are'} built on it.",
                remedy="delete those first",
            )
        models.delete(session, row.id, tenant)
        if row.mlflow_name and row.mlflow_version:
            remove_version(settings, row.mlflow_name, row.mlflow_version)


def _told(session: Session, row: Model, name: str) -> str:
    return name if may_change(session, row) else "another user's model"


def remove_version(settings: Settings, name: str, version: str) -> None:
    """Delete a version (and the registered model with its last one); nothing happens when it is gone already."""
    from mlflow.exceptions import MlflowException

    with _client(settings) as client:
        try:
            client.delete_model_version(name, version)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return
        if not _versions(client, name):
            client.delete_registered_model(name)


def _ensure_registered(client: Any, name: str, tags: Mapping[str, str]) -> None:
    from mlflow.exceptions import MlflowException

    model_tags = {key: tags[key] for key in ("family", "tenant") if key in tags}
    try:
        client.create_registered_model(name, tags=model_tags)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _versions(client: Any, name: str) -> list[Any]:
    versions: list[Any] = []
    token = None
    while True:
        page = client.search_model_versions(f"name='{name}'", page_token=token)
        versions += list(page)
        token = page.token
        if not token:
            return versions


@contextmanager
def _client(settings: Settings) -> Iterator[Any]:
    """A client of the settings' MLflow, whose exceptions become UnavailableError."""
    if not settings.mlflow_url:
        raise UnavailableError("MLflow is not running.", remedy="run `soldiom up` or set MLFLOW_TRACKING_URI")
    for variable, value in MLFLOW_LIMITS.items():
        os.environ.setdefault(variable, value)
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        yield MlflowClient(settings.mlflow_url, registry_uri=settings.mlflow_url)
    except MlflowException as error:
        if error.error_code in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED"):
            raise UnavailableError(
                f"MLflow at {settings.mlflow_url} cannot be reached.",
                remedy="run `soldiom up` (or check MLFLOW_TRACKING_URI), then run the stage again",
            ) from error
        raise UnavailableError(
            f"MLflow at {settings.mlflow_url} refused the registration: {error.error_code}.",
            remedy="see MLflow's log, then run the stage again",
        ) from error
