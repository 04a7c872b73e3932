"""One repository of the Hugging Face Hub becomes a document: its card's text, and what the Hub knows as metadata."""

import hashlib
import json
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from soldiom_ray import licenses
from soldiom_ray.collect.text import LeftOut, decode
from soldiom_ray.collect.work import COLLECTED, Gathered, document_id
from soldiom_ray.domains.schema import HuggingfaceSource
from soldiom_ray.errors import UnavailableError
from soldiom_ray.records import Document, Framework
from soldiom_ray.settings import Settings
from soldiom_ray.storage import Storage, open_storage

CARDS_PER_TASK = 20
ATTEMPTS = 5
WAIT_SECONDS = 0.5
_WEIGHT_FILES = re.compile(
    r"(?:.*\.safetensors|.*\.safetensors\.index\.json|config\.json|generation_config\.json|tokenizer.*\.json|tokenizer\.model"
    r"|special_tokens_map\.json|vocab\.(?:json|txt)|merges\.txt|adapter_config\.json|added_tokens\.json|chat_template\.jinja)"
)
_LIBRARIES: dict[str, Framework] = {
    "transformers": "pytorch", "pytorch": "pytorch", "peft": "pytorch", "diffusers": "pytorch", "timm": "pytorch",
    "sentence-transformers": "pytorch", "keras": "tensorflow", "tf-keras": "tensorflow", "jax": "jax", "flax": "jax",
}  # fmt: skip
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Listed:
    """A repository of the listing that passed the filters; `told` is JSON of what the Hub says about it."""

    id: str
    sha: str
    downloads: int
    gated: bool
    files: tuple[str, ...]
    tags: tuple[str, ...]
    told: str
    query: str


@dataclass(frozen=True)
class ReadCards:
    """A task: the cards of some repositories. A card is kept in storage under its commit and never fetched twice."""

    listed: tuple[Listed, ...]
    declared: HuggingfaceSource
    settings: Settings
    collected_at: datetime
    here: bool = False

    def run(self) -> Gathered:
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
        gathered = Gathered()
        storage = open_storage(self.settings)
        for one in self.listed:
            self._one(one, storage, gathered)
        return gathered

    def _one(self, one: Listed, storage: Storage, gathered: Gathered) -> None:
        outcome, text = COLLECTED, ""
        told = json.loads(one.told)
        if one.gated:
            outcome = "gated"
        else:
            try:
                text = self._card(one, storage)
            except LeftOut as left:
                outcome = left.outcome
                if outcome in ("unavailable", "not_found"):
                    gathered.leave_out("huggingface", one.id, "README.md", outcome, left.why)
                    return
            if (
                self.declared.kind == "models"
                and "parameters" not in told
                and any(name.endswith(".safetensors") for name in one.files)
            ):
                told |= self._parameters(one, gathered)
            if self.declared.weights and self.declared.kind == "models":
                self._keep_weights(one, storage, gathered)
        gathered.outcomes[outcome] += 1
        gathered.documents.append(self._document(one, told, text, outcome))

    def _document(self, one: Listed, told: dict[str, Any], text: str, outcome: str) -> Document:
        prefix = "" if self.declared.kind == "models" else "datasets/"
        body = without_front_matter(text) or f"# {one.id}\n\n" + "\n".join(
            f"{name}: {value}" for name, value in sorted(told.items())
        )
        sha256 = hashlib.sha256((text or body).encode()).hexdigest()
        url = f"{self.settings.hf_endpoint}/{prefix}{one.id}"
        frameworks = [_LIBRARIES[name] for name in (str(told.get("library")), *one.tags) if name in _LIBRARIES]
        return Document(
            id=document_id("huggingface", url, sha256),
            text=body,
            source="huggingface",
            url=url,
            path="README.md",
            group=f"{prefix}{one.id}",
            commit=one.sha,
            sha256=sha256,
            license=license_of(told, one.tags),
            kind="documentation",
            framework=frameworks[0] if frameworks else "none",
            language="markdown",
            rule=self._rule(one),
            collected_at=self.collected_at,
            metadata=json.dumps(
                told
                | {"repository": one.id, "card": outcome == COLLECTED, "gated": one.gated, "tags": list(one.tags)[:100]}
            ),
        )

    def _rule(self, one: Listed) -> str:
        said = f"downloads>{self.declared.min_downloads} likes>{self.declared.min_likes}"
        return f"huggingface {self.declared.kind} {said} {one.query}".strip()

    def _card(self, one: Listed, storage: Storage) -> str:
        key = f"raw/huggingface/{self.declared.kind}/{one.id}/{one.sha}/README.md"
        if storage.exists(key):
            return decode(storage.read(key))
        if one.files and "README.md" not in one.files:
            raise LeftOut("no_card")
        data = patiently(lambda: self._small_file(one, "README.md"), self.settings)
        storage.write(key, data)
        return decode(data)

    def _small_file(self, one: Listed, name: str) -> bytes:
        """One request; hf_hub_download would take two."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        kind = self.declared.kind.removesuffix("s")
        url = hf_hub_url(one.id, name, repo_type=kind, revision=one.sha, endpoint=self.settings.hf_endpoint)
        answer = get_session().get(url, headers=build_hf_headers(token=self.settings.hf_token or False), timeout=30)
        hf_raise_for_status(answer)
        return bytes(answer.content)

    def _fetch(self, one: Listed, name: str, folder: Path) -> Path:
        from huggingface_hub import hf_hub_download

        def fetch() -> Path:
            path = hf_hub_download(
                one.id,
                name,
                repo_type=self.declared.kind.removesuffix("s"),
                revision=one.sha,
                local_dir=folder,
                token=self.settings.hf_token or False,
                endpoint=self.settings.hf_endpoint,
            )
            return Path(path)

        return patiently(fetch, self.settings)

    def _parameters(self, one: Listed, gathered: Gathered) -> dict[str, Any]:
        """Parameter counts from the headers of the safetensors files; the weights stay where they are."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError

        api = HfApi(endpoint=self.settings.hf_endpoint, token=self.settings.hf_token or False)
        try:
            found = patiently(lambda: api.get_safetensors_metadata(one.id, revision=one.sha), self.settings)
        except (NotASafetensorsRepoError, SafetensorsParsingError, LeftOut):
            gathered.facts["parameters_unknown"] += 1
            return {}
        counts = dict(found.parameter_count)
        return {"parameters": sum(counts.values()), "parameters_by_type": counts}

    def _keep_weights(self, one: Listed, storage: Storage, gathered: Gathered) -> None:
        """Safetensors with configuration and tokenizer into storage, file by file; never pickles."""
        names = [name for name in one.files if _WEIGHT_FILES.fullmatch(name)]
        if not any(name.endswith(".safetensors") for name in names):
            gathered.facts["weights_not_safetensors"] += 1
            return
        for name in names:
            key = f"raw/huggingface/models/{one.id}/{one.sha}/{name}"
            if storage.exists(key):
                continue
            with tempfile.TemporaryDirectory(prefix="soldiom-") as folder:
                try:
                    written = storage.write_file(key, self._fetch(one, name, Path(folder)))
                except LeftOut as left:
                    gathered.leave_out("huggingface", one.id, name, left.outcome, left.why)
                    continue
            gathered.facts["weights_bytes"] += written.size_bytes
        gathered.facts["weights"] += 1


def patiently(fetch: Callable[[], Value], settings: Settings) -> Value:
    """Call the Hub; again after 429, 5xx and broken connections. Raises LeftOut (gated, no_card, not_found,
    unavailable), and UnavailableError when there is no connection at all."""
    import httpx2
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    why, connected = "", True
    for attempt in range(ATTEMPTS):
        wait = WAIT_SECONDS * 2**attempt
        try:
            return fetch()
        except GatedRepoError as error:
            raise LeftOut("gated") from error
        except LocalEntryNotFoundError:  # what a download says when it got no answer
            why, connected = "no answer", True
        except EntryNotFoundError as error:
            raise LeftOut("no_card") from error
        except RepositoryNotFoundError as error:
            raise LeftOut("not_found") from error
        except HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            if status in (401, 403):
                raise LeftOut("gated", f"the Hub answered {status}") from error
            if 400 <= status < 500 and status not in (408, 429):
                raise LeftOut("not_found", f"the Hub answered {status}") from error
            why, connected = f"the Hub answered {status}", True
            wait = max(wait, min(_wait_told(error), 300.0))
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            why, connected = type(error).__name__, False
        except (httpx2.HTTPError, OSError) as error:
            why, connected = type(error).__name__, True
        if attempt < ATTEMPTS - 1:
            time.sleep(wait)
    if not connected:
        raise UnavailableError(
            f"The Hugging Face Hub at {settings.hf_endpoint} cannot be reached ({why}).",
            remedy="check the network and HF_ENDPOINT; cards that were read are kept for the next run",
        )
    raise LeftOut("unavailable", f"{why}, {ATTEMPTS} times")


def license_of(told: dict[str, Any], tags: tuple[str, ...]) -> str:
    """The SPDX expression of a card: its `license`, by `license_name` where that says "other", else the licence tag."""
    declared = told.get("license") or [tag.removeprefix("license:") for tag in tags if tag.startswith("license:")]
    names = [str(name) for name in (declared if isinstance(declared, list) else [declared])]
    found = []
    for name in names:
        own = str(told.get("license_name") or "") if name == "other" else ""
        found.append(licenses.from_name(own) or licenses.from_name(name))
    return licenses.combine(found)


def without_front_matter(text: str) -> str:
    """A card's text without the YAML block at its head."""
    plain = text.replace("\r\n", "\n")
    found = re.match(r"\s*---\n.*?\n---[ \t]*(?:\n|$)", plain, re.DOTALL)
    return (plain[found.end() :] if found else plain).strip()


def _wait_told(error: Any) -> float:
    """Seconds from `RateLimit: "api";r=0;t=55` or Retry-After; 0 when neither stands there."""
    headers = getattr(error.response, "headers", {})
    found = re.search(r"\bt=(\d+)", headers.get("ratelimit", "")) or re.fullmatch(
        r"(\d+)", headers.get("retry-after", "")
    )
    return float(found[1]) + 1.0 if found else 0.0
