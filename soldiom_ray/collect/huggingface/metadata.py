"""A repository's entry in a listing of the Hub, in one shape. Its author wrote everything in it, so no field is
trusted to have the right type."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from soldiom_ray import licenses
from soldiom_ray.collect.text import SkippedError

MAX_RESULTS = 200
"""Evaluation results taken per repository; cards of leaderboards hold thousands."""

MAX_ITEMS, MAX_CHARACTERS = 100, 2000
_ID = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}(?:/[A-Za-z0-9_][\w.-]{0,95})?", re.ASCII)
_HUB_LICENSES = {
    "c-uda": "C-UDA-1.0", "gfdl": "GFDL-1.3-or-later", "lgpl-lr": "LGPLLR", "llama4": "LicenseRef-Llama-4",
    "odbl": "ODbL-1.0", "pddl": "PDDL-1.0", "bigscience-bloom-rail-1.0": "LicenseRef-OpenRAIL",
    "apple-amlr": "LicenseRef-NonCommercial", "deepfloyd-if-license": "LicenseRef-NonCommercial",
    "fair-noncommercial-research-license": "LicenseRef-NonCommercial", "h-research": "LicenseRef-NonCommercial",
    "intel-research": "LicenseRef-NonCommercial",
}  # fmt: skip
"""Names in the Hub's own list (huggingface.co/docs/hub/repositories-licenses) that are not SPDX ids. Research-only
ones count as non-commercial."""

_LINKS = (
    (r"apache\.org/licenses/LICENSE-2\.0", "Apache-2.0"),
    (r"(?:opensource\.org|choosealicense\.com)/licenses?/mit\b", "MIT"),
    (r"creativecommons\.org/publicdomain/zero/1\.0", "CC0-1.0"),
    (r"creativecommons\.org/licenses/(by(?:-nc)?(?:-sa|-nd)?)/(\d\.\d)", "CC-{0}-{1}"),
    (r"spdx\.org/licenses/([\w.-]+?)(?:\.html)?$", "{0}"),
)


@dataclass(frozen=True, slots=True)
class ListedRepository:
    """A repository of the listing. `key` stays the same when it is renamed; `gated` is "", "auto" or "manual"; `state`
    is "", "private" or "disabled"; `metadata` is JSON of what the Hub has on it."""

    key: str
    id: str
    sha: str
    downloads: int
    likes: int
    gated: str
    state: str
    files: tuple[str, ...]
    tags: tuple[str, ...]
    license: str
    custom_code: bool
    metadata: str
    query: str


def read_entry(entry: Any, query: str) -> ListedRepository:
    """One entry of a listing. Raises SkippedError `damaged` for one without a usable name or commit."""
    fields = _mapping(entry)
    name, sha = str(fields.get("id") or ""), str(fields.get("sha") or "")
    if not _ID.fullmatch(name) or ".." in name:
        raise SkippedError("damaged", "an entry whose name is no repository's name")
    if not re.fullmatch(r"[0-9a-f]{40}", sha):
        raise SkippedError("damaged", "an entry without a commit")
    card, config = _mapping(fields.get("cardData")), _mapping(fields.get("config"))
    tags = tuple(tag for tag in _sequence(fields.get("tags")) if isinstance(tag, str))
    siblings = (_mapping(file).get("rfilename") for file in _sequence(fields.get("siblings")))
    gated = fields.get("gated")
    return ListedRepository(
        key=str(fields.get("_id") or name),
        id=name,
        sha=sha,
        downloads=_whole(fields.get("downloads")),
        likes=_whole(fields.get("likes")),
        gated=str(gated) if gated else "",
        state="disabled" if fields.get("disabled") else "private" if fields.get("private") else "",
        files=tuple(file for file in siblings if isinstance(file, str)),
        tags=tags,
        license=license_of(card, tags),
        custom_code="custom_code" in tags or "auto_map" in config,
        metadata=json.dumps(_hub_metadata(fields, card, config), default=str),
        query=query,
    )


def license_of(card: Mapping[str, Any], tags: Sequence[str] = ()) -> str:
    """The SPDX expression of a card: its `license` (one or several), by `license_name` or `license_link` where that
    says "other", else the licence tag. What SPDX does not know becomes a LicenseRef; "" when there is nothing."""
    declared = card.get("license") or [tag.removeprefix("license:") for tag in tags if tag.startswith("license:")]
    names = [str(name).strip() for name in (declared if isinstance(declared, list) else [declared]) if name]
    own_name, link = str(card.get("license_name") or "").strip(), str(card.get("license_link") or "").strip()
    if not names and own_name:
        names = ["other"]
    return licenses.combine(
        _license_by_name(own_name, link) if name.lower() == "other" else _license_by_name(name, "") for name in names
    )


def evaluation_results(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures of a repository: those of its `model-index` (the author's claims) and the Hub's `evalResults`."""
    index = entry.get("model-index") or _mapping(entry.get("cardData")).get("model-index")
    results = [*_index_results(index), *_hub_results(entry.get("evalResults"))][:MAX_RESULTS]
    return [{name: value for name, value in result.items() if value not in (None, "")} for result in results]


def _hub_metadata(fields: Mapping[str, Any], card: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    safetensors = _mapping(fields.get("safetensors"))
    from_card = ("language", "datasets", "base_model", "task_categories", "task_ids", "size_categories", "pretty_name")
    metadata = {
        "downloads": _whole(fields.get("downloads")),
        "downloads_all_time": fields.get("downloadsAllTime"),
        "likes": _whole(fields.get("likes")),
        "task": fields.get("pipeline_tag"),
        "library": fields.get("library_name"),
        "last_modified": fields.get("lastModified"),
        "parameters": safetensors.get("total"),
        "parameters_by_type": safetensors.get("parameters"),
        "architectures": config.get("architectures"),
        "evaluation_results": evaluation_results(fields),
        "license": card.get("license"),
        "license_name": card.get("license_name"),
        "license_link": card.get("license_link"),
    } | {name: card.get(name) for name in from_card}
    short = {key: _shortened(value) for key, value in metadata.items()}
    return {key: value for key, value in short.items() if value not in (None, [], {}, "")}


def _license_by_name(name: str, link: str) -> str:
    """One licence by its name, else its link, else a LicenseRef made from the name."""
    lower = name.lower()
    if lower in ("unknown", "none", "unlicensed") or (not name and not link):
        return "" if name else "LicenseRef-Other"
    license_id = _HUB_LICENSES.get(lower) or licenses.from_name(name)
    if license_id and license_id != "LicenseRef-Other":
        return license_id
    for pattern, spdx in _LINKS:
        match = re.search(pattern, link, re.IGNORECASE)
        if match and (license_id := licenses.normalize(spdx.format(*(part.upper() for part in match.groups())))):
            return license_id
    if re.search(r"non[-_ ]?commercial", lower):
        return "LicenseRef-NonCommercial"
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")[:60]
    return f"LicenseRef-{plain}" if plain and lower != "other" else "LicenseRef-Other"


def _index_results(index: Any) -> Iterator[dict[str, Any]]:
    for model in _sequence(index):
        for result in map(_mapping, _sequence(_mapping(model).get("results"))):
            task, dataset, source = (_mapping(result.get(name)) for name in ("task", "dataset", "source"))
            for metric in map(_mapping, _sequence(result.get("metrics"))):
                yield {
                    "task": _shortened(task.get("type")),
                    "dataset": _shortened(dataset.get("name") or dataset.get("type")),
                    "split": _shortened(dataset.get("split")),
                    "metric": _shortened(metric.get("type") or metric.get("name")),
                    "value": _shortened(metric.get("value")),
                    "verified": metric.get("verified") is True or None,
                    "source": _shortened(source.get("url")),
                }


def _hub_results(entries: Any) -> Iterator[dict[str, Any]]:
    for entry in map(_mapping, _sequence(entries)):
        data = _mapping(entry.get("data")) or entry
        dataset, source = _mapping(data.get("dataset")), _mapping(data.get("source"))
        if "error" not in entry and "value" in data:
            yield {
                "task": _shortened(dataset.get("task_id")),
                "dataset": _shortened(dataset.get("id")),
                "value": _shortened(data["value"]),
                "date": _shortened(data.get("date")),
                "source": _shortened(source.get("url")),
            }


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _sequence(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _whole(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18 else 0


def _shortened(value: Any, depth: int = 4) -> Any:
    """The value, with bounds on its length and depth."""
    if isinstance(value, str):
        return value[:MAX_CHARACTERS]
    if isinstance(value, list):
        return [_shortened(item, depth - 1) for item in value[: 2 * MAX_ITEMS]] if depth else []
    if isinstance(value, dict):
        items = list(value.items())[:MAX_ITEMS]
        return {str(key)[:MAX_ITEMS]: _shortened(item, depth - 1) for key, item in items} if depth else {}
    return None if isinstance(value, float) and not math.isfinite(value) else value
