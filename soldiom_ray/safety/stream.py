"""The content filter on an answer that arrives in pieces: what is handed out was checked, with the text around it."""

import string
from dataclasses import replace

from soldiom_ray.safety.content_filter import Decision, Filter, masked

HOLD = 120
"""Characters at the end of what has come that are held back, so that a phrase is whole when its beginning goes out."""
STEP = 40
"""Characters that are checked at a time: each check reads the text around them again."""
CONTEXT = 240
"""Characters of what was handed out that are read with what comes next; with it a classifier reads one window."""
RUN = frozenset(string.ascii_letters + string.digits + "+/=_-.@:%\\&#;")
"""What keys, addresses and encoded texts are made of. A run of these is held until it ends; scripts without spaces are
not made of them."""
LONGEST_RUN = 4_000
"""Longer runs go out in parts."""


class StreamFilter:
    """Pieces of one answer in, checked text out. Once `is_blocked`, nothing more comes. Without `masks` what would be
    masked is blocked: where an answer obeys a form, a placeholder would break it."""

    def __init__(self, content_filter: Filter, *, masks: bool = True) -> None:
        self._filter, self._masks = content_filter, masks
        self._context = self._held = ""
        self.decisions: dict[Decision, None] = {}
        self.is_blocked = False

    async def add(self, piece: str) -> str:
        """The text that may go out now, which may be none."""
        if self.is_blocked:
            return ""
        self._held += piece
        cut = self._cut()
        return await self._release(cut) if cut >= STEP else ""

    async def end(self) -> str:
        """What was held back."""
        return "" if self.is_blocked else await self._release(len(self._held))

    def _cut(self) -> int:
        """Up to where the held text may go out: not within a run of characters, of which the rest is to come."""
        end = cut = len(self._held) - HOLD
        if cut < STEP:
            return cut
        while cut and self._held[cut - 1] in RUN:
            cut -= 1
        return end if end - cut > LONGEST_RUN else cut

    async def _release(self, cut: int) -> str:
        """Check everything that is held, with its context, and let go of it up to `cut`, or up to where a match begins
        that reaches beyond."""
        before = len(self._context)
        checked = await self._filter.check(self._context + self._held, "output", masks=self._masks)
        self.decisions |= dict.fromkeys(checked.decisions)
        if checked.blocking:
            self.is_blocked = True
            self._held = ""
            return ""
        cut += before
        for match in checked.masks:
            if match.start < cut < match.end:
                cut = max(before, match.start)
        whole = self._context + self._held
        masks = [replace(match, start=max(before, match.start)) for match in checked.masks if before < match.end <= cut]
        text = masked(whole[:cut], masks)[before:]
        self._context, self._held = whole[max(0, cut - CONTEXT) : cut], whole[cut:]
        return text
