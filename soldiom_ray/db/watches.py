"""Versions that took another's place by themselves, and what is counted of both: failed answers, slow answers, and
answers that users call bad."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from soldiom_ray.db import models, usage
from soldiom_ray.db.feedback import DOWN, REJECTED
from soldiom_ray.db.tables import Answer, Feedback, Model, Watch
from soldiom_ray.records import now

WATCHING, WITHDRAWING, KEPT, WITHDRAWN, ENDED = "watching", "withdrawing", "kept", "withdrawn", "ended"
WINDOW = timedelta(days=7)
"""How long a version is watched."""
BEFORE = timedelta(days=30)
"""How far back the version before is looked at."""
GONE_BACK = timedelta(days=30)
"""For how long the metrics tell of a version that went back."""
MOST_ANSWERS = 5000
"""Of each version, the newest that are looked at."""
MOST_OF_ONE_USER = 10
"""Ratings of one user of one version that count, the first: whoever rates much does not decide alone."""


@dataclass(frozen=True, slots=True)
class Ratings:
    """How many ratings count, how many of them are `down`, and how many users gave those."""

    down: int
    count: int
    dissatisfied: int


def begin(session: Session, model: Model, window: timedelta = WINDOW, *, again: bool = False) -> Watch | None:
    """Watch a version that was deployed by itself, or for a share of the requests, against the one that served its name
    until now; None where there was none. A version is watched once; with `again` anew where its watch has ended."""
    known = session.scalars(select(Watch).where(Watch.model_id == model.id)).first()
    if known is not None and not (again and known.ended_at):
        return known
    previous = models.deployed_before(session, model)
    if previous is None:
        return None
    row = known or Watch(tenant=model.tenant, model_id=model.id)
    row.previous_id, row.started_at, row.ends_at = previous.id, now(), now() + window
    row.status, row.reason, row.figures, row.ended_at = WATCHING, "", {}, None
    session.add(row)
    session.flush()
    return row


def open_ids(session: Session) -> list[str]:
    """Ids of the watches that go on, oldest first."""
    query = select(Watch.id).where(Watch.status.in_((WATCHING, WITHDRAWING))).order_by(Watch.id)
    return list(session.scalars(query))


def locked(session: Session, watch_id: str) -> Watch | None:
    """A watch that goes on, locked until the transaction ends; None where another process looks at it, or has ended
    it."""
    query = select(Watch).where(Watch.id == watch_id, Watch.status.in_((WATCHING, WITHDRAWING)))
    return session.scalars(query.with_for_update(skip_locked=True)).one_or_none()


def of_models(session: Session, model_ids: Sequence[str]) -> list[Watch]:
    """The watches of these versions, newest first."""
    return list(session.scalars(select(Watch).where(Watch.model_id.in_(model_ids)).order_by(Watch.id.desc())))


def list_watches(session: Session, tenant: str, limit: int = 50) -> list[Watch]:
    """The newest watches of a tenant."""
    return list(session.scalars(select(Watch).where(Watch.tenant == tenant).order_by(Watch.id.desc()).limit(limit)))


def going_back(session: Session) -> dict[str, datetime | None]:
    """Of each version that goes back, or went back by itself within GONE_BACK, when it did; None while it is on the
    way."""
    lately = or_(Watch.status == WITHDRAWING, Watch.ended_at >= now() - GONE_BACK)
    query = select(Watch.model_id, Watch.status, Watch.ended_at)
    rows = session.execute(query.where(Watch.status.in_((WITHDRAWING, WITHDRAWN)), lately).order_by(Watch.model_id))
    return {str(row.model_id): row.ended_at if row.status == WITHDRAWN else None for row in rows}


def failed_answers(session: Session, model_id: str, since: datetime, until: datetime) -> tuple[int, int]:
    """How many of a version's answers failed, and of how many."""
    return usage.of_model(session, model_id, since=since.replace(minute=0, second=0, microsecond=0), until=until)


def answer_seconds(session: Session, model_id: str, since: datetime, until: datetime) -> list[float]:
    """How long the newest stored answers took, but those of batches."""
    query = select(Answer.seconds).where(
        Answer.model_id == model_id, Answer.created_at >= since, Answer.created_at < until, Answer.seconds.is_not(None)
    )
    newest = session.scalars(query.order_by(Answer.created_at.desc()).limit(MOST_ANSWERS))
    return [float(seconds) for seconds in newest if seconds is not None]


def ratings(session: Session, model_id: str, since: datetime, until: datetime) -> Ratings:
    """What users say of a version's answers, the first MOST_OF_ONE_USER of each; rejected feedback does not count."""
    place = func.row_number().over(partition_by=Feedback.user_id, order_by=Feedback.id).label("place")
    rated = select(Feedback.user_id, Feedback.rating, place).where(
        Feedback.model_id == model_id,
        Feedback.status != REJECTED,
        Feedback.created_at >= since,
        Feedback.created_at < until,
    )
    counted = rated.subquery()
    query = select(counted.c.rating, func.count(), func.count(func.distinct(counted.c.user_id)))
    rows = session.execute(query.where(counted.c.place <= MOST_OF_ONE_USER).group_by(counted.c.rating)).all()
    by_rating = {str(rating): (int(count), int(users)) for rating, count, users in rows}
    down, dissatisfied = by_rating.get(DOWN, (0, 0))
    return Ratings(down, sum(count for count, _ in by_rating.values()), dissatisfied)


def as_dict(row: Watch) -> dict[str, Any]:
    """The watch as the API and the CLI show it."""
    names = ("id", "model_id", "previous_id", "status", "reason", "figures")
    shown: dict[str, Any] = {name: getattr(row, name) for name in names}
    for name in ("started_at", "ends_at", "looked_at", "ended_at"):
        time = getattr(row, name)
        shown[name] = time.isoformat() if time else None
    return shown
