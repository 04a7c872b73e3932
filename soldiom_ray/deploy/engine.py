"""Engines: what turns prompts of many callers into answers, behind one small interface.

`TransformersEngine` decodes in a thread of its own, so the event loop stays free for health checks and new requests;
callers await tokens.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

from soldiom_ray.errors import BusyError, UnavailableError
from soldiom_ray.models.decoding.answers import Answer, Generated, Options
from soldiom_ray.models.decoding.calls import Calls
from soldiom_ray.models.decoding.grammar import Grammar
from soldiom_ray.models.generate import Generator

logger = logging.getLogger(__name__)
QUEUED_SHARE = 4
"""Tokens that answers under way and waiting may reserve, in sizes of the key-value cache; more are refused."""
FEW_ANSWERS = 4
"""Up to so many answers under way, each token of a stream is handed out at once."""
ANSWER_SECONDS, LONGEST_SECONDS = 0.006, 0.2
"""With more, the first token at once and then what has gathered in this time for each answer under way, the longest at
most: a message costs the processes on its way to the client about a millisecond of a core, which the engine lacks."""
WEDGED_SECONDS = 60.0
"""A step that takes longer than this will not end: one reads at most a chunk of a prompt and gives each answer a
token."""


class Engine(Protocol):
    """Answers prompts, given as tokens. `context` is what prompt and answer may have together."""

    context: int

    async def generate(self, ids: Sequence[int], options: Options) -> Generated:
        """The whole answer. Cancelling the call ends its computation. BusyError when too much is waiting."""

    def stream(
        self, ids: Sequence[int], options: Options, *, gathers: bool = True
    ) -> AsyncGenerator[str | Generated, None]:
        """Pieces of text, and last the whole answer. A piece may be the text of several tokens where many answers are
        under way, unless it `gathers` none. Leaving early ends its computation. Errors as of `generate`."""

    async def grammar(self, schema: Mapping[str, Any]) -> Grammar:
        """What an answer obeys that is to obey a JSON Schema, for its options. InputError for one that cannot be
        used."""

    async def call_grammar(self, calls: Calls) -> Grammar:
        """The same for an answer that may call functions."""

    def check(self) -> None:
        """UnavailableError when the engine does not work any more."""

    def describe(self) -> dict[str, Any]:
        """What it does at the moment, for people."""


@dataclass(eq=False, slots=True)
class _Call:
    """A prompt, and where its answer goes: pieces of text (`streams`) and last the answer or an error."""

    ids: Sequence[int]
    options: Options
    streams: bool
    gathers: bool
    loop: asyncio.AbstractEventLoop
    results: "asyncio.Queue[str | Generated | Exception]" = field(default_factory=asyncio.Queue)
    answer: Answer | None = None
    abandoned: bool = False
    handed_out_at: float = float("-inf")

    @property
    def tokens(self) -> int:
        return len(self.ids) + self.options.max_new_tokens


class TransformersEngine:
    """Decodes with models of transformers. Call it from event loops only."""

    def __init__(self, generator: Generator, threads: int = 1) -> None:
        self.generator, self.threads = generator, threads
        self.context = generator.context
        self._wakeup = threading.Condition()
        self._inbox: list[_Call] = []
        self._calls: dict[Answer, _Call] = {}
        self._tokens = 0
        self._closed = False
        self._beat: float | None = None
        self._compiler = ThreadPoolExecutor(1, "grammars")
        self._compiler.submit(generator.grammars.prepare)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    async def generate(self, ids: Sequence[int], options: Options) -> Generated:
        """See `Engine`."""
        async with aclosing(self._results(ids, options)) as results:
            async for result in results:
                if isinstance(result, Generated):
                    return result
        raise UnavailableError("The engine ended.", remedy="try again")

    def stream(
        self, ids: Sequence[int], options: Options, *, gathers: bool = True
    ) -> AsyncGenerator[str | Generated, None]:
        """See `Engine`."""
        return self._results(ids, options, streams=True, gathers=gathers)

    async def grammar(self, schema: Mapping[str, Any]) -> Grammar:
        """See `Engine`. Compiled by a thread of its own, one after the other."""
        grammars = self.generator.grammars
        if (grammar := grammars.cached(schema)) is not None:
            return grammar
        return await asyncio.get_running_loop().run_in_executor(self._compiler, grammars.compile, schema)

    async def call_grammar(self, calls: Calls) -> Grammar:
        """See `Engine`."""
        return await asyncio.get_running_loop().run_in_executor(
            self._compiler, self.generator.grammars.compile_calls, calls
        )

    def check(self) -> None:
        """UnavailableError when the thread has ended or a step does not."""
        beat = self._beat
        if not self._thread.is_alive():
            raise UnavailableError("The engine's thread has ended.", remedy="the replica is started again")
        if beat is not None and time.monotonic() - beat > WEDGED_SECONDS:
            raise UnavailableError(
                f"The engine's step has taken {time.monotonic() - beat:.0f} s.", remedy="the replica is started again"
            )

    def describe(self) -> dict[str, Any]:
        """Sizes of its last batches, and tokens that are reserved and that were read from earlier prompts."""
        scheduler = self.generator.scheduler
        return {
            "engine": "transformers",
            "batches": list(scheduler.batches),
            "copied_tokens": scheduler.copied_tokens,
            "reserved_tokens": self._tokens,
        }

    def close(self) -> None:
        """End the thread; answers under way stay unfinished."""
        with self._wakeup:
            self._closed = True
            self._wakeup.notify()

    async def _results(
        self, ids: Sequence[int], options: Options, *, streams: bool = False, gathers: bool = False
    ) -> AsyncGenerator[str | Generated, None]:
        call = _Call(ids, options, streams, gathers, asyncio.get_running_loop())
        limit = QUEUED_SHARE * self.generator.forward.pool.positions
        with self._wakeup:
            if self._tokens and self._tokens + call.tokens > limit:
                raise BusyError(
                    f"Requests under way and waiting take {self._tokens} tokens, this one {call.tokens}; the engine"
                    f" takes {limit}.",
                    remedy="try again, or deploy more replicas",
                )
            self._tokens += call.tokens
            self._inbox.append(call)
            self._wakeup.notify()
        try:
            while True:
                result = await call.results.get()
                if isinstance(result, Exception):
                    raise result
                yield result
                if isinstance(result, Generated):
                    return
        finally:
            with self._wakeup:
                self._tokens -= call.tokens
                call.abandoned = True
                if call.answer is not None:
                    call.answer.abandoned = True

    def _run(self) -> None:
        """The thread: take calls, compute a step, hand out what it brought."""
        import torch

        torch.set_num_threads(self.threads)  # with OpenMP their number belongs to the calling thread
        while True:
            with self._wakeup:
                while not (self._inbox or self._closed or self._calls):
                    self._beat = None
                    self._wakeup.wait()
                if self._closed:
                    return
                calls, self._inbox = self._inbox, []
            self._beat = time.monotonic()
            results: list[tuple[_Call, str | Generated | Exception]] = []
            try:
                self._begin(calls)
                results = self._collect(self.generator.scheduler.step())
            except Exception as error:
                logger.exception("a step of the engine failed")
                results = [(call, error) for call in self._fail(calls)]
            self._hand_out(results)

    def _begin(self, calls: Sequence[_Call]) -> None:
        """Submit new calls, and forget those whose caller has gone."""
        for call in calls:
            if not call.abandoned:
                call.answer = self.generator.answer(call.ids, call.options)
                self._calls[call.answer] = call
                self.generator.scheduler.submit(call.answer)
        for answer in [answer for answer, call in self._calls.items() if call.abandoned]:
            answer.abandoned = True
            del self._calls[answer]

    def _collect(self, changed: Sequence[Answer]) -> list[tuple[_Call, str | Generated | Exception]]:
        results: list[tuple[_Call, str | Generated | Exception]] = []
        now, under_way = time.monotonic(), len(self._calls)
        pause = min(LONGEST_SECONDS, ANSWER_SECONDS * under_way) if under_way > FEW_ANSWERS else 0.0
        for answer in changed:
            call = self._calls.get(answer)
            if call is None:
                continue
            is_due = answer.finish or not call.gathers or now - call.handed_out_at >= pause
            if call.streams and is_due and (piece := answer.take()):
                results.append((call, piece))
                call.handed_out_at = now
            if answer.finish:
                results.append((call, answer.result()))
                del self._calls[answer]
        return results

    def _fail(self, calls: Sequence[_Call]) -> list[_Call]:
        """Give up everything under way, so that what comes next finds an empty engine; the calls that failed."""
        failed = list({id(call): call for call in (*self._calls.values(), *calls)}.values())
        for answer in self._calls:
            answer.abandoned = True
        self._calls.clear()
        self.generator.scheduler.forget_abandoned()
        return failed

    def _hand_out(self, results: Sequence[tuple[_Call, str | Generated | Exception]]) -> None:
        """Put results into their callers' queues, with one wake-up for each event loop."""
        loops: dict[asyncio.AbstractEventLoop, list[tuple[_Call, str | Generated | Exception]]] = {}
        for call, result in results:
            loops.setdefault(call.loop, []).append((call, result))
        for loop, of_loop in loops.items():
            try:
                loop.call_soon_threadsafe(_put, of_loop)
            except RuntimeError:  # the loop has been closed, and its callers with it
                for call, _ in of_loop:
                    call.abandoned = True


def _put(results: Sequence[tuple[_Call, str | Generated | Exception]]) -> None:
    for call, result in results:
        call.results.put_nowait(result)
