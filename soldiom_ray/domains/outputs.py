"""What a model's endpoint has generated, as it is shown; and what answers cost, as it is counted."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

from soldiom_ray.db import usage

USER_CHARACTERS = 128
"""Of the name of who asks, as its column has them."""
USAGE = ("prompt_tokens", "completion_tokens", "total_tokens")


def output_of(generated: Mapping[str, Any]) -> dict[str, Any]:
    """An endpoint's answer as the API's: a text and why it ended, a classifier's decision, or an error."""
    if "error" in generated:
        return {"error": generated["error"]}
    truncated = {"truncated": True} if generated.get("truncated") else {}
    if "output" in generated:
        return {"output": generated["output"], "usage": usage_of(generated), **truncated}
    answer = {"output": generated["text"], "finish_reason": generated.get("finish_reason")}
    more = {name: generated[name] for name in ("filter", "watermark") if generated.get(name)}
    return answer | {"usage": usage_of(generated), **truncated, **more}


def usage_of(counts: Mapping[str, Any]) -> dict[str, int]:
    """Tokens as the API shows them."""
    prompt, completion = int(counts["prompt_tokens"]), int(counts["completion_tokens"])
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def total_usage(outputs: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """The tokens of several outputs."""
    counts = [output["usage"] for output in outputs if output.get("usage")]
    return {name: sum(int(each.get(name, 0)) for each in counts) for name in USAGE}


def text_of(output: Mapping[str, Any]) -> str | None:
    """An output as one text: what was written, or the label; None for an error and for what was withheld."""
    value = output.get("output") if output.get("finish_reason") != "content_filter" else None
    if isinstance(value, Mapping):
        label = value.get("label")
        return label if isinstance(label, str) else None
    return value if isinstance(value, str) else None


def count_answers(
    session: Session,
    questions: Sequence[object],
    outputs: Sequence[Mapping[str, Any]],
    *,
    tenant: str,
    owner: str,
    user_id: str,
    model_id: str,
    seconds: float,
) -> None:
    """Count what answers cost, for the key and the user; last in the transaction, see `usage.add`."""
    totals = total_usage(outputs)
    texts = (*(str(question) for question in questions), *(text_of(output) or "" for output in outputs))
    usage.add(
        session,
        tenant=tenant,
        owner=owner,
        user_id=user_id[:USER_CHARACTERS],
        model_id=model_id,
        requests=len(outputs),
        prompt_tokens=totals["prompt_tokens"],
        completion_tokens=totals["completion_tokens"],
        bytes=sum(len(text.encode()) for text in texts),
        seconds=seconds,
    )
