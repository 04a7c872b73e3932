"""The headers of a model's safetensors files, local or on the hub: numbers of parameters without reading weights."""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from soldiom_ray.artifacts import Artifacts
from soldiom_ray.models.load import model_folder
from soldiom_ray.models.weight_files import read_header
from soldiom_ray.settings import Settings

DESCRIPTIONS = ("*.json", "tokenizer*", "*.model", "vocab.txt", "merges.txt", "chat_template.jinja", "README.md")
"""Files of a hub repository that describe a model; none holds weights."""


@contextmanager
def model_description(settings: Settings, artifacts: Artifacts, name: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(a folder with the model's configuration and tokenizer, its `weight_headers`). Of a hub model no weights are
    downloaded. Errors as of `models.load.model_folder`."""
    if not _is_local(name) and (description := _on_hub(settings, name)) is not None:
        yield description
        return
    with model_folder(settings, artifacts, name) as folder:
        yield folder, weight_headers(folder)


def weight_headers(folder: Path) -> dict[str, Any]:
    """`parameters` by dtype, and `bytes`, of the *.safetensors files of a folder."""
    parameters: Counter[str] = Counter()
    size = 0
    for path in sorted(folder.glob("*.safetensors")):
        size += path.stat().st_size
        for key, tensor in read_header(path, folder.name).items():
            if key != "__metadata__":
                parameters[tensor["dtype"]] += math.prod(tensor["shape"])
    return {"parameters": dict(parameters), "bytes": size}


def _is_local(name: str) -> bool:
    return name.startswith(("run-", "builtin/")) or Path(name).expanduser().exists()


def _on_hub(settings: Settings, name: str) -> tuple[Path, dict[str, Any]] | None:
    """(folder, headers) as the hub parses them; None where the hub does not answer or has no such model, for which
    `model_folder` raises the error (or finds a cached copy)."""
    import httpx2
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, NotASafetensorsRepoError, SafetensorsParsingError

    repository, _, revision = name.partition("@")
    access: dict[str, Any] = {"revision": revision or None, "token": settings.hf_token or False}
    api = HfApi(endpoint=settings.hf_endpoint)
    try:
        metadata = api.get_safetensors_metadata(repository, **access)
        folder = snapshot_download(
            repository, **access, endpoint=settings.hf_endpoint, allow_patterns=list(DESCRIPTIONS)
        )
    except (HfHubHTTPError, NotASafetensorsRepoError, SafetensorsParsingError, httpx2.HTTPError, OSError, ValueError):
        return None
    size = sum(
        end - start
        for file in metadata.files_metadata.values()
        for start, end in (tensor.data_offsets for tensor in file.tensors.values())
    )
    return Path(folder), {"parameters": dict(metadata.parameter_count), "bytes": size}
