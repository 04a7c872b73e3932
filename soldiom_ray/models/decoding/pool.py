"""The key-value cache: one bounded pool of positions, in which every answer has a contiguous range of its own.

An answer reserves its prompt and its longest continuation when it is admitted, so it never has to be set back;
attention reads its range in place, where pages would have to be gathered first. The prompt's whole blocks stay readable
after an answer has ended, until room is needed: a prompt that begins the same copies them.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import torch
from torch import Tensor

BLOCK = 64
"""Positions that are computed and shared together. Blocks begin at multiples of it, whether a prefix was copied or not,
so the same prompt gives the same numbers."""


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What a layer keeps of one position."""

    heads: int
    key_width: int
    value_width: int


@dataclass(eq=False, slots=True)
class Range:
    """Positions start..start+size of the pool; `blocks` names the whole blocks of a prompt that are computed in it."""

    start: int
    size: int
    blocks: list[bytes] = field(default_factory=list)


class KeyValuePool:
    """`keys[layer]` and `values[layer]` are [positions + 1, heads, width]; nobody reads the last position.
    `states[layer]` are both beside each other where they are as wide. Not thread-safe."""

    def __init__(self, shapes: Sequence[LayerShape], positions: int, dtype: torch.dtype, device: torch.device) -> None:
        self.positions = positions
        self.states: list[Tensor] = []
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        for shape in shapes:
            # One tensor where it can be, so that both are written at once.
            if shape.key_width == shape.value_width:
                both = torch.zeros(positions + 1, 2 * shape.heads, shape.key_width, dtype=dtype, device=device)
                self.states.append(both)
                self.keys.append(both[:, : shape.heads])
                self.values.append(both[:, shape.heads :])
            else:
                self.keys.append(torch.zeros(positions + 1, shape.heads, shape.key_width, dtype=dtype, device=device))
                self.values.append(
                    torch.zeros(positions + 1, shape.heads, shape.value_width, dtype=dtype, device=device)
                )
        self._used: list[Range] = []
        self._retained: OrderedDict[int, Range] = OrderedDict()
        self._holders: dict[bytes, Range] = {}

    def reserve(self, size: int) -> Range | None:
        """A range of that size, or None while there is no room; what is only retained gives way, the oldest first."""
        while True:
            if (start := self._gap(size)) is not None:
                taken = Range(start, size)
                self._used.append(taken)
                self._used.sort(key=lambda each: each.start)
                return taken
            if not self._retained:
                return None
            self._drop(self._retained.popitem(last=False)[1])

    def release(self, taken: Range) -> None:
        """Give a range back. One that holds blocks which no other range holds is retained, cut to them."""
        unique = [block for block in taken.blocks if self._holders.get(block) is taken]
        if unique:
            taken.size = len(taken.blocks) * BLOCK
            self._retained[id(taken)] = taken
        else:
            self._drop(taken)

    def publish(self, taken: Range, blocks: Sequence[bytes]) -> None:
        """Say which whole blocks, from the first on, are computed in a range."""
        for block in blocks[len(taken.blocks) :]:
            taken.blocks.append(block)
            self._holders.setdefault(block, taken)

    def copy_prefix(self, taken: Range, blocks: Sequence[bytes]) -> int:
        """Copy the longest computed beginning of `blocks` into a range that was just reserved; how many blocks."""
        for count in range(len(blocks), 0, -1):
            holder = self._holders.get(blocks[count - 1])
            if holder is None or holder is taken:
                continue
            if id(holder) in self._retained:
                self._retained.move_to_end(id(holder))
            source = slice(holder.start, holder.start + count * BLOCK)
            target = slice(taken.start, taken.start + count * BLOCK)
            for layer in (*self.keys, *self.values):
                layer[target] = layer[source]
            self.publish(taken, blocks[:count])
            return count
        return 0

    @property
    def reserved(self) -> int:
        """Positions of answers in the making."""
        return sum(each.size for each in self._used if id(each) not in self._retained)

    def _gap(self, size: int) -> int | None:
        """Where the first gap that is large enough begins."""
        end = 0
        for each in self._used:
            if each.start - end >= size:
                return end
            end = each.start + each.size
        return end if self.positions - end >= size else None

    def _drop(self, taken: Range) -> None:
        self._used.remove(taken)
        for block in taken.blocks:
            if self._holders.get(block) is taken:
                del self._holders[block]


def block_names(tokens: Sequence[int], origin: str = "") -> list[bytes]:
    """Names of a prompt's whole blocks; each stands for all tokens up to its end. The last token is never part of one:
    it must be computed for its logits. `origin` sets prompts of different adapters apart."""
    names: list[bytes] = []
    name = origin.encode()
    for start in range(0, len(tokens) - BLOCK, BLOCK):
        text = " ".join(map(str, tokens[start : start + BLOCK]))
        name = blake2b(name + b"|" + text.encode(), digest_size=16).digest()
        names.append(name)
    return names
