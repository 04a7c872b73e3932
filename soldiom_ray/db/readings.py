"""What became of a served version from day to day, in UTC: how many answers, how fast, how many failed, and how
satisfied users were."""

from collections import defaultdict
from datetime import timedelta
from math import ceil
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from soldiom_ray.db.feedback import REJECTED, UP
from soldiom_ray.db.tables import Answer, Feedback, Usage
from soldiom_ray.records import now

DAYS = 90
MOST_ANSWERS = 20_000
"""The newest stored answers from which the quantiles of their seconds are."""


def by_day(session: Session, model_id: str) -> list[dict[str, Any]]:
    """The last DAYS days on which anything was asked or rated, oldest first. `p50_seconds` and `p95_seconds` are of the
    answers that are stored, null where none is; everything else stays when answers go."""
    since = now() - timedelta(days=DAYS)
    days: dict[str, dict[str, Any]] = {}
    for hour, requests, errors, tokens, seconds in session.execute(
        select(
            Usage.hour,
            func.sum(Usage.requests),
            func.sum(Usage.errors),
            func.sum(Usage.completion_tokens),
            func.sum(Usage.seconds),
        )
        .where(Usage.model_id == model_id, Usage.hour >= since)
        .group_by(Usage.hour)
    ):
        day = _day(days, hour)
        for name, value in (("answers", requests), ("errors", errors), ("completion_tokens", tokens)):
            day[name] += int(value or 0)
        day["seconds"] += float(seconds or 0)
    rated = select(Feedback.created_at, Feedback.rating).where(
        Feedback.model_id == model_id, Feedback.status != REJECTED, Feedback.created_at >= since
    )
    for created_at, rating in session.execute(rated):
        day = _day(days, created_at)
        day["ratings"] += 1
        day["up"] += rating == UP
    for name, seconds_of_day in _seconds(session, model_id).items():
        if name in days:
            days[name] |= {
                "p50_seconds": _quantile(seconds_of_day, 0.5),
                "p95_seconds": _quantile(seconds_of_day, 0.95),
            }
    return [_shown(days[name]) for name in sorted(days)]


def _day(days: dict[str, dict[str, Any]], moment: Any) -> dict[str, Any]:
    name = moment.date().isoformat()
    counts = dict.fromkeys(("answers", "errors", "completion_tokens", "ratings", "up"), 0)
    return days.setdefault(name, {"day": name, **counts, "seconds": 0.0, "p50_seconds": None, "p95_seconds": None})


def _seconds(session: Session, model_id: str) -> dict[str, list[float]]:
    query = select(Answer.created_at, Answer.seconds).where(Answer.model_id == model_id, Answer.seconds.is_not(None))
    found: dict[str, list[float]] = defaultdict(list)
    for created_at, seconds in session.execute(query.order_by(Answer.created_at.desc()).limit(MOST_ANSWERS)):
        found[created_at.date().isoformat()].append(float(seconds or 0.0))
    return found


def _quantile(values: list[float], share: float) -> float:
    return round(sorted(values)[ceil(share * len(values)) - 1], 3)


def _shown(day: dict[str, Any]) -> dict[str, Any]:
    """With what follows from the sums: the mean time of a request's answers, and the share of ratings that are up."""
    seconds = day.pop("seconds")
    mean = round(seconds / day["answers"], 3) if day["answers"] else None
    return day | {
        "mean_seconds": mean,
        "satisfaction": round(day["up"] / day["ratings"], 4) if day["ratings"] else None,
    }
