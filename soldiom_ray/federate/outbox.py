"""What is to leave a site, or has left it: one entry for each round, and what its administrator decided.

Entries lie in the site's storage below `site/`. The commands of the administrator and the server read and write the
same entries; each file is written whole or not at all."""

from datetime import datetime

from soldiom_ray.errors import ConflictError, DeniedError, NotFoundError
from soldiom_ray.federate.messages import RoundTask, SiteReport
from soldiom_ray.federate.secure_messages import Secure
from soldiom_ray.federate.secure_site import SECRETS, Place
from soldiom_ray.federate.site_settings import SiteSettings
from soldiom_ray.records import Record, now
from soldiom_ray.storage import Storage

PREFIX = "site"


class Entry(Record):
    """What a round left, without the update itself."""

    federation: str
    recipe: str
    round: int
    rounds: int
    task: str
    """Hash of what the coordinator sent."""
    report: SiteReport
    created_at: datetime
    secure: Secure | None = None
    """Set: the update leaves in a sum alone."""


class Decision(Record):
    """The administrator's."""

    approved: bool
    by: str
    decided_at: datetime


class Outbox:
    """The entries of one site."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def put(self, task: RoundTask, digest: str, report: SiteReport, update: bytes) -> Entry:
        """Add what a round left; updates of earlier rounds, and a decision on an earlier attempt, go."""
        entry = Entry(
            federation=task.federation,
            recipe=task.recipe,
            round=task.round,
            rounds=task.rounds,
            task=digest,
            report=report,
            created_at=now(),
            secure=task.secure,
        )
        self.drop_updates(task.federation)
        prefix = _prefix(task.federation, task.round)
        self.storage.remove(f"{prefix}/decision.json")
        self.storage.remove(f"{prefix}/sent.json")
        self.storage.write(f"{prefix}/update.safetensors", update)
        self.storage.write(f"{prefix}/entry.json", entry.model_dump_json().encode())
        return entry

    def find(self, federation: str, number: int) -> Entry | None:
        """The entry of a round, or None."""
        key = f"{_prefix(federation, number)}/entry.json"
        return Entry.model_validate_json(self.storage.read(key)) if self.storage.exists(key) else None

    def entries(self) -> list[Entry]:
        """All of them, oldest first."""
        keys = [key for key in self.storage.keys(PREFIX) if key.endswith("/entry.json")]
        entries = [Entry.model_validate_json(self.storage.read(key)) for key in keys]
        return sorted(entries, key=lambda entry: entry.created_at)

    def update(self, entry: Entry) -> bytes:
        """The message that leaves. NotFoundError when a later round has replaced it."""
        return self.storage.read(f"{_prefix(entry.federation, entry.round)}/update.safetensors")

    def decision(self, entry: Entry) -> Decision | None:
        """What the administrator decided; None where nothing yet."""
        key = f"{_prefix(entry.federation, entry.round)}/decision.json"
        return Decision.model_validate_json(self.storage.read(key)) if self.storage.exists(key) else None

    def state(self, entry: Entry, site: SiteSettings) -> str:
        """pending, ready (it may leave), sent or refused: by the administrator's decision, else by the site's
        settings."""
        if self.is_sent(entry):
            return "sent"
        if (decision := self.decision(entry)) is not None:
            return "ready" if decision.approved else "refused"
        allowed = site.approve == "always" and (site.max_norm is None or entry.report.norm <= site.max_norm)
        return "ready" if allowed else "pending"

    def decide(self, entry: Entry, *, approved: bool, by: str) -> None:
        """Let an update leave, or never. ConflictError once it has left."""
        if self.is_sent(entry):
            raise ConflictError(
                f"The update of round {entry.round} has left already.", remedy="`soldiom site pending --all` shows when"
            )
        decision = Decision(approved=approved, by=by, decided_at=now())
        key = f"{_prefix(entry.federation, entry.round)}/decision.json"
        self.storage.write(key, decision.model_dump_json().encode())

    def mark_sent(self, entry: Entry) -> None:
        """Note that an update has left."""
        key = f"{_prefix(entry.federation, entry.round)}/sent.json"
        if not self.storage.exists(key):
            self.storage.write(key, now().isoformat().encode())

    def is_sent(self, entry: Entry) -> bool:
        """Whether it has left."""
        return self.storage.exists(f"{_prefix(entry.federation, entry.round)}/sent.json")

    def drop_updates(self, federation: str) -> None:
        """Remove the updates of a federation and the secrets of their masks; its entries stay, as the list of what has
        left."""
        for key in self.storage.keys(f"{PREFIX}/{federation}"):
            if key.endswith(("/update.safetensors", f"/{SECRETS}")):
                self.storage.remove(key)

    def bind(self, federation: str, secure: Secure | None) -> None:
        """Note how updates leave in all rounds of a federation. DeniedError when they were to leave in another way."""
        key, text = f"{PREFIX}/{federation}/secure.json", secure.model_dump_json() if secure else "null"
        if not self.storage.exists(key):
            self.storage.write(key, text.encode())
        elif self.storage.read(key).decode() != text:
            raise DeniedError(
                "This federation began with other sites, another threshold or another way for updates to leave.",
                remedy="begin another federation: one keeps to what it began with",
            )

    def place(self, entry: Entry) -> Place:
        """Where the masks of a round are kept. ConflictError for one whose update leaves as it is."""
        if entry.secure is None:
            raise ConflictError("The update of this round leaves as it is, not in a sum.")
        prefix = _prefix(entry.federation, entry.round)
        return Place(entry.federation, entry.round, entry.task, entry.secure, self.storage, prefix)

    def one(self, federation: str, number: int) -> Entry:
        """The entry of a round. NotFoundError when there is none."""
        entry = self.find(federation, number)
        if entry is None:
            raise NotFoundError(
                f"Nothing of round {number} of {federation} is here.", remedy="`soldiom site pending` lists what is"
            )
        return entry


def _prefix(federation: str, number: int) -> str:
    return f"{PREFIX}/{federation}/{number:04d}"
