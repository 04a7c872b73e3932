"""Point the alias `champion` at a version."""

from typing import Any

from soldiom_ray.errors import ConflictError
from soldiom_ray.settings import Settings


def promote(settings: Settings, model_id: str, *, tenant: str | None = None, force: bool = False) -> dict[str, Any]:
    """Make a version its model's champion; the model as the API shows it.

    ConflictError when its gate did not pass or it was never evaluated, unless `force`; a forced promotion stays visible
    in the version's gate.
    """
    from soldiom_ray.db import models
    from soldiom_ray.db.engine import session
    from soldiom_ray.register.registry import set_champion

    with session(settings) as connection:
        row = models.get(connection, model_id, tenant)
    passed = bool(row.gate.get("passed"))
    if not passed and not force:
        reason = row.gate.get("verdict") or "It was never evaluated."
        raise ConflictError(
            f"Model {row.id} may not be promoted. {reason}", remedy="train again, or promote with force"
        )
    if row.mlflow_name is None or row.mlflow_version is None:
        raise ConflictError(f"Model {row.id} is not in MLflow yet.", remedy="run its workflow again, it goes on there")
    set_champion(settings, row.mlflow_name, row.mlflow_version)
    with session(settings) as connection:
        gate = dict(row.gate) | {"promoted": True, "forced": not passed}
        return models.as_dict(models.update(connection, row.id, tenant, gate=gate))
