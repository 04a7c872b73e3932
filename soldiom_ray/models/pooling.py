"""What a folder of the sentence-transformers format says of its model beyond the weights: how token vectors become one
vector, how much text it sees, and what it wants before a question.

Of the modules a model may be made of, Transformer, Pooling and Normalize are known; vectors always get length one.
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
        """What stands before a question, or before a passage."""
        names = ("query",) if query else ("document", "passage")
        return next((self.prompts[name] for name in names if name in self.prompts), "")


def read_pooling(folder: Path, name: str) -> PoolingRecipe:
    """The recipe of a folder; mean pooling without a limit where it holds no such files. InputError for modules or
    pooling that are not known, and for files that are not what they should be."""
    modules = _read(folder, "modules.json", name, list)
    modes: list[str] = []
    for module in modules:
        kind = str(module.get("type", "")).rpartition(".")[2] if isinstance(module, dict) else ""
        if kind not in KNOWN_MODULES:
            raise InputError(f"The embedding model {name!r} has a module {kind!r}, which is not known.", remedy=REMEDY)
        if kind == "Pooling":
            modes = _modes(_read(folder, f"{_inside(module, name)}/config.json", name, dict))
    if len(modes) > 1 or any(mode not in MODES.values() for mode in modes):
        raise InputError(f"The embedding model {name!r} pools by {'+'.join(modes)}.", remedy=REMEDY)
    limit = _read(folder, "sentence_bert_config.json", name, dict).get("max_seq_length")
    prompts = _read(folder, "config_sentence_transformers.json", name, dict).get("prompts") or {}
    return PoolingRecipe(
        mode=modes[0] if modes else "mean",
        max_tokens=limit if isinstance(limit, int) and limit > 0 else None,
        prompts={str(key): str(value) for key, value in prompts.items()} if isinstance(prompts, dict) else {},
    )


def pool(hidden: "torch.Tensor", mask: "torch.Tensor", mode: str) -> "torch.Tensor":
    """[n, dimension] in float32, each of length one, from [n, tokens, dimension]; `mask` [n, tokens] is 1 for tokens,
    which come first."""
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
    """Both ways of writing them: flags, and since version 6 a name or a list of names."""
    named = config.get("pooling_mode")
    if named is not None:
        return [str(mode) for mode in named] if isinstance(named, list) else [str(named)]
    flags = [key for key, value in config.items() if key.startswith("pooling_mode_") and value]
    return [MODES.get(key, key.removeprefix("pooling_mode_")) for key in flags]


def _inside(module: Mapping[str, Any], name: str) -> str:
    path = PurePosixPath(str(module.get("path", "")))
    if path.is_absolute() or ".." in path.parts:
        raise InputError(f"modules.json of {name!r} leads out of its folder.", remedy="download the model again")
    return str(path)


def _read(folder: Path, file: str, name: str, kind: type) -> Any:
    path = folder / file
    if not path.is_file():
        return kind()
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} of the model {name!r} is not JSON.", remedy="download the model again") from error
    if not isinstance(value, kind):
        raise InputError(f"{file} of the model {name!r} is no {kind.__name__}.", remedy="download the model again")
    return value
