"""What users think of answers: given, reviewed, and learnt from. An accepted one becomes an input of its user that
holds the example that a training reads: the question with the better answer, and the worse one beside it."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from soldiom_ray.db import answers, inputs, models
from soldiom_ray.db.answers import Exchange
from soldiom_ray.db.ownership import EVERYTHING
from soldiom_ray.db.pages import PAGE_BYTES, newest_first
from soldiom_ray.db.tables import Answer, Feedback, Model, UserInput
from soldiom_ray.errors import ConflictError, InputError, NotFoundError, Problem
from soldiom_ray.records import new_id, now
from soldiom_ray.sealing import seal_text, unseal_text

NEW, ACCEPTED, REJECTED = "new", "accepted", "rejected"
UP, DOWN = "up", "down"
NORMAL_95 = 1.96


def give(
    session: Session,
    answer: Answer,
    *,
    user_id: str,
    rating: str,
    correction: str,
    reason: str,
    encryption_keys: Sequence[bytes],
) -> Feedback:
    """Store what a user thinks of an answer; said again, it replaces what the same user said before. ConflictError once
    that was reviewed."""
    answers.lock(session, answer.id)  # said twice at once, it is one feedback
    known = select(Feedback).where(Feedback.answer_id == answer.id, Feedback.user_id == user_id)
    row = session.scalars(known.with_for_update().execution_options(**EVERYTHING)).one_or_none()
    if row is not None and row.status != NEW:
        raise ConflictError(f"Feedback {row.id} on this answer was {row.status} already.")
    if row is None:
        row = Feedback(
            id=new_id(), tenant=answer.tenant, answer_id=answer.id, model_id=answer.model_id, user_id=user_id
        )
        session.add(row)
    row.rating = rating
    row.correction = _seal(row, "correction", correction, encryption_keys)
    row.reason = _seal(row, "reason", reason, encryption_keys)
    session.flush()
    return row


def get(session: Session, feedback_id: str, tenant: str | None) -> Feedback:
    """One feedback; NotFoundError when there is none or it is another tenant's."""
    row = session.get(Feedback, feedback_id)
    if row is None or (tenant is not None and row.tenant != tenant):
        raise NotFoundError(f"No feedback {feedback_id[:100]!r}.", remedy="list it with `soldiom feedback list`")
    return row


def list_feedback(
    session: Session,
    tenant: str,
    *,
    model_ids: Sequence[str] | None = None,
    status: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> tuple[list[Feedback], str | None]:
    """A page, newest first, and the cursor of the next page."""
    query = select(Feedback).where(Feedback.tenant == tenant)
    if model_ids is not None:
        query = query.where(Feedback.model_id.in_(model_ids))
    if status is not None:
        query = query.where(Feedback.status == status)
    return newest_first(session, query, Feedback.id, cursor or None, limit)


def list_as_dicts(
    session: Session, tenant: str, encryption_keys: Sequence[bytes], **chosen: Any
) -> tuple[list[dict[str, Any]], str | None]:
    """A page of `list_feedback` as `as_dict` shows it, no longer than fits into one response, but at least one."""
    rows, following = list_feedback(session, tenant, **chosen)
    items: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        item = as_dict(session, row, encryption_keys)
        size += len(json.dumps(item))
        if items and size > PAGE_BYTES:
            return items, str(items[-1]["id"])
        items.append(item)
    return items, following


def accept(
    session: Session, feedback_id: str, tenant: str, *, reviewer: str, correction: str, encryption_keys: Sequence[bytes]
) -> Feedback:
    """Let a model learn from a feedback; `correction` is the reviewer's own, in place of the user's. Accepted again
    without one it stays as it is, and so does the id that a running training knows its example by. InputError where
    there is nothing to learn: an answer that is bad and that nobody has corrected."""
    row = _to_review(session, feedback_id, tenant)
    if row.status == ACCEPTED and row.input_id is not None and not correction:
        return row
    if correction:
        row.correction = _seal(row, "correction", correction, encryption_keys)
    exchange = answers.exchange_of(_answer(session, row), encryption_keys)
    better = texts_of(row, encryption_keys)["correction"] or (exchange.output if row.rating == UP else "")
    if not better.strip():
        raise InputError(
            f"Feedback {row.id} calls the answer bad and has no better one: a model would learn nothing from it.",
            remedy="accept it with a correction, or reject it",
            problems=[Problem("body.correction", "is missing")],
        )
    _forget_example(session, row)
    row.input_id = _store_example(session, row, example(exchange, better), encryption_keys)
    return _reviewed(session, row, ACCEPTED, reviewer)


def reject(session: Session, feedback_id: str, tenant: str, *, reviewer: str) -> Feedback:
    """Let no model learn from a feedback, any longer where it was accepted before."""
    row = _to_review(session, feedback_id, tenant)
    _forget_example(session, row)
    return _reviewed(session, row, REJECTED, reviewer)


def example(exchange: Exchange, better: str) -> dict[str, Any]:
    """What a training learns: the question with the better answer, and, where that differs from what the model said,
    the model's as the worse one."""
    question = exchange.question
    match question["form"]:
        case "label":
            return {"text": question["input"], "label": better}
        case "text":
            return {"text": question["input"] + better}
    turns = list(question["messages"])
    if better == exchange.output:
        return {"messages": [*turns, {"role": "assistant", "content": better}]}
    sides = {"chosen": better, "rejected": exchange.output}
    return {side: [*turns, {"role": "assistant", "content": text}] for side, text in sides.items()}


def accepted_inputs(session: Session, tenant: str, model_ids: Sequence[str]) -> list[str]:
    """Ids of the inputs that hold the examples of accepted feedback on these versions, oldest first."""
    query = select(Feedback.input_id).where(
        Feedback.tenant == tenant,
        Feedback.model_id.in_(model_ids),
        Feedback.status == ACCEPTED,
        Feedback.input_id.is_not(None),
    )
    return [str(input_id) for input_id in session.scalars(query.order_by(Feedback.id))]


def satisfaction(session: Session, model_id: str) -> dict[str, Any]:
    """How satisfied the raters of a version are: the share of `up` with its 95 % interval (Wilson 1927), null without
    ratings. Rejected feedback does not count."""
    query = select(Feedback.rating, func.count()).where(Feedback.model_id == model_id, Feedback.status != REJECTED)
    counts = {str(rating): int(count) for rating, count in session.execute(query.group_by(Feedback.rating))}
    up, ratings = counts.get(UP, 0), sum(counts.values())
    return {"ratings": ratings, "up": up, "down": ratings - up, **_wilson(up, ratings)}


@dataclass(frozen=True, slots=True)
class RatedPair:
    """Two answers to one question, of which people prefer one."""

    question: str
    better: str
    worse: str


def rated_pairs(session: Session, tenant: str, encryption_keys: Sequence[bytes], limit: int) -> list[RatedPair]:
    """What a tenant's users prefer, newest first: corrections to what they correct, and of answers to one question
    those rated `up` to those rated `down`. Rejected feedback and that on labels do not count."""
    query = select(Feedback).where(Feedback.tenant == tenant, Feedback.status != REJECTED)
    pairs: dict[RatedPair, None] = {}
    rated: dict[str, dict[str, list[str]]] = {}
    for row in session.scalars(query.order_by(Feedback.id.desc()).limit(ROWS_PER_PAIR * limit)):
        exchange = answers.exchange_of(_answer(session, row), encryption_keys)
        if exchange.question["form"] == "label":
            continue
        question, correction = asked_text(exchange), texts_of(row, encryption_keys)["correction"]
        by_rating = rated.setdefault(question, {UP: [], DOWN: []})
        by_rating[row.rating].append(exchange.output)
        preferred = [(up, down) for up in by_rating[UP] for down in by_rating[DOWN]]
        for better, worse in [(correction, exchange.output)] * bool(correction) + preferred:
            if better.strip() != worse.strip():
                pairs[RatedPair(question, better, worse)] = None
        if len(pairs) >= limit:
            break
    contradicted = {pair for pair in pairs if RatedPair(pair.question, pair.worse, pair.better) in pairs}
    return [pair for pair in pairs if pair not in contradicted][:limit]


ROWS_PER_PAIR = 10
"""Ratings that are looked through for each pair that is wanted: most have no other to be compared with."""


def asked_text(exchange: Exchange) -> str:
    """What was asked, as people read it: the only turn, or all of them with their roles."""
    if exchange.question["form"] != "chat":
        return str(exchange.question["input"])
    turns = [turn for turn in exchange.question["messages"] if turn["role"] != "system"]
    if len(turns) == 1:
        return str(turns[0]["content"])
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)


def versions_of(session: Session, model: Model) -> list[Model]:
    """All versions of a model's name, newest first."""
    query = select(Model).where(*models.of_name(model))
    return list(session.scalars(query.order_by(Model.version.desc())))


def texts_of(row: Feedback, encryption_keys: Sequence[bytes]) -> dict[str, str]:
    """Correction and reason, unsealed."""
    return {
        name: unseal_text(getattr(row, name), f"feedback/{row.id}/{name}", encryption_keys)
        for name in ("correction", "reason")
    }


def as_dict(session: Session, row: Feedback, encryption_keys: Sequence[bytes]) -> dict[str, Any]:
    """The feedback as the API and the CLI show it, with the question and the answer."""
    exchange = answers.exchange_of(_answer(session, row), encryption_keys)
    names = ("id", "answer_id", "model_id", "user_id", "rating", "status", "reviewer", "input_id")
    return {
        **{name: getattr(row, name) for name in names},
        **texts_of(row, encryption_keys),
        "question": exchange.question,
        "answer": exchange.output,
        "created_at": row.created_at.isoformat(),
        "reviewed_at": row.reviewed_at.isoformat() if row.reviewed_at else None,
    }


def _to_review(session: Session, feedback_id: str, tenant: str) -> Feedback:
    get(session, feedback_id, tenant)
    return session.scalars(select(Feedback).where(Feedback.id == feedback_id).with_for_update()).one()


def _answer(session: Session, row: Feedback) -> Answer:
    return session.scalars(select(Answer).where(Answer.id == row.answer_id)).one()


def _reviewed(session: Session, row: Feedback, status: str, reviewer: str) -> Feedback:
    row.status, row.reviewer, row.reviewed_at = status, reviewer, now()
    session.flush()
    return row


def _store_example(session: Session, row: Feedback, value: dict[str, Any], encryption_keys: Sequence[bytes]) -> str:
    input_id, content = new_id(), json.dumps(value, ensure_ascii=False)
    stored = inputs.add(
        session,
        id=input_id,
        tenant=row.tenant,
        user_id=row.user_id,
        input_type="structured",
        content=seal_text(content, f"user_inputs/{input_id}", encryption_keys),
        sha256=hashlib.sha256(content.encode()).hexdigest(),
        size_bytes=len(content.encode()),
        metadata={"feedback": row.id},
        shared=False,
    )
    return stored.id


def _forget_example(session: Session, row: Feedback) -> None:
    if row.input_id is not None and (stored := session.get(UserInput, row.input_id)) is not None:
        session.delete(stored)
    row.input_id = None
    session.flush()


def _seal(row: Feedback, name: str, text: str, encryption_keys: Sequence[bytes]) -> str:
    return seal_text(text, f"feedback/{row.id}/{name}", encryption_keys) if text else ""


def _wilson(successes: int, count: int) -> dict[str, float | None]:
    if not count:
        return {"share": None, "low": None, "high": None}
    share, spread = successes / count, NORMAL_95**2 / count
    center = (share + spread / 2) / (1 + spread)
    half = NORMAL_95 * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return {"share": round(share, 4), "low": round(center - half, 4), "high": round(center + half, 4)}
