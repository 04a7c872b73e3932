"""What one forward pass computes: tokens in one flat row, whatever answers they belong to, and attention per answer."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from soldiom_ray.models.decoding.adapters import Adapter
from soldiom_ray.models.decoding.native import kernels_for
from soldiom_ray.models.decoding.pool import KeyValuePool


@dataclass(frozen=True, slots=True)
class Read:
    """Rows first..first+rows of a pass are positions end-rows..end of the answer whose range begins at `start`."""

    first: int
    rows: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Pass:
    """`tokens`, `positions` and `slots` (where the pool keeps them) are [rows]. A token below zero, -1 - i, is the i-th
    vector of a tuned prompt; rows that no read covers are there for their number only. `logits_of` are the rows whose
    logits are wanted, `adapters` each row's, empty where no row has one."""

    tokens: Sequence[int]
    positions: Sequence[int]
    slots: Sequence[int]
    reads: Sequence[Read]
    logits_of: Sequence[int]
    adapters: Sequence[Adapter | None] = ()


class Attention:
    """Attention of one pass: writes keys and values of its rows into the pool, and reads each answer's own range."""

    def __init__(self, pool: KeyValuePool, work: Pass) -> None:
        self.pool, self.reads = pool, work.reads
        self.rows = sum(read.rows for read in work.reads)
        self.continues = len(work.reads) == len(work.tokens) == self.rows
        self.slots = torch.tensor(work.slots, device=pool.keys[0].device)
        self.masks: dict[tuple[int, int, int, int], Tensor | None] = {}
        self.kernels = kernels_for(pool.keys[0])
        self.ranges: dict[int | None, tuple[Tensor, Tensor]] = {}

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None
    ) -> Tensor:
        """query [rows, heads, width], key and value [rows, fewer heads, width] -> [rows, heads, width]."""
        self.pool.keys[layer].index_copy_(0, self.slots, key)
        self.pool.values[layer].index_copy_(0, self.slots, value)
        return self.read(layer, query, scaling, window)

    def parts(self, rows: int) -> list[int]:
        """Numbers of rows that belong together: blocks of prompts, and what no read covers."""
        return [read.rows for read in self.reads] + ([rows - self.rows] if rows > self.rows else [])

    def read(self, layer: int, query: Tensor, scaling: float, window: int | None = None) -> Tensor:
        """The same, of keys and values that are in the pool already."""
        if self.continues and self.kernels is not None and query.dtype == self.pool.keys[layer].dtype:
            if query.stride()[1:] != (query.shape[2], 1):
                query = query.contiguous()
            keys, values = self.pool.keys[layer], self.pool.values[layer]
            return self.kernels.attend(query, keys, values, self._range_tensors(window), scaling)
        if self.continues and window is None:
            return self._continue(self.pool.keys[layer], self.pool.values[layer], query, scaling)
        return self._read_blocks(self.pool.keys[layer], self.pool.values[layer], query, scaling, window)

    def _range_tensors(self, window: int | None) -> tuple[Tensor, Tensor]:
        """The positions that each answer's next token looks at: first ones and ends."""
        if window not in self.ranges:
            begins = [read.start + (0 if window is None else max(0, read.end - window)) for read in self.reads]
            ends = [read.start + read.end for read in self.reads]
            self.ranges[window] = torch.tensor(begins), torch.tensor(ends)
        return self.ranges[window]

    def _continue(self, keys: Tensor, values: Tensor, query: Tensor, scaling: float) -> Tensor:
        """One query for each answer: it looks at all that is there, so no mask is needed, and the queries that share a
        head's keys are its queries."""
        rows, all_heads, width = query.shape
        heads = keys.shape[1]
        states = query.reshape(rows, 1, heads, all_heads // heads, width).unbind(0)
        outputs = []
        for each, read in zip(states, self.reads, strict=True):
            end = read.start + read.end
            key, value = _of_range(keys, read.start, end), _of_range(values, read.start, end)
            outputs.append(functional.scaled_dot_product_attention(each, key, value, scale=scaling))
        joined = outputs[0] if rows == 1 else torch.cat(outputs)
        return joined.view(rows, all_heads, -1)

    def _read_blocks(self, keys: Tensor, values: Tensor, query: Tensor, scaling: float, window: int | None) -> Tensor:
        """Blocks of prompts, each with the mask of what its positions see."""
        heads, group = keys.shape[1], query.shape[1] // keys.shape[1]
        outputs = []
        for read in self.reads:
            begin = 0 if window is None else max(0, read.end - read.rows - window + 1)
            key, value = (_of_range(each, read.start + begin, read.start + read.end) for each in (keys, values))
            rows = query[read.first : read.first + read.rows]
            states = rows.reshape(read.rows, heads, group, -1).permute(1, 2, 0, 3)
            states = states.reshape(1, heads, group * read.rows, -1)
            mask = self._mask(read.rows, read.end - begin, group, window or 0, query) if read.rows > 1 else None
            output = functional.scaled_dot_product_attention(states, key, value, attn_mask=mask, scale=scaling)
            output = output.view(heads, group, read.rows, -1).permute(2, 0, 1, 3)
            outputs.append(output.reshape(read.rows, -1))
        if missing := query.shape[0] - self.rows:
            outputs.append(outputs[0].new_zeros(missing, outputs[0].shape[1]))
        joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return joined.view(query.shape[0], query.shape[1], -1)

    def _mask(self, rows: int, keys: int, group: int, window: int, like: Tensor) -> Tensor | None:
        """What `rows` last positions of `keys` see, [group * rows, keys], as numbers that are added to the scores."""
        name = (rows, keys, group, window)
        if name not in self.masks:
            seen = torch.ones(rows, keys, dtype=torch.bool, device=like.device).tril(keys - rows)
            if window:
                seen = seen.triu(keys - rows - window + 1)
            mask = torch.zeros(rows, keys, dtype=like.dtype, device=like.device).masked_fill_(~seen, -torch.inf)
            self.masks[name] = mask.repeat(group, 1)
        return self.masks[name]


def _of_range(states: Tensor, start: int, end: int) -> Tensor:
    """[positions, heads, width] -> [1, heads, end - start, width], without a copy and in one step."""
    _, heads, width = states.shape
    by_position, by_head, _ = states.stride()
    return states.as_strided(
        (1, heads, end - start, width), (0, by_head, by_position, 1), states.storage_offset() + start * by_position
    )
