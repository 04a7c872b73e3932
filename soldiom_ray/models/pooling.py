"""What a folder of the sentence-transformers format declares beyond the weights: how token vectors become one vector,
how many tokens the model sees, and which prompt stands before a query.

Of the modules of that format Transformer, Pooling and Normalize are supported; vectors always get length one.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from soldiom_ray.errors import InputError

if TYPE_CHECKING:
    import torch

MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "lasttoken",
}
KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")
REMEDY = "choose a model of one transformer with mean, cls, max or last-token pooling, such as all-MiniLM-L6-v2"


@dataclass(frozen=True, slots=True)
class PoolingRecipe:
    """`max_tokens` is None where the folder names no limit; `prompts` are texts put before a query or a document."""

    mode: str = "mean"
    max_tokens: int | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)

    def prompt(self, *, query: bool) -> str:
        """The text before a query, or before a passage; empty where the model has none."""
        names = ("query",) if query else ("document", "passage")
        return next((self.prompts[name] for name in names if name in self.prompts), "")


def read_pooling(folder: Path, name: str) -> PoolingRecipe:
    """The recipe of a folder; mean pooling without a limit where it holds no such files. InputError for modules or
    pooling modes that are not supported, and for files that are not of the format."""
    modules = _read_json(folder, "modules.json", name, list)
    modes: list[str] = []
    for module in modules:
        module_type = str(module.get("type", "")).rpartition(".")[2] if isinstance(module, dict) else ""
        if module_type not in KNOWN_MODULES:
            raise InputError(
                f"The embedding model {name!r} has a module {module_type!r}, which is not known.", remedy=REMEDY
            )
        if module_type == "Pooling":
            modes = _modes(_read_json(folder, f"{_module_folder(module, name)}/config.json", name, dict))
    if len(modes) > 1 or any(mode not in MODES.values() for mode in modes):
        raise InputError(f"The embedding model {name!r} pools by {'+'.join(modes)}.", remedy=REMEDY)
    limit = _read_json(folder, "sentence_bert_config.json", name, dict).get("max_seq_length")
    prompts = _read_json(folder, "config_sentence_transformers.json", name, dict).get("prompts") or {}
    return PoolingRecipe(
        mode=modes[0] if modes else "mean",
        max_tokens=limit if isinstance(limit, int) and limit > 0 else None,
        prompts={str(key): str(value) for key, value in prompts.items()} if isinstance(prompts, dict) else {},
    )


def pool(hidden: "torch.Tensor", mask: "torch.Tensor", mode: str) -> "torch.Tensor":
    """One vector for each text: hidden [texts, tokens, dimension] -> [texts, dimension] in float32, each of length one.
    `mask` [texts, tokens] is 1 for tokens, which come first, and 0 for padding."""
    import torch

    hidden = hidden.float()
    inside = mask.unsqueeze(-1)
    if mode == "cls":
        pooled = hidden[:, 0]
    elif mode == "lasttoken":
        pooled = hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1).clamp(min=1) - 1]
    elif mode == "max":
        pooled = hidden.masked_fill(inside == 0, float("-inf")).amax(1)
    else:
        pooled = (hidden * inside).sum(1) / inside.sum(1).clamp(min=1)
    return torch.nn.functional.normalize(pooled, dim=1)


def _modes(config: Mapping[str, Any]) -> list[str]:
    """The pooling modes, in either form: flags, or (since version 6) a name or a list of names."""
    names = config.get("pooling_mode")
    if names is not None:
        return [str(mode) for mode in names] if isinstance(names, list) else [str(names)]
    flags = [key for key, value in config.items() if key.startswith("pooling_mode_") and value]
    return [MODES.get(key, key.removeprefix("pooling_mode_")) for key in flags]


def _module_folder(module: Mapping[str, Any], name: str) -> str:
    path = PurePosixPath(str(module.get("path", "")))
    if path.is_absolute() or ".." in path.parts:
        raise InputError(f"modules.json of {name!r} leads out of its folder.", remedy="download the model again")
    return str(path)


def _read_json(folder: Path, file: str, name: str, expected: type) -> Any:
    path = folder / file
    if not path.is_file():
        return expected()
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} of the model {name!r} is not JSON.", remedy="download the model again") from error
    if not isinstance(value, expected):
        raise InputError(f"{file} of the model {name!r} is no {expected.__name__}.", remedy="download the model again")
    return value
