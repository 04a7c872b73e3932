"""The coordinator's rounds: ask the sites, wait, join what came. Where it stands is stored after every round."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import Field

from soldiom_ray.domains.federation import Federate
from soldiom_ray.errors import InputError, Problem, SoldiomError, UnavailableError
from soldiom_ray.federate.aggregate import check_update, combine
from soldiom_ray.federate.client import SiteClient
from soldiom_ray.federate.local_training import clipped
from soldiom_ray.federate.messages import RoundTask, SiteReport, digest_of, pack, unpack
from soldiom_ray.federate.secure_messages import Secure
from soldiom_ray.federate.secure_sum import SecureSum, Sum
from soldiom_ray.records import Record
from soldiom_ray.storage import Storage

if TYPE_CHECKING:
    from soldiom_ray.federate.aggregate import Update

log = logging.getLogger(__name__)
POLL_SECONDS = 0.5
AWAY_SECONDS = 20.0
"""A site that does not answer for so long is not waited for once the others have come."""
CAME, LATE = "came", "late"
Came = TypeVar("Came")


class RoundRecord(Record):
    """What became of one round."""

    round: int
    sites: dict[str, str]
    """Name -> came, late, or why its update was not used."""
    used: tuple[str, ...] = ()
    samples: dict[str, int] = Field(default_factory=dict)
    """Of each site; none where sums alone are seen."""
    total_samples: int = 0
    norms: dict[str, float] = Field(default_factory=dict)
    validation_loss: float | None = None
    """Of the adapter that the round began with, over the validation sides of the sites that told theirs."""
    metrics: dict[str, float] = Field(default_factory=dict)
    bytes_sent: int = 0
    """To the sites that came."""
    bytes_received: int = 0
    seconds: float = 0.0
    sum_seconds: float = 0.0
    """How long it took to add updates without seeing them."""


class Progress(Record):
    """Where a federation stands; stored beside the adapter of its last round."""

    rounds: tuple[RoundRecord, ...] = ()
    prompt_format: str = "text"
    sequence_length: int = 0


@dataclass
class Rounds:
    """A federation's rounds. `report` is told how far it is, and ends it with what it raises."""

    sites: Sequence[SiteClient]
    federate: Federate
    storage: Storage
    prefix: str
    report: Callable[[float, str], None]
    greet: dict[str, Callable[[SiteClient], None]] = field(default_factory=dict)
    """What to do when a site that did not answer at the beginning does so: once for each."""
    poll_seconds: float = POLL_SECONDS
    away_seconds: float = AWAY_SECONDS
    progress: Progress = field(default_factory=Progress)
    _away_since: dict[str, float] = field(default_factory=dict)

    def run(self, first: RoundTask, adapter: "Update") -> "Update":
        """The adapter after all rounds, from where an earlier call stopped. Beside the rounds that learn there is one
        that measures what came of the last.

        UnavailableError, which says of each site why, when a round has fewer updates than `min_sites`."""
        adapter = self._resume(adapter)
        for number in range(len(self.progress.rounds) + 1, first.rounds + 2):
            task = first.model_copy(update={"round": number})
            joined, record, told = (
                self._secure_round(task, adapter, task.secure) if task.secure else self._round(task, adapter)
            )
            adapter = {name: array + joined[name] for name, array in adapter.items()} if task.learns else adapter
            self.progress = Progress(
                rounds=(*self.progress.rounds, record),
                prompt_format=told.prompt_format,
                sequence_length=told.sequence_length,
            )
            self.storage.write(f"{self.prefix}/{number:04d}.safetensors", pack(self.progress, adapter))
            self.storage.remove(f"{self.prefix}/{number - 1:04d}.safetensors")
            self.storage.remove(self._sum_key(number))
            log.info("round joined", extra={"data": record.model_dump(mode="json", exclude={"metrics"})})
        return adapter

    def clear(self) -> None:
        """Remove what is stored to resume from, and tell the sites that it is over."""
        self.storage.remove(self.prefix)
        for site in self.sites:
            try:
                site.forget(self.prefix.split("/")[1])
            except SoldiomError as error:  # it forgets when the next federation begins
                log.info("a site does not hear the end", extra={"data": {"site": site.name, "reason": error.what}})

    def _resume(self, adapter: "Update") -> "Update":
        stored = sorted(key for key in self.storage.keys(self.prefix) if key.endswith(".safetensors"))
        if not stored:
            return adapter
        self.progress, adapter = unpack(self.storage.read(stored[-1]), Progress, "the storage")
        log.info("federation resumes", extra={"data": {"rounds_done": len(self.progress.rounds)}})
        return adapter

    def _round(self, task: RoundTask, adapter: "Update") -> "tuple[Update, RoundRecord, SiteReport | Sum]":
        began, message = time.monotonic(), pack(task, adapter)
        came, outcome = self._gather(task, message, lambda site: site.update(task.federation, task.round))
        updates: dict[str, Update] = {}
        for name, (_, update) in came.items():
            try:
                check_update(name, update, adapter if task.learns else {})
                updates[name] = clipped(update, self.federate.clip_norm)
            except InputError as error:
                log.warning("update refused", extra={"data": {"error": error.what}})
                outcome[name] = error.what
        reports = {name: report for name, (report, _) in came.items() if name in updates}
        if len(updates) < (self.federate.min_sites if task.learns else 1):
            raise self._too_few(task, outcome)
        names = sorted(updates)
        samples = {name: reports[name].samples for name in names}
        joined, chosen = dict[str, Any](), list(range(len(names)))
        if task.learns:
            joined, chosen = combine(
                [updates[name] for name in names], [samples[name] for name in names], self.federate
            )
        loss, metrics = _mean_of(reports)
        record = RoundRecord(
            round=task.round,
            sites=outcome,
            used=tuple(names[position] for position in chosen) if task.learns else (),
            samples=samples,
            total_samples=sum(samples.values()),
            norms={name: reports[name].norm for name in names} if task.learns else {},
            validation_loss=loss,
            metrics=metrics,
            bytes_sent=len(message) * len(came),
            bytes_received=sum(report.size_bytes for report, _ in came.values()),
            seconds=round(time.monotonic() - began, 2),
        )
        return joined, record, next(iter(reports.values()))

    def _secure_round(
        self, task: RoundTask, adapter: "Update", secure: Secure
    ) -> "tuple[Update, RoundRecord, SiteReport | Sum]":
        """The same, of which nothing is seen but the sum."""
        began, message = time.monotonic(), pack(task, adapter)
        before = [(site.bytes_sent, site.bytes_received) for site in self.sites]
        sum_of = SecureSum(
            sites=self.sites,
            task=task,
            secure=secure,
            digest=digest_of(message),
            shapes={name: array.shape for name, array in adapter.items()} if task.learns else {},
            storage=self.storage,
            key=self._sum_key(task.round),
            wait_seconds=self.away_seconds,
        )
        outcome = dict.fromkeys((site.name for site in self.sites), CAME)
        if not sum_of.stored():
            ready, outcome = self._gather(task, message, lambda site: site)
            if len(ready) < secure.threshold:
                raise self._too_few(task, outcome)
            sum_of.sites = list(ready.values())
        summing = time.monotonic()
        total = sum_of.run()
        outcome |= {name: CAME if name in total.names else LATE for name in outcome if outcome[name] == CAME}
        outcome |= {name: reason for name, reason in sum_of.outcome.items() if name not in total.names}
        metrics = dict(total.metrics)
        record = RoundRecord(
            round=task.round,
            sites=outcome,
            used=total.names if task.learns else (),
            total_samples=total.samples,
            validation_loss=metrics.get("validation_loss"),
            metrics=metrics,
            bytes_sent=sum(site.bytes_sent - sent for site, (sent, _) in zip(self.sites, before, strict=True)),
            bytes_received=sum(site.bytes_received - got for site, (_, got) in zip(self.sites, before, strict=True)),
            seconds=round(time.monotonic() - began, 2),
            sum_seconds=round(time.monotonic() - summing, 2),
        )
        return total.update, record, total

    def _sum_key(self, number: int) -> str:
        return f"{self.prefix}/{number:04d}.sum"

    def _gather(
        self, task: RoundTask, message: bytes, fetch: Callable[[SiteClient], Came]
    ) -> tuple[dict[str, Came], dict[str, str]]:
        """(what came by the end of the round's time, what became of each site); `fetch` asks a site that is ready."""
        until = time.monotonic() + self.federate.round_seconds
        outcome = {site.name: LATE for site in self.sites}
        came: dict[str, Came] = {}
        waiting = {site.name: site for site in self.sites}
        away_since = self._away_since  # from round to round: who is gone is not waited for in each
        with ThreadPoolExecutor(max(1, len(self.sites)), "site") as pool:
            while waiting and time.monotonic() < until:
                asked = {name: pool.submit(self._ask, site, task, message, fetch) for name, site in waiting.items()}
                for name, ask in asked.items():
                    error = ask.exception()
                    if isinstance(error, UnavailableError):  # it may come back
                        outcome[name] = error.what
                        away_since.setdefault(name, time.monotonic())
                        continue
                    away_since.pop(name, None)
                    if error is not None:
                        outcome[name] = _reason(error)
                        del waiting[name]
                    elif (result := ask.result()) is not None:
                        outcome[name], came[name] = CAME, result
                        del waiting[name]
                    else:
                        outcome[name] = LATE
                done = (task.round - 1 + len(came) / max(1, len(self.sites))) / (task.rounds + 1)
                self.report(min(1.0, done), self._message(task, came, outcome))
                lost = time.monotonic() - self.away_seconds
                if all(away_since.get(name, until) < lost for name in waiting):
                    break
                time.sleep(max(0.0, min(self.poll_seconds, until - time.monotonic())))
        return came, outcome

    def _ask(
        self, site: SiteClient, task: RoundTask, message: bytes, fetch: Callable[[SiteClient], Came]
    ) -> Came | None:
        if (greet := self.greet.get(site.name)) is not None:
            greet(site)
            self.greet.pop(site.name, None)
        state = site.state(task.federation, task.round)
        if state.state == "unknown":  # of this round, or any more: it was started anew
            state = site.begin(message)
        if state.state == "ready":
            return fetch(site)
        if state.state == "failed":
            raise InputError(f"Site {site.name} failed: {state.message}")
        if state.state == "refused":
            raise InputError(f"Site {site.name}: its administrator refused that the update leaves.")
        return None

    def _message(self, task: RoundTask, came: Mapping[str, object], outcome: Mapping[str, str]) -> str:
        what = f"round {task.round}/{task.rounds}" if task.learns else "measuring the result"
        missing = [name for name, state in outcome.items() if state == LATE]
        last = self.progress.rounds[-1].validation_loss if self.progress.rounds else None
        loss = f", loss {last:.3f}" if last is not None else ""
        waiting = f", waiting for {', '.join(missing[:3])}{' …' * (len(missing) > 3)}" if missing else ""
        return f"{what}: {len(came)} of {len(self.sites)} sites{loss}{waiting}"

    def _too_few(self, task: RoundTask, outcome: Mapping[str, str]) -> UnavailableError:
        needed, why = self.federate.min_sites, "`federate.min_sites`"
        if task.secure is not None:
            needed, why = task.secure.threshold, "`min_sites`, and more than half of all sites"
        return UnavailableError(
            f"Round {task.round} has {sum(state == CAME for state in outcome.values())} of the {needed} updates that it"
            f" needs ({why}).",
            problems=[Problem(name, state) for name, state in outcome.items() if state != CAME],
            remedy="repair or wait for these sites and run the same again: rounds that were joined are kept",
        )


def _reason(error: BaseException) -> str:
    return error.what if isinstance(error, SoldiomError) else type(error).__name__


def _mean_of(reports: Mapping[str, SiteReport]) -> tuple[float | None, dict[str, float]]:
    """The validation loss and metrics of the sites that have some, weighed by their validation samples."""
    told = [report for report in reports.values() if report.validation_loss is not None and report.validation_samples]
    total = sum(report.validation_samples for report in told)
    if not total:
        return None, {}
    names = set.intersection(*(set(report.metrics) for report in told))
    means = {
        name: sum(report.metrics[name] * report.validation_samples for report in told) / total for name in sorted(names)
    }
    return sum((report.validation_loss or 0.0) * report.validation_samples for report in told) / total, means
