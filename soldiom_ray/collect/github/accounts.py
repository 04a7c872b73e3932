"""Whose limit a request counts against: the tokens, the accounts they belong to, one limiter for each account."""

import hashlib
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from soldiom_ray.collect.limiter import Limiter, LocalLimiter, Turn
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.errors import SoldiomError
from soldiom_ray.settings import Settings
from soldiom_ray.storage import open_storage

ACTOR = "soldiom-github-limiter"
FOLDER = "raw/github"
PATIENCE_SECONDS = 5.0
"""So long a wait is better than to ask as somebody who holds no ETag: searches of one account are 2 s apart."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A token (none: anonymous), the hash that stands for it in storage, and the account that it counts against."""

    token: str | None
    name: str
    owner: str


class Accounts:
    """All identities of a crawl. `owners` names the account of each token, in their order; see `learn_owners`."""

    def __init__(self, settings: Settings, owners: Sequence[str] = ()) -> None:
        url, tokens = settings.github_api_url, settings.github_tokens or (None,)
        names = [identity_name(url, token) for token in tokens]
        self.identities = [
            Identity(token, name, owner) for token, name, owner in zip(tokens, names, owners or names, strict=True)
        ]
        self.limiters = {one.owner: open_limiter(settings, one.owner) for one in self.identities}

    def ask(self, resource: str, url: str, holders: Collection[str]) -> tuple[Turn, Identity]:
        """A turn and who takes it: an identity of `holders` (they hold an ETag) if any may go, else the one that this
        address always falls to, else whoever may go soonest."""
        start = int.from_bytes(hashlib.sha256(url.encode()).digest()[:4], "big")
        count = len(self.identities)
        order = [self.identities[(start + step) % count] for step in range(count)]
        order.sort(key=lambda one: one.name not in holders)
        firsts: dict[str, Identity] = {}
        for one in order:
            firsts.setdefault(one.owner, one)
        waits: list[tuple[Turn, Identity]] = []
        for identity in firsts.values():
            turn = self.limiters[identity.owner].ask(resource)
            if 0 < turn.wait_seconds <= PATIENCE_SECONDS and identity.name in holders:
                return turn, identity
            if turn.wait_seconds <= 0:
                return Turn(0.0, turn.lease, turn.asked_at, identity.owner), identity
            waits.append((turn, identity))
        return min(waits, key=lambda pair: pair[0].wait_seconds)

    def of(self, turn: Turn) -> Limiter:
        """The limiter that gave a turn."""
        return self.limiters[turn.owner]

    def silence(self, seconds: float) -> None:
        """Nobody sends anything for so long: a secondary limit may be the address's and not the account's."""
        for limiter in self.limiters.values():
            limiter.silence(seconds)

    def paused_seconds(self) -> float:
        """How long no account may ask anything."""
        return min(limiter.paused_seconds() for limiter in self.limiters.values())


def learn_owners(settings: Settings, ask: Callable[[Settings], str]) -> tuple[str, ...]:
    """The account of every token, asked once and kept: several tokens of one user share one limit. `ask` is given
    settings with one token alone and gives its account's id; "" stands for a token that may not know. That one, and one
    for which nobody answers now, counts by itself."""
    storage = open_storage(settings)
    owners = []
    for identity in Accounts(settings).identities:
        key = f"{FOLDER}/owners/{identity.name}.json"
        if identity.token is None:
            owners.append(identity.owner)
        elif storage.exists(key):
            owners.append(str(json.loads(storage.read(key))))
        else:
            try:
                told = ask(replace(settings, github_tokens=(identity.token,)))
            except SkippedError:
                owners.append(identity.owner)
                continue
            owner = identity_name(settings.github_api_url, f"account {told}") if told else identity.name
            storage.write(key, json.dumps(owner).encode())
            owners.append(owner)
    return tuple(owners)


def identity_name(url: str, token: str | None) -> str:
    """A hash that stands for a token at a server; the token cannot be found from it."""
    return hashlib.sha256(f"soldiom\0{url}\0{token or ''}".encode()).hexdigest()[:20]


@dataclass(frozen=True)
class StoredPenalties:
    """A limiter's penalties in storage, so that a new limiter goes on waiting."""

    settings: Settings
    owner: str

    @property
    def key(self) -> str:
        """Where they lie."""
        return f"{FOLDER}/limits/{self.owner}.json"

    def read(self) -> dict[str, Any]:
        """What was written last; nothing when there is nothing or it cannot be read."""
        try:
            told = json.loads(open_storage(self.settings).read(self.key))
        except (SoldiomError, ValueError):
            return {}
        return told if isinstance(told, dict) else {}

    def write(self, told: dict[str, Any]) -> None:
        """Replace it."""
        open_storage(self.settings).write(self.key, json.dumps(told).encode())


class SharedLimiter:
    """The same limiter in a named Ray actor, so that all workers and jobs of a cluster share it. When the job that
    made it ends, the next caller makes it anew, with the penalties that are kept; a detached one would stay on."""

    def __init__(self, name: str, penalties: StoredPenalties) -> None:
        self.name = name
        self.penalties = penalties
        self._handle: Any = None

    def __reduce__(self) -> tuple[object, ...]:
        return (SharedLimiter, (self.name, self.penalties))

    def ask(self, resource: str) -> Turn:
        """As LocalLimiter."""
        turn: Turn = self._call("ask", resource)
        return turn

    def done(self, turn: Turn, resource: str, headers: Mapping[str, str], good: bool) -> None:
        """As LocalLimiter."""
        told = {key: value for key, value in headers.items() if key.startswith("x-ratelimit-") or key == "date"}
        self._call("done", turn, resource, told, good)

    def answered(self, turn: Turn) -> None:
        """As LocalLimiter."""
        self._call("answered", turn)

    def exhausted(self, turn: Turn, resource: str, seconds: float) -> None:
        """As LocalLimiter."""
        self._call("exhausted", turn, resource, seconds)

    def penalise(self, turn: Turn, seconds: float | None) -> float:
        """As LocalLimiter."""
        return float(self._call("penalise", turn, seconds))

    def silence(self, seconds: float) -> None:
        """As LocalLimiter."""
        self._call("silence", seconds)

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
                        .options(name=self.name, namespace="soldiom", get_if_exists=True, max_concurrency=64)
                        .remote(remembered=self.penalties)
                    )
                return ray.get(getattr(self._handle, method).remote(*arguments))
            except ray.exceptions.ActorDiedError:
                self._handle = None
                if attempt == 4:
                    raise
                time.sleep(0.2 * 2**attempt)
        return None


_local: dict[tuple[str, str], LocalLimiter] = {}


def open_limiter(settings: Settings, owner: str) -> Limiter:
    """The limiter of an account: shared over the cluster when Ray is connected, else over this process."""
    import sys

    penalties = StoredPenalties(settings, owner)
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return SharedLimiter(f"{ACTOR}-{owner}", penalties)
    key = (settings.storage, owner)
    if key not in _local:
        _local[key] = LocalLimiter(remembered=penalties)
    return _local[key]
