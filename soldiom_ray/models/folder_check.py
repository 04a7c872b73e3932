"""Whether a folder is a whole model that is safe to load: its files, and whether only code of its own could read it."""

import json
from pathlib import Path
from typing import Any

from soldiom_ray.errors import InputError
from soldiom_ray.models.architectures import is_known_architecture
from soldiom_ray.models.weight_files import check_weight_files

CODE_KEYS = ("auto_map", "trust_remote_code")


def check_folder(folder: Path, name: str) -> None:
    """InputError for a folder that is no whole model: an adapter, files that are damaged or missing, weights that are
    not safetensors, or an architecture that only code of its own knows."""
    check_no_adapter(folder, name)
    asks_for_code = ""
    for path in folder.glob("*.json"):
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(
                f"{path.name} of the model {name!r} is not JSON: {error}", remedy="download the model again"
            ) from error
        if key := _find_key(value, CODE_KEYS):
            asks_for_code = asks_for_code or f"{path.name} of the model {name!r} asks for code of its own ({key})"
    if scripts := sorted(path.name for path in folder.rglob("*.py")):
        asks_for_code = asks_for_code or f"The model {name!r} brings code ({scripts[0]})"
    if asks_for_code and not is_known_architecture(folder):
        raise InputError(
            f"{asks_for_code}, which is never run.",
            remedy="choose a model of an architecture that transformers knows",
        )
    check_weight_files(folder, name)


def check_no_adapter(folder: Path, name: str) -> None:
    """InputError for a folder that holds an adapter: transformers would load it over whatever base it names."""
    path = folder / "adapter_config.json"
    if not path.is_file():
        return
    try:
        base = json.loads(path.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (ValueError, AttributeError):
        base = None
    where = "an adapter (adapter_config.json) beside its" if (folder / "config.json").is_file() else "an adapter, not"
    raise InputError(
        f"The model {name!r} holds {where} weights of its own.",
        remedy=f"train on its base {base!r}, or merge the adapter into it first (PEFT's merge_and_unload)"
        if base
        else "merge the adapter into its base first (PEFT's merge_and_unload), or choose the base itself",
    )


def _find_key(value: Any, keys: tuple[str, ...]) -> str | None:
    """The first of the keys that JSON holds, at any depth, with a value that is not empty."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in keys and inner:
                return str(key)
            if match := _find_key(inner, keys):
                return match
    elif isinstance(value, list):
        for inner in value:
            if isinstance(inner, dict | list) and (match := _find_key(inner, keys)):
                return match
    return None
