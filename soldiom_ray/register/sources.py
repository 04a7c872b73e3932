"""The sources of a dataset and their licences, for the model card and the licence of the model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from soldiom_ray.artifacts import Artifacts
from soldiom_ray.domains.federation import FEDERATION
from soldiom_ray.licenses import Ingredient, ModelUse, combine
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
    kinds: set[str] = field(default_factory=set)
    first_records: dict[str, str] = field(default_factory=dict)
    """Of each licence the first record that was trained on."""
    by_license: dict[str, int] = field(default_factory=dict)
    """Documents trained on under each licence."""
    by_kind: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    """(licence, kind) -> documents trained on and held out."""


def data_sources(artifacts: Artifacts, dataset: Manifest) -> list[DataSource]:
    """The sources of a dataset's samples, the largest first. Of a federation these are its sites, which do not tell the
    licences of their data."""
    if (sites := dataset.details.get(FEDERATION)) is not None:
        return [_site(name, count) for name, count in sorted(sites.items(), key=lambda site: (-site[1], site[0]))]
    sources: dict[tuple[str, str], DataSource] = {}
    columns = ["group", "source", "version", "license", "split", "kind"]
    for split in ("train/", "validation/", "test/"):
        for table in artifacts.tables(dataset, split, ["id", *columns]):
            counted = table.group_by(columns).aggregate([([], "count_all"), ("id", "min")])
            for row in counted.to_pylist():
                source = sources.setdefault((row["source"], row["group"]), DataSource(row["group"], row["source"]))
                source.versions |= {row["version"]} - {""}
                source.licenses.add(row["license"])
                source.kinds.add(row["kind"])
                trained, held_out = source.by_kind.get((row["license"], row["kind"]), (0, 0))
                is_test, count = row["split"] == "test", row["count_all"]
                source.by_kind[row["license"], row["kind"]] = (
                    trained + count * (not is_test),
                    held_out + count * is_test,
                )
                if is_test:
                    source.held_out += row["count_all"]
                else:
                    source.trained += row["count_all"]
                    source.first_records.setdefault(row["license"], row["id_min"])
                    source.by_license[row["license"]] = source.by_license.get(row["license"], 0) + row["count_all"]
    return sorted(sources.values(), key=lambda source: (-source.trained - source.held_out, source.group))


def _site(name: str, samples: int) -> DataSource:
    return DataSource(
        name,
        "site",
        licenses={""},
        trained=samples,
        kinds={"other"},
        first_records={"": "1"},
        by_license={"": samples},
        by_kind={("", "other"): (samples, 0)},
    )


@dataclass(slots=True)
class DataSummary:
    """Documents of one origin, kind and licence: how many groups (repositories, packages, folders) they come from, the
    largest of these, and how many were trained on and held out."""

    source: str
    kind: str
    license: str
    groups: list[str] = field(default_factory=list)
    trained: int = 0
    held_out: int = 0


def summarized(sources: Iterable[DataSource]) -> list[DataSummary]:
    """The sources by origin, kind and licence, the most documents first."""
    rows: dict[tuple[str, str, str], DataSummary] = {}
    for each in sources:
        for (license_, kind), (trained, held_out) in each.by_kind.items():
            row = rows.setdefault((each.source, kind, license_), DataSummary(each.source, kind, license_))
            row.groups.append(each.group)
            row.trained += trained
            row.held_out += held_out
    return sorted(rows.values(), key=lambda row: (-row.trained - row.held_out, row.source, row.kind, row.license))


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


def ingredients_of(sources: Iterable[DataSource], accepted: Sequence[str]) -> list[Ingredient]:
    """The data that was trained on, by licence: how much, and which record of which source came first."""
    names: dict[str, list[DataSource]] = {}
    for source in sources:
        for license_ in source.by_license:
            names.setdefault(license_, []).append(source)
    return [
        Ingredient(
            "data",
            license_,
            f"record {members[0].first_records[license_]} of {members[0].group} ({members[0].source})",
            sum(source.by_license[license_] for source in members),
            len(members),
            accepted,
        )
        for license_, members in sorted(names.items())
    ]


def licensed_use(dataset: Manifest) -> tuple[ModelUse, list[str]]:
    """(use that a dataset was prepared for, licences that a person let pass), from the policy in its manifest."""
    declared = dataset.made_from.get("declared")
    declared = declared if isinstance(declared, Mapping) else {}
    policy = declared.get("licences") or declared.get("license") or {}
    use: ModelUse = "any" if policy.get("use", "any") == "any" else "commercial"
    return use, list(policy.get("allow") or ())


def collected_from(artifacts: Artifacts, dataset: Manifest) -> list[Mapping[str, Any]]:
    """The documents artifacts that a dataset was prepared from: id and counts."""
    collected: list[Mapping[str, Any]] = []
    for parent in dataset.parents:
        manifest = artifacts.find(parent)
        if manifest is not None:
            collected.append({"id": manifest.id, "kind": manifest.kind, "counts": manifest.counts})
    return collected
