"""Source `huggingface`: models and datasets of the Hugging Face Hub by downloads, likes, task and library."""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from soldiom_ray.artifacts import Context
from soldiom_ray.collect.huggingface.api import HubApi, open_hub
from soldiom_ray.collect.huggingface.cards import CARDS_PER_TASK, ReadCards
from soldiom_ray.collect.huggingface.metadata import ListedRepository, read_entry
from soldiom_ray.collect.huggingface.window_limiter import WindowLimiter
from soldiom_ray.collect.tasks import Task, TaskList, TaskResult
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.domains.sources import HuggingfaceSource
from soldiom_ray.errors import InputError, UnavailableError
from soldiom_ray.settings import Settings

CODE = 2
TAIL_PAGES = 2
"""Pages at the end of a listing that are read again: a repository that rose meanwhile may have jumped over them."""

MAX_PASSES = 3
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
_EXPAND_MODEL = [*_EXPAND_BOTH, "pipeline_tag", "library_name", "safetensors", "model-index", "evalResults", "config"]


@dataclass
class HuggingfacePlan:
    """A listing that was read. The same repositories at the same commits are the same collection, on any day."""

    declared: HuggingfaceSource
    settings: Settings
    collected_at: datetime
    chosen: tuple[ListedRepository, ...]
    result: TaskResult
    limits: WindowLimiter

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """Which repositories, at which commits."""
        commits = sorted((repository.id, repository.sha, repository.gated) for repository in self.chosen)
        digest = hashlib.sha256(json.dumps(commits).encode()).hexdigest()
        return {"endpoint": self.settings.hf_endpoint, "listed": digest, "code": CODE}

    def list_tasks(self, report: Callable[[float, str], None]) -> TaskList:
        """Tasks that read the cards; one per repository where content comes too."""
        per_task = 1 if self.declared.weights or self.declared.data else CARDS_PER_TASK
        starts = range(0, len(self.chosen), per_task)
        tasks: list[Task] = [
            ReadCards(self.chosen[s : s + per_task], self.declared, self.settings, self.collected_at) for s in starts
        ]
        return TaskList(tasks, self.result, lambda: _pause_message(self.limits))


def plan(declared: HuggingfaceSource, context: Context, collected_at: datetime) -> HuggingfacePlan:
    """Read the listing. Raises InputError when the Hub refuses it, UnavailableError when it does not answer."""
    api = open_hub(context.settings, lambda message: context.report(0.0, message))
    result = TaskResult()
    listing = Listing(api, declared, result, lambda count: context.report(0.0, f"{count} {declared.kind} listed"))
    try:
        repositories = listing.read()
    except SkippedError as skipped:
        raise _refused(api, skipped) from skipped
    chosen = sorted(repositories.values(), key=lambda repository: (-getattr(repository, declared.order), repository.id))
    result.facts[f"{declared.kind}_found"] = len(chosen)
    chosen = chosen[: declared.limit]
    return HuggingfacePlan(declared, context.settings, collected_at, tuple(chosen), result, api.limits)


@dataclass
class Listing:
    """Pages through the repositories that pass the filters and stops early; what is skipped is counted once."""

    api: HubApi
    declared: HuggingfaceSource
    result: TaskResult
    report: Callable[[int], None]
    skipped_names: set[str] = field(default_factory=set)

    def read(self) -> dict[str, ListedRepository]:
        """By the Hub's key, of all pairs of task and library."""
        repositories: dict[str, ListedRepository] = {}
        for task in self.declared.tasks or (None,):
            for library in self.declared.libraries or (None,):
                for _ in range(MAX_PASSES):
                    before = self.result.facts["listing_repeats"]
                    new = self._pass(task, library, repositories)
                    # A repository met twice in one pass says that the order moved, so another may have been missed.
                    if not new or self.result.facts["listing_repeats"] == before:
                        break
        return repositories

    def _pass(self, task: str | None, library: str | None, repositories: dict[str, ListedRepository]) -> int:
        """How many repositories were new."""
        path, parameters = f"/api/{self.declared.kind}", _parameters(self.declared, task, library)
        query = " ".join([f"task={task}"] * bool(task) + [f"library={library}"] * bool(library))
        seen: set[str] = set()
        tail: deque[dict[str, Any]] = deque(maxlen=TAIL_PAGES)
        before, taken = len(repositories), 0
        for page_parameters, entries in self.api.pages(path, parameters):
            tail.append(page_parameters)
            passed, ended = self._page(entries, query, repositories, seen)
            taken += passed
            self.report(len(repositories))
            if ended or (self.declared.limit is not None and taken >= self.declared.limit):
                break
        for page_parameters in tail if len(tail) > 1 else ():
            entries, _ = self.api.json(path, page_parameters)
            self._page(entries if isinstance(entries, list) else [], query, repositories, set())
        return len(repositories) - before

    def _page(
        self, entries: list[Any], query: str, repositories: dict[str, ListedRepository], seen: set[str]
    ) -> tuple[int, bool]:
        """How many passed the filters, and whether the listing went below its threshold."""
        passed = 0
        for entry in entries:
            try:
                repository = read_entry(entry, query)
            except SkippedError as skipped:
                self._skip(str(entry.get("_id") or entry.get("id")) if isinstance(entry, dict) else "", skipped)
                continue
            if repository.key in seen:
                self.result.facts["listing_repeats"] += 1
                continue
            seen.add(repository.key)
            if getattr(repository, self.declared.order) <= getattr(self.declared, f"min_{self.declared.order}"):
                return passed, True
            if repository.downloads <= self.declared.min_downloads or repository.likes <= self.declared.min_likes:
                if repository.key not in self.skipped_names:
                    self.skipped_names.add(repository.key)
                    self.result.facts["below_thresholds"] += 1
            elif repository.state:
                self._skip(repository.id, SkippedError(repository.state))
            else:
                repositories.setdefault(repository.key, repository)
                passed += 1
        return passed, False

    def _skip(self, name: str, skipped: SkippedError) -> None:
        if name not in self.skipped_names:
            self.skipped_names.add(name)
            self.result.skip("huggingface", name[:200], "", skipped.reason, skipped.detail)


def _parameters(declared: HuggingfaceSource, task: str | None, library: str | None) -> dict[str, Any]:
    """The query parameters of a listing; highest first is the Hub's only order."""
    models = declared.kind == "models"
    parameters: dict[str, Any] = {"sort": declared.order, "expand": list(_EXPAND_MODEL if models else _EXPAND_BOTH)}
    if models:
        return parameters | ({"pipeline_tag": task} if task else {}) | ({"filter": [library]} if library else {})
    filters = [f"task_categories:{task}"] * bool(task) + [f"library:{library}"] * bool(library)
    return parameters | ({"filter": filters} if filters else {})


def _refused(api: HubApi, skipped: SkippedError) -> InputError | UnavailableError:
    if skipped.reason == "unavailable":
        return UnavailableError(
            f"The Hugging Face Hub at {api.endpoint} does not give its listing: {skipped.detail}.",
            remedy="run it again later; cards that were read are kept",
        )
    return InputError(
        f"The Hugging Face Hub refused the listing: {skipped.detail}.",
        remedy="correct tasks and libraries, and HF_ENDPOINT if it is set",
    )


def _pause_message(limits: WindowLimiter) -> str:
    seconds = limits.paused_seconds()
    return f"; the Hub's limit: {seconds:.0f} s to wait" if seconds > 1 else ""
