"""A version that took another's place, or got a share of its requests, is watched for a week, and goes back when
answers fail, take long or are called bad more often than before, or than beside it.

All that is known is in the database: a watcher that ends goes on wherever the next one starts, and of two that look at
once one has the row. A version goes back in steps that can be repeated: the version before answers, the other one
stops, so that their name means the one before, and that is the champion again.
"""

import logging
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from math import ceil
from typing import Any

from sqlalchemy.orm import Session

from soldiom_ray import launch, registry
from soldiom_ray.db import audit, deployments, jobs, models, watches
from soldiom_ray.db.engine import open_session
from soldiom_ray.db.tables import Model, Watch
from soldiom_ray.domains.schema import Recipe
from soldiom_ray.errors import ConflictError
from soldiom_ray.metrics.sequential import Count, Rise, rise
from soldiom_ray.monitor.looks import those_found
from soldiom_ray.records import ENDED, WATCHER, now
from soldiom_ray.settings import Settings

FALSE_ALARM = 0.01
"""The chance that a version goes back which is no worse than the margins allow, over its whole watch."""
MARGINS = {"failed_answers": 0.02, "slow_answers": 0.10, "bad_ratings": 0.05}
"""By how much each share may be above that of the version before."""
SLOW_FACTOR = 2.0
"""Slow is what takes so many times as long as 95 of 100 answers of the version before."""
Times = tuple[datetime, datetime]
"""From when until when."""
LEAST_BEFORE = 20
"""Trials of the version before, below which nothing is compared with it."""
LEAST_DISSATISFIED = 3
"""Users who call answers bad, below which no version goes back for it."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Signal:
    """One share of the version before and since; None where the version before has shown too little."""

    name: str
    before: Count
    since: Count
    found: Rise | None
    counts: bool = True

    @property
    def shown(self) -> bool:
        """Whether it is worse."""
        return self.counts and self.found is not None and self.found.shown

    def as_dict(self) -> dict[str, Any]:
        """As the watch's figures hold it."""
        shown: dict[str, Any] = {
            "before": [self.before.events, self.before.trials],
            "since": [self.since.events, self.since.trials],
        }
        if self.found is None:
            return shown | {"compared": False}
        most = {"evidence": round(min(self.found.evidence, 1e9), 3), "needed": self.found.needed}
        return shown | {"compared": True, "bound": round(self.found.bound, 4), **most}


def look(settings: Settings) -> list[str]:
    """Look once at every version that is watched; ids of those that have gone back now. A watch whose look fails is
    looked at again by the next one."""
    with open_session(settings) as session:
        ids = watches.open_ids(session)
    return those_found(ids, partial(_look_at, settings))


def _look_at(settings: Settings, watch_id: str) -> bool:
    with open_session(settings) as session:
        row = watches.locked(session, watch_id)
        if row is None:
            return False
        model = models.get(session, row.model_id)
        if row.status == watches.WATCHING:
            _judge(session, row, model)
        if row.status != watches.WITHDRAWING:
            return False
    return _withdraw(settings, watch_id)


def _judge(session: Session, row: Watch, model: Model) -> None:
    """Bring the figures up to date, and decide: go on, keep the version, let it go back."""
    moment = now()
    row.looked_at = moment
    previous = session.get(Model, row.previous_id) if row.previous_id else None
    if previous is None or not model.deployed:
        why = "the version before is gone" if previous is None else "the version is no longer deployed"
        _end(row, watches.ENDED, why)
        return
    began, until = row.started_at, min(moment, row.ends_at)
    endpoint = deployments.get(session, model.id)
    is_canary = endpoint is not None and float((endpoint.config or {}).get("share", 1)) < 1 and previous.deployed
    # Beside a canary the version before answers the rest: both meet the same requests and the same load.
    before = (began, until) if is_canary else (began - watches.BEFORE, began)
    signals = compare(session, previous.id, model.id, before, (began, until))
    row.figures = {signal.name: signal.as_dict() for signal in signals}
    worse = [signal for signal in signals if signal.shown]
    if worse:
        row.status, row.reason = watches.WITHDRAWING, " ".join(_sentence(signal) for signal in worse)
    elif moment >= row.ends_at:
        _end(row, watches.KEPT, "no share rose beyond its margin")


def compare(session: Session, previous_id: str, model_id: str, before: Times, since: Times) -> list[Signal]:
    """The three shares of both versions: of the one before within the first times, of the other one within the
    second."""
    failed = Count(*watches.failed_answers(session, previous_id, *before))
    failed_since = Count(*watches.failed_answers(session, model_id, *since))
    seconds = watches.answer_seconds(session, previous_id, *before)
    seconds_since = watches.answer_seconds(session, model_id, *since)
    slow = SLOW_FACTOR * sorted(seconds)[ceil(0.95 * len(seconds)) - 1] if seconds else 0.0
    rated = watches.ratings(session, previous_id, *before)
    rated_since = watches.ratings(session, model_id, *since)
    return [
        _signal("failed_answers", failed, failed_since),
        _signal(
            "slow_answers",
            Count(sum(value > slow for value in seconds), len(seconds)),
            Count(sum(value > slow for value in seconds_since), len(seconds_since)),
        ),
        _signal(
            "bad_ratings",
            Count(rated.down, rated.count),
            Count(rated_since.down, rated_since.count),
            counts=rated_since.dissatisfied >= LEAST_DISSATISFIED,
        ),
    ]


def _signal(name: str, before: Count, since: Count, *, counts: bool = True) -> Signal:
    error = FALSE_ALARM / len(MARGINS)
    found = rise(before, since, margin=MARGINS[name], error=error) if before.trials >= LEAST_BEFORE else None
    return Signal(name, before, since, found, counts)


def _sentence(signal: Signal) -> str:
    name = signal.name.replace("_", " ").capitalize()
    before, since = signal.before, signal.since
    return (
        f"{name}: {since.events} of {since.trials} after {before.events} of {before.trials}, margin"
        f" {100 * MARGINS[signal.name]:g} percentage points."
    )


def _end(row: Watch, status: str, reason: str) -> None:
    row.status, row.ended_at = status, now()
    row.reason = row.reason or reason


def _withdraw(settings: Settings, watch_id: str) -> bool:
    """The next step on the way back, and those after it that need no waiting; whether the last is done."""
    with open_session(settings) as session:
        row = watches.locked(session, watch_id)
        if row is None:
            return False
        model, previous = models.get(session, row.model_id), session.get(Model, row.previous_id or "")
        if previous is None:
            _end(row, watches.ENDED, "")
            row.reason += " The version before is gone, so this one stays."
            _record(session, row, model, "failed")
            return False
        if not previous.deployed:
            _deploy_again(settings, session, row, previous)
            return False
        try:
            launch.undeploy(settings, model.id, model.tenant)
        except ConflictError:
            logger.info("the version was undeployed already", extra={"data": {"model": model.id}})
        registry.step_down(settings, model.id, previous.id, actor=WATCHER)
        _end(row, watches.WITHDRAWN, "")
        _record(session, row, model, "done")
    logger.warning("a version went back", extra={"data": {"model": model.id, "previous": previous.id}})
    return True


def _deploy_again(settings: Settings, session: Session, row: Watch, previous: Model) -> None:
    """Have the version before answer again, by one job; another where that one has failed."""
    job_id = row.figures.get("job")
    if job_id and jobs.get(session, str(job_id)).status not in ENDED:
        return
    endpoint = deployments.get(session, previous.id)
    declared = dict(endpoint.config) if endpoint else {}
    content = {"name": previous.name, "version": previous.id, "deploy": declared | {"only": None}}
    job = launch.launch_job(settings, Recipe.model_validate(content), kind="deploy", tenant=row.tenant, owner=WATCHER)
    row.figures = dict(row.figures) | {"job": job["id"]}


def _record(session: Session, row: Watch, model: Model, outcome: str) -> None:
    details = {"previous": row.previous_id, "reason": row.reason, "outcome": outcome}
    audit.append(session, WATCHER, "watch: go back", model.id, "allow", details, row.tenant)
