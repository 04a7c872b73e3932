"""Source `huggingface`: cards of models and datasets, with what the Hub knows of them; weights only when asked for."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from soldiom_ray.artifacts import Context
from soldiom_ray.collect.hub_card import CARDS_PER_TASK, Listed, ReadCards
from soldiom_ray.collect.work import Gathered, Task, Todo
from soldiom_ray.domains.schema import HuggingfaceSource
from soldiom_ray.errors import InputError, UnavailableError
from soldiom_ray.settings import Settings

_EXPAND_BOTH = [
    "downloads",
    "downloadsAllTime",
    "likes",
    "cardData",
    "sha",
    "lastModified",
    "gated",
    "disabled",
    "private",
    "tags",
    "siblings",
]
_EXPAND_MODEL = [*_EXPAND_BOTH, "pipeline_tag", "library_name", "safetensors", "model-index", "config"]


@dataclass
class HuggingfacePlan:
    """A listing. Downloads and likes move, so the fingerprint holds the day."""

    declared: HuggingfaceSource
    settings: Settings
    collected_at: datetime

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        return {"endpoint": self.settings.hf_endpoint, "day": self.collected_at.date().isoformat()}

    def todo(self, report: Callable[[float, str], None]) -> Todo:
        """List what passes the filters, most downloads first; then tasks that read the cards."""
        gathered = Gathered()
        found: dict[str, Listed] = {}
        searches = list(_searches(self.declared))
        for number, (task, library) in enumerate(searches):
            for listed in self._listing(task, library, gathered):
                if listed.id in found:
                    gathered.facts["listing_repeats"] += 1
                else:
                    found[listed.id] = listed
                report(number / len(searches), f"listing {self.declared.kind}: {len(found)}")
        chosen = sorted(found.values(), key=lambda one: (-one.downloads, one.id))[: self.declared.limit]
        gathered.facts[f"{self.declared.kind}_found"] = len(found)
        starts = range(0, len(chosen), CARDS_PER_TASK)
        tasks: list[Task] = [
            ReadCards(tuple(chosen[s : s + CARDS_PER_TASK]), self.declared, self.settings, self.collected_at)
            for s in starts
        ]
        return Todo(tasks, gathered)

    def _listing(self, task: str | None, library: str | None, gathered: Gathered) -> Iterator[Listed]:
        """Repositories by downloads (of the last 30 days), down to the threshold: the Hub knows none itself."""
        kept = 0
        for info in _pages(self.settings, self.declared.kind, task, library):
            if int(info.downloads or 0) <= self.declared.min_downloads:
                return
            if int(info.likes or 0) <= self.declared.min_likes:
                gathered.facts["too_few_likes"] += 1
                continue
            if getattr(info, "private", False) or getattr(info, "disabled", False):
                gathered.leave_out("huggingface", info.id, "", "disabled")
                continue
            yield _listed(info, task, library)
            kept += 1
            if self.declared.limit is not None and kept >= self.declared.limit:
                return


def plan(declared: HuggingfaceSource, context: Context, collected_at: datetime) -> HuggingfacePlan:
    """What a listing of today would be made from; nothing is fetched yet."""
    return HuggingfacePlan(declared, context.settings, collected_at)


def _searches(declared: HuggingfaceSource) -> Iterator[tuple[str | None, str | None]]:
    for task in declared.tasks or (None,):
        for library in declared.libraries or (None,):
            yield task, library


def _pages(settings: Settings, kind: str, task: str | None, library: str | None) -> Iterator[Any]:
    """Lazily, page by page. huggingface_hub retries pages by itself (429, 5xx) before it gives up."""
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(endpoint=settings.hf_endpoint, token=settings.hf_token or False)
    try:
        if kind == "models":
            yield from api.list_models(filter=library, pipeline_tag=task, sort="downloads", expand=list(_EXPAND_MODEL))  # type: ignore[arg-type, unused-ignore]
        else:
            tags = [f"library:{library}"] if library else None
            yield from api.list_datasets(filter=tags, task_categories=task, sort="downloads", expand=list(_EXPAND_BOTH))  # type: ignore[arg-type, unused-ignore]
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status == 401:
            raise InputError(
                "The Hugging Face Hub refused the token (401).", remedy="set HF_TOKEN to a valid token, or unset it"
            ) from error
        if 400 <= status < 500 and status != 429:
            raise InputError(
                f"The Hugging Face Hub refused the listing ({status}).", remedy="correct tasks and libraries"
            ) from error
        raise _unavailable(settings, str(status)) from error
    except httpx2.HTTPError as error:
        raise _unavailable(settings, type(error).__name__) from error


def _unavailable(settings: Settings, why: str) -> UnavailableError:
    return UnavailableError(
        f"The Hugging Face Hub at {settings.hf_endpoint} does not answer ({why}).",
        remedy="check the network and HF_ENDPOINT; cards that were read are kept for the next run",
    )


def _listed(info: Any, task: str | None, library: str | None) -> Listed:
    card = info.card_data.to_dict() if getattr(info, "card_data", None) else {}
    safetensors = getattr(info, "safetensors", None)
    told = {
        "downloads": info.downloads,
        "downloads_all_time": getattr(info, "downloads_all_time", None),
        "likes": info.likes,
        "task": getattr(info, "pipeline_tag", None),
        "library": getattr(info, "library_name", None),
        "languages": card.get("language"),
        "datasets": card.get("datasets"),
        "base_model": card.get("base_model"),
        "metrics": _metrics(card, getattr(info, "model_index", None)),
        "parameters": getattr(safetensors, "total", None),
        "parameters_by_type": getattr(safetensors, "parameters", None),
        "architectures": (getattr(info, "config", None) or {}).get("architectures"),
        "task_categories": card.get("task_categories"),
        "license": card.get("license"),
        "license_name": card.get("license_name"),
        "license_link": card.get("license_link"),
        "last_modified": str(getattr(info, "last_modified", "") or ""),
    }
    query = " ".join(part for part in (f"task={task}" if task else "", f"library={library}" if library else "") if part)
    return Listed(
        id=str(info.id),
        sha=str(info.sha or "main"),
        downloads=int(info.downloads or 0),
        gated=bool(getattr(info, "gated", False)),
        files=tuple(str(file.rfilename) for file in getattr(info, "siblings", None) or ()),
        tags=tuple(info.tags or ()),
        told=json.dumps({key: value for key, value in told.items() if value not in (None, [], {}, "")}, default=str),
        query=query,
    )


def _metrics(card: Mapping[str, Any], index: Any) -> list[dict[str, Any]]:
    """The figures of a card's model-index: task, dataset, metric, value. They are the author's claims."""
    entries: Sequence[Any] = index or card.get("model-index") or []
    found = []
    for entry in entries if isinstance(entries, list) else ():
        for result in (entry or {}).get("results", ()) if isinstance(entry, dict) else ():
            for metric in result.get("metrics", ()):
                task, dataset = result.get("task") or {}, result.get("dataset") or {}
                found.append(
                    {
                        "task": task.get("type"),
                        "dataset": dataset.get("name"),
                        "metric": metric.get("type"),
                        "value": metric.get("value"),
                    }
                )
    # model cards of leaderboards hold hundreds of these
    return found[:50] or [
        {
            "task": r.get("task_type"),
            "dataset": r.get("dataset_name"),
            "metric": r.get("metric_type"),
            "value": r.get("metric_value"),
        }
        for r in (card.get("eval_results") or [])[:50]
        if isinstance(r, dict)
    ]
