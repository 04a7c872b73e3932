"""A repository of the Hugging Face Hub becomes a document: its card's text, and what the Hub knows as metadata. With
`weights` or `data` its content comes too."""

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from soldiom_ray.collect.huggingface.api import HubApi, open_hub
from soldiom_ray.collect.huggingface.data import DataReader
from soldiom_ray.collect.huggingface.hub_files import HubFolder, Record
from soldiom_ray.collect.huggingface.metadata import Listed
from soldiom_ray.collect.huggingface.weights import count_parameters, keep_weights
from soldiom_ray.collect.tasks import COLLECTED, TaskResult, document_id
from soldiom_ray.collect.text import SkippedError, decode
from soldiom_ray.domains.sources import HuggingfaceSource
from soldiom_ray.records import Document, Framework
from soldiom_ray.settings import Settings
from soldiom_ray.storage import Storage, open_storage

CARDS_PER_TASK = 20
MAX_CARD_BYTES = 4 << 20
WITHOUT_CARD = ("gated", "no_card", "empty", "too_large", "undecodable", "binary")
"""Outcomes of a card after which the repository still makes a document, of its metadata."""

_LIBRARIES: dict[str, Framework] = {
    "transformers": "pytorch", "pytorch": "pytorch", "peft": "pytorch", "diffusers": "pytorch", "timm": "pytorch",
    "sentence-transformers": "pytorch", "keras": "tensorflow", "tf-keras": "tensorflow", "jax": "jax", "flax": "jax",
}  # fmt: skip


@dataclass(frozen=True)
class ReadCards:
    """A task: some repositories. What is kept under a commit is never fetched twice."""

    listed: tuple[Listed, ...]
    declared: HuggingfaceSource
    settings: Settings
    collected_at: datetime
    local_only: bool = False

    def run(self) -> TaskResult:
        result = TaskResult()
        storage, api = open_storage(self.settings), open_hub(self.settings)
        for one in self.listed:
            self._one(one, api, storage, result)
        return result

    def _one(self, one: Listed, api: HubApi, storage: Storage, result: TaskResult) -> None:
        record = Record(storage, self.declared.kind, one.id, one.sha, one.license).load()
        folder = HubFolder(api, self.settings, record)
        outcome, text, told = COLLECTED, "", json.loads(one.told)
        try:
            text = self._card(one, folder)
        except SkippedError as skipped:
            outcome = skipped.reason
            if outcome not in WITHOUT_CARD:
                result.skip("huggingface", self._group(one), "README.md", outcome, skipped.detail)
                return
        if not one.gated:
            if self.declared.kind == "models" and "parameters" not in told:
                told |= self._parameters(one, api, record, result)
            if self.declared.kind == "models" and self.declared.weights:
                keep_weights(folder, one, result)
            if self.declared.kind == "datasets" and self.declared.data:
                DataReader(folder, one, self.declared, self._rule(one), self.collected_at).read(result)
        if one.id in api.moved:
            result.facts["renamed"] += 1
            told["renamed_to"] = api.moved[one.id]
        result.outcomes[outcome] += 1
        result.documents.append(self._document(one, told, text, outcome))

    def _card(self, one: Listed, folder: HubFolder) -> str:
        if one.gated:
            raise SkippedError("gated")
        if one.files and "README.md" not in one.files:
            raise SkippedError("no_card")
        try:
            return decode(folder.small_file("README.md", MAX_CARD_BYTES))
        except SkippedError as skipped:
            raise SkippedError(
                "no_card" if skipped.reason == "no_file" else skipped.reason, skipped.detail
            ) from skipped

    def _parameters(self, one: Listed, api: HubApi, record: Record, result: TaskResult) -> dict[str, Any]:
        """Counted once per commit."""
        if "parameters" not in record.facts:
            try:
                record.facts["parameters"] = count_parameters(api, one)
            except SkippedError as skipped:
                result.facts["parameters_unknown"] += 1
                if skipped.reason == "unavailable":
                    return {}
                record.facts["parameters"] = {}
            if record.facts["parameters"] or any(name.endswith(".safetensors") for name in one.files):
                record.save()
        found: dict[str, Any] = record.facts["parameters"]
        return found

    def _document(self, one: Listed, told: dict[str, Any], text: str, outcome: str) -> Document:
        body = without_front_matter(text) or f"# {one.id}\n\n" + "\n".join(
            f"{name}: {value}" for name, value in sorted(told.items()) if name != "evaluation_results"
        )
        sha256 = hashlib.sha256((text or body).encode()).hexdigest()
        url = f"{self.settings.hf_endpoint.rstrip('/')}/{self._group(one)}"
        frameworks = [_LIBRARIES[name] for name in (str(told.get("library")), *one.tags) if name in _LIBRARIES]
        about = {
            "repository": one.id,
            "card": outcome == COLLECTED,
            "gated": one.gated or False,
            "tags": list(one.tags)[:100],
        }
        return Document(
            id=document_id("huggingface", url, sha256),
            text=body,
            source="huggingface",
            url=url,
            path="README.md",
            group=self._group(one),
            commit=one.sha,
            sha256=sha256,
            license=one.license,
            kind="documentation",
            framework=frameworks[0] if frameworks else "none",
            language="markdown",
            rule=self._rule(one),
            collected_at=self.collected_at,
            metadata=json.dumps(told | about),
        )

    def _group(self, one: Listed) -> str:
        return one.id if self.declared.kind == "models" else f"datasets/{one.id}"

    def _rule(self, one: Listed) -> str:
        said = f"downloads>{self.declared.min_downloads} likes>{self.declared.min_likes}"
        return f"huggingface {self.declared.kind} {said} {one.query}".strip()


def without_front_matter(text: str) -> str:
    """A card's text without the YAML block at its head."""
    plain = text.replace("\r\n", "\n")
    found = re.match(r"\s*---\n.*?\n---[ \t]*(?:\n|$)", plain, re.DOTALL)
    return (plain[found.end() :] if found else plain).strip()
