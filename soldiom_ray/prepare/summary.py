"""What the manifest and the card of a dataset say of it: counts, and the details behind them."""

import json
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from soldiom_ray.domains.schema import Prepare
from soldiom_ray.prepare.document_table import DocumentTable
from soldiom_ray.prepare.filters.language import language_problem
from soldiom_ray.prepare.sides import check_sides, describe_sides
from soldiom_ray.records import Split

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_GROUPS = 2000
ALIKE_SHARE, ALIKE_DOCUMENTS = 0.25, 20
"""Groups that the manifest names, the largest first: a table has one for every row."""

MAX_LABELS, MAX_LABEL_CHARACTERS = 200, 60
"""Labels that the manifest counts, the most frequent first: not every column of this name holds classes, and a long
text is none."""


def counts_and_details(
    document_table: DocumentTable, members: "dict[Split, NDArray[np.int64]]", declared: Prepare
) -> tuple[dict[str, int], dict[str, Any]]:
    """What the manifest and the card say of a dataset. `members` are the positions of each split's samples."""
    import numpy as np

    remaining, dropped = document_table.remaining(), document_table.dropped()
    drops = Counter(document_table.reason(int(position)) for position in dropped)
    redactions = total_redactions(document_table.column("redactions", remaining))
    pictures = int((document_table.image_bytes[remaining] > 0).sum())
    functions, everything = document_table.functions(), np.arange(len(document_table))
    counts = {
        "documents": len(set(document_table.documents(everything))) if functions else len(document_table),
        **({"functions": functions} if functions else {}),
        "kept": len(remaining),
        **{split: len(positions) for split, positions in members.items()},
        "dropped": len(dropped),
        **{f"dropped_{reason}": count for reason, count in sorted(drops.items())},
        **{f"redacted_{name}": redactions[name] for name in declared.redact},
        **({"pictures": pictures} if pictures else {}),
    }
    labels = _count_labels(document_table, members)
    sides = describe_sides(document_table, members, labels)
    details: dict[str, Any] = {
        "drops": dict(sorted(drops.items())),
        "redactions": {name: redactions[name] for name in declared.redact},
        **{
            f"{name}s": dict(sorted(Counter(v or "unknown" for v in document_table.column(name, remaining)).items()))
            for name in ("license", "kind", "language")
        },
        **({"languages_not_detected": problem} if (problem := language_problem()) else {}),
        "labels": _most_frequent(labels),
        "groups": _groups(document_table, members),
        "characters": {split: int(document_table.characters[positions].sum()) for split, positions in members.items()},
        "sides": sides,
        "warnings": [
            *check_sides(sides, labels, declared.split, set(document_table.column("own_split", remaining)) - {""}),
            *warnings_of_copies(drops["near_duplicate"], len(document_table)),
        ],
    }
    return counts, details


def _count_labels(
    document_table: DocumentTable, members: "dict[Split, NDArray[np.int64]]"
) -> dict[str, dict[str, int]]:
    """Samples per label and split; empty where samples have none."""
    counts: dict[str, dict[str, int]] = {}
    for split, positions in members.items():
        lines = document_table.column("labels", positions)
        for label, count in Counter(label for some in lines for label in some.split("\n")).items():
            if 0 < len(label) <= MAX_LABEL_CHARACTERS:
                counts.setdefault(label, {})[split] = count
    return counts


def _most_frequent(counts: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    most_frequent = sorted(counts, key=lambda label: (-sum(counts[label].values()), label))[:MAX_LABELS]
    return {label: counts[label] for label in most_frequent}


def _groups(document_table: DocumentTable, members: "dict[Split, NDArray[np.int64]]") -> dict[str, dict[str, Any]]:
    """Version, license, split and samples of the largest groups."""
    groups: dict[str, dict[str, Any]] = {}
    for split, positions in members.items():
        columns = [document_table.column(name, positions) for name in ("group", "version", "license")]
        for group, version, license_ in zip(*columns, strict=True):
            entry = groups.setdefault(group, {"version": version, "license": license_, "split": split, "samples": 0})
            entry["samples"] += 1
            if split not in entry["split"].split("+"):
                entry["split"] += f"+{split}"
    largest = sorted(groups, key=lambda name: (-groups[name]["samples"], name))[:MAX_GROUPS]
    return {name: groups[name] for name in sorted(largest)}


def total_redactions(redactions: Iterable[str]) -> Counter[str]:
    """Redactions by type, over the values of the column `redactions` of the facts."""
    counts: Counter[str] = Counter()
    for counts_json in redactions:
        if counts_json:
            counts.update(json.loads(counts_json))
    return counts


def warnings_of_copies(dropped: int, total: int) -> list[str]:
    """Questions about one long text are near copies of one another: said where that left out much."""
    if total < ALIKE_DOCUMENTS or dropped < ALIKE_SHARE * total:
        return []
    return [
        f"near_duplicate left out {dropped:,} of {total:,} samples, whose texts are nearly the same, as questions"
        " about one text are: take near_duplicate out of prepare.filters, or raise prepare.near_duplicate_threshold."
    ]
