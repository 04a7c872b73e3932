"""Answers that failed, from this process into the database, for whoever watches the version."""

from soldiom_ray.api import endpoints
from soldiom_ray.db import usage
from soldiom_ray.db.engine import open_session
from soldiom_ray.db.tables import Model
from soldiom_ray.records import application_name
from soldiom_ray.settings import Settings


def store_failures(settings: Settings) -> None:
    """Add what failed since the last time to the versions it happened to; other applications are nobody's version."""
    prefix = application_name("")
    failed = {name.removeprefix(prefix): count for name, count in endpoints.take_failures().items() if prefix in name}
    for model_id, count in sorted(failed.items()):
        with open_session(settings) as session:
            if (model := session.get(Model, model_id)) is not None:
                usage.add(session, tenant=model.tenant, model_id=model_id, errors=count)
