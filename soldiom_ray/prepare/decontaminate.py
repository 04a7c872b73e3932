"""What must not be trained on: the test splits that models are scored on."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from soldiom_ray.artifacts import Context, artifact_id
from soldiom_ray.domains.schema import Prepare


def evaluation_sets(
    context: Context, declared: Prepare, made_from: Mapping[str, Any], parents: Sequence[str]
) -> list[str]:
    """Ids of the datasets whose test splits this dataset must not contain: those that the tenant's registered models
    were scored on, except earlier forms of this very dataset. The answer is stored on the first run, so that running
    again finds the same dataset, whatever was registered since."""
    if declared.decontaminate == "none" or context.settings.database_url is None:
        return []
    storage = context.artifacts.storage
    key = (
        f"work/evaluation-sets/{artifact_id('dataset', {**made_from, 'parents': list(parents)})}-{context.tenant}.json"
    )
    if storage.exists(key):
        stored: list[str] = json.loads(storage.read(key))
        return stored
    from soldiom_ray.db import models
    from soldiom_ray.db.engine import open_session

    with open_session(context.settings) as session:
        evaluated = models.evaluation_datasets(session, context.tenant)
    chosen = [name for name in evaluated if not _is_form_of(context, name, made_from, parents)]
    storage.write(key, json.dumps(chosen).encode())
    return chosen


def _is_form_of(context: Context, name: str, made_from: Mapping[str, Any], parents: Sequence[str]) -> bool:
    manifest = context.artifacts.find(name)
    if manifest is None:
        return False
    is_same_declaration = all(manifest.made_from.get(key) == value for key, value in made_from.items())
    return is_same_declaration and list(manifest.parents) == list(parents)
