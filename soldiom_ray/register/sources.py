"""The sources of a dataset and their licences, for the model card and the licence of the model."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from soldiom_ray.artifacts import Artifacts
from soldiom_ray.licenses import combine
from soldiom_ray.records import Manifest

UNKNOWN = "LicenseRef-Unknown"
"""Stands in a model's licence expression for parts without a known licence."""


@dataclass(slots=True)
class DataSource:
    """One package, repository or folder of a dataset. `held_out` documents were only used to evaluate."""

    group: str
    source: str
    versions: set[str] = field(default_factory=set)
    licenses: set[str] = field(default_factory=set)
    trained: int = 0
    held_out: int = 0


def data_sources(artifacts: Artifacts, dataset: Manifest) -> list[DataSource]:
    """The sources of a dataset's samples, the largest first."""
    sources: dict[tuple[str, str], DataSource] = {}
    columns = ["group", "source", "version", "license", "split"]
    for split in ("train/", "validation/", "test/"):
        for table in artifacts.tables(dataset, split):
            counted = table.select(columns).group_by(columns).aggregate([([], "count_all")])
            for row in counted.to_pylist():
                source = sources.setdefault((row["source"], row["group"]), DataSource(row["group"], row["source"]))
                source.versions |= {row["version"]} - {""}
                source.licenses.add(row["license"])
                if row["split"] == "test":
                    source.held_out += row["count_all"]
                else:
                    source.trained += row["count_all"]
    return sorted(sources.values(), key=lambda source: (-source.trained - source.held_out, source.group))


def combined_license(base: str | None, sources: Iterable[DataSource]) -> tuple[str, list[str]]:
    """(licence expression that holds for a model made from these, names of its parts without a known licence).

    `base` is None for a model from random weights. Sources that were only held out do not count.
    """
    names: set[str] = set()
    unknown: list[str] = []
    if base is not None:
        names.add(base)
        if not base:
            unknown.append("base model")
    for source in sources:
        if source.trained:
            names |= source.licenses
            if "" in source.licenses:
                unknown.append(source.group)
    return combine({*names, *([UNKNOWN] if unknown else [])}), unknown


def collected_from(artifacts: Artifacts, dataset: Manifest) -> list[Mapping[str, Any]]:
    """The documents artifacts that a dataset was prepared from: id and counts."""
    collected: list[Mapping[str, Any]] = []
    for parent in dataset.parents:
        manifest = artifacts.find(parent)
        if manifest is not None:
            collected.append({"id": manifest.id, "kind": manifest.kind, "counts": manifest.counts})
    return collected
