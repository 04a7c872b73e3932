"""How records were read, for people: which column became what, what was left out, and two samples as a model reads
them, with what it learns marked."""

import json
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from soldiom_ray.domains.messages import is_taught, spoken, tools_of
from soldiom_ray.settings import Settings

if TYPE_CHECKING:
    from soldiom_ray.artifacts import Artifacts
    from soldiom_ray.records import Manifest

SHOWN_NAMES = 12
SAMPLES = 2
SEARCHED = 50
SAMPLE_CHARACTERS, SAMPLE_LINES = 400, 6


def read_mapping(settings: Settings, artifact: str) -> tuple[dict[str, Any], list[list[dict[str, Any]]]]:
    """(mapping, samples) of documents or of a dataset, by the artifact's id."""
    from soldiom_ray.artifacts import Artifacts
    from soldiom_ray.storage import open_storage

    artifacts = Artifacts(open_storage(settings))
    manifest = artifacts.get(artifact)
    if manifest.kind == "documents":
        return mapping_of(manifest.details), []
    return joined_mapping(artifacts, manifest), samples_of(artifacts, manifest)


def mapping_of(details: Mapping[str, Any]) -> dict[str, Any]:
    """From the details of documents: `columns` by role, `speakers`, `left_out` of records that were kept, `refused`
    records by reason, `skipped` pieces of files by reason, and `unrecognized`, file -> columns of which none has a
    role."""
    refused = {
        name.removeprefix("record_"): count
        for name, count in (details.get("outcomes") or {}).items()
        if name.startswith("record_")
    }
    return {
        "forms": dict(details.get("forms") or {}),
        "columns": dict(details.get("columns") or {}),
        "speakers": dict(details.get("speakers") or {}),
        "left_out": dict(details.get("notes") or {}),
        "refused": refused,
        "skipped": dict(details.get("skipped") or {}),
        "unrecognized": dict(details.get("unrecognized") or {}),
    }


def joined_mapping(artifacts: "Artifacts", dataset: "Manifest") -> dict[str, Any]:
    """The mapping of all documents that a dataset was made from."""
    joined: dict[str, Any] = mapping_of({})
    for parent in dataset.parents:
        manifest = artifacts.find(parent)
        if manifest is None or manifest.kind != "documents":
            continue
        mapping = mapping_of(manifest.details)
        for name in ("forms", "speakers", "left_out", "refused", "skipped"):
            for key, count in mapping[name].items():
                joined[name][key] = joined[name].get(key, 0) + count
        for role, columns in mapping["columns"].items():
            joined["columns"][role] = [*dict.fromkeys([*joined["columns"].get(role, ()), *columns])]
        joined["unrecognized"] |= mapping["unrecognized"]
    return joined


def mapping_lines(mapping: Mapping[str, Any]) -> list[str]:
    """The mapping in words; nothing where no column was read."""
    lines = []
    if forms := mapping["forms"]:
        lines.append(f"Records of a form of their own: {_counted(forms)}")
    if columns := mapping["columns"]:
        read_as = ", ".join(f"{role} = {' or '.join(names)}" for role, names in columns.items())
        lines.append(f"Columns: {read_as}   (to choose others: --column ROLE=COLUMN)")
    if mapping["speakers"]:
        hint = "   (to choose: --column user=NAME)" if any("guess" in name for name in mapping["speakers"]) else ""
        lines.append(f"Speakers: {', '.join(mapping['speakers'])}{hint}")
    for title, name in (
        ("Left out of records that were kept", "left_out"),
        ("Refused records", "refused"),
        ("Left out of files", "skipped"),
    ):
        if counts := mapping[name]:
            lines.append(f"{title}: {_counted(counts)}")
    for file, columns in mapping["unrecognized"].items():
        lines.append(
            f"No column of {file} was recognised, so its rows are texts: {_some(columns)}.   (to name them:"
            " --column question=COLUMN --column answer=COLUMN, or text=COLUMN)"
        )
    return lines


def _counted(counts: Mapping[str, int]) -> str:
    most = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return _some([f"{name} ({count})" for name, count in most])


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more


def samples_of(artifacts: "Artifacts", dataset: "Manifest") -> list[list[dict[str, Any]]]:
    """Training samples from the beginning as turns, [{role, text, taught}, ...]; a plain text is one turn that is
    taught. Conversations come first: a licence or a README among them is no example of what is learnt."""
    rows = islice(artifacts.rows(dataset, "train/", ["text", "messages"]), SEARCHED)
    samples = [(str(row["text"]), json.loads(row["messages"] or "[]")) for row in rows]
    samples.sort(key=lambda sample: not sample[1])
    return [_turns(text, messages) for text, messages in samples[:SAMPLES]]


def _turns(text: str, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    from soldiom_ray.examples import shorten

    if not messages:
        return [{"role": "text", "text": shorten(text, SAMPLE_CHARACTERS, SAMPLE_LINES), "taught": True}]
    turns = [
        {
            "role": message["role"],
            "text": shorten(spoken(message), SAMPLE_CHARACTERS, SAMPLE_LINES),
            "taught": is_taught(message),
        }
        for message in messages
    ]
    if tools := tools_of(messages):
        names = ", ".join(str(tool.get("function", tool).get("name", "?")) for tool in tools)
        turns.insert(0, {"role": "tools", "text": names, "taught": False})
    return turns


def sample_lines(samples: list[list[dict[str, Any]]]) -> list[str]:
    """The samples for a terminal: what a model learns to say stands behind a bar."""
    lines = []
    for number, turns in enumerate(samples, 1):
        lines.append(f"Sample {number} as a model reads it; what it learns to say is marked with |")
        for turn in turns:
            mark = "|" if turn["taught"] else " "
            first, *others = turn["text"].splitlines() or [""]
            lines.append(f"{mark} {turn['role']}: {first}")
            lines += [f"{mark}   {other}" for other in others]
    return lines
