"""A dataset becomes an index that is searched by meaning and by words."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from soldiom_ray.artifacts import Context
    from soldiom_ray.domains.schema import Embed
    from soldiom_ray.records import Manifest


def embed(context: "Context", dataset: "Manifest", declared: "Embed") -> "Manifest":
    """Make (or find) the index of a dataset: shards `passages/`, and a Chroma collection named like the artifact."""
    from soldiom_ray.embed import index

    return index.embed(context, dataset, declared)
