"""A model that no endpoint serves, loaded into this process and asked the way it was trained, as its endpoint would."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from soldiom_ray.artifacts import Artifacts
from soldiom_ray.domains.door_defaults import DEFAULT_MAX_TOKENS
from soldiom_ray.domains.tasks import CAUSAL_LM, CHAT_TASKS, SEQ2SEQ, TEXT_CLASSIFICATION
from soldiom_ray.errors import InputError
from soldiom_ray.records import Manifest
from soldiom_ray.settings import Settings


@dataclass(frozen=True, slots=True)
class Asking:
    """How texts are asked; what does not apply to a model's task is left out there."""

    max_tokens: int | None = None
    temperature: float = 0.0
    seed: int | None = None
    raw: bool = False


Answerer = Callable[[str, Asking], dict[str, Any]]
"""A text becomes what an endpoint would give, which `domains.outputs.output_of` reads. InputError for a text that
cannot be asked."""


def load_answerer(
    settings: Settings, artifacts: Artifacts, run: Manifest | None, base: str, scores: Manifest | None = None
) -> Answerer:
    """Load a run, or a base where there is none. A classifier decides with the calibration of its `scores`. InputError
    for a model of pictures; errors of `load_run` and `load_base`."""
    task = str(run.details.get("task", CAUSAL_LM)) if run else CAUSAL_LM
    if task not in (*CHAT_TASKS, SEQ2SEQ, TEXT_CLASSIFICATION):
        raise InputError(f"A model for {task} answers no text.", remedy="name models that read texts")
    if run is None or task in CHAT_TASKS:
        return _continuing(settings, artifacts, run, base)
    if task == SEQ2SEQ:
        return _writing(settings, artifacts, run)
    calibration = (scores.details.get("calibration") if scores else None) or {}
    return _classifying(settings, artifacts, run, calibration)


def _continuing(settings: Settings, artifacts: Artifacts, run: Manifest | None, base: str) -> Answerer:
    from soldiom_ray.models.chat import prompt_format_of_base, prompt_format_of_run
    from soldiom_ray.models.generate import Generator
    from soldiom_ray.models.load import load_base, load_run

    with load_run(artifacts, settings, run) if run else load_base(artifacts, settings, base) as (model, tokenizer):
        form = prompt_format_of_run(run.details) if run else prompt_format_of_base(base, tokenizer)
        generator = Generator.taking_over(model, tokenizer)

    def answer(text: str, asking: Asking) -> dict[str, Any]:
        as_chat = form == "chat" and not asking.raw
        prompt = generator.chat([{"role": "user", "content": text}]) if as_chat else text
        room = generator.context - len(generator.prompt_ids(prompt))
        [generated] = generator.generate(
            [prompt],
            max_new_tokens=min(asking.max_tokens or DEFAULT_MAX_TOKENS, room),
            temperature=asking.temperature,
            seed=asking.seed,
        )
        return {
            "text": generated.text,
            "finish_reason": generated.finish_reason,
            "prompt_tokens": generated.prompt_tokens,
            "completion_tokens": generated.completion_tokens,
        }

    return answer


def _writing(settings: Settings, artifacts: Artifacts, run: Manifest) -> Answerer:
    from soldiom_ray.models.decoding.answers import Options
    from soldiom_ray.models.load import load_run
    from soldiom_ray.models.sequence_writer import SequenceWriter

    with load_run(artifacts, settings, run) as (model, tokenizer):
        writer = SequenceWriter(model, tokenizer, int(run.details["sequence_length"]))

    def answer(text: str, asking: Asking) -> dict[str, Any]:
        [source] = writer.read([text])
        tokens = min(asking.max_tokens or DEFAULT_MAX_TOKENS, writer.context)
        [written] = writer.write([(source, Options(tokens, asking.temperature, seed=asking.seed))])
        return {
            "text": written.text,
            "finish_reason": written.finish_reason,
            "prompt_tokens": len(source.ids),
            "completion_tokens": written.completion_tokens,
        }

    return answer


def _classifying(settings: Settings, artifacts: Artifacts, run: Manifest, calibration: Mapping[str, Any]) -> Answerer:
    from soldiom_ray.models.classifier import Calibration, Classifier
    from soldiom_ray.models.load import load_run

    fitted = Calibration(**{name: calibration[name] for name in ("temperature", "threshold") if name in calibration})
    with load_run(artifacts, settings, run) as (model, processor):
        classifier = Classifier.taking_over(model, processor, int(run.details["sequence_length"]))

    def answer(text: str, asking: Asking) -> dict[str, Any]:
        [reading] = classifier.read([text])
        output, _ = classifier.decide(classifier.logits([reading])[0], fitted)
        return {"output": output, "prompt_tokens": reading.size, "completion_tokens": 0}

    return answer
