"""What a capability is asked and what it answers, as values: the input checked, the prompt filled in, the answer of a
rule, a model or a search brought into the output's schema and checked. Whoever calls asks the models."""

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from soldiom_ray.domains.json_schemas import schema_problems
from soldiom_ray.domains.specialists import Capability, CheckName, Pack, find_capability, find_pack
from soldiom_ray.errors import InputError, Problem, SoldiomError

NOT_FOUND = "not found"
Answer = dict[str, Any]


def check_input(capability: Capability, value: object, where: str = "body") -> dict[str, Any]:
    """The input, which obeys its schema. InputError with every mistake, none of which repeats the user's text."""
    if problems := schema_problems(value, capability.input, where):
        wanted = ", ".join(capability.input.get("required", ()))
        raise InputError("The input cannot be used.", remedy=f"send an object with: {wanted}", problems=problems)
    if empty := [name for name, text in dict(value).items() if isinstance(text, str) and not text.strip()]:  # type: ignore[call-overload]
        raise InputError(f"`{empty[0]}` holds no text.", remedy="send a text")
    return dict(value)  # type: ignore[call-overload, no-any-return]


def prompt_of(capability: Capability, value: Mapping[str, Any]) -> str:
    """The prompt with the input's fields in their places. What looks like a place within a field stays as it is."""
    return re.sub(r"\{([a-z_]+)\}", lambda place: str(value.get(place[1], "")), capability.by.prompt)


def only_text(capability: Capability) -> str | None:
    """The name of the one field of the output where that is a text: a model's answer as it is fills it. None for an
    output that a model has to write as JSON."""
    fields = capability.output.get("properties", {})
    name = next(iter(fields), "")
    return name if len(fields) == 1 and fields[name].get("type") == "string" else None


def answer_of_text(capability: Capability, text: str) -> Answer:
    """A model's text as the output: in the one field that takes it, else as the JSON that it is."""
    name = only_text(capability)
    if name is not None:
        return {name: text.strip()}
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise SoldiomError(
            "The model's answer is not the JSON that its schema asks for.", remedy="ask again"
        ) from error


def answer_of_label(label: Mapping[str, Any], names: Mapping[str, str] = MappingProxyType({})) -> Answer:
    """A classifier's decision as the output, with a heat map if it drew one; a label is null where it abstains. `names`
    are what the answer calls labels."""
    abstained = bool(label.get("abstained", False))
    scores = {names.get(name, name): score for name, score in label["scores"].items()}
    decided = None if abstained else names.get(label["label"], label["label"])
    heat = {"heat_map": label["heat_map"]} if "heat_map" in label else {}
    return {"label": decided, "scores": scores, "abstained": abstained, **heat}


def picture_of(capability: Capability, value: Mapping[str, Any]) -> bytes:
    """The bytes of the picture that the input holds in base64, a data URL allowed. InputError where they are none."""
    field = capability.by.picture
    text = str(value[field])
    encoded = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode(encoded, validate=True)
    except ValueError as error:
        message = f"`{field}` is not base64"
        raise InputError(
            f"{message}.", remedy="send a PNG or JPEG file in base64", problems=[Problem(f"body.{field}", message)]
        ) from error


def answer_of_passages(capability: Capability, passages: Sequence[Mapping[str, Any]]) -> Answer:
    """The passages that are near enough to the question, best first, each with its source; "not found" without any."""
    near = [each for each in passages if each["score"] >= capability.by.min_score]
    sources = [
        {
            "id": str(each["id"]),
            "text": str(each["text"]),
            "source": _source_of(each.get("metadata") or {}),
            "license": str((each.get("metadata") or {}).get("license") or ""),
            "score": round(float(each["score"]), 4),
        }
        for each in near
    ]
    return {"found": bool(near), "answer": str(near[0]["text"]) if near else NOT_FOUND, "sources": sources}


def answer_by_rule(domain: str, name: str, value: dict[str, Any]) -> str:
    """The answer of a capability that a rule gives, checked, as the JSON of its envelope."""
    from soldiom_ray.specialists.rules import RULES

    pack = find_pack(domain)
    capability = find_capability(pack, name)
    answer = checked(capability, value, RULES[str(capability.by.rule)](value))
    return json.dumps(envelope(pack, name, answer))


def checked(capability: Capability, value: Mapping[str, Any], answer: Answer) -> Answer:
    """The answer, which obeys its schema and passes the capability's checks. SoldiomError for one that does not."""
    problems = schema_problems(answer, capability.output, "output")
    failed = [message for check in capability.checks if (message := CHECKS[check](value, answer))]
    if problems or failed:
        raise SoldiomError(
            "The answer does not pass its checks, so it is not given." + "".join(f" {message}." for message in failed),
            remedy="ask again; if it stays so, tell who made the domain",
            problems=problems,
        )
    return answer


def envelope(pack: Pack, name: str, answer: Answer, model: str | None = None, notices: Sequence[str] = ()) -> Answer:
    """An answer as the doors give it: with the notices of the domain and of the model that gave it."""
    return {
        "domain": pack.name,
        "capability": name,
        "output": answer,
        "model": model,
        "notice": " ".join((pack.notice, *notices)),
    }


def _source_of(metadata: Mapping[str, Any]) -> str:
    return str(metadata.get("url") or metadata.get("path") or metadata.get("group") or "unknown")


def _spans_match(value: Mapping[str, Any], answer: Answer) -> str:
    """Every item with a span holds the characters of the text that its span names."""
    text = str(value.get("text", ""))
    wrong = [
        item
        for item in answer.get("items", ())
        if isinstance(item, dict) and "start" in item and text[item["start"] : item["end"]] != item.get("value")
    ]
    return f"{len(wrong)} items are not what stands at their spans" if wrong else ""


def _quotes_match(value: Mapping[str, Any], answer: Answer) -> str:
    """Every quote stands in a text of the input, word for word."""
    # JSON joins the halves of a character that Python may hold apart
    texts = [json.loads(json.dumps(text)) for text in value.values() if isinstance(text, str)]
    quotes = json.loads(json.dumps(answer.get("quotes", ())))
    wrong = [quote for quote in quotes if not any(quote["text"] in text for text in texts)]
    return f"{len(wrong)} quotes are not in the text" if wrong else ""


def _cites_sources(value: Mapping[str, Any], answer: Answer) -> str:
    """What was found stands in the first of its sources, and what was not says so."""
    sources = answer.get("sources") or [{}]
    if answer.get("found"):
        return "" if answer.get("answer") in sources[0].get("text", "") else "the answer is in none of its sources"
    return "" if answer.get("answer") == NOT_FOUND else "an answer was given that was not found"


def _counts_all(value: Mapping[str, Any], answer: Answer) -> str:
    """Every record of a timeline is either dated or told to have no date."""
    counts = answer["counts"]
    lost = counts["records"] - len({event["record"] for event in answer["events"]}) - len(answer["undated"])
    return f"{lost} records are lost" if lost else ""


def _in_order(value: Mapping[str, Any], answer: Answer) -> str:
    """The events of a timeline are in the order of time."""
    times = [event["time"] for event in answer["events"]]
    return "" if times == sorted(times) else "events are out of order"


CHECKS: Mapping[CheckName, Callable[[Mapping[str, Any], Answer], str]] = {
    "spans_match": _spans_match,
    "quotes_match": _quotes_match,
    "cites_sources": _cites_sources,
    "counts_all": _counts_all,
    "in_order": _in_order,
}
"""What an answer must pass besides its schema: what is wrong with it, or ""."""
