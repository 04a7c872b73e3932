"""A repository of the Hugging Face Hub becomes a document: its card's text, with the Hub's metadata. With `weights`
or `data` its content is collected too."""

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from soldiom_ray.collect.huggingface.api import HubApi, open_hub
from soldiom_ray.collect.huggingface.data import DataReader
from soldiom_ray.collect.huggingface.hub_files import CommitRecord, HubFolder
from soldiom_ray.collect.huggingface.metadata import ListedRepository
from soldiom_ray.collect.huggingface.weights import count_parameters, store_weights
from soldiom_ray.collect.tasks import COLLECTED, TaskResult, document_id
from soldiom_ray.collect.text import SkippedError, decode
from soldiom_ray.domains.sources import HuggingfaceSource
from soldiom_ray.records import Document, Framework
from soldiom_ray.settings import Settings
from soldiom_ray.storage import Storage, open_storage

CARDS_PER_TASK = 20
MAX_CARD_BYTES = 4 << 20
WITHOUT_CARD = ("gated", "no_card", "empty", "too_large", "undecodable", "binary")
"""Reasons for a missing card with which the repository still makes a document from its metadata."""

_LIBRARIES: dict[str, Framework] = {
    "transformers": "pytorch", "pytorch": "pytorch", "peft": "pytorch", "diffusers": "pytorch", "timm": "pytorch",
    "sentence-transformers": "pytorch", "keras": "tensorflow", "tf-keras": "tensorflow", "jax": "jax", "flax": "jax",
}  # fmt: skip


@dataclass(frozen=True)
class ReadCards:
    """A task: some repositories. What is stored of a commit is never fetched twice."""

    repositories: tuple[ListedRepository, ...]
    declared: HuggingfaceSource
    settings: Settings
    collected_at: datetime
    local_only: bool = False

    def run(self) -> TaskResult:
        """A document per repository, and those of its data files where they are declared."""
        result = TaskResult()
        storage, api = open_storage(self.settings), open_hub(self.settings)
        for repository in self.repositories:
            self._add_repository(repository, api, storage, result)
        return result

    def _add_repository(self, repository: ListedRepository, api: HubApi, storage: Storage, result: TaskResult) -> None:
        record = CommitRecord(storage, self.declared.kind, repository.id, repository.sha, repository.license).load()
        folder = HubFolder(api, self.settings, record)
        outcome, text, metadata = COLLECTED, "", json.loads(repository.metadata)
        try:
            text = self._card(repository, folder)
        except SkippedError as skipped:
            outcome = skipped.reason
            if outcome not in WITHOUT_CARD:
                result.skip("huggingface", self._group(repository), "README.md", outcome, skipped.detail)
                return
        if not repository.gated:
            if self.declared.kind == "models" and "parameters" not in metadata:
                metadata |= self._parameters(repository, api, record, result)
            if self.declared.kind == "models" and self.declared.weights:
                store_weights(folder, repository, result)
            if self.declared.kind == "datasets" and self.declared.data:
                DataReader(folder, repository, self.declared, self._rule(repository), self.collected_at).read(result)
        if repository.id in api.moved:
            result.facts["renamed"] += 1
            metadata["renamed_to"] = api.moved[repository.id]
        result.outcomes[outcome] += 1
        result.documents.append(self._document(repository, metadata, text, outcome))

    def _card(self, repository: ListedRepository, folder: HubFolder) -> str:
        if repository.gated:
            raise SkippedError("gated")
        if repository.files and "README.md" not in repository.files:
            raise SkippedError("no_card")
        try:
            return decode(folder.small_file("README.md", MAX_CARD_BYTES))
        except SkippedError as skipped:
            raise SkippedError(
                "no_card" if skipped.reason == "no_file" else skipped.reason, skipped.detail
            ) from skipped

    def _parameters(
        self, repository: ListedRepository, api: HubApi, record: CommitRecord, result: TaskResult
    ) -> dict[str, Any]:
        """Parameter counts, read once per commit."""
        if "parameters" not in record.facts:
            try:
                record.facts["parameters"] = count_parameters(api, repository)
            except SkippedError as skipped:
                result.facts["parameters_unknown"] += 1
                if skipped.reason == "unavailable":
                    return {}
                record.facts["parameters"] = {}
            if record.facts["parameters"] or any(name.endswith(".safetensors") for name in repository.files):
                record.save()
        parameters: dict[str, Any] = record.facts["parameters"]
        return parameters

    def _document(self, repository: ListedRepository, metadata: dict[str, Any], text: str, outcome: str) -> Document:
        body = without_front_matter(text) or f"# {repository.id}\n\n" + "\n".join(
            f"{name}: {value}" for name, value in sorted(metadata.items()) if name != "evaluation_results"
        )
        sha256 = hashlib.sha256((text or body).encode()).hexdigest()
        url = f"{self.settings.hf_endpoint.rstrip('/')}/{self._group(repository)}"
        frameworks = [
            _LIBRARIES[name] for name in (str(metadata.get("library")), *repository.tags) if name in _LIBRARIES
        ]
        about = {
            "repository": repository.id,
            "card": outcome == COLLECTED,
            "gated": repository.gated or False,
            "tags": list(repository.tags)[:100],
        }
        return Document(
            id=document_id("huggingface", url, sha256),
            text=body,
            source="huggingface",
            url=url,
            path="README.md",
            group=self._group(repository),
            commit=repository.sha,
            sha256=sha256,
            license=repository.license,
            kind="documentation",
            framework=frameworks[0] if frameworks else "none",
            language="markdown",
            rule=self._rule(repository),
            collected_at=self.collected_at,
            metadata=json.dumps(metadata | about),
        )

    def _group(self, repository: ListedRepository) -> str:
        return repository.id if self.declared.kind == "models" else f"datasets/{repository.id}"

    def _rule(self, repository: ListedRepository) -> str:
        thresholds = f"downloads>{self.declared.min_downloads} likes>{self.declared.min_likes}"
        return f"huggingface {self.declared.kind} {thresholds} {repository.query}".strip()


def without_front_matter(text: str) -> str:
    """A card's text without the YAML block at its head."""
    plain = text.replace("\r\n", "\n")
    match = re.match(r"\s*---\n.*?\n---[ \t]*(?:\n|$)", plain, re.DOTALL)
    return (plain[match.end() :] if match else plain).strip()
