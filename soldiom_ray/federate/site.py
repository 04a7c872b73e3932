"""A site: what its server does with the requests of a coordinator.

What a round left is kept in the site's own storage, sealed as everything there, until the next round of the same
federation: a coordinator or a site that was killed repeats no training. An update leaves only when it is `ready`."""

import fnmatch
import logging
import threading
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from soldiom_ray.artifacts import Artifacts, Context
from soldiom_ray.errors import CancelledError, ConflictError, DeniedError, NotFoundError, SoldiomError
from soldiom_ray.federate.messages import MASKED, RoundTask, SiteInfo, SiteReport, SiteState, digest_of, pack, unpack
from soldiom_ray.federate.outbox import Entry, Outbox
from soldiom_ray.federate.secure_messages import Announcement, Attempt, Group, Letters, Shares, Survivors
from soldiom_ray.federate.secure_site import Member
from soldiom_ray.federate.site_settings import SiteSettings, load_identity
from soldiom_ray.settings import Settings
from soldiom_ray.storage import open_storage

if TYPE_CHECKING:
    from soldiom_ray.federate.local_training import SiteTraining

log = logging.getLogger(__name__)
COORDINATOR = "the coordinator"


class Site:
    """One site; it trains one round at a time, in a thread."""

    def __init__(self, settings: Settings, site: SiteSettings) -> None:
        """NotFoundError when the dataset of the site's settings is not there."""
        self.settings, self.site = settings, site
        self.artifacts = Artifacts(open_storage(settings))
        self.dataset = self.artifacts.get(site.dataset)
        self.outbox = Outbox(self.artifacts.storage)
        self._lock, self._masking = threading.Lock(), threading.Lock()
        self._training: SiteTraining | None = None
        self._federation = ""
        self._work: _Work | None = None

    def info(self) -> SiteInfo:
        """What the site says of itself."""
        from soldiom_ray import __version__

        return SiteInfo(name=self.site.name, dataset=self.dataset.id, version=__version__)

    def begin(self, data: bytes) -> SiteState:
        """Begin a round, unless the same one was begun before; one of the same coordinator that still runs is given up.

        DeniedError where the site's settings do not allow the base; InputError for a message that cannot be read."""
        task, weights = unpack(data, RoundTask, COORDINATOR)
        self._check(task)
        digest = digest_of(data)
        with self._lock:
            entry = self.outbox.find(task.federation, task.round)
            if entry is not None and entry.task == digest:
                return self._state_of(entry)
            if self._work is not None and self._work.thread.is_alive():
                if self._work.digest == digest:
                    return self._work.state
                self._work.stop()
            self._work = _Work(self, task, weights, digest)
            self._work.thread.start()
            return self._work.state

    def state(self, federation: str, number: int) -> SiteState:
        """Where a round stands."""
        if (entry := self.outbox.find(federation, number)) is not None:
            return self._state_of(entry)
        work = self._work
        if work is not None and (work.task.federation, work.task.round) == (federation, number):
            return work.state
        return SiteState(state="unknown")

    def update(self, federation: str, number: int) -> bytes:
        """The update of a round. ConflictError while it may not leave."""
        entry = self.outbox.find(federation, number)
        if entry is None:
            raise NotFoundError(f"Round {number} of {federation} has left nothing here.", remedy="begin it")
        if (state := self._state_of(entry).state) != "ready":
            raise ConflictError(
                f"The update of round {number} is {state}.", remedy="`soldiom site pending` at the site"
            )
        if entry.secure is not None:
            raise ConflictError("The update of this federation leaves in a sum alone.", remedy="ask for its masked one")
        data = self.outbox.update(entry)
        self.outbox.mark_sent(entry)
        return data

    def announce(self, federation: str, number: int, asked: Attempt) -> Announcement:
        """Begin an attempt at a sum of updates. ConflictError while the update may not leave."""
        with self._masking:
            member, entry = self._member(federation, number)
            return member.announce(asked, entry.report)

    def share(self, federation: str, number: int, group: Group) -> Letters:
        """Shares of this site's secrets, for the other sites of the group."""
        with self._masking:
            return self._member(federation, number)[0].share(group)

    def masked(self, federation: str, number: int, received: Letters) -> bytes:
        """The update of a round under masks, with the other sites' letters."""
        with self._masking:
            member, entry = self._member(federation, number)
            report, update = unpack(self.outbox.update(entry), SiteReport, "this site")
            numbers = member.mask(received, update, report)
            self.outbox.mark_sent(entry)
            return pack(Attempt(attempt=received.attempt), {MASKED: numbers})

    def reveal(self, federation: str, number: int, survivors: Survivors) -> Shares:
        """What removes the masks that are left in one sum of the round."""
        with self._masking:
            return self._member(federation, number)[0].reveal(survivors)

    def _member(self, federation: str, number: int) -> tuple[Member, Entry]:
        entry = self.outbox.one(federation, number)
        place, state = self.outbox.place(entry), self._state_of(entry).state
        if state != "ready":
            raise ConflictError(
                f"The update of round {number} is {state}.", remedy="`soldiom site pending` at the site"
            )
        return Member(load_identity(self.settings, self.site), self.site.peers, place), entry

    def forget(self, federation: str) -> None:
        """End a federation: the model leaves the memory, the updates leave the storage; what left is still listed."""
        with self._lock:
            if self._work is not None and self._work.task.federation == federation:
                self._work.stop()
            self.outbox.drop_updates(federation)
            self._close()

    def close(self) -> None:
        """Stop the round that runs."""
        with self._lock:
            if self._work is not None:
                self._work.stop()
            self._close()

    def _check(self, task: RoundTask) -> None:
        base = task.train.base_model
        if not any(fnmatch.fnmatchcase(base, pattern) for pattern in self.site.bases):
            raise DeniedError(
                f"This site trains no base {base[:100]!r}.",
                remedy=f"its administrator allows: {', '.join(self.site.bases)} (`soldiom site init --base PATTERN`)",
            )
        if task.secure is None and self.site.secure_only:
            raise DeniedError(
                "The updates of this site leave in sums alone.", remedy="set `federate.secure_aggregation: true`"
            )
        if task.secure is not None and self.site.name not in task.secure.sites:
            raise DeniedError(f"Site {self.site.name} is not among the sites whose updates are added.")
        if task.secure is not None and self.site.peers:
            strange = sorted(set(task.secure.sites) - {self.site.name} - self.site.peers.keys())
            if strange:
                raise DeniedError(
                    f"The administrator of site {self.site.name} has not confirmed site {strange[0]}.",
                    remedy="`soldiom site trust NAME FINGERPRINT` at this site, for all others of the federation",
                )
        self.outbox.bind(task.federation, task.secure)

    def _state_of(self, entry: Entry) -> SiteState:
        state = self.outbox.state(entry, self.site)
        return SiteState(state="ready" if state == "sent" else state)

    def train_round(self, task: RoundTask, weights: dict[str, Any], digest: str, context: Context) -> None:
        """Train, and put what came of it into the outbox; called in the thread of a round."""
        from soldiom_ray.federate.local_training import SiteTraining

        if self._training is None or self._federation != task.federation:
            self._close()
            self._training, self._federation = SiteTraining(context, self.dataset, task), task.federation
        self._training.context = context
        update, report = self._training.run(task, weights)
        self.outbox.put(task, digest, report, pack(report, update))
        log.info("round trained", extra={"data": {"federation": task.federation, "round": task.round}})

    def _close(self) -> None:
        if self._training is not None:
            self._training.close()
        self._training, self._federation = None, ""


class _Work:
    """A round that is being trained."""

    def __init__(self, site: Site, task: RoundTask, weights: dict[str, Any], digest: str) -> None:
        self.site, self.task, self.weights, self.digest = site, task, weights, digest
        self.state = SiteState(state="training")
        self.thread = threading.Thread(target=self._run, daemon=True, name=f"round-{task.round}")
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Stop it and wait until it has."""
        self._stopped.set()
        if self.thread.is_alive():
            self.thread.join()

    def _report(self, fraction: float, message: str) -> None:
        if self._stopped.is_set():
            raise CancelledError("Another round was asked for.")
        if self.task.secure is None:  # else nobody is told losses and how many steps there are
            self.state = SiteState(state="training", message=message)

    def _run(self) -> None:
        context = Context(self.site.settings, self.site.artifacts, self._report)
        try:
            self.site.train_round(self.task, self.weights, self.digest, replace(context, recipe=self.task.recipe))
        except CancelledError:
            self.state = SiteState(state="failed", message="stopped")
        except SoldiomError as error:
            log.warning("round failed", extra={"data": {"error": error.what}})
            self.state = SiteState(state="failed", message=error.what, error=error.to_dict())
        except Exception as error:  # its message, which may hold a user's text, stays here
            log.exception("round failed unexpectedly")
            self.state = SiteState(state="failed", message=f"{type(error).__name__}; the site's log says more")
        finally:
            with suppress(AttributeError):
                del self.weights
