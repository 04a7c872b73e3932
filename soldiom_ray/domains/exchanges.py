"""What a model was asked and what it answered, stored so that feedback can be joined to it: the same whether the API
asked or a job of many inputs."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

from soldiom_ray.db import answers
from soldiom_ray.db.answers import Exchange
from soldiom_ray.domains.outputs import USER_CHARACTERS, count_answers, text_of
from soldiom_ray.domains.tasks import CHAT_TASKS, TEXT_CLASSIFICATION
from soldiom_ray.settings import Settings

STORED_CHARACTERS = 100_000
"""Of a question and of its answer; longer ones are not stored."""


def form_of(task: str | None, prompt_format: str | None, *, raw: bool) -> str | None:
    """In which form (`db.answers.Exchange`) a model's questions are stored; None for those that are not: pictures."""
    if task is not None and task not in CHAT_TASKS:
        return "label" if task == TEXT_CLASSIFICATION else None
    return "text" if raw or prompt_format == "text" else "chat"


def question_of(form: str | None, request: Mapping[str, Any], place: int = 0) -> dict[str, Any]:
    """What a request asks, in this form, or the one of its inputs that stands at a place."""
    if "messages" in request:
        return {"messages": request["messages"]}
    if form not in ("chat", "text", "label"):
        return {}
    text = request["inputs"][place]
    return {"messages": [{"role": "user", "content": text}]} if form == "chat" else {"input": text}


def store_answers(
    session: Session,
    settings: Settings,
    questions: Sequence[Mapping[str, Any]],
    outputs: Sequence[Mapping[str, Any]],
    ids: Sequence[str],
    *,
    form: str | None,
    seconds: float,
    alone: bool = True,
    **whose: str,
) -> list[str | None]:
    """Store the answers (outputs of the API) and count what they cost; the ids of those that are stored, each at its
    place: not an error, a long one, one that was withheld, one for a user of a long name, or any where answers are kept
    for 0 days. `seconds` is how long they took together, and, where a request was `alone`, each of them. `whose` has
    `tenant`, `owner`, `user_id` and `model_id`."""
    stored: list[str | None] = []
    kept = form is not None and settings.answer_days > 0
    nameless = len(whose["user_id"]) > USER_CHARACTERS  # cut short it would be found for another user, or none
    for answer_id, question, output in zip(ids, questions, outputs, strict=True):
        text = text_of(output) if kept and not nameless else None
        if text is None or len(text) > STORED_CHARACTERS or len(str(question)) > STORED_CHARACTERS:
            stored.append(None)
            continue
        usage = output.get("usage") or {}
        answers.add(
            session,
            Exchange({"form": form, **question}, text),
            settings.encryption_keys,
            id=answer_id,
            **whose,
            prompt_tokens=int(usage.get("prompt_tokens", 0)),
            completion_tokens=int(usage.get("completion_tokens", 0)),
            seconds=seconds if alone else None,
        )
        stored.append(answer_id)
    count_answers(session, questions, outputs, **whose, seconds=seconds)
    return stored
