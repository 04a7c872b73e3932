"""One place that decides when the next request to GitHub may go, for all tokens and all workers of a crawl.

Facts it rests on (docs.github.com, "Rate limits for the REST API" and "Best practices"): a primary limit per account
and resource with its reset time in every answer's headers; a secondary limit that is told only by a 403 or 429, after
which everybody has to be silent; at most 100 requests at once, fewer advised; searches evenly spaced.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

CONCURRENT = 10
LEASE_SECONDS = 300.0
"""After this a request counts as lost: its worker died."""

RESERVE = 1
ACTOR = "soldiom-github-limiter"


@dataclass
class Bucket:
    """What is known of one resource (core, search) for one identity."""

    remaining: int | None = None
    reset: float = 0.0
    spacing_seconds: float = 0.0
    next_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Turn:
    """An answer to `ask`: go now as identity number `identity` with lease `lease`, or wait and ask again."""

    wait_seconds: float
    identity: int = 0
    lease: int = 0


class Limiter(Protocol):
    """What a caller of the API needs."""

    def ask(self, resource: str) -> Turn: ...
    def done(self, turn: Turn, resource: str, headers: Mapping[str, str]) -> None: ...
    def pause(self, seconds: float, turn: Turn | None = None, resource: str = "") -> None: ...
    def paused_seconds(self) -> float: ...


@dataclass
class LocalLimiter:
    """The limiter itself. `clock` gives seconds since 1970, as GitHub's reset times do."""

    identities: int
    clock: Callable[[], float] = time.time
    buckets: dict[tuple[int, str], Bucket] = field(default_factory=dict)
    leases: dict[int, float] = field(default_factory=dict)
    silent_until: float = 0.0
    last_used: dict[int, float] = field(default_factory=dict)
    leased: int = 0

    def ask(self, resource: str) -> Turn:
        """A turn for the identity that may go soonest; identities that may go now take turns."""
        now = self.clock()
        if now < self.silent_until:
            return Turn(self.silent_until - now)
        self.leases = {lease: end for lease, end in self.leases.items() if end > now}
        if len(self.leases) >= CONCURRENT:
            return Turn(0.05)
        waits = {identity: self._wait(identity, resource, now) for identity in range(self.identities)}
        identity = min(waits, key=lambda i: (waits[i], self.last_used.get(i, 0.0), i))
        if waits[identity] > 0:
            return Turn(waits[identity])
        bucket = self._bucket(identity, resource)
        bucket.next_at = now + bucket.spacing_seconds
        if bucket.remaining is not None:
            bucket.remaining -= 1
        self.leased += 1
        self.leases[self.leased] = now + LEASE_SECONDS
        self.last_used[identity] = now
        return Turn(0.0, identity, self.leased)

    def done(self, turn: Turn, resource: str, headers: Mapping[str, str]) -> None:
        """The request of this turn was answered; learn from the headers."""
        self.leases.pop(turn.lease, None)
        limit, remaining, reset = (
            _number(headers.get(f"x-ratelimit-{name}")) for name in ("limit", "remaining", "reset")
        )
        if remaining is None or reset is None:
            return
        bucket = self._bucket(turn.identity, str(headers.get("x-ratelimit-resource") or resource))
        bucket.remaining, bucket.reset = int(remaining), reset
        if resource == "search" and limit:
            bucket.spacing_seconds = 60.0 / limit

    def pause(self, seconds: float, turn: Turn | None = None, resource: str = "") -> None:
        """Nobody sends anything for so long; with a turn, only its identity and resource are held back."""
        until = self.clock() + seconds
        if turn is None:
            self.silent_until = max(self.silent_until, until)
        else:
            bucket = self._bucket(turn.identity, resource)
            bucket.remaining, bucket.reset = 0, max(bucket.reset, until)

    def paused_seconds(self) -> float:
        """How long everybody has to be silent from now on."""
        return max(0.0, self.silent_until - self.clock())

    def _bucket(self, identity: int, resource: str) -> Bucket:
        return self.buckets.setdefault((identity, resource), Bucket())

    def _wait(self, identity: int, resource: str, now: float) -> float:
        bucket = self._bucket(identity, resource)
        if bucket.remaining is not None and bucket.reset <= now:
            bucket.remaining = None
        if bucket.remaining is not None and bucket.remaining < RESERVE:
            return bucket.reset - now + 1.0
        return max(0.0, bucket.next_at - now)


class SharedLimiter:
    """The same limiter in a named Ray actor, so that all workers and jobs of a cluster share it. When the job that
    made it ends, the next caller makes it anew."""

    def __init__(self, name: str, identities: int) -> None:
        self.name = name
        self.identities = identities
        self._handle: Any = None

    def __reduce__(self) -> tuple[object, ...]:
        return (SharedLimiter, (self.name, self.identities))

    def ask(self, resource: str) -> Turn:
        """As LocalLimiter."""
        turn: Turn = self._call("ask", resource)
        return turn

    def done(self, turn: Turn, resource: str, headers: Mapping[str, str]) -> None:
        """As LocalLimiter."""
        told = {key: value for key, value in headers.items() if key.startswith("x-ratelimit-")}
        self._call("done", turn, resource, told)

    def pause(self, seconds: float, turn: Turn | None = None, resource: str = "") -> None:
        """As LocalLimiter."""
        self._call("pause", seconds, turn, resource)

    def paused_seconds(self) -> float:
        """As LocalLimiter."""
        return float(self._call("paused_seconds"))

    def _call(self, method: str, *arguments: Any) -> Any:
        import ray

        for attempt in range(5):
            try:
                if self._handle is None:
                    self._handle = (
                        ray.remote(num_cpus=0)(LocalLimiter)
                        .options(name=self.name, namespace="soldiom", get_if_exists=True)
                        .remote(self.identities)
                    )
                return ray.get(getattr(self._handle, method).remote(*arguments))
            except ray.exceptions.ActorDiedError:
                self._handle = None
                if attempt == 4:
                    raise
                time.sleep(0.2 * 2**attempt)
        return None


def open_limiter(url: str, tokens: Sequence[str]) -> Limiter:
    """The limiter for these tokens at this server: shared over the cluster when Ray is connected."""
    import sys

    identities = max(1, len(tokens))
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return LocalLimiter(identities)
    name = hashlib.sha256("\0".join((url, *tokens)).encode()).hexdigest()[:12]
    return SharedLimiter(f"{ACTOR}-{name}", identities)


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None
