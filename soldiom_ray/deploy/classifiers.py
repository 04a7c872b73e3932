"""The endpoint of a classifier: a Ray Serve deployment that answers texts or pictures with a label and each label's
probability."""

import asyncio
import io
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from soldiom_ray.deploy.requests import MAX_INPUTS, validated
from soldiom_ray.domains.door_defaults import REQUEST_CHARACTERS
from soldiom_ray.errors import InputError, Problem, SoldiomError
from soldiom_ray.models.batching import Batches
from soldiom_ray.records import Record

if TYPE_CHECKING:
    from soldiom_ray.models.classifier import Reading

NOT_FOR_CLASSIFIERS = {
    "messages": "a classifier holds no conversation",
    "stream": "a classifier has nothing to stream: its answer comes at once",
    "raw": "a classifier reads every input as it is",
}


TEXT_KIND = "a text classifier", '{"input": "a text"}', "TEXT"
PICTURE_KIND = "an image classifier", '{"image": "a PNG or JPEG file in base64"}', "FILE"
"""What a classifier is called, how it is asked through the API, and the argument on the command line."""


class ClassifierRequest(Record):
    """Texts, or pictures as the bytes of PNG or JPEG files, each classified by itself."""

    inputs: tuple[str, ...] = Field(default=(), max_length=MAX_INPUTS)
    images: tuple[bytes, ...] = Field(default=(), max_length=MAX_INPUTS)

    @model_validator(mode="after")
    def _has_some(self) -> "ClassifierRequest":
        if not self.inputs and not self.images:
            raise ValueError("give an input")
        return self


class ClassifierEndpoint:
    """One replica. `run` is the artifact of a trained classifier, `calibration` what its evaluation fitted:
    `temperature` and `threshold`. `revision` is not read: another one makes Serve start new replicas."""

    def __init__(
        self, model_id: str, run: str, calibration: Mapping[str, Any] | None, threads: int, revision: str
    ) -> None:
        from soldiom_ray import compute
        from soldiom_ray.artifacts import Artifacts
        from soldiom_ray.models.classifier import Calibration, Classifier
        from soldiom_ray.models.load import load_run
        from soldiom_ray.settings import load_settings
        from soldiom_ray.storage import open_storage

        compute.bind_replica_port()
        self.model_id = model_id
        self.is_calibrated = calibration is not None
        fitted = {name: calibration[name] for name in ("temperature", "threshold")} if calibration else {}
        self.calibration = Calibration.model_validate(fitted)
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
        """Classify texts or pictures: {"outputs": [{output: {label, scores, abstained}, prompt_tokens,
        completion_tokens}]}. With `heat_map` the output for a picture has one (`Classifier.heat_map`).

        InputError for a request that cannot be used, or whose only input cannot; among several inputs that one has an
        `error` in its place."""
        inputs = self._inputs(request)
        errors = [None if each.strip() else _empty() for each in inputs]
        if len(inputs) == 1 and errors[0]:
            raise errors[0]
        asked = [each for each, error in zip(inputs, errors, strict=True) if not error]
        answers = iter(await self._classified(asked, heat_map=bool(request.get("heat_map"))))
        return {"outputs": [{"error": error.to_problem()} if error else next(answers) for error in errors]}

    async def probe(self) -> dict[str, str]:
        """A first answer, to see that it works: {prompt, text}."""
        prompt = "a gray picture" if self.classifier.reads_pictures else "A first text."
        (answer,) = await self._classified([_gray_picture() if self.classifier.reads_pictures else prompt])
        return {"prompt": prompt, "text": str(answer["output"]["label"])}

    async def describe(self) -> dict[str, Any]:
        """What this replica is: model, labels, tokens that it reads of a text, process, sizes of its batches."""
        return {
            "model_id": self.model_id,
            "context_length": self.classifier.length,
            "labels": self.classifier.names,
            "calibration": self.calibration.model_dump() if self.is_calibrated else None,
            "pid": os.getpid(),
            "engine": "batches",
            "batches": dict(sorted(self.batches.sizes.items())),
        }

    def _inputs(self, request: Mapping[str, Any]) -> Sequence[str | bytes]:
        """The request's texts or pictures. InputError with everything in it that does not apply to this classifier."""
        reads_pictures = self.classifier.reads_pictures
        problems = [Problem(name, why) for name, why in NOT_FOR_CLASSIFIERS.items() if request.get(name)]
        if reads_pictures and request.get("inputs"):
            problems.append(Problem("input", "an image classifier reads a picture (`image`), not a text"))
        if not reads_pictures and request.get("images"):
            problems.append(Problem("image", "a text classifier reads a text (`input`), not a picture"))
        for name in request.get("parameters") or ():
            problems.append(Problem(f"parameters.{name}", "does not apply: a classifier generates no text"))
        if problems:
            kind, body, argument = TEXT_KIND if not reads_pictures else PICTURE_KIND
            raise InputError(
                f"Model {self.model_id} is {kind}; it cannot be asked like this.",
                remedy=f"ask it with `{body}` alone: POST /api/inference/{self.model_id}, or `soldiom infer"
                f" {self.model_id} {argument}`",
                problems=problems,
            )
        asked = {name: request[name] for name in ("inputs", "images") if request.get(name)}
        parsed = validated(ClassifierRequest, asked)
        if sum(map(len, parsed.inputs)) > REQUEST_CHARACTERS:
            raise InputError(f"The request holds more than {REQUEST_CHARACTERS} characters.", remedy="send it in parts")
        return parsed.images if reads_pictures else parsed.inputs

    async def _classified(self, inputs: Sequence[str | bytes], *, heat_map: bool = False) -> list[dict[str, Any]]:
        classifier = self.classifier
        loop = asyncio.get_running_loop()
        readings = await loop.run_in_executor(self._reader, classifier.read, inputs)
        logits = await self.batches.run([(reading.size, reading) for reading in readings])
        answers = []
        for reading, row in zip(readings, logits, strict=True):
            output, chances = classifier.decide(row, self.calibration)
            if heat_map and classifier.reads_pictures:
                draw, place = classifier.heat_map, int(chances.argmax())
                sharpness = self.calibration.temperature
                output["heat_map"] = await loop.run_in_executor(self._reader, draw, reading, place, sharpness)
            truncated = {"truncated": True} if reading.truncated else {}
            tokens = 0 if classifier.reads_pictures else reading.size
            answers.append({"output": output, "prompt_tokens": tokens, "completion_tokens": 0, **truncated})
        return answers


def _empty() -> SoldiomError:
    return InputError("The input is empty.", remedy="send a text", problems=[Problem("input", "holds no text")])


def _gray_picture() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("L", (32, 32), 128).save(file, "PNG")
    return file.getvalue()
