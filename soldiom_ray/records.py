"""Records that pass between stages, processes or machines: frozen, unknown keys refused."""

import os
import re
import threading
import time
import uuid
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SourceName = Literal["github", "huggingface", "user", "local"]
DocumentKind = Literal["architecture", "training", "configuration", "dataset", "documentation", "test", "other"]
Framework = Literal["pytorch", "tensorflow", "jax", "none"]
Split = Literal["train", "validation", "test"]
Role = Literal["viewer", "user", "trainer", "admin"]
JobStatus = Literal["pending", "running", "completed", "failed", "cancelled"]
Family = Literal["base", "fine-tuned", "specialized"]
FAMILIES: tuple[Family, ...] = ("base", "fine-tuned", "specialized")

PromptFormat = Literal["chat", "text"]
"""How a model is asked: by its chat template, or with a text that it continues."""
ROLES: tuple[Role, ...] = ("viewer", "user", "trainer", "admin")
ENDED: frozenset[str] = frozenset({"completed", "failed", "cancelled"})

RUN_ID = re.compile(r"run-[0-9a-f]{16}")
"""The id of a training run's artifact."""

COMMAND_LINE = "cli"
"""Owner of the jobs, and actor of the deeds, of whoever runs the server; others belong to a key of the API."""

TENANTS_OWN = ("", COMMAND_LINE)
"""Owners of what is nobody's but the tenant's."""


def keeper_of(tenant: str, owner: str) -> str:
    """Under whose name the secrets of a recipe are kept: its owner's within the tenant, or the tenant's."""
    return tenant if owner in TENANTS_OWN else f"{tenant}/{owner}"


WATCHER = "watch"
"""Actor of what the API does by itself to a version that is watched."""

LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Environment in which Ray takes 127.0.0.1 for its node, so that every port of its processes listens there alone (2.60;
no option does that, `--node-ip-address 127.0.0.1` is replaced). Its clients need it too: they look for the node by its
address. Other machines cannot join such a head; a cluster of several is started without it, see ray-cluster.yaml."""
REPLICA_PORTS = range(19000, 19100)
"""On each machine of a cluster of several, the ports on which replicas of Serve listen for one another."""
SEARCH_APPLICATION = "search"
"""Name of the Serve application that embeds queries and searches."""


def application_name(model_id: str) -> str:
    """Name of the Serve application of one model version."""
    return f"model-{model_id}"


def now() -> datetime:
    """The current time in UTC, with its zone."""
    return datetime.now(UTC)


def new_id() -> str:
    """A UUIDv7: later ids sort later, those of one process strictly so, within a millisecond too (RFC 9562, 6.2: the
    twelve bits after the version hold the fraction of the millisecond)."""
    global _last_stamp
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    with _stamp_lock:
        _last_stamp = stamp = max(milliseconds << 12 | nanoseconds * 4096 // 1_000_000, _last_stamp + 1)
    value = (stamp >> 12) << 80 | 0x7 << 76 | (stamp & 0xFFF) << 64 | 0b10 << 62
    return str(uuid.UUID(int=value | int.from_bytes(os.urandom(8), "big") >> 2))


_stamp_lock, _last_stamp = threading.Lock(), 0


class Record(BaseModel):
    """Base of all records."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Document(Record):
    """One collected text with its provenance. A documents artifact is Parquet shards of these.

    `group` is the unit that a leak-free split keeps in one part: a package, a repository, a conversation, a file.
    `image` is a picture as PNG or JPEG; its caption, if any, is the `text`. `license` is an SPDX expression, or "" when
    none was found. `rule` names the rule that admitted the document.
    """

    id: str
    text: str
    source: SourceName
    url: str
    path: str
    group: str
    version: str = ""
    commit: str = ""
    sha256: str
    license: str = ""
    kind: DocumentKind = "other"
    framework: Framework = "none"
    language: str = ""
    rule: str = ""
    collected_at: datetime
    metadata: str = "{}"
    image: bytes | None = None


class Sample(Record):
    """One row of a prepared dataset: a document that passed the filters, cleaned, with its split.

    `verdict` is the decision of the licence policy. `messages` is a conversation as JSON (see `domains.messages`), of
    which `text` is the plain form; empty for other texts. `metadata` is JSON: `page_starts`; `infill`,
    where a middle that is to be filled in begins and ends; `label`, a string, or a
    list of strings; `rejected`, the answer that the last of `messages` was preferred to; `checks`, Python that a
    program in the last of them passes; of a picture `width`, `height`
    and `format`. `image` is a picture as PNG or JPEG; a dataset without pictures has no such column."""

    id: str
    text: str
    split: Split
    source: SourceName
    url: str
    path: str
    group: str
    version: str
    commit: str
    sha256: str
    license: str
    kind: DocumentKind
    framework: Framework
    language: str
    verdict: str = ""
    messages: str = ""
    metadata: str = "{}"
    image: bytes | None = None


class Drop(Record):
    """A document left out of a dataset: the rule that decided, and the value it saw."""

    id: str
    source: str
    group: str
    path: str
    reason: str
    value: str


class FileEntry(Record):
    """One file of an artifact: its name below the artifact's prefix, its size in bytes, its hash. `key` is where its
    bytes lie in storage when other artifacts share them; empty when they are below the prefix."""

    name: str
    size_bytes: int
    sha256: str
    key: str = ""


class Manifest(Record):
    """What one stage made. It is written last, so an artifact without it does not exist.

    `made_from` holds everything that decided the content; the id is its hash. `parents` are artifact ids.
    """

    kind: str
    id: str
    made_from: dict[str, Any]
    parents: tuple[str, ...] = ()
    counts: dict[str, int] = Field(default_factory=dict)
    details: dict[str, Any] = Field(default_factory=dict)
    files: tuple[FileEntry, ...] = ()
    created_at: datetime
    seconds: float = 0.0
    code_version: str = ""
