"""The endpoint of a classifier: a Ray Serve deployment that answers texts with a label and each label's probability."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from pydantic import Field

from soldiom_ray.deploy.batching import Batches
from soldiom_ray.deploy.requests import MAX_INPUTS, validated
from soldiom_ray.domains.door_defaults import REQUEST_CHARACTERS
from soldiom_ray.errors import InputError, Problem, SoldiomError
from soldiom_ray.records import Record

if TYPE_CHECKING:
    from soldiom_ray.models.classifier import Reading

PROBE = "A first text."
NOT_FOR_CLASSIFIERS = {
    "messages": "a classifier reads texts, not conversations",
    "stream": "a classifier has nothing to stream: its answer comes at once",
    "raw": "a classifier reads every text as it is",
}


class ClassifierRequest(Record):
    """Texts, each classified by itself."""

    inputs: tuple[str, ...] = Field(min_length=1, max_length=MAX_INPUTS)


class ClassifierEndpoint:
    """One replica. `run` is the artifact of a trained classifier. `revision` is not read: another one makes Serve start
    new replicas."""

    def __init__(self, model_id: str, run: str, threads: int, revision: str) -> None:
        from soldiom_ray import compute
        from soldiom_ray.artifacts import Artifacts
        from soldiom_ray.models.classifier import Classifier
        from soldiom_ray.models.load import load_run
        from soldiom_ray.settings import load_settings
        from soldiom_ray.storage import open_storage

        compute.bind_replica_port()
        self.model_id = model_id
        settings = load_settings()
        artifacts = Artifacts(open_storage(settings))
        manifest = artifacts.get(run)
        with load_run(artifacts, settings, manifest) as (model, processor):
            length = int(manifest.details["sequence_length"])
            self.classifier = Classifier.taking_over(model, processor, length)
        threads = threads if model.device.type == "cpu" else 1
        self.batches: Batches[Reading] = Batches(lambda readings: list(self.classifier.logits(readings)), threads)
        self._reader = ThreadPoolExecutor(1, "read")

    async def check_health(self) -> None:
        """Serve's health check."""
        self.batches.check()

    async def generate(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Classify texts: {"outputs": [{output: {label, scores, abstained}, prompt_tokens, completion_tokens}]}.

        InputError for a request that cannot be used, or whose only input cannot; among several inputs that one has an
        `error` in its place."""
        inputs = self._inputs(request)
        errors = [None if text.strip() else _empty() for text in inputs]
        if len(inputs) == 1 and errors[0]:
            raise errors[0]
        answers = iter(await self._classified([text for text, error in zip(inputs, errors, strict=True) if not error]))
        return {"outputs": [{"error": error.to_problem()} if error else next(answers) for error in errors]}

    async def probe(self) -> dict[str, str]:
        """A first answer, to see that it works: {prompt, text}."""
        (answer,) = await self._classified([PROBE])
        return {"prompt": PROBE, "text": str(answer["output"]["label"])}

    async def describe(self) -> dict[str, Any]:
        """What this replica is: model, labels, tokens that it reads of a text, process, sizes of its batches."""
        return {
            "model_id": self.model_id,
            "context_length": self.classifier.length,
            "labels": self.classifier.names,
            "pid": os.getpid(),
            "engine": "batches",
            "batches": dict(sorted(self.batches.sizes.items())),
        }

    def _inputs(self, request: Mapping[str, Any]) -> tuple[str, ...]:
        """The request's texts. InputError with everything in it that does not apply to classifiers."""
        problems = [Problem(name, why) for name, why in NOT_FOR_CLASSIFIERS.items() if request.get(name)]
        for name in request.get("parameters") or ():
            problems.append(Problem(f"parameters.{name}", "does not apply: a classifier generates no text"))
        if problems:
            raise InputError(
                f"Model {self.model_id} is a text classifier; it cannot be asked like this.",
                remedy=f'ask it with `{{"input": "a text"}}` alone: POST /api/inference/{self.model_id}, or'
                f" `soldiom infer {self.model_id} TEXT`",
                problems=problems,
            )
        parsed = validated(ClassifierRequest, {"inputs": request.get("inputs") or ()})
        if sum(map(len, parsed.inputs)) > REQUEST_CHARACTERS:
            raise InputError(f"The request holds more than {REQUEST_CHARACTERS} characters.", remedy="send it in parts")
        return parsed.inputs

    async def _classified(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        from soldiom_ray.models.classifier import decision, probabilities

        classifier = self.classifier
        readings = await asyncio.get_running_loop().run_in_executor(self._reader, classifier.read, texts)
        logits = await self.batches.run([(reading.size, reading) for reading in readings])
        answers = []
        for reading, row in zip(readings, logits, strict=True):
            chances = probabilities(row[None], multi_label=classifier.multi_label)[0]
            output = decision(classifier.names, chances, multi_label=classifier.multi_label) | {"abstained": False}
            truncated = {"truncated": True} if reading.truncated else {}
            answers.append({"output": output, "prompt_tokens": reading.size, "completion_tokens": 0, **truncated})
        return answers


def _empty() -> SoldiomError:
    return InputError("The input is empty.", remedy="send a text", problems=[Problem("input", "holds no text")])
