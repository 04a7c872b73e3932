"""What must not be trained on: the test sides that models are scored on, as hashes of their runs of words."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from soldiom_ray.artifacts import Context, artifact_id
from soldiom_ray.domains.schema import Prepare
from soldiom_ray.prepare import dedup

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COMMON_WINDOW = 5
"""A run of words that more test documents than this share is boilerplate (a licence header) and betrays none."""


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
    from soldiom_ray.db.engine import session

    with session(context.settings) as opened:
        known = models.evaluation_datasets(opened, context.tenant)
    chosen = [name for name in known if not _is_form_of(context, name, made_from, parents)]
    storage.write(key, json.dumps(chosen).encode())
    return chosen


def rare_windows(texts: Iterable[str]) -> "NDArray[np.uint64]":
    """Hashes of the runs of WINDOW_WORDS words of these texts, sorted, without those that many of them share."""
    import numpy as np

    windows = [
        np.unique(dedup.runs(dedup.hash_words(words), dedup.WINDOW_WORDS))
        for text in texts
        if len(words := dedup.words_of(text)) >= dedup.WINDOW_WORDS
    ]
    values, counts = np.unique(np.concatenate(windows or [np.empty(0, np.uint64)]), return_counts=True)
    return np.asarray(values[counts <= COMMON_WINDOW], np.uint64)


def _is_form_of(context: Context, name: str, made_from: Mapping[str, Any], parents: Sequence[str]) -> bool:
    manifest = context.artifacts.find(name)
    if manifest is None:
        return False
    same = all(manifest.made_from.get(key) == value for key, value in made_from.items())
    return same and list(manifest.parents) == list(parents)
