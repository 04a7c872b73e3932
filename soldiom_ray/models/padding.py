"""Which token stands for padding: the model's own, or one set for a model that names none."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from soldiom_ray.models.positions import OFFSET_POSITIONS


def padding_token(folder: Path, config: Mapping[str, Any], words: int) -> tuple[int | None, str]:
    """(id, a sentence that says so where the configuration names none or one outside of the `words` rows of the
    embedding); the tokenizer's padding token, else the end of a text. (None, "") where nothing names either."""
    stated = config.get("pad_token_id")
    if isinstance(stated, int) and 0 <= stated < words:
        return stated, ""
    problem = "has no pad_token_id" if stated is None else f"has pad_token_id {stated}, no row of its embedding"
    end = config.get("eos_token_id")
    end = end[0] if isinstance(end, list) and end else end
    for role, number in (("padding token", _tokenizer_padding(folder)), ("end of text", end)):
        if isinstance(number, int) and 0 <= number < words:
            return number, f"the configuration {problem}; the {role} (id {number}) is used"
    return None, ""


def _tokenizer_padding(folder: Path) -> int | None:
    """The id of the padding token that a folder's tokenizer names."""
    files = [folder / "tokenizer_config.json", folder / "tokenizer.json"]
    settings, tokenizer = (json.loads(p.read_text(encoding="utf-8")) if p.is_file() else {} for p in files)
    name = settings.get("pad_token")
    name = name.get("content") if isinstance(name, dict) else name
    added = tokenizer.get("added_tokens") or []
    vocabulary = (tokenizer.get("model") or {}).get("vocab") or {}
    number = next((token["id"] for token in added if token.get("content") == name), None)
    if number is None and isinstance(vocabulary, dict):
        number = vocabulary.get(name)
    return number if name else None


def with_padding(config: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings`, which a model's configuration is to hold besides, so that its padding token is a possible one: none
    where the one that the configuration names is no row of the embedding (which torch refuses), and no other than its
    own where positions are counted from behind that one."""
    stated, words = config.get("pad_token_id"), config.get("vocab_size")
    if not isinstance(stated, int) or not isinstance(words, int):
        return dict(settings)
    if not -words <= stated < words:
        return {"pad_token_id": None} | dict(settings)
    counted_from = config.get("model_type") in OFFSET_POSITIONS
    return {name: value for name, value in settings.items() if not (counted_from and name == "pad_token_id")}
