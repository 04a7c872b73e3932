"""Samples whose middle is to be filled in: a prefix, a middle and a suffix, written with the tokens that a model's own
tokenizer has for them (Bavarian et al. 2022, prefix first). Without such tokens they are texts like all others."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soldiom_ray.models.tokens import terminator

TOKENS = (
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
)
"""Those of StarCoder and Granite; Qwen, CodeGemma and StableCode; SantaCoder; DeepSeek; CodeLlama."""
_CODE_LLAMA = TOKENS[-1]
_ANCHOR = "☺"
"""What Meta's code puts before each part of CodeLlama's and takes away again, so that no space begins it."""
_FILES = ("tokenizer.json", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json")


class InfillText(str):
    """A text that knows its middle: `starts` are the characters at which its middle and its suffix begin."""

    starts: tuple[int, int]

    @property
    def parts(self) -> tuple[str, str, str]:
        """Prefix, middle and suffix."""
        middle, suffix = self.starts
        return str(self[:middle]), str(self[middle:suffix]), str(self[suffix:])


@dataclass(frozen=True)
class InfillTokens:
    """A tokenizer's three tokens, as text and as ids."""

    names: tuple[str, str, str]
    ids: tuple[int, int, int]


def sample_text(row: Mapping[str, Any]) -> str:
    """The text of a dataset's row, as an InfillText where its metadata says so."""
    text: str = row["text"]
    if '"infill"' not in (row.get("metadata") or ""):
        return text
    starts = json.loads(row["metadata"]).get("infill")
    if not starts:
        return text
    infill = InfillText(text)
    infill.starts = (int(starts[0]), int(starts[1]))
    return infill


def infill_tokens(tokenizer: Any) -> InfillTokens | None:
    """The tokens that a tokenizer has for parts; None where it has none."""
    for names in TOKENS:
        before, after, middle = (_id(tokenizer, name) for name in names)
        if before is not None and after is not None and middle is not None:
            return InfillTokens(names, (before, after, middle))
    return None


def _id(tokenizer: Any, name: str) -> int | None:
    """A token's id; a tokenizer gives one that it does not know the id of the unknown, or none."""
    id_ = tokenizer.convert_tokens_to_ids(name)
    return int(id_) if id_ is not None and tokenizer.convert_ids_to_tokens(id_) == name else None


def knows_infill(folder: Path) -> bool:
    """Whether the tokenizer in a model's folder has such tokens, from its files alone."""
    written = "".join((folder / name).read_text(encoding="utf-8") for name in _FILES if (folder / name).is_file())
    return any(
        all(json.dumps(name, ensure_ascii=ascii_) in written for name in names)
        for names in TOKENS
        for ascii_ in (False, True)
    )


def infill_ids(tokenizer: Any, text: InfillText, tokens: InfillTokens) -> list[int]:
    """The ids of a sample: what the tokenizer begins with, the prefix, the suffix, the middle, each after its token,
    and the end."""
    begin = getattr(tokenizer, "bos_token_id", None)
    ids = [id_ for id_ in tokenizer("", verbose=False)["input_ids"][:1] if id_ == begin and begin is not None]
    prefix, middle, suffix = text.parts
    for token, part in zip(tokens.ids, (prefix, suffix, middle), strict=True):
        ids += [token, *_fragment(tokenizer, part, tokens)]
    end = _id(tokenizer, "▁<EOT>") if tokens.names == _CODE_LLAMA else None
    return [*ids, end if end is not None else terminator(tokenizer)]


def infill_prompt(text: InfillText, tokens: InfillTokens) -> str:
    """What a model reads that is to fill in the middle."""
    prefix, _, suffix = text.parts
    before, after, middle = (name.replace("▁", "") if tokens.names == _CODE_LLAMA else name for name in tokens.names)
    return f"{before}{prefix}{after}{suffix}{middle}"


def _fragment(tokenizer: Any, part: str, tokens: InfillTokens) -> list[int]:
    anchor = _ANCHOR if tokens.names == _CODE_LLAMA else ""
    ids: list[int] = tokenizer(anchor + part, add_special_tokens=False, verbose=False)["input_ids"]
    return ids[len(tokenizer(anchor, add_special_tokens=False)["input_ids"]) :] if anchor else ids
