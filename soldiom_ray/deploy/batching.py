"""Concurrent requests share the model: those with the same options are generated together.

All torch work happens in one thread, so the event loop stays free for health checks and new requests. Streams take
turns there with batches, one piece of text at a time.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

MOST_TOGETHER = 8
WINDOW_SECONDS = 0.005
"""How long the first request of a batch waits for others."""


@dataclass(frozen=True, slots=True)
class Options:
    """How one prompt is continued; equal options can share a batch."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    @property
    def shareable(self) -> bool:
        """A seeded sample must not depend on what else is in its batch."""
        return self.seed is None or self.temperature == 0

    def arguments(self) -> dict[str, Any]:
        """As the generator takes them."""
        return {
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "stop": self.stop,
        }


@dataclass(slots=True)
class Waiting:
    """A prompt in the queue and the promise of its text."""

    prompt: str
    options: Options
    promise: "asyncio.Future[Any]" = field(repr=False)


class Batcher:
    """Use it from one event loop only. `generator` is a `models.generate.Generator`."""

    def __init__(self, generator: Any, threads: int = 1) -> None:
        self.generator = generator
        self.thread = ThreadPoolExecutor(1, "torch", initializer=_use_threads, initargs=(threads,))
        self.queue: list[Waiting] = []
        self.batches: list[int] = []
        self._pump: asyncio.Task[None] | None = None

    async def generate(self, prompt: str, options: Options) -> Any:
        """The generated text. Cancelling the call takes its prompt out of the queue."""
        waiting = Waiting(prompt, options, asyncio.get_running_loop().create_future())
        self.queue.append(waiting)
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._work_off())
        return await waiting.promise

    async def stream(self, prompt: str, options: Options) -> AsyncIterator[str | Any]:
        """Pieces of text, and last the whole result. Leaving the loop early stops the generation."""
        pieces: Iterator[str] = self.generator.stream(prompt, **options.arguments())
        try:
            while True:
                piece, result = await self.run(_advance, pieces)
                if piece is None:
                    yield result
                    return
                if piece:
                    yield piece
        finally:
            close = getattr(pieces, "close", None)
            if close is not None:
                self.thread.submit(close)

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call something in the model's thread."""
        return await asyncio.get_running_loop().run_in_executor(self.thread, function, *arguments)

    async def _work_off(self) -> None:
        while self.queue:
            await asyncio.sleep(WINDOW_SECONDS)
            batch = self._next_batch()
            if not batch:
                continue
            self.batches = [*self.batches[-99:], len(batch)]
            try:
                texts = await self.run(self._texts, batch)
            except Exception as error:
                for waiting in batch:
                    if not waiting.promise.done():
                        waiting.promise.set_exception(error)
                continue
            for waiting, text in zip(batch, texts, strict=True):
                if not waiting.promise.done():
                    waiting.promise.set_result(text)

    def _texts(self, batch: list[Waiting]) -> list[Any]:
        """Runs in the model's thread. A lone prompt is generated piece by piece, so that it ends with its caller."""
        options = batch[0].options.arguments()
        if len(batch) > 1:
            return list(self.generator.generate([waiting.prompt for waiting in batch], **options))
        pieces = self.generator.stream(batch[0].prompt, **options)
        while not batch[0].promise.cancelled():
            piece, result = _advance(pieces)
            if piece is None:
                return [result]
        pieces.close()
        return [None]

    def _next_batch(self) -> list[Waiting]:
        """The oldest prompt that somebody still waits for, and others with equal options, oldest first."""
        self.queue = [waiting for waiting in self.queue if not waiting.promise.done()]
        if not self.queue:
            return []
        options = self.queue[0].options
        most = MOST_TOGETHER if options.shareable else 1
        batch = [waiting for waiting in self.queue if waiting.options == options][:most]
        taken = {id(waiting) for waiting in batch}
        self.queue = [waiting for waiting in self.queue if id(waiting) not in taken]
        return batch


def _use_threads(count: int) -> None:
    """The number of threads of torch's operators belongs to the thread that calls them (OpenMP)."""
    import torch

    torch.set_num_threads(count)


def _advance(pieces: Iterator[str]) -> tuple[str | None, Any]:
    """The next piece, or None and the iterator's result. A StopIteration cannot cross a future, so it ends here."""
    try:
        return next(pieces), None
    except StopIteration as stop:
        return None, stop.value
