"""The endpoint of one model version: a Ray Serve deployment that holds the weights and generates text.

It speaks through its Serve handle only; HTTP, keys and limits are the API's.
"""

import asyncio
import copy
import os
from collections.abc import AsyncIterator, Mapping
from typing import Any

from soldiom_ray.deploy.batching import Batcher, Options
from soldiom_ray.deploy.requests import DEFAULT_MAX_TOKENS, Parameters, Request, read_request
from soldiom_ray.errors import InputError, UnavailableError


class ModelEndpoint:
    """One replica. `run` is the artifact of a tuned model, `base` the name of a base model; one of them is given.

    `revision` is not read: another one makes Serve start new replicas.
    """

    def __init__(self, model_id: str, run: str | None, base: str | None, threads: int, revision: str) -> None:
        from soldiom_ray.artifacts import Artifacts
        from soldiom_ray.models.chat import prompt_format_of_base, prompt_format_of_run
        from soldiom_ray.models.generate import Generator
        from soldiom_ray.models.load import context_length, load_base, load_run
        from soldiom_ray.settings import load_settings
        from soldiom_ray.storage import open_storage

        self.model_id = model_id
        settings = load_settings()
        artifacts = Artifacts(open_storage(settings))
        manifest = artifacts.get(run) if run else None
        loading = load_run(artifacts, settings, manifest) if manifest else load_base(artifacts, settings, str(base))
        with loading as (model, tokenizer):
            self.prompt_format = (
                prompt_format_of_run(manifest.details) if manifest else prompt_format_of_base(str(base), tokenizer)
            )
            self.context_length = context_length(model)
            # Prompts are tokenised on the event loop while the model's thread works, so with a tokenizer of their own.
            self.reader = Generator(model, copy.deepcopy(tokenizer))
            self.batcher = Batcher(Generator(model, tokenizer), threads)

    async def check_health(self) -> None:
        """Serve's health check; it is answered while torch computes, which has a thread of its own."""
        if self.batcher.thread._shutdown:
            raise UnavailableError(f"The model's thread of {self.model_id} has ended.")

    async def generate(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Answer a request as a whole: {"outputs": [{text, finish_reason, prompt_tokens, completion_tokens}]}.

        InputError for a request or a prompt that cannot be used; then nothing is generated.
        """
        parsed = read_request(request)
        prompts = self._prompts(parsed)
        options = [self._options(prompt, parsed.parameters, index) for index, prompt in enumerate(prompts)]
        calls = (self.batcher.generate(*pair) for pair in zip(prompts, options, strict=True))
        return {"outputs": [_output(generated) for generated in await asyncio.gather(*calls)]}

    async def stream(self, request: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Answer in chunks: {"text": ...}, and last {"done": true, "usage": ..., "finish_reason": ...}.

        One input or one conversation. When the caller goes away, generation stops at the next chunk.
        """
        parsed = read_request(request)
        prompts = self._prompts(parsed)
        if len(prompts) != 1:
            raise InputError(f"A stream takes one input, not {len(prompts)}.", remedy="ask for each on its own")
        async for piece in self.batcher.stream(prompts[0], self._options(prompts[0], parsed.parameters, 0)):
            if isinstance(piece, str):
                yield {"text": piece}
            else:
                output = _output(piece)
                usage = {key: output[key] for key in ("prompt_tokens", "completion_tokens")}
                yield {"done": True, "usage": usage, "finish_reason": output["finish_reason"]}

    async def describe(self) -> dict[str, Any]:
        """What this replica is: model, context length, process, sizes of its last batches."""
        return {
            "model_id": self.model_id,
            "context_length": self.context_length,
            "prompt_format": self.prompt_format,
            "pid": os.getpid(),
            "batches": self.batcher.batches,
        }

    def _prompts(self, request: Request) -> list[str]:
        if request.messages:
            return [self.reader.chat([message.as_dict() for message in request.messages])]
        if request.raw or self.prompt_format == "text":
            return list(request.inputs)
        return [self.reader.chat([{"role": "user", "content": text}]) for text in request.inputs]

    def _options(self, prompt: str, parameters: Parameters, index: int) -> Options:
        """The options for one prompt, which leave room for at least one new token. Each input of a request gets a seed
        of its own from the request's seed, so that the same request gives the same answers."""
        length = len(self.reader.prompt_ids(prompt))
        requested = parameters.max_tokens or DEFAULT_MAX_TOKENS
        if parameters.max_tokens and parameters.max_tokens > self.context_length:
            raise InputError(
                f"`parameters.max_tokens` is {parameters.max_tokens}; the context of model {self.model_id} holds"
                f" {self.context_length} tokens.",
                remedy=f"ask for at most {self.context_length} tokens",
            )
        max_new_tokens = min(requested, self.context_length - length)
        if parameters.temperature == 0:
            return Options(max_new_tokens, stop=parameters.stop)
        seed = None if parameters.seed is None else (parameters.seed + index) % 2**63
        return Options(max_new_tokens, parameters.temperature, parameters.top_p, seed, parameters.stop)


def _output(generated: Any) -> dict[str, Any]:
    names = ("text", "finish_reason", "prompt_tokens", "completion_tokens")
    return {name: getattr(generated, name) for name in names}
