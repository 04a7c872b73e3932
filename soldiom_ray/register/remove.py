"""Take a version out of the registry. Its run, weights and scores stay in storage."""

from soldiom_ray.settings import Settings


def remove(settings: Settings, model_id: str, *, tenant: str | None = None) -> None:
    """Delete a version in our database and in MLflow; ConflictError while it is deployed.

    When MLflow cannot be reached the row stays, so that the call can be repeated.
    """
    from soldiom_ray.db import models
    from soldiom_ray.db.engine import session
    from soldiom_ray.register.registry import remove_version

    with session(settings) as connection:
        row = models.get(connection, model_id, tenant)
        models.delete(connection, row.id, tenant)
        if row.mlflow_name and row.mlflow_version:
            remove_version(settings, row.mlflow_name, row.mlflow_version)
