"""Adapters that answer on their base's endpoint: loaded when they are first asked, and dropped, the one that was not
asked for longest first, when others need the room."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from soldiom_ray.errors import InputError
from soldiom_ray.records import PromptFormat

if TYPE_CHECKING:
    from soldiom_ray.artifacts import Artifacts
    from soldiom_ray.models.decoding.adapters import Adapter
    from soldiom_ray.models.generate import Generator
    from soldiom_ray.settings import Settings

ADAPTER_BYTES = 1 << 30
"""Memory of a replica's adapters; those that are answering stay until they have, also beyond it."""


@dataclass(frozen=True, slots=True)
class ServedAdapter:
    """An adapter, and how it is asked."""

    adapter: "Adapter"
    prompt_format: PromptFormat


class AdapterCache:
    """Loaded adapters by their runs, at most `limit` bytes together. Call it from one event loop; `load` is called in a
    thread, for one adapter after the other."""

    def __init__(self, load: Callable[[str], ServedAdapter], limit: int = ADAPTER_BYTES) -> None:
        self.limit, self.loads = limit, 0
        self._load = load
        self._loaded: OrderedDict[str, ServedAdapter] = OrderedDict()
        self._loading: dict[str, asyncio.Task[ServedAdapter]] = {}
        self._thread = ThreadPoolExecutor(1, "adapters")

    async def get(self, run: str) -> ServedAdapter:
        """The adapter of a run; callers that ask for it while it is being loaded wait for the same loading. Errors as
        of `load`."""
        if (served := self._loaded.get(run)) is not None:
            self._loaded.move_to_end(run)
            return served
        if run not in self._loading:
            self._loading[run] = asyncio.create_task(self._add(run))
        # One caller that goes away does not end the loading for the others.
        return await asyncio.shield(self._loading[run])

    def describe(self) -> dict[str, int]:
        """What is loaded, for people."""
        return {"loaded": len(self._loaded), "bytes": self._bytes(), "loads": self.loads}

    async def _add(self, run: str) -> ServedAdapter:
        try:
            served = await asyncio.get_running_loop().run_in_executor(self._thread, self._load, run)
            self.loads += 1
            self._loaded[run] = served
            while self._bytes() > self.limit and len(self._loaded) > 1:
                self._loaded.popitem(last=False)
            return served
        finally:
            del self._loading[run]

    def _bytes(self) -> int:
        return sum(served.adapter.bytes for served in self._loaded.values())


def load_served(artifacts: "Artifacts", settings: "Settings", generator: "Generator", run: str) -> ServedAdapter:
    """A run's adapter for a generator of its base, after its signature was verified. InputError for a run that holds no
    adapter or one that cannot be computed beside others; errors of `verified_weights`."""
    from soldiom_ray.models.chat import prompt_format_of_run
    from soldiom_ray.models.signing import verified_weights

    details: dict[str, Any] = artifacts.get(run).details
    if details.get("method") not in ("lora", "prompt"):
        raise InputError(
            f"The run {run} holds a whole model, not an adapter.", remedy="deploy it by itself: `soldiom deploy MODEL`"
        )
    with verified_weights(settings, artifacts, run) as folder:
        return ServedAdapter(generator.adapter(run, folder), prompt_format_of_run(details))
