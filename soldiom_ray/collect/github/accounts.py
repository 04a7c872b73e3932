"""Whose limit a request counts against: the tokens, the accounts they belong to, one limiter for each account."""

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from soldiom_ray.collect.github.account_limiter import AccountLimiter, Turn
from soldiom_ray.collect.limiter import open_limiter
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.errors import SoldiomError
from soldiom_ray.settings import Settings
from soldiom_ray.storage import open_storage

FOLDER = "raw/github"
PATIENCE_SECONDS = 5.0
"""A wait up to this is better than asking with an identity that has no ETag: searches of one account are 2 s apart."""


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
        self.limiters = {identity.owner: open_account_limiter(settings, identity.owner) for identity in self.identities}

    def acquire(self, resource: str, url: str, holders: Collection[str]) -> tuple[Turn, Identity]:
        """A turn and the identity that takes it: one of `holders` (which have an ETag) if any may go, else the one
        that this address hashes to, else the one that may go soonest."""
        start = int.from_bytes(hashlib.sha256(url.encode()).digest()[:4], "big")
        count = len(self.identities)
        order = [self.identities[(start + step) % count] for step in range(count)]
        order.sort(key=lambda identity: identity.name not in holders)
        firsts: dict[str, Identity] = {}
        for identity in order:
            firsts.setdefault(identity.owner, identity)
        waits: list[tuple[Turn, Identity]] = []
        for identity in firsts.values():
            turn = self.limiters[identity.owner].acquire(resource)
            if 0 < turn.wait_seconds <= PATIENCE_SECONDS and identity.name in holders:
                return turn, identity
            if turn.wait_seconds <= 0:
                return Turn(0.0, turn.lease, turn.acquired_at, identity.owner), identity
            waits.append((turn, identity))
        return min(waits, key=lambda pair: pair[0].wait_seconds)

    def limiter_of(self, turn: Turn) -> AccountLimiter:
        """The limiter that gave a turn."""
        return self.limiters[turn.owner]

    def silence(self, seconds: float) -> None:
        """Let no account send anything for so many seconds: a secondary limit may be for our address and not for the
        account."""
        for limiter in self.limiters.values():
            limiter.silence(seconds)

    def paused_seconds(self) -> float:
        """Seconds until some account may send a request."""
        return min(limiter.paused_seconds() for limiter in self.limiters.values())


def learn_owners(settings: Settings, ask: Callable[[Settings], str]) -> tuple[str, ...]:
    """The account of every token, asked once and stored: several tokens of one user share one limit. `ask` takes
    settings with one token alone and gives its account's id; "" stands for a token that may not know. Such a token, and
    one for which nobody answers now, counts by itself."""
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
                account = ask(replace(settings, github_tokens=(identity.token,)))
            except SkippedError:
                owners.append(identity.owner)
                continue
            owner = identity_name(settings.github_api_url, f"account {account}") if account else identity.name
            storage.write(key, json.dumps(owner).encode())
            owners.append(owner)
    return tuple(owners)


def identity_name(url: str, token: str | None) -> str:
    """A hash that stands for a token at a server; the token cannot be found from it."""
    return hashlib.sha256(f"soldiom\0{url}\0{token or ''}".encode()).hexdigest()[:20]


@dataclass(frozen=True)
class StoredPenalties:
    """A limiter's penalties in storage, so that a new limiter keeps to them."""

    settings: Settings
    owner: str

    @property
    def key(self) -> str:
        """The key in storage."""
        return f"{FOLDER}/limits/{self.owner}.json"

    def read(self) -> dict[str, Any]:
        """What was written last; empty when there is nothing or it cannot be read."""
        try:
            penalties = json.loads(open_storage(self.settings).read(self.key))
        except (SoldiomError, ValueError):
            return {}
        return penalties if isinstance(penalties, dict) else {}

    def write(self, penalties: dict[str, Any]) -> None:
        """Replace what was written."""
        open_storage(self.settings).write(self.key, json.dumps(penalties).encode())


def open_account_limiter(settings: Settings, owner: str) -> AccountLimiter:
    """The limiter of an account."""
    make = partial(AccountLimiter, store=StoredPenalties(settings, owner))
    return open_limiter(f"github {owner}", make, scope=settings.storage)
