"""What was read from GitHub before, with its ETags: asked again with them, what has not changed costs a 304.

An ETag is good only for the token it was given to, so each value has one for every identity that saw it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from soldiom_ray.collect.github.accounts import FOLDER
from soldiom_ray.errors import SoldiomError
from soldiom_ray.storage import Storage

EXTRACT_VERSION = 1
"""Increment when another part of a response is used: values stored before are then requested again."""

MAX_ETAG_CHARACTERS = 256


@dataclass
class CachedValue:
    """The part of a response that is used, and its ETags by identity."""

    value: Any
    etags: dict[str, str] = field(default_factory=dict)


class EtagCache:
    """Values by address, in storage (sealed where storage is). One object for each address."""

    def __init__(self, storage: Storage, server: str) -> None:
        self.storage = storage
        self.server = server

    def read(self, url: str) -> CachedValue | None:
        """What is stored for an address; None when nothing is, or when it cannot be read any more."""
        try:
            stored = json.loads(self.storage.read(self._key(url)))
            return CachedValue(stored["value"], dict(stored["etags"]))
        except (SoldiomError, ValueError, KeyError, TypeError):
            return None

    def store(
        self, url: str, before: CachedValue | None, value: Any, identity: str, headers: Mapping[str, str]
    ) -> None:
        """Store a new value. ETags of other identities stay while the value does."""
        etag = headers.get("etag", "")
        if not etag or len(etag) > MAX_ETAG_CHARACTERS or not etag.isprintable():
            return
        etags = before.etags if before is not None and before.value == value else {}
        stored = {"value": value, "etags": etags | {identity: etag}}
        self.storage.write(self._key(url), json.dumps(stored).encode())

    def _key(self, url: str) -> str:
        digest = hashlib.sha256(f"{EXTRACT_VERSION}\0{self.server}\0{url}".encode()).hexdigest()
        return f"{FOLDER}/answers/{digest[:2]}/{digest[2:34]}.json"
