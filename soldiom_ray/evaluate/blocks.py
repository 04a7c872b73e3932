"""The held-out text that is scored, as blocks: runs of neighbouring tokens of one document. A block's first token is
only read, every later one is predicted."""

import heapq
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from soldiom_ray.artifacts import Artifacts
from soldiom_ray.metrics.measurement import NothingToScoreError, hash_order
from soldiom_ray.records import Manifest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring tokens of one held-out document; `loss_mask` says of each whether its prediction counts (in a
    conversation only what the assistant says does). Both arrays are [tokens]."""

    group: str
    document: str
    ids: "NDArray[Any]"
    loss_mask: "NDArray[np.bool_]"

    @property
    def predicted(self) -> int:
        """How many predictions count."""
        return int(self.loss_mask[1:].sum())


def held_out_rows(artifacts: Artifacts, dataset: Manifest) -> list[dict[str, Any]]:
    """id, group, text, messages, language, source and metadata of every held-out sample. NothingToScoreError when
    there is none."""
    columns = ["id", "group", "text", "messages", "language", "source", "metadata"]
    rows = list(artifacts.rows(dataset, "test/", columns))
    if not rows:
        raise NothingToScoreError(
            f"The dataset {dataset.id} holds no test samples, so nothing can be evaluated on it.",
            remedy="prepare it again with `split.test` above 0 or with `split.test_groups`",
        )
    return rows


def expressible_rows(rows: Sequence[dict[str, Any]], tokenizer: Any) -> list[dict[str, Any]]:
    """The held-out samples that a training would not leave out for what the chat template cannot express.
    NothingToScoreError when there is none."""
    from soldiom_ray.models.template_check import is_expressible

    kept = [row for row in rows if not row["messages"] or is_expressible(tokenizer, json.loads(row["messages"]))]
    if not kept:
        raise NothingToScoreError(
            f"The chat template can express none of the {len(rows)} test samples as they are.",
            remedy="train with `template_gaps: fold`",
        )
    if len(kept) < len(rows):
        log.warning("test samples were left out as in training", extra={"data": {"left_out": len(rows) - len(kept)}})
    return kept


def choose_blocks(
    rows: Sequence[Mapping[str, Any]], tokenizer: Any, *, block_tokens: int, max_tokens: int, seed: int
) -> list[Block]:
    """At most `max_tokens` predicted tokens, the same for the same inputs.

    Each turn goes to the group with the fewest tokens so far, so that groups get equal shares while they last. Within a
    group every document gives one block before any gives a second; order is by hash, so a block may lie anywhere in its
    document. Only documents whose turn comes are tokenised. NothingToScoreError when no sample has two tokens.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    sources = {name: _blocks_of_group(name, members, tokenizer, block_tokens, seed) for name, members in groups.items()}
    turns = [(0, name) for name in sorted(sources)]
    chosen: list[Block] = []
    left = max_tokens
    while turns and left > 0:
        so_far, name = heapq.heappop(turns)
        block = next(sources[name], None)
        if block is None:
            continue
        cut = Block(block.group, block.document, block.ids[: left + 1], block.loss_mask[: left + 1])
        if cut.predicted:
            chosen.append(cut)
        left -= len(cut.ids) - 1
        heapq.heappush(turns, (so_far + len(cut.ids) - 1, name))
    if not chosen:
        raise NothingToScoreError(
            f"None of the {len(rows)} test samples is longer than one token.",
            remedy="prepare the dataset with filters that drop empty documents, such as `min_words`",
        )
    return chosen


def _blocks_of_group(
    group: str, rows: Sequence[Mapping[str, Any]], tokenizer: Any, block_tokens: int, seed: int
) -> Iterator[Block]:
    """A group's blocks in the order in which they are taken."""
    from soldiom_ray.models.chat import encode_samples
    from soldiom_ray.models.infill import sample_text

    ordered = sorted(rows, key=lambda row: hash_order(seed, row["id"]))
    later: list[list[Block]] = []
    for first in range(0, len(ordered), 16):
        batch = ordered[first : first + 16]
        samples = ((sample_text(row), json.loads(row.get("messages") or "[]")) for row in batch)
        for row, sample in zip(batch, encode_samples(tokenizer, samples), strict=True):
            spans = [slice(start, start + block_tokens) for start in range(0, len(sample.ids), block_tokens)]
            candidates = [Block(group, row["id"], sample.ids[span], sample.loss_mask[span]) for span in spans]
            blocks = [block for block in candidates if block.predicted]
            keys = {id(block): hash_order(seed, f"{row['id']}:{number}") for number, block in enumerate(blocks)}
            blocks.sort(key=lambda block: keys[id(block)])
            if blocks:
                yield blocks[0]
                later.append(blocks[1:])
    for turn in range(max((len(blocks) for blocks in later), default=0)):
        for blocks in later:
            if turn < len(blocks):
                yield blocks[turn]


def general_blocks(tokenizer: Any, block_tokens: int) -> list[Block]:
    """Short passages of many kinds that come with the package, one block each: what a model should not forget."""
    text = resources.files("soldiom_ray.evaluate").joinpath("general_text.txt").read_text(encoding="utf-8")
    rows = [
        {"id": f"passage {number}", "group": f"passage {number}", "text": passage.strip()}
        for number, passage in enumerate(text.split("\n\n"), 1)
    ]
    blocks = []
    for row in rows:
        blocks += list(_blocks_of_group(row["group"], [row], tokenizer, block_tokens, 0))[:1]
    return blocks
