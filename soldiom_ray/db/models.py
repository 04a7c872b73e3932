"""Versions of models in the registry."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from soldiom_ray.db.ownership import belongs_to, own_first
from soldiom_ray.db.pages import newest_first
from soldiom_ray.db.tables import Deployment, Model
from soldiom_ray.errors import BusyError, ConflictError, NotFoundError, suggestion
from soldiom_ray.records import RUN_ID
from soldiom_ray.settings import HOME_TENANT


def create(
    session: Session, *, family: str, name: str, tenant: str = HOME_TENANT, owner: str = "", **values: Any
) -> Model:
    """Create the next version of an owner's `family/name`; `values` are columns of the table."""
    its = belongs_to(owner)
    for _ in range(5):
        model = Model(
            tenant=tenant,
            family=family,
            name=name,
            version=next_version(session, family=family, name=name, tenant=tenant, owner=its["owner"]),
            **its,
            **values,
        )
        try:
            with session.begin_nested():
                session.add(model)
        except IntegrityError:
            continue
        return model
    raise BusyError(f"Many versions of {family}/{name} are being registered at once.", remedy="try again")


def next_version(session: Session, *, family: str, name: str, tenant: str = HOME_TENANT, owner: str = "") -> int:
    """The number of the next version of an owner's `family/name`."""
    query = select(func.max(Model.version)).where(*_named(tenant, owner, family, name))
    return (session.scalar(query) or 0) + 1


def get(session: Session, id_or_name: str, tenant: str | None = None) -> Model:
    """A model by id, `name`, `family/name`, each with or without `@version`; without one, the newest version. The id of
    a run is the newest model made of it. Of a name that several users gave, the reader's own (`ownership`).
    NotFoundError names what is near."""
    if RUN_ID.fullmatch(id_or_name) and (made := of_run(session, id_or_name, tenant)):
        return made
    path, _, version = id_or_name.partition("@")
    family, _, name = path.rpartition("/")
    named = Model.name == name
    if family:
        named &= Model.family == family
    if version:
        named &= Model.version == (int(version) if version.isdecimal() and len(version) < 10 else -1)
    query = select(Model).where(or_(Model.id == id_or_name, named))
    if tenant is not None:
        query = query.where(Model.tenant == tenant)
    order = ((Model.id == id_or_name).desc(), *own_first(session, Model), Model.id.desc())
    model = session.scalars(query.order_by(*order).limit(1)).one_or_none()
    if model is None:
        near = suggestion(id_or_name, known_names(session, tenant), 3) if tenant is not None else ""
        raise NotFoundError(f"No model {id_or_name[:100]!r}.{near}", remedy="list them with `soldiom models list`")
    return model


def get_served(
    session: Session, id_or_name: str, tenant: str | None = None, draw: Callable[[], float] = lambda: 1.0
) -> Model:
    """The model that answers under an id or a name: of a name without a version the newest version that is deployed,
    else the newest promoted one that answers on its base's endpoint; else as `get`. A version with a share of the
    requests is passed over for the one before unless `draw`, a number from 0 to 1, is below that share."""
    model = get(session, id_or_name, tenant)
    if id_or_name == model.id or "@" in id_or_name or RUN_ID.fullmatch(id_or_name):
        return model
    for deployed, share in _deployed(session, model):
        if share >= 1 or draw() < share:
            return deployed
    base = aliased(Model)
    same = of_name(model)
    hosted = select(Model).join(base, base.id == Model.base_model_id).where(*same, base.deployed.is_(True))
    for each in session.scalars(hosted.order_by(Model.version.desc())):
        if each.gate.get("promoted") and host_of(session, each) is not None:
            return each
    return model


def shares(session: Session, model: Model) -> dict[str, float]:
    """Of each deployed version of a model's name the part of the requests to the name that it answers."""
    found, left = {}, 1.0
    for deployed, share in _deployed(session, model):
        found[str(deployed.id)] = round(left * min(1.0, share), 6)
        left -= left * min(1.0, share)
    return found


def _deployed(session: Session, model: Model) -> list[tuple[Model, float]]:
    """The deployed versions of a model's name, newest first, and the share of each of the requests that come to it: all
    for the last."""
    served = select(Model, Deployment.config).outerjoin(Deployment, Deployment.model_id == Model.id)
    rows = session.execute(served.where(*of_name(model), Model.deployed.is_(True)).order_by(Model.version.desc())).all()
    shares_of = [float((config or {}).get("share", 1.0)) for _, config in rows[:-1]] + [1.0]
    return [(row[0], share) for row, share in zip(rows, shares_of, strict=False)]


def deployed_before(session: Session, model: Model) -> Model | None:
    """The newest earlier version of the same name that is deployed."""
    served = select(Model).where(*of_name(model), Model.deployed.is_(True), Model.version < model.version)
    return session.scalars(served.order_by(Model.version.desc()).limit(1)).first()


def host_of(session: Session, model: Model) -> Model | None:
    """The model that an adapter was trained on, where that is deployed. None for one that is no adapter."""
    if not model.base_model_id or not model.run_artifact or model.lineage.get("method") not in ("lora", "prompt"):
        return None
    base = session.get(Model, model.base_model_id)
    return base if base is not None and base.deployed and base.tenant == model.tenant else None


def of_name(model: Model) -> tuple[ColumnElement[bool], ...]:
    """The versions of a model's name: those of its owner."""
    return _named(model.tenant, model.owner, model.family, model.name)


def _named(tenant: str, owner: str, family: str, name: str) -> tuple[ColumnElement[bool], ...]:
    return Model.tenant == tenant, Model.owner == owner, Model.family == family, Model.name == name


def known_names(session: Session, tenant: str) -> list[str]:
    """What a tenant's models may be called: `family/name` and `name`, those of the newest versions."""
    query = select(Model.family, Model.name).where(Model.tenant == tenant).order_by(Model.id.desc()).limit(500)
    pairs = session.execute(query).all()
    return list(dict.fromkeys(name for pair in pairs for name in (f"{pair.family}/{pair.name}", str(pair.name))))


def of_run(session: Session, run_artifact: str, tenant: str | None = None) -> Model | None:
    """The newest version that was registered from this run."""
    query = select(Model).where(Model.run_artifact == run_artifact)
    if tenant is not None:
        query = query.where(Model.tenant == tenant)
    return session.scalars(query.order_by(*own_first(session, Model), Model.id.desc()).limit(1)).one_or_none()


def of_mlflow_version(session: Session, mlflow_name: str, mlflow_version: str) -> Model | None:
    """The version that MLflow has under this name and number."""
    query = select(Model).where(Model.mlflow_name == mlflow_name, Model.mlflow_version == mlflow_version)
    return session.scalars(query.limit(1)).one_or_none()


def built_on(session: Session, model_id: str) -> list[Model]:
    """Models that were trained from this one, oldest first."""
    return list(session.scalars(select(Model).where(Model.base_model_id == model_id).order_by(Model.id)))


def champion_before(
    session: Session, tenant: str, family: str, name: str, run_artifact: str, owner: str = ""
) -> str | None:
    """The run of the newest promoted version of an owner's `family/name`, other than the run given. Where that is
    registered already, of its own family and name and of the versions before it, so that the answer stays the same."""
    owner = belongs_to(owner)["owner"]
    registered = Model.tenant == tenant, Model.owner == owner, Model.run_artifact == run_artifact
    own = session.scalars(select(Model).where(*registered).order_by(Model.id)).first()
    if own is not None:
        family, name = own.family, own.name
    query = select(Model).where(*_named(tenant, owner, family, name))
    if own is not None:
        query = query.where(Model.version < own.version)
    for row in session.scalars(query.order_by(Model.version.desc())):
        if row.gate.get("promoted") and row.run_artifact and row.run_artifact != run_artifact:
            return str(row.run_artifact)
    return None


def evaluation_datasets(session: Session, tenant: str) -> list[str]:
    """Artifact ids of the datasets that this tenant's registered models were scored on, sorted."""
    query = select(Model.dataset_id).where(
        Model.tenant == tenant, Model.scores_artifact.is_not(None), Model.dataset_id.is_not(None)
    )
    return sorted({str(name) for name in session.scalars(query)})


def list_models(
    session: Session,
    tenant: str | None,
    family: str | None = None,
    specialization: str | None = None,
    name: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
    owner: str | None = None,
) -> tuple[list[Model], str | None]:
    """A page of versions, newest first, and the cursor of the next page."""
    query = select(Model)
    conditions = {Model.tenant: tenant, Model.family: family, Model.specialization: specialization, Model.name: name}
    conditions[Model.owner] = owner
    for column, value in conditions.items():
        if value is not None:
            query = query.where(column == value)
    return newest_first(session, query, Model.id, cursor or None, limit)


def update(session: Session, model_id: str, tenant: str | None = None, **values: Any) -> Model:
    """Change columns of one version."""
    model = get(session, model_id, tenant)
    for name, value in values.items():
        if name not in Model.__table__.columns:
            raise TypeError(f"models have no column {name!r}")
        setattr(model, name, value)
    session.flush()
    return model


def delete(session: Session, model_id: str, tenant: str | None = None) -> None:
    """Remove one version; ConflictError while it is deployed. Models trained from it stay, without the reference."""
    model = get(session, model_id, tenant)
    deployment = session.scalars(
        select(Deployment).where(Deployment.model_id == model.id, Deployment.status.in_(("deploying", "running")))
    ).first()
    if model.deployed or deployment is not None:
        raise ConflictError(f"Model {model.id} is deployed.", remedy=f"run `soldiom undeploy {model.id}` first")
    session.delete(model)
    session.flush()


def task_of(model: Model) -> str | None:
    """What the model was trained for; None where the registration did not record it, as that of a base does not."""
    task = model.lineage.get("task")
    return str(task) if task else None


def as_dict(model: Model, *, with_card: bool = False) -> dict[str, Any]:
    """The version as the API and the CLI show it; `with_card` adds card and lineage."""
    names = ["id", "family", "name", "version", "base_model", "base_model_id", "training_job_id", "dataset_id"]
    names += ["run_artifact", "scores_artifact", "specialization", "performance_metrics", "gate", "license"]
    names += ["mlflow_name", "mlflow_version", "deployed", "owner", "shared"]
    if with_card:
        names += ["card", "lineage"]
    shown = {name: getattr(model, name) for name in names} | {"task": task_of(model)}
    return shown | {"created_at": model.created_at.isoformat(), "updated_at": model.updated_at.isoformat()}
