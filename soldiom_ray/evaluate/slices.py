"""The facts of held-out samples by which scores are cut into slices: language, source, length, label."""

from collections.abc import Mapping, Sequence
from typing import Any

LENGTHS = ("shortest third", "middle third", "longest third")


def facts_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """The facts of each sample by its id. A sample's length is its text's, against the other rows'."""
    ordered = sorted(len(row.get("text") or "") for row in rows)
    thirds = [ordered[len(ordered) * third // 3] for third in (1, 2)]
    facts: dict[str, dict[str, str]] = {}
    for row in rows:
        values = {"language": row.get("language"), "source": row.get("source")}
        length = len(row.get("text") or "")
        values["length"] = LENGTHS[sum(length >= limit for limit in thirds)]
        labels = list(row.get("labels") or [])
        if len(labels) == 1:
            values["label"] = str(labels[0])
        facts[row["id"]] = {name: value for name, value in values.items() if value}
    return facts
