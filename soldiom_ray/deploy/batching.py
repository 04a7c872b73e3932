"""Concurrent requests share the model: those with the same options are generated together.

All torch work happens in one thread, so the event loop stays free for health checks and new requests. Streams take
turns there with batches, one piece of text at a time.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

MAX_BATCH = 8
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
        """Keyword arguments of the generator."""
        return {
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "stop": self.stop,
        }


@dataclass(slots=True)
class PendingPrompt:
    """A prompt in the queue and the future of its answer."""

    prompt: str
    options: Options
    future: "asyncio.Future[Any]" = field(repr=False)


class Batcher:
    """Use it from one event loop only. `generator` is a `models.generate.Generator`."""

    def __init__(self, generator: Any, threads: int = 1) -> None:
        self.generator = generator
        self.thread = ThreadPoolExecutor(1, "torch", initializer=_use_threads, initargs=(threads,))
        self.queue: list[PendingPrompt] = []
        self.batches: list[int] = []
        self._worker: asyncio.Task[None] | None = None

    async def generate(self, prompt: str, options: Options) -> Any:
        """The generated answer. Cancelling the call removes its prompt from the queue."""
        pending = PendingPrompt(prompt, options, asyncio.get_running_loop().create_future())
        self.queue.append(pending)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._process_queue())
        return await pending.future

    async def stream(self, prompt: str, options: Options) -> AsyncIterator[str | Any]:
        """Pieces of text, and last the whole answer. Leaving the loop early stops the generation."""
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
        """Call a function in the model's thread."""
        return await asyncio.get_running_loop().run_in_executor(self.thread, function, *arguments)

    async def _process_queue(self) -> None:
        while self.queue:
            await asyncio.sleep(WINDOW_SECONDS)
            batch = self._next_batch()
            if not batch:
                continue
            self.batches = [*self.batches[-99:], len(batch)]
            try:
                answers = await self.run(self._generate_batch, batch)
            except Exception as error:
                for pending in batch:
                    if not pending.future.done():
                        pending.future.set_exception(error)
                continue
            for pending, answer in zip(batch, answers, strict=True):
                if not pending.future.done():
                    pending.future.set_result(answer)

    def _generate_batch(self, batch: list[PendingPrompt]) -> list[Any]:
        """Answers of a batch; runs in the model's thread. A single prompt is generated piece by piece, so that it stops
        when its caller goes away."""
        options = batch[0].options.arguments()
        if len(batch) > 1:
            return list(self.generator.generate([pending.prompt for pending in batch], **options))
        pieces = self.generator.stream(batch[0].prompt, **options)
        while not batch[0].future.cancelled():
            piece, result = _advance(pieces)
            if piece is None:
                return [result]
        pieces.close()
        return [None]

    def _next_batch(self) -> list[PendingPrompt]:
        """The oldest prompt whose caller still waits, and others with equal options, oldest first."""
        self.queue = [pending for pending in self.queue if not pending.future.done()]
        if not self.queue:
            return []
        options = self.queue[0].options
        limit = MAX_BATCH if options.shareable else 1
        batch = [pending for pending in self.queue if pending.options == options][:limit]
        batched = {id(pending) for pending in batch}
        self.queue = [pending for pending in self.queue if id(pending) not in batched]
        return batch


def _use_threads(count: int) -> None:
    """Set torch's operator threads for this thread: with OpenMP their number belongs to the calling thread."""
    import torch

    torch.set_num_threads(count)


def _advance(pieces: Iterator[str]) -> tuple[str | None, Any]:
    """The next piece, or None and the iterator's result. A StopIteration cannot cross a future, so it ends here."""
    try:
        return next(pieces), None
    except StopIteration as stop:
        return None, stop.value
