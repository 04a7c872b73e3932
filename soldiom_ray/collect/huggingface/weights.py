"""A model's weights: counted from the headers of its safetensors files, or stored when a user asks for them.

Only safetensors, JSON and tokenizer files are ever fetched; pickles and code are not, and a model that asks for code of
its own is skipped whole.
"""

import json
import math
import re
from collections import Counter
from typing import Any

from soldiom_ray.collect.huggingface.api import HubApi, file_path
from soldiom_ray.collect.huggingface.hub_files import HubFile, HubFolder
from soldiom_ray.collect.huggingface.metadata import ListedRepository
from soldiom_ray.collect.tasks import TaskResult
from soldiom_ray.collect.text import SkippedError

FIRST_BYTES = 100_000
"""97 % of safetensors headers are shorter (huggingface_hub #1855)."""

MAX_HEADER_BYTES = 25_000_000
"""huggingface_hub's own bound."""

MAX_SHARDS = 500
_CODE_KEYS = ("auto_map", "trust_remote_code")
_WEIGHT_FILES = re.compile(
    r"(?:.*/)?(?:[^/]+\.safetensors|[^/]+\.safetensors\.index\.json|(?:[a-z_]+_)?config\.json|modules\.json"
    r"|tokenizer[^/]*\.json|tokenizer\.model|spiece\.model|special_tokens_map\.json|vocab\.(?:json|txt)|merges\.txt"
    r"|added_tokens\.json|chat_template\.jinja)"
)


def count_parameters(api: HubApi, listed: ListedRepository) -> dict[str, Any]:
    """`parameters` and `parameters_by_type` from the headers of the safetensors files; {} when there are none. Raises
    SkippedError `damaged` for a header that is not one."""
    files = _weight_names(listed.files)
    counts: Counter[str] = Counter()
    for name in files:
        counts += _counts(_header(api, file_path("models", listed.id, listed.sha, name)))
    return {"parameters": sum(counts.values()), "parameters_by_type": dict(sorted(counts.items()))} if files else {}


def store_weights(folder: HubFolder, listed: ListedRepository, result: TaskResult) -> None:
    """Safetensors with configuration and tokenizer into storage, the configuration first. Each file that is skipped is
    counted by its own reason, a model as a whole under the path `weights`."""
    try:
        files = [file for file in folder.listing() if _WEIGHT_FILES.fullmatch(file.path)]
        if listed.custom_code:
            raise SkippedError("remote_code", "it asks for code of its own, which is never run")
        if not any(file.path.endswith(".safetensors") for file in files):
            raise SkippedError("not_safetensors", "no *.safetensors; other formats can run code and are not fetched")
    except SkippedError as skipped:
        result.skip("huggingface", listed.id, "weights", skipped.reason, skipped.detail)
        return
    complete = True
    for file in sorted(files, key=lambda file: (file.path.endswith(".safetensors"), file.path)):
        try:
            _store(folder, file)
        except SkippedError as skipped:
            complete = False
            path = "weights" if skipped.reason == "remote_code" else file.path
            result.skip("huggingface", listed.id, path, skipped.reason, skipped.detail)
            if skipped.reason == "remote_code":
                return
        else:
            result.facts["weights_bytes"] += file.size_bytes
    result.facts["weights"] += complete


def _store(folder: HubFolder, file: HubFile) -> None:
    folder.store(file)
    if file.path.endswith("config.json") and _asks_for_code(folder.record.bytes_of(file.path) or b""):
        raise SkippedError(
            "remote_code", f"{file.path.rpartition('/')[2]} asks for code of its own, which is never run"
        )


def _asks_for_code(data: bytes) -> bool:
    try:
        values = [json.loads(data)]
    except (ValueError, RecursionError) as error:
        raise SkippedError("damaged", "a configuration that is not JSON") from error
    while values:
        value = values.pop()
        if isinstance(value, dict):
            if any(value.get(key) for key in _CODE_KEYS):
                return True
            values.extend(value.values())
        elif isinstance(value, list):
            values.extend(value)
    return False


def _weight_names(files: tuple[str, ...]) -> list[str]:
    """The files that together are the model: `model.safetensors`, or its shards, or all safetensors of the top."""
    top = sorted(name for name in files if name.endswith(".safetensors") and "/" not in name)
    if "model.safetensors" in top:
        return ["model.safetensors"]
    shards = [name for name in top if re.fullmatch(r"model-\d+-of-\d+\.safetensors", name)]
    names = shards or top
    if len(names) > MAX_SHARDS:
        raise SkippedError("damaged", f"{len(names)} shards")
    return names


def _header(api: HubApi, path: str) -> dict[str, Any]:
    """The JSON at the head of a safetensors file: eight bytes of length, little endian, then so many bytes."""
    first = api.part(path, 0, FIRST_BYTES)
    length = int.from_bytes(first[:8], "little")
    if len(first) < 8 or not 0 < length <= MAX_HEADER_BYTES:
        raise SkippedError("damaged", "no safetensors header")
    text = first[8 : 8 + length]
    if len(text) < length:
        text += api.part(path, 8 + len(text), length - len(text))
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SkippedError("damaged", "a safetensors header that is not JSON") from error
    if not isinstance(header, dict):
        raise SkippedError("damaged", "a safetensors header that names no tensors")
    return header


def _counts(header: dict[str, Any]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        shape = tensor.get("shape") if isinstance(tensor, dict) else None
        if not isinstance(shape, list) or not all(type(size) is int and 0 <= size < 1 << 48 for size in shape[:16]):
            raise SkippedError("damaged", "a safetensors header with a tensor that has no shape")
        counts[str(tensor.get("dtype"))[:16]] += math.prod(shape[:16])
    return counts
