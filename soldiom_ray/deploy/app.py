"""The endpoint of one model version: a Ray Serve deployment that holds the weights and generates text.

It speaks through its Serve handle only; HTTP, keys and limits are the API's.
"""

import asyncio
import copy
import gc
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from soldiom_ray.deploy.guard import BLOCKED, Findings, Guard, as_dicts
from soldiom_ray.deploy.requests import NamedTool, Parameters, Request, read_request
from soldiom_ray.domains.door_defaults import DEFAULT_MAX_TOKENS
from soldiom_ray.errors import BlockedError, InputError, UnavailableError
from soldiom_ray.models.decoding.calls import CallReader, bound_calls, call_syntax, read_calls

if TYPE_CHECKING:
    from soldiom_ray.models.decoding.adapters import Adapter
    from soldiom_ray.models.decoding.answers import Generated, Options
    from soldiom_ray.models.decoding.grammar import Grammar
    from soldiom_ray.models.decoding.watermark import Watermark

PROBE = "def main():"
SCHEME = "synthid-text"
"""The watermark's, as answers name it."""


class ModelEndpoint:
    """One replica. `run` is the artifact of a tuned model, `base` the name of a base model; one of them is given.

    `revision` is not read: another one makes Serve start new replicas. With a `guard` what it lets not pass is neither
    read nor answered. With `marks` sampled answers bear the `watermark`, which is detected in any case.
    """

    def __init__(
        self,
        model_id: str,
        run: str | None,
        base: str | None,
        threads: int,
        revision: str,
        guard: "Guard | None" = None,
        watermark: "Watermark | None" = None,
        marks: bool = False,
    ) -> None:
        from soldiom_ray import compute
        from soldiom_ray.artifacts import Artifacts
        from soldiom_ray.deploy.adapters import AdapterCache, load_served
        from soldiom_ray.deploy.engine import Engine, TransformersEngine
        from soldiom_ray.deploy.prompts import PromptReader
        from soldiom_ray.models.chat import prompt_format_of_base, prompt_format_of_run
        from soldiom_ray.models.generate import Generator
        from soldiom_ray.models.load import load_base, load_run
        from soldiom_ray.settings import load_settings
        from soldiom_ray.storage import open_storage

        compute.bind_replica_port()
        self.model_id, self.guard = model_id, guard
        self.watermark, self.marks = watermark, marks
        settings = load_settings()
        artifacts = Artifacts(open_storage(settings))
        manifest = artifacts.get(run) if run else None
        loading = load_run(artifacts, settings, manifest) if manifest else load_base(artifacts, settings, str(base))
        with loading as (model, tokenizer):
            self.prompt_format = (
                prompt_format_of_run(manifest.details) if manifest else prompt_format_of_base(str(base), tokenizer)
            )
            generator = Generator.taking_over(model, tokenizer)
        self.engine: Engine = TransformersEngine(generator, threads)
        self.adapters = AdapterCache(partial(load_served, artifacts, settings, generator))
        self.call_syntax = call_syntax(tokenizer)
        self._detector, self._detector_tokenizer = ThreadPoolExecutor(1, "detector"), copy.deepcopy(tokenizer)
        self.reader = PromptReader(tokenizer, self.engine.context)
        # What is loaded stays: looking through it for garbage took a tenth of the time between tokens.
        gc.collect()
        gc.freeze()

    async def check_health(self) -> None:
        """Serve's health check; it is answered while torch computes, which has a thread of its own."""
        self.engine.check()

    async def generate(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Answer a request as a whole: {"outputs": [{text, finish_reason, prompt_tokens, completion_tokens}]},
        with `filter` what the guard has found.

        InputError for a request or a prompt that cannot be used, BlockedError for one that the guard does not let pass;
        then nothing is generated.
        """
        request, found = await self.guard.request(request) if self.guard else (request, [])
        parsed, prompts, options = await self._read(request)
        try:
            async with asyncio.TaskGroup() as group:
                calls = [group.create_task(self.engine.generate(*pair)) for pair in zip(prompts, options, strict=True)]
        except ExceptionGroup as errors:  # the first that failed has ended the others
            raise errors.exceptions[0] from errors
        outputs = [self._output(call.result()) for call in calls]
        if self.guard:
            outputs = await self.guard.answers(outputs, found, masks=self._may_mask(parsed))
        if self._reads_calls(parsed):
            for output in outputs:
                output["text"], output["tool_calls"] = read_calls(output["text"], self.call_syntax)
        return {"outputs": outputs}

    async def stream(self, request: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Answer in chunks: {"text": ...}, {"tool_call": ...} as `CallReader` has them, and last {"done": true,
        "usage": ..., "finish_reason": ...}, with `logprobs` where they were asked for, and with `filter` what the guard
        has found. The text is that which the guard has let pass; where it lets an answer not pass, that ends at once.

        One input or one conversation. When the caller goes away, generation stops at the next chunk.
        """
        request, found = await self.guard.request(request) if self.guard else (request, [])
        parsed, prompts, options = await self._read(request)
        if len(prompts) != 1:
            raise InputError(f"A stream takes one input, not {len(prompts)}.", remedy="ask for each on its own")
        reader = CallReader(self.call_syntax) if self._reads_calls(parsed) else None
        pieces: AsyncGenerator[str | Generated | Findings, None]
        # The guard counts tokens by their pieces, and holds them back itself.
        pieces = self.engine.stream(prompts[0], options[0], gathers=self.guard is None)
        if self.guard:
            pieces = self.guard.pieces(pieces, masks=self._may_mask(parsed))
        spoilt = False
        async with aclosing(pieces):
            async for piece in pieces:
                if isinstance(piece, str):
                    for part in reader.add(piece) if reader else ({"text": piece},):
                        yield part
                elif isinstance(piece, Findings):
                    found += piece.decisions
                    spoilt = any(each.action != "flag" for each in piece.decisions)
                    if piece.is_blocked:
                        counts = {"prompt_tokens": len(prompts[0]), "completion_tokens": piece.pieces}
                        yield {"done": True, "usage": counts, "finish_reason": BLOCKED, "filter": as_dicts(found)}
                else:
                    for part in reader.end() if reader else ():
                        yield part
                    output = self._output(piece)
                    usage = {key: output.pop(key) for key in ("prompt_tokens", "completion_tokens")}
                    for name in ("text", "logprobs") if spoilt else ("text",):  # log probabilities spell the text
                        output.pop(name, None)
                    yield {"done": True, "usage": usage, **output} | ({"filter": as_dicts(found)} if found else {})

    async def detect_watermark(self, text: str) -> dict[str, Any]:
        """Whether a text bears this model's watermark: {verdict, p_value, tokens, share, scheme}."""
        if self.watermark is None:
            raise UnavailableError(f"Model {self.model_id} has no key of a watermark.", remedy="deploy it again")
        return await asyncio.get_running_loop().run_in_executor(self._detector, self._detect, self.watermark, text)

    def _detect(self, watermark: "Watermark", text: str) -> dict[str, Any]:
        ids = self._detector_tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        detection = watermark.detect(ids)
        return {"verdict": detection.verdict, **asdict(detection), "scheme": SCHEME}

    async def probe(self) -> dict[str, str]:
        """A first answer, to see that it works: {prompt, text}."""
        try:
            answer = await self.generate({"inputs": [PROBE], "parameters": {"max_tokens": 16}})
        except BlockedError:  # the filter works, too
            return {"prompt": PROBE, "text": ""}
        return {"prompt": PROBE, "text": answer["outputs"][0]["text"]}

    async def describe(self) -> dict[str, Any]:
        """What this replica is: model, context length, process, what its engine does."""
        return {
            "model_id": self.model_id,
            "context_length": self.engine.context,
            "prompt_format": self.prompt_format,
            "pid": os.getpid(),
            "adapters": self.adapters.describe(),
            **self.engine.describe(),
        }

    async def _read(self, request: Mapping[str, Any]) -> "tuple[Request, list[list[int]], list[Options]]":
        """A request, the tokens of its prompts and how each is continued."""
        parsed = read_request(request)
        served = await self.adapters.get(parsed.adapter) if parsed.adapter else None
        prompts = await self.reader.read(parsed, served.prompt_format if served else self.prompt_format)
        grammar = await self._grammar(parsed)
        adapter = served.adapter if served else None
        options = [self._options(ids, parsed.parameters, index, grammar, adapter) for index, ids in enumerate(prompts)]
        return parsed, prompts, options

    @staticmethod
    def _reads_calls(request: Request) -> bool:
        parameters = request.parameters
        calls = parameters.tool_choice not in (None, "none") and parameters.response_format.answer_schema is None
        return calls and bool(request.tools)

    def _may_mask(self, request: Request) -> bool:
        """Whether a placeholder may stand in an answer: not where its form is JSON, which one could break."""
        return request.parameters.response_format.answer_schema is None and not self._reads_calls(request)

    async def _grammar(self, request: Request) -> "Grammar | None":
        """What answers obey; None where they are free. A form that is asked for goes before calls that may come."""
        parameters = request.parameters
        schema = parameters.response_format.answer_schema
        if schema is not None:
            return await self.engine.grammar(schema)
        if not self._reads_calls(request):
            return None
        named = parameters.tool_choice
        choice = {"name": named.name} if isinstance(named, NamedTool) else named or "auto"
        calls = bound_calls(request.tools, choice, parallel=parameters.parallel_tool_calls, syntax=self.call_syntax)
        return None if calls is None else await self.engine.call_grammar(calls)

    def _options(
        self,
        ids: Sequence[int],
        parameters: Parameters,
        index: int,
        grammar: "Grammar | None" = None,
        adapter: "Adapter | None" = None,
    ) -> "Options":
        """The options for one prompt, which leave room for at least one new token. Each input of a request gets a seed
        of its own from the request's seed, so that the same request gives the same answers."""
        from soldiom_ray.models.decoding.answers import Options
        from soldiom_ray.models.generate import check_room

        context = self.engine.context - (adapter.virtual_tokens if adapter else 0)
        check_room(ids, context)
        if parameters.max_tokens and parameters.max_tokens > context:
            raise InputError(
                f"`parameters.max_tokens` is {parameters.max_tokens}; the context of model {self.model_id} holds"
                f" {context} tokens.",
                remedy=f"ask for at most {context} tokens",
            )
        max_new_tokens = min(parameters.max_tokens or DEFAULT_MAX_TOKENS, context - len(ids))
        if grammar is not None and grammar.shortest_tokens > max_new_tokens:
            raise InputError(
                f"The shortest answer that obeys `response_format` takes {grammar.shortest_tokens} tokens; there is"
                f" room for {max_new_tokens}.",
                remedy="raise `max_tokens`, or shorten the prompt where the context is full",
            )
        seed = None if parameters.seed is None else (parameters.seed + index) % 2**63
        return Options(
            max_new_tokens,
            parameters.temperature,
            parameters.top_p,
            seed,
            parameters.stop,
            parameters.logprobs,
            grammar,
            self.watermark if self.marks else None,
            adapter,
        )

    def _output(self, generated: "Generated") -> dict[str, Any]:
        """An answer as plain values, with `logprobs` where they were asked for."""
        names = ("text", "finish_reason", "prompt_tokens", "completion_tokens")
        output: dict[str, Any] = {name: getattr(generated, name) for name in names}
        if self.marks:
            output["watermark"] = {"scheme": SCHEME, "tokens": generated.marked}
        if generated.logprobs is not None:
            word = self.reader.short.tokenizer.decode
            output["logprobs"] = [
                {
                    "token": word([each.token]),
                    "logprob": each.logprob,
                    "top": [{"token": word([token]), "logprob": logprob} for token, logprob in each.alternatives],
                }
                for each in generated.logprobs
            ]
        return output
