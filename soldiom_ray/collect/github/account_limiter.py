"""When the next request to GitHub may go: the limiter of one account, for all its tokens, workers and jobs.

It rests on docs.github.com, "Rate limits for the REST API" and "Best practices for using the REST API": a primary limit
per account and resource, whose reset time is in the headers of every response; 900 requests a minute; a secondary limit
that shows only as a 403 or 429, after which everybody has to be silent; requests one after the other. At 5000 an hour
one at a time is enough: the next goes when the response to the one before began or is slow to begin.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

CONCURRENT = 10
"""Requests under way at most, downloads among them. GitHub allows 100."""

SLOW_SECONDS = 2.0
"""A request whose response takes longer no longer holds back the next."""

LEASE_SECONDS = 300.0
"""After this a request counts as lost: its worker died."""

MAX_RESERVE = 20
"""Requests reserved for other programs, at most; normally a hundredth of the limit."""

SECONDARY_SECONDS = 60.0
MAX_SECONDARY_SECONDS = 960.0
PER_MINUTE = 840
"""Below GitHub's 900. A server whose primary limit is above its highest has rules of its own and is not paced."""

HIGHEST_PRIMARY = 15_000
DOWNLOAD = "download"
"""The resource of archive hosts: no primary limit, and others may go once its response has begun."""

_BLOCK_SECONDS = 2.0
"""How long `acquire` itself waits for a turn, so that nobody has to poll."""


@dataclass
class Bucket:
    """The state of one resource (core, search) of an account."""

    remaining: int | None = None
    reserve: int = 0
    reset: float = 0.0
    spacing_seconds: float = 0.0
    next_at: float = 0.0
    paced: bool = False
    recent: deque[float] = field(default_factory=deque)


@dataclass
class Lease:
    """A request under way. Once its response has begun it holds nobody back."""

    resource: str
    acquired_at: float
    response_started: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """What `acquire` gives: send now, with a lease, or wait and acquire again. `owner` is the account it is for."""

    wait_seconds: float
    lease: int = 0
    acquired_at: float = 0.0
    owner: str = ""


class PenaltyStore(Protocol):
    """Where penalties outlive the limiter."""

    def read(self) -> dict[str, Any]:
        """What was written last; empty at first."""

    def write(self, penalties: dict[str, Any]) -> None:
        """Replace it."""


@dataclass
class AccountLimiter:
    """The limiter of one account. `clock` gives seconds since 1970, as GitHub's reset times do; the server's own clock
    is learned from its Date headers."""

    clock: Callable[[], float] = time.time
    store: PenaltyStore | None = None
    buckets: dict[str, Bucket] = field(default_factory=dict)
    leases: dict[int, "Lease"] = field(default_factory=dict)
    silent_until: float = 0.0
    penalised_at: float = 0.0
    strikes: int = 0
    leased: int = 0

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        penalties = self.store.read() if self.store else {}
        self.silent_until = float(penalties.get("silent_until", 0.0))
        self.strikes = int(self.silent_until > self.clock())
        for resource, reset in penalties.get("exhausted", {}).items():
            self.buckets[resource] = Bucket(remaining=0, reset=float(reset))

    def acquire(self, resource: str) -> Turn:
        """A turn now, or how long to wait. While only another request is in the way this blocks for up to
        _BLOCK_SECONDS."""
        with self._changed:
            self._changed.wait_for(lambda: not self._crowded(), timeout=_BLOCK_SECONDS)
            now = self.clock()
            wait = max(self.silent_until - now, self._wait(resource, now))
            if wait > 0:
                return Turn(wait)
            if self._crowded():
                return Turn(0.01)
            bucket = self._bucket(resource)
            bucket.next_at = now + bucket.spacing_seconds
            if bucket.remaining is not None:
                bucket.remaining -= 1
            if bucket.paced:
                bucket.recent.append(now)
            self.leased += 1
            self.leases[self.leased] = Lease(resource, now)
            return Turn(0.0, self.leased, now)

    def release(self, turn: Turn, resource: str, headers: Mapping[str, str], good: bool) -> None:
        """The request of this turn ended; learn from its headers. A good response ends a row of penalties."""
        with self._changed:
            self.leases.pop(turn.lease, None)
            if good and turn.acquired_at >= self.penalised_at:
                self.strikes = 0
            self._learn(str(headers.get("x-ratelimit-resource") or resource), headers)
            self._changed.notify_all()

    def response_started(self, turn: Turn) -> None:
        """A good response has begun, so others may go."""
        with self._changed:
            if lease := self.leases.get(turn.lease):
                lease.response_started = True
                self._changed.notify_all()

    def mark_exhausted(self, resource: str, seconds: float) -> None:
        """This resource is used up for so many seconds."""
        with self._changed:
            bucket = self._bucket(resource)
            bucket.remaining, bucket.reset = 0, max(bucket.reset, self.clock() + seconds)
            self._store_penalties()

    def penalize(self, turn: Turn, seconds: float | None) -> float:
        """A secondary limit: silence for these seconds, or, when they are None, for 60, doubled each time it recurs
        at once. Requests that were under way when it came do not count as a recurrence. Returns the seconds of
        silence."""
        with self._changed:
            now = self.clock()
            if turn.acquired_at >= self.penalised_at:
                self.strikes += 1
                self.penalised_at = now
            if seconds is None:
                seconds = min(SECONDARY_SECONDS * 2.0 ** (self.strikes - 1), MAX_SECONDARY_SECONDS)
            self.silent_until = max(self.silent_until, now + seconds)
            self._store_penalties()
            return self.silent_until - now

    def silence(self, seconds: float) -> None:
        """Send nothing for so many seconds, because another account of this server has to be silent."""
        with self._changed:
            self.silent_until = max(self.silent_until, self.clock() + seconds)
            self._store_penalties()

    def paused_seconds(self) -> float:
        """Seconds until a request may go."""
        now = self.clock()
        return max(0.0, self.silent_until - now, self._wait("core", now))

    def _crowded(self) -> bool:
        """Whether a request has to wait for others. After a penalty the first one goes alone, as a probe."""
        now = self.clock()
        expired = now - LEASE_SECONDS
        self.leases = {number: lease for number, lease in self.leases.items() if lease.acquired_at > expired}
        return len(self.leases) >= CONCURRENT or any(
            not lease.response_started and (self.strikes > 0 or lease.acquired_at > now - SLOW_SECONDS)
            for lease in self.leases.values()
        )

    def _wait(self, resource: str, now: float) -> float:
        bucket = self._bucket(resource)
        if bucket.remaining is not None and bucket.reset <= now:
            bucket.remaining = None
        if bucket.remaining is not None and bucket.remaining <= bucket.reserve:
            return bucket.reset - now + 1.0
        while bucket.recent and bucket.recent[0] <= now - 60:
            bucket.recent.popleft()
        pace = bucket.recent[0] + 60 - now if bucket.paced and len(bucket.recent) >= PER_MINUTE else 0.0
        return max(0.0, bucket.next_at - now, pace)

    def _learn(self, resource: str, headers: Mapping[str, str]) -> None:
        limit, remaining, reset = (
            _number(headers.get(f"x-ratelimit-{name}")) for name in ("limit", "remaining", "reset")
        )
        if remaining is None or reset is None or resource == DOWNLOAD:
            return
        now, bucket = self.clock(), self._bucket(resource)
        limit = limit or 0.0
        bucket.reset = reset - _ahead_seconds(headers, now)
        bucket.reserve = min(MAX_RESERVE, int(limit) // 100)
        under_way = sum(lease.resource == resource for lease in self.leases.values())
        bucket.remaining = max(0, int(remaining) - under_way)
        bucket.paced = limit <= HIGHEST_PRIMARY and bucket.reset - now > 60
        if resource == "search" and limit:
            bucket.spacing_seconds = 60.0 / limit

    def _bucket(self, resource: str) -> Bucket:
        return self.buckets.setdefault(resource, Bucket())

    def _store_penalties(self) -> None:
        if self.store:
            empty = {name: bucket.reset for name, bucket in self.buckets.items() if bucket.remaining == 0}
            self.store.write({"silent_until": self.silent_until, "exhausted": empty})


def seconds_to_reset(headers: Mapping[str, str], now: float) -> float | None:
    """How long until the reset that the headers name, by the server's own clock; None when they name none."""
    reset = _number(headers.get("x-ratelimit-reset"))
    return None if reset is None else max(0.0, reset - _ahead_seconds(headers, now) - now)


def _ahead_seconds(headers: Mapping[str, str], now: float) -> float:
    """How far the server's clock is ahead of ours; up to 2 s count as 0, since the Date header has whole seconds."""
    try:
        ahead = parsedate_to_datetime(headers["date"]).timestamp() - now
    except (KeyError, ValueError, TypeError, OverflowError):
        return 0.0
    return ahead if abs(ahead) > 2 else 0.0


def _number(text: str | None) -> float | None:
    """The number in a header; a time in milliseconds, as recorded exchanges have, in seconds."""
    try:
        number = float(text) if text is not None else None
    except ValueError:
        return None
    if number is None or not abs(number) < 1e15:
        return None
    return number / 1000 if number > 1e11 else number


def limit_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that `release` learns from."""
    return {name: value for name, value in headers.items() if name.startswith("x-ratelimit-") or name == "date"}
