"""A pack for a team's own documents: what they allow for, as the YAML that `soldiom run domain:NAME` makes its models
from, and what is still missing for a model that one can rely on."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from soldiom_ray.domains.specialists import read_pack

Use = Literal["classify_texts", "classify_pictures", "answer", "search"]
FEW_OF_A_LABEL, FEW_PAIRS, FEW_TESTED = 20, 200, 100
"""Below these a part learns or measures little: examples of a label, pairs of question and answer, held-out samples (of
100, an interval of accuracy is 20 points wide)."""
LABELLED_SHARE = 0.5
NOTICE = "Made from documents of one team by a small model. It errs; a person who knows the subject checks each answer."
TEXT = {"type": "string", "minLength": 1, "maxLength": 20_000}
SHORT_TEXT = {"type": "string", "minLength": 1, "maxLength": 4_000}
CONVNET = {
    "model_type": "convnext", "image_size": 64, "patch_size": 4, "num_stages": 3, "hidden_sizes": [32, 64, 128],
    "depths": [2, 2, 2], "layer_scale_init_value": 0.1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class NewPack:
    """The pack as YAML, what it uses the documents for, and what is missing, in sentences."""

    text: str
    use: Use
    missing: tuple[str, ...]


def new_pack(
    name: str, title: str, folder: str, counts: Mapping[str, int], details: Mapping[str, Any], pairs: int
) -> NewPack:
    """A pack of the documents in `folder`, from what preparing them counted: `counts` and `details` of the dataset, and
    how many samples of its training side are `pairs` of a question and an answer."""
    use = use_of(counts, details, pairs)
    content: dict[str, Any] = {
        "name": name,
        "title": title or name.replace("-", " ").capitalize(),
        "description": f"Made from the documents in the folder {Path(folder).name!r}.",
        "notice": NOTICE,
        "not_for": ["decisions that nobody checks who knows the subject"],
        "models": {"first": _model(use, name, folder)},
        "capabilities": dict(_capabilities(use, details)),
    }
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
    read_pack(text, f"{name}.yaml")
    return NewPack(text, use, tuple(_missing(use, counts, details)))


def use_of(counts: Mapping[str, int], details: Mapping[str, Any], pairs: int) -> Use:
    """What the documents allow for: labels of most of them a classifier, pairs of most of them answers, else search."""
    kept, labels = max(1, counts["kept"]), details.get("labels", {})
    labelled = sum(sum(sides.values()) for sides in labels.values())
    if len(labels) > 1 and labelled >= LABELLED_SHARE * kept:
        return "classify_pictures" if counts.get("pictures", 0) >= LABELLED_SHARE * kept else "classify_texts"
    return "answer" if pairs and pairs >= LABELLED_SHARE * counts["train"] else "search"


def _model(use: Use, name: str, folder: str) -> dict[str, Any]:
    source: dict[str, Any] = {"source": "files", "paths": [folder]}
    named = {"description": "the first model of this team's documents", "name": name}
    if use == "classify_pictures":
        train = {"task": "image_classification", "method": "full", "augment": True, "epochs": 12}
        return named | {
            "collect": [source | {"pictures": True}],
            "data": {"pictures": True},
            "train": train | {"learning_rate": 2e-3, "architecture": CONVNET},
            "evaluate": {"gate": {"all": [{"metric": "accuracy", "beat": "base"}]}},
        }
    model = named | {"collect": [source]}
    if use == "classify_texts":
        gate = {"all": [{"metric": "macro_f1", "beat": "base"}, {"metric": "macro_f1", "beat": "baseline"}]}
        train = {"task": "text_classification", "sequence_length": 128}
        return model | {"prepare": {"filters": ["near_duplicate"]}, "train": train, "evaluate": {"gate": gate}}
    if use == "answer":
        return model | {"train": {"epochs": 2}, "evaluate": {"gate": {"metric": "loss", "beat": "base"}}}
    return model | {"embed": {}, "train": {"epochs": 1}, "evaluate": {"gate": {"metric": "loss", "beat": "base"}}}


def _capabilities(use: Use, details: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    if use.startswith("classify"):
        labels = ", ".join(list(details["labels"])[:12])
        yield "classify", _classify(f"Which of these it is: {labels}.", pictures=use == "classify_pictures")
    elif use == "answer":
        yield "answer", _generate("An answer to a question, as the team's examples have it.", "question", "answer")
    else:
        yield "find-passages", _find_passages()
        yield "continue", _generate("How a text goes on in the manner of these documents.", "text", "continuation")


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": list(properties), "properties": properties}


def _classify(description: str, *, pictures: bool) -> dict[str, Any]:
    scores = {"type": "object", "additionalProperties": {"type": "number", "minimum": 0, "maximum": 1}}
    output = _object(label={"type": ["string", "null"]}, scores=scores, abstained={"type": "boolean"})
    by, field = {"classify": "first"}, ("image" if pictures else "text")
    return {
        "description": description,
        "input": _object(**{field: {**TEXT, "maxLength": 14_000_000} if pictures else TEXT}),
        "output": output,
        "by": by | ({"picture": "image"} if pictures else {}),
        "metric": "accuracy" if pictures else "macro_f1",
    }


def _generate(description: str, asked: str, answered: str) -> dict[str, Any]:
    return {
        "description": description,
        "input": _object(**{asked: TEXT}),
        "output": _object(**{answered: {"type": "string"}}),
        "by": {"generate": "first", "prompt": f"{{{asked}}}", "max_tokens": 200},
    }


def _find_passages() -> dict[str, Any]:
    text = {"type": "string"}
    source = _object(id=text, text=text, source=text, license=text, score={"type": "number"})
    index = {**SHORT_TEXT, "maxLength": 64, "description": "id of an index; unset: the newest"}
    return {
        "description": 'Passages of the documents that bear on a question, each with its source, or "not found".',
        "input": _object(question=SHORT_TEXT) | {"properties": {"question": SHORT_TEXT, "index": index}},
        "output": _object(found={"type": "boolean"}, answer=text, sources={"type": "array", "items": source}),
        "by": {"retrieve": True},
        "checks": ["cites_sources"],
    }


def _missing(use: Use, counts: Mapping[str, int], details: Mapping[str, Any]) -> Iterator[str]:
    trained, tested = counts["train"], counts["test"]
    if use.startswith("classify"):
        learnt = {name: sides.get("train", 0) for name, sides in details["labels"].items()}
        if few := [f"{name} ({count})" for name, count in learnt.items() if count < FEW_OF_A_LABEL]:
            more = f" and {len(few) - 5} more" if len(few) > 5 else ""
            yield f"Fewer than {FEW_OF_A_LABEL} examples to learn from: {', '.join(few[:5])}{more}."
    if use == "answer" and trained < FEW_PAIRS:
        yield f"{trained} pairs of question and answer to learn from; below {FEW_PAIRS} a model learns little but form."
    if use == "search":
        yield (
            "Nothing to learn a task from: no column of labels, and no pairs of question and answer. A table with the"
            " columns `text` and `label`, or `question` and `answer`, in the folder makes a model of the task."
        )
    if tested < FEW_TESTED:
        yield f"{tested} held-out samples: too few to show any but a large gain. {4 * FEW_TESTED} show one of 5 points."
    if unknown := details.get("licenses", {}).get("unknown", 0):
        yield f"{unknown} of {counts['kept']} samples name no licence: a LICENSE file beside them says what is allowed."
    languages = details.get("languages", {})
    foreign = sum(languages.values()) - languages.get("en", 0) - languages.get("unknown", 0)
    if use != "classify_pictures" and foreign > 0.2 * counts["kept"]:
        yield f"{foreign} of {counts['kept']} samples are not in English, which the small bases have read little of."
    yield from details.get("warnings", ())
    yield "Notice and not_for are placeholders: somebody who knows the subject writes what it must not be used for."
