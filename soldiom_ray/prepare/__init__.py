"""Documents become a dataset: cleaned, filtered, redacted, deduplicated, split without leaks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from soldiom_ray.artifacts import Context
    from soldiom_ray.domains.schema import Prepare
    from soldiom_ray.records import Manifest


def prepare(context: "Context", documents: "Sequence[Manifest]", declared: "Prepare") -> "Manifest":
    """Make (or find) the dataset of these documents: `train/`, `validation/`, `test/`, `dropped/` and `card.md`."""
    from soldiom_ray.prepare import pipeline

    return pipeline.prepare(context, documents, declared)
