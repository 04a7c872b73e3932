"""The endpoint of a sequence-to-sequence model: a Ray Serve deployment that writes a target text for a source text."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from soldiom_ray.deploy.guard import Guard
from soldiom_ray.deploy.requests import Parameters, Request, read_request
from soldiom_ray.domains.door_defaults import DEFAULT_MAX_TOKENS
from soldiom_ray.errors import BlockedError, InputError, Problem, SoldiomError
from soldiom_ray.models.batching import Batches

if TYPE_CHECKING:
    from soldiom_ray.models.decoding.answers import Generated, Options
    from soldiom_ray.models.sequence_writer import Source

NOT_FOR_SEQUENCES = {
    "stream": "a target text comes whole",
    "images": "it reads texts",
}
UNKNOWN_PARAMETERS = ("logprobs", "response_format", "tool_choice")
PROBE = "A first text."


class SequenceEndpoint:
    """One replica. `run` is the artifact of a trained model. `revision` is not read: another one makes Serve start new
    replicas."""

    def __init__(self, model_id: str, run: str, threads: int, revision: str, guard: "Guard | None" = None) -> None:
        from soldiom_ray import compute
        from soldiom_ray.artifacts import Artifacts
        from soldiom_ray.models.load import load_run
        from soldiom_ray.models.sequence_writer import SequenceWriter
        from soldiom_ray.settings import load_settings
        from soldiom_ray.storage import open_storage

        compute.bind_replica_port()
        self.model_id, self.guard = model_id, guard
        settings = load_settings()
        artifacts = Artifacts(open_storage(settings))
        manifest = artifacts.get(run)
        with load_run(artifacts, settings, manifest) as (model, tokenizer):
            self.writer = SequenceWriter(model, tokenizer, int(manifest.details["sequence_length"]))
        threads = threads if self.writer.device == "cpu" else 1
        self.batches: Batches[tuple[Source, Options]] = Batches(self._write, threads)
        self._reader = ThreadPoolExecutor(1, "read")

    async def check_health(self) -> None:
        """Serve's health check."""
        self.batches.check()

    async def generate(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Write a target for each text, or for a conversation, whose texts are the source as in training: {"outputs":
        [{text, finish_reason, prompt_tokens, completion_tokens}]}. InputError for a request that cannot be used, or
        whose only text is empty, BlockedError for one that the guard does not let pass; among several texts the empty
        one has an `error` in its place."""
        request, found = await self.guard.request(request) if self.guard else (request, [])
        parsed = self._parsed(request)
        texts = list(parsed.inputs) or ["\n".join(message.content for message in parsed.messages)]
        errors = [None if text.strip() else _empty() for text in texts]
        if len(texts) == 1 and errors[0]:
            raise errors[0]
        filled = [(index, text) for index, text in enumerate(texts) if not errors[index]]
        answers = iter(await self._written(filled, parsed.parameters))
        outputs = [{"error": error.to_problem()} if error else next(answers) for error in errors]
        return {"outputs": await self.guard.answers(outputs, found) if self.guard else outputs}

    async def probe(self) -> dict[str, str]:
        """A first answer, to see that it works: {prompt, text}."""
        try:
            answer = await self.generate({"inputs": [PROBE], "parameters": {"max_tokens": 8}})
        except BlockedError:  # the filter works, too
            return {"prompt": PROBE, "text": ""}
        return {"prompt": PROBE, "text": answer["outputs"][0]["text"]}

    async def describe(self) -> dict[str, Any]:
        """What this replica is: model, tokens that it reads of a source, process, sizes of its batches."""
        return {
            "model_id": self.model_id,
            "context_length": self.writer.length,
            "pid": os.getpid(),
            "engine": "batches",
            "batches": dict(sorted(self.batches.sizes.items())),
        }

    def _parsed(self, request: Mapping[str, Any]) -> Request:
        """The request; InputError with everything in it that does not apply to a sequence-to-sequence model."""
        problems = [Problem(name, why) for name, why in NOT_FOR_SEQUENCES.items() if request.get(name)]
        parameters = request.get("parameters") or {}
        problems += [
            Problem(f"parameters.{name}", "does not apply") for name in UNKNOWN_PARAMETERS if name in parameters
        ]
        if problems:
            raise InputError(
                f"Model {self.model_id} writes a target text for a source text; it cannot be asked like this.",
                remedy=f'ask it with `{{"input": "a text"}}`: POST /api/inference/{self.model_id}, or `soldiom infer'
                f" {self.model_id} TEXT`",
                problems=problems,
            )
        parsed = read_request(request)
        if parsed.tools:
            raise InputError("A sequence-to-sequence model calls no functions.", remedy="leave out `tools`")
        return parsed

    def _write(self, asked: "Sequence[tuple[Source, Options]]") -> "list[Generated]":
        return self.writer.write(asked, self.batches.given_up)

    async def _written(self, texts: Sequence[tuple[int, str]], parameters: Parameters) -> list[dict[str, Any]]:
        loop, limit = asyncio.get_running_loop(), self.writer.context
        if parameters.max_tokens and parameters.max_tokens > limit:
            raise InputError(
                f"`parameters.max_tokens` is {parameters.max_tokens}; model {self.model_id} writes at most {limit}.",
                remedy=f"ask for at most {limit} tokens",
            )
        sources = await loop.run_in_executor(self._reader, self.writer.read, [text for _, text in texts])
        asked = [
            (source, _options(parameters, index, limit)) for (index, _), source in zip(texts, sources, strict=True)
        ]
        # What is still to be written counts too: a batch takes as long as its longest target.
        results = await self.batches.run([(len(pair[0].ids) + pair[1].max_new_tokens, pair) for pair in asked])
        names = ("text", "finish_reason", "completion_tokens")
        return [
            {name: getattr(result, name) for name in names}
            | {"prompt_tokens": len(source.ids)}
            | ({"truncated": True} if source.truncated else {})
            for result, source in zip(results, sources, strict=True)
        ]


def _options(parameters: Parameters, index: int, limit: int) -> "Options":
    """Each text of a request has a seed of its own from the request's."""
    from soldiom_ray.models.decoding.answers import Options

    seed = None if parameters.seed is None else (parameters.seed + index) % 2**63
    tokens = parameters.max_tokens or min(DEFAULT_MAX_TOKENS, limit)
    return Options(tokens, parameters.temperature, parameters.top_p, seed, parameters.stop)


def _empty() -> SoldiomError:
    return InputError("The input is empty.", remedy="send a text", problems=[Problem("input", "holds no text")])
