"""Examples of an evaluation: held-out prompts answered by the base and by the tuned model, beside the author's answer.

They are users' data: they stand in the scores artifact, sealed with it, and never in logs, metrics or MLflow."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from soldiom_ray.artifacts import Artifacts
from soldiom_ray.records import Record

SHOWN_CHARACTERS, SHOWN_LINES = 600, 14
"""Longer texts are shortened where examples are shown; scores.json has them whole."""


class Example(Record):
    """A prompt from the sample `document`, what its author wrote, and what base and tuned model answer.

    `base` is None where there is no base model that answers, `reference` in scores written before it was stored."""

    group: str
    document: str = ""
    prompt: str
    reference: str | None = None
    base: str | None
    tuned: str


def read_examples(artifacts: Artifacts, scores: str | None) -> list[Example]:
    """The examples in a scores artifact; none where it, or its file, does not exist."""
    content = read_scores(artifacts, scores)
    # `completions` is what scores made before `examples` hold.
    return [Example.model_validate(example) for example in content.get("examples", content.get("completions", []))]


def read_scores(artifacts: Artifacts, scores: str | None) -> dict[str, Any]:
    """Everything that a scores artifact counted; empty where it, or its file, does not exist."""
    manifest = artifacts.find(scores) if scores else None
    if manifest is None or not any(entry.name == "scores.json" for entry in manifest.files):
        return {}
    content: dict[str, Any] = json.loads(artifacts.read(manifest, "scores.json"))
    return content


def examples_as_dicts(examples: Iterable[Example]) -> list[dict[str, Any]]:
    """The examples as JSON holds them."""
    return [example.model_dump(mode="json") for example in examples]


def labeled_texts(example: Example) -> list[tuple[str, str]]:
    """(label, text) of what an example shows, in order; what does not exist is left out."""
    texts = (
        ("prompt", example.prompt),
        ("author", example.reference),
        ("before", example.base),
        ("after", example.tuned),
    )
    return [(label, shorten(text) or "(nothing)") for label, text in texts if text is not None]


def shorten(text: str, characters: int = SHOWN_CHARACTERS, lines: int = SHOWN_LINES) -> str:
    """At most so many characters and lines of a text, with … where something is left out."""
    whole = text.strip("\n").rstrip()
    first = "\n".join(whole.splitlines()[:lines])[:characters].rstrip()
    return first if first == whole else f"{first} …"


def examples_markdown(examples: Sequence[Example]) -> str:
    """The examples as Markdown blocks below a heading of their own; "" where there are none."""
    if not examples:
        return ""
    parts = [
        "## Answers before and after\n\nHeld-out prompts, what their author wrote, and what the base model (before) and"
        " the tuned model (after) answer, greedily and within a number of tokens. Examples, not a measurement."
    ]
    return "\n\n".join([*parts, example_blocks(examples)])


def example_blocks(examples: Sequence[Example], level: str = "###") -> str:
    """The examples as Markdown blocks, each below a heading of this level."""
    parts = []
    for number, example in enumerate(examples, 1):
        group = example.group.replace("\n", " ").strip()
        parts.append(f"{level} {number}. {group}" if group else f"{level} {number}.")
        parts += [f"{label.capitalize()}:\n\n{_fenced(text)}" for label, text in labeled_texts(example)]
    return "\n\n".join(parts)


def _fenced(text: str) -> str:
    """Text in a fence longer than any fence inside it."""
    fence = "~~~~"
    while fence in text:
        fence += "~"
    return f"{fence}\n{text}\n{fence}"
