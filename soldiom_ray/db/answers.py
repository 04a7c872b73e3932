"""What deployed models answered: stored for a while, so that feedback can be joined to it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from soldiom_ray.db.tables import Answer, Feedback
from soldiom_ray.errors import NotFoundError
from soldiom_ray.records import now
from soldiom_ray.sealing import seal_text, unseal_text

OPENAI_PREFIXES = ("chatcmpl-", "cmpl-")


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and its answer, as they are stored. `question` has a `form` and what was asked: "chat" with
    `messages`, "text" with the `input` that was continued, "label" with the `input` that was classified."""

    question: Mapping[str, Any]
    output: str


def add(session: Session, exchange: Exchange, encryption_keys: Sequence[bytes], **columns: Any) -> Answer:
    """Store one answer, sealed when there is a key; `columns` are the other columns of the table, `id` among them."""
    name = _name(columns["id"])
    question = json.dumps(exchange.question, ensure_ascii=False)
    row = Answer(
        question=seal_text(question, f"{name}/question", encryption_keys),
        output=seal_text(exchange.output, f"{name}/output", encryption_keys),
        **columns,
    )
    session.add(row)
    session.flush()
    return row


def get(session: Session, answer_id: str, tenant: str | None) -> Answer:
    """The answer, by its id or the one that OpenAI's protocol shows; NotFoundError when it is not stored, no longer, or
    another tenant's."""
    plain = answer_id
    for prefix in OPENAI_PREFIXES:
        plain = plain.removeprefix(prefix)
    row = session.get(Answer, plain)
    if row is None or (tenant is not None and row.tenant != tenant):
        raise _not_stored(answer_id)
    return row


def lock(session: Session, answer_id: str) -> None:
    """Let other transactions wait that would change an answer; NotFoundError when it has been removed meanwhile."""
    if session.scalars(select(Answer.id).where(Answer.id == answer_id).with_for_update()).first() is None:
        raise _not_stored(answer_id)


def exchange_of(row: Answer, encryption_keys: Sequence[bytes]) -> Exchange:
    """What was asked and answered, unsealed."""
    question = unseal_text(row.question, f"{_name(row.id)}/question", encryption_keys)
    return Exchange(json.loads(question), unseal_text(row.output, f"{_name(row.id)}/output", encryption_keys))


def remove_older(session: Session, days: int) -> int:
    """Remove the answers that are older than so many days and that no feedback is about; returns how many."""
    rated = select(Feedback.answer_id)
    old = delete(Answer).where(Answer.created_at < now() - timedelta(days=days), Answer.id.not_in(rated))
    return int(getattr(session.execute(old), "rowcount", 0))


def traffic(session: Session, model_id: str) -> dict[str, Any]:
    """How much a model has answered, of the answers that are stored: how many, tokens, mean seconds, by day and
    together."""
    day = func.date(Answer.created_at)
    sums = (
        func.count(),
        func.sum(Answer.prompt_tokens),
        func.sum(Answer.completion_tokens),
        func.avg(Answer.seconds),
    )
    days = session.execute(select(day, *sums).where(Answer.model_id == model_id).group_by(day).order_by(day)).all()
    total = session.execute(select(*sums).where(Answer.model_id == model_id)).one()
    return _sums(total) | {"days": [{"day": str(row[0]), **_sums(row[1:])} for row in days]}


def _sums(values: Any) -> dict[str, Any]:
    count, prompt_tokens, completion_tokens, seconds = values
    return {
        "answers": int(count),
        "prompt_tokens": int(prompt_tokens or 0),
        "completion_tokens": int(completion_tokens or 0),
        "mean_seconds": round(float(seconds), 3) if seconds is not None else None,
    }


def _not_stored(answer_id: str) -> NotFoundError:
    return NotFoundError(
        f"No answer {answer_id[:100]!r} is stored.",
        remedy="name the `id` of an answer; answers are stored for SOLDIOM_ANSWER_DAYS",
    )


def _name(answer_id: str) -> str:
    return f"answers/{answer_id}"
