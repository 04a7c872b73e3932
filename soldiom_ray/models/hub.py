"""Downloading models from the Hugging Face Hub: plain files only, and the cached copy where the hub does not answer."""

import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from soldiom_ray.domains.builtin_models import SMOLLM2
from soldiom_ray.errors import InputError, NotFoundError, UnavailableError
from soldiom_ray.models.architectures import is_known_architecture
from soldiom_ray.models.gguf import is_gguf, only_gguf
from soldiom_ray.settings import NO_TOKEN, Settings

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[\w.-]+)?(:[\w.-]+\.gguf)?")
HUB_FILES = [
    "*.safetensors",
    "*.json",
    "tokenizer*",
    "*.model",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "LICENSE*",
    "README.md",
]
HUB_SECONDS = 15.0
MODEL_NAMES = (
    f"give `builtin/{SMOLLM2}`, a folder with config.json and *.safetensors, a GGUF file, the id of a full run, or a "
    "hub id such as HuggingFaceTB/SmolLM2-135M"
)
"""Remedy for a name that leads to no model: the forms that a name may have."""


def download_model(settings: Settings, name: str) -> Path:
    """The folder of a hub repository in the hub's local cache, without anything that could hold code; its GGUF file
    where one is named, or is all there is.

    `name` is a hub id, `@revision` and `:FILE.gguf` allowed. InputError for a repository that does not exist, is gated
    or needs code of its own; UnavailableError when the hub does not answer and its cache has no copy."""
    if not HUB_NAME.fullmatch(name) or name.startswith((".", "/")):
        raise InputError(f"The base model {name!r} is no folder here, and it cannot be a hub id.", remedy=MODEL_NAMES)
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    location, _, file_name = name.partition(":")
    repository, _, revision = location.partition("@")
    access: dict[str, Any] = {"repo_id": repository, "revision": revision or None, "token": settings.hf_token or False}
    tried = f"Tried: the models that come with Soldiom, a folder {name!r}, and {settings.hf_endpoint}/{repository}."
    try:
        info = HfApi(endpoint=settings.hf_endpoint).model_info(**access, timeout=HUB_SECONDS)
        listed = [file.rfilename for file in info.siblings or ()]
        if scripts := [file for file in listed if file.endswith(".py")]:  # they are not downloaded either way
            config = "config.json" in listed and hf_hub_download(
                **access, filename="config.json", endpoint=settings.hf_endpoint
            )
            if not (config and is_known_architecture(Path(config).parent)):
                raise InputError(
                    f"The model {name!r} brings code ({scripts[0]}), which is never run.",
                    remedy="choose a model of an architecture that transformers knows",
                )
        names = _wanted_files(listed, file_name, name)
        paths = [Path(hf_hub_download(**access, filename=file, endpoint=settings.hf_endpoint)) for file in names]
        if len(paths) == 1 and is_gguf(names[0]):
            return paths[0]
        if len(folders := {path.parent for path in paths}) == 1:
            return folders.pop()
        problem = "changed while it was downloaded; try again" if paths else "holds no file of a model"
        raise InputError(f"The model {name!r} {problem}. {tried}", remedy=MODEL_NAMES)
    except GatedRepoError as error:
        raise InputError(
            f"The model {name!r} is gated: its owner must let you in. {tried}",
            remedy="accept its terms on the hub and set HF_TOKEN",
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise InputError(f"Unknown base model {name!r}. {tried}", remedy=MODEL_NAMES) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        return _cached_model(settings, access, file_name, name, tried, error)
    except Exception as error:  # the hub's client lets its HTTP library's own errors through
        if "httpx" in type(error).__module__:
            return _cached_model(settings, access, file_name, name, tried, error)
        raise


def _wanted_files(files: list[str], file_name: str, name: str) -> list[str]:
    """Those of a repository's files that are downloaded: the one that was named, its plain files, or its only GGUF
    file where it has no safetensors weights."""
    if file_name:
        if file_name not in files:
            known = ", ".join(file for file in files if is_gguf(file)) or "none"
            raise InputError(f"The model {name!r} names a file that is not there; GGUF files there: {known}.")
        return [file_name]
    plain = [file for file in files if _is_plain(file)]
    if not any(file.endswith(".safetensors") for file in plain) and (only := only_gguf(files, name)):
        return [only]
    return plain


def _is_plain(name: str) -> bool:
    """Whether a repository's file is weights, configuration, tokenizer or licence, at its top."""
    return "/" not in name and any(fnmatch(name, pattern) for pattern in HUB_FILES)


def _cached_model(
    settings: Settings, access: dict[str, Any], file_name: str, name: str, tried: str, cause: Exception
) -> Path:
    """The copy of an earlier download; UnavailableError that the hub does not answer where there is none."""
    from huggingface_hub import snapshot_download

    try:
        may_use = settings.hf_token != NO_TOKEN
        path = Path(snapshot_download(**access, local_files_only=True)) / file_name if may_use else None
    except (OSError, NotFoundError):
        path = None
    if path is None or not path.exists():
        raise UnavailableError(
            f"The base model {name!r} is not here, and the hub does not answer ({type(cause).__name__}). {tried}",
            remedy=MODEL_NAMES,
        ) from cause
    return path
