"""How much may be used: quotas of keys and users, and the budget of a whole tenant, within a calendar day or month in
UTC. What was used is summed from the database, so that it is the same for every replica and every job."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from soldiom_ray.db.tables import Quota, Usage
from soldiom_ray.errors import BusyError, InputError
from soldiom_ray.records import now

Resource = Literal["tokens", "bytes", "device_minutes"]
Period = Literal["day", "month"]
RESOURCES: tuple[Resource, ...] = get_args(Resource)
USED = {
    "tokens": Usage.prompt_tokens + Usage.completion_tokens,
    "bytes": Usage.bytes,
    "device_minutes": Usage.device_seconds / 60,
}
NAMES = {"tokens": "tokens", "bytes": "bytes", "device_minutes": "device minutes"}


@dataclass(frozen=True, slots=True)
class Balance:
    """One quota, what of it was used in this period, and in how many seconds the next one begins."""

    subject: str
    resource: str
    period: str
    amount: int
    used: float
    until_next: float

    @property
    def is_spent(self) -> bool:
        """Whether nothing is left."""
        return self.used >= self.amount

    def refusal(self) -> BusyError:
        """Why a request or a job is refused."""
        kind, _, name = self.subject.partition(":")
        whose = {"": "The budget of this tenant", "key": "The quota of this key"}.get(
            kind, f"The quota of user {name!r}"
        )
        return BusyError(
            f"{whose} of {self.amount} {NAMES[self.resource]} a {self.period} is used up: {self.used:.0f} are used.",
            remedy=f"wait for the next {self.period} (UTC), or have an admin raise it: `soldiom quota set`",
            retry_after_seconds=self.until_next,
        )


def put(session: Session, tenant: str, subject: str, resource: str, period: str, amount: int | None) -> Quota | None:
    """Set a quota, or remove it where `amount` is None; InputError for a subject of another form."""
    kind, mark, name = subject.partition(":")
    if subject and (kind not in ("key", "user") or not mark or not name or len(subject) > 133):
        raise InputError(
            f"The subject of a quota is {subject[:100]!r}.",
            remedy="write key:ID, user:NAME, or nothing for the whole tenant",
        )
    row = session.get(Quota, (tenant, subject, resource, period))
    if amount is None:
        if row is not None:
            session.delete(row)
        session.flush()
        return None
    if row is None:
        row = Quota(tenant=tenant, subject=subject, resource=resource, period=period, amount=amount)
        session.add(row)
    row.amount = amount
    session.flush()
    return row


def of_tenant(session: Session, tenant: str) -> list[Quota]:
    """All quotas of a tenant."""
    query = select(Quota).where(Quota.tenant == tenant)
    return list(session.scalars(query.order_by(Quota.subject, Quota.resource, Quota.period)))


def balances(
    session: Session, tenant: str, resources: Sequence[str] = RESOURCES, *, key_id: str = "", user_id: str = ""
) -> list[Balance]:
    """The quotas that a request of this key for this user counts against."""
    subjects = ("", f"key:{key_id}", f"user:{user_id}")
    rows = of_tenant(session, tenant)
    return [balance(session, row) for row in rows if row.subject in subjects and row.resource in resources]


def balance(session: Session, row: Quota) -> Balance:
    """What of one quota was used."""
    begin, end = _period(row.period, now())
    query = select(func.sum(USED[row.resource])).where(Usage.tenant == row.tenant, Usage.hour >= begin)
    kind, _, name = row.subject.partition(":")
    if kind:
        query = query.where((Usage.owner if kind == "key" else Usage.user_id) == name)
    used = float(session.scalar(query) or 0)
    return Balance(row.subject, row.resource, row.period, row.amount, used, (end - now()).total_seconds())


def check(
    session: Session, tenant: str, resources: Sequence[str], *, key_id: str = "", user_id: str = ""
) -> list[Balance]:
    """The balances; BusyError when one is spent, that which is the longest before it is renewed."""
    found = balances(session, tenant, resources, key_id=key_id, user_id=user_id)
    if spent := [each for each in found if each.is_spent]:
        raise max(spent, key=lambda each: each.until_next).refusal()
    return found


def as_dict(session: Session, row: Quota) -> dict[str, Any]:
    """The quota as the API and the CLI show it, with what of it was used."""
    state = balance(session, row)
    names = ("subject", "resource", "period", "amount")
    return {name: getattr(row, name) for name in names} | {
        "used": round(state.used, 3),
        "renewed_in_seconds": round(state.until_next),
    }


def _period(period: str, moment: datetime) -> tuple[datetime, datetime]:
    """When the calendar period of a moment begins, and the next one."""
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return day, day + timedelta(days=1)
    month = day.replace(day=1)
    return month, (month + timedelta(days=32)).replace(day=1)
