"""Quotas of requests: what of tokens and bytes a key, its user and its tenant may still use, before the answer is
computed. An answer counts when it is there, so those under way at once may go beyond a quota by what they use."""

import threading
import time
from collections.abc import Sequence
from math import ceil
from typing import Any

from soldiom_ray.db import quotas
from soldiom_ray.db.engine import open_session
from soldiom_ray.db.quotas import Balance
from soldiom_ray.settings import Settings

METERED: dict[str, tuple[str, ...]] = {
    "/api/inference/": ("tokens", "bytes"),
    "/api/specialists/": ("tokens", "bytes"),
    "/v1/": ("tokens", "bytes"),
    "/api/training/collect/user-input": ("bytes",),
}
"""Beginning of a path -> what a POST to it uses."""
KNOWN_SECONDS = 5.0
"""How long a tenant without quotas is not looked up again."""


class Quotas:
    """Of one application. A tenant that has none costs one query in KNOWN_SECONDS."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._free_until: dict[str, float] = {}
        self._lock = threading.Lock()

    def applies(self, method: str, path: str, tenant: str) -> tuple[str, ...]:
        """What a request uses that a quota may limit; nothing where the tenant is known to have none."""
        used = next((each for start, each in METERED.items() if path.startswith(start)), ())
        with self._lock:
            is_free = self._free_until.get(tenant, 0.0) > time.monotonic()
        return () if method != "POST" or is_free else used

    def check(self, tenant: str, key_id: str, user_id: str, resources: Sequence[str]) -> list[Balance]:
        """What is left; BusyError when nothing is."""
        with open_session(self.settings) as session:
            if not quotas.of_tenant(session, tenant):
                with self._lock:
                    self._free_until[tenant] = time.monotonic() + KNOWN_SECONDS
                return []
            return quotas.check(session, tenant, resources, key_id=key_id, user_id=user_id)


def user_of(body: Any, fallback: str) -> str:
    """For whom a request asks: what its body says, else the name of its key."""
    named = (body.get("user_id") or body.get("user")) if isinstance(body, dict) else None
    return named if isinstance(named, str) else fallback


def with_balances(headers: list[tuple[bytes, bytes]], balances: Sequence[Balance]) -> list[tuple[bytes, bytes]]:
    """The headers of the rate limit with the quotas beside it (draft-ietf-httpapi-ratelimit-headers-10)."""
    windows = {"day": 86400, "month": 30 * 86400}
    policies = [f'"{each.resource}";q={each.amount};w={windows[each.period]}' for each in balances]
    left = [
        f'"{each.resource}";r={max(0, int(each.amount - each.used))};t={max(1, ceil(each.until_next))}'
        for each in balances
    ]
    added = {b"ratelimit-policy": policies, b"ratelimit": left}
    return [(name, b", ".join([value, *(text.encode() for text in added.get(name, ()))])) for name, value in headers]
