"""What must not be trained on: the test sides that models are scored on."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from soldiom_ray.artifacts import Context, artifact_id
from soldiom_ray.domains.schema import Prepare


def evaluation_sets(
    context: Context, declared: Prepare, made_from: Mapping[str, Any], parents: Sequence[str]
) -> list[str]:
    """The datasets whose test sides this one must keep clear of: those that the tenant's registered models were scored
    on, but for earlier forms of this very dataset. What was known when it was first asked for stays decided, so that
    running again finds the same dataset, whatever was registered since."""
    if declared.decontaminate == "none" or context.settings.database_url is None:
        return []
    storage = context.artifacts.storage
    key = (
        f"work/evaluation-sets/{artifact_id('dataset', {**made_from, 'parents': list(parents)})}-{context.tenant}.json"
    )
    if storage.exists(key):
        decided: list[str] = json.loads(storage.read(key))
        return decided
    from soldiom_ray.db import models
    from soldiom_ray.db.engine import open_session

    with open_session(context.settings) as session:
        known = models.evaluation_datasets(session, context.tenant)
    chosen = [name for name in known if not _is_form_of(context, name, made_from, parents)]
    storage.write(key, json.dumps(chosen).encode())
    return chosen


def _is_form_of(context: Context, name: str, made_from: Mapping[str, Any], parents: Sequence[str]) -> bool:
    manifest = context.artifacts.find(name)
    if manifest is None:
        return False
    same = all(manifest.made_from.get(key) == value for key, value in made_from.items())
    return same and list(manifest.parents) == list(parents)
