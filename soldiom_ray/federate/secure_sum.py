"""The coordinator's part in secure aggregation: it passes keys and letters on, adds masked updates, and removes from
the sum what is left of the masks. `secure_site` says why it learns no single update.

A site that does not answer in one of the steps has dropped out. Before it asks for shares, the coordinator stores the
sum: killed then, it asks for the same shares again, as sites reveal none for another sum."""

import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from soldiom_ray.errors import InputError, Problem, SoldiomError, UnavailableError
from soldiom_ray.federate.client import SiteClient
from soldiom_ray.federate.masks import agreed_key, decode, join_secret, public_key, stream
from soldiom_ray.federate.messages import MASKED, RoundTask, pack, unpack
from soldiom_ray.federate.secure_messages import (
    COUNTS,
    SAMPLES,
    VALIDATION_SAMPLES,
    WEIGHT,
    Attempt,
    Group,
    Letters,
    Secure,
    Shares,
    Survivors,
    common_metrics,
    purpose,
)
from soldiom_ray.storage import Storage

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from soldiom_ray.federate.aggregate import Update
    from soldiom_ray.federate.masks import Numbers

Answer = TypeVar("Answer")
ATTEMPTS = 3
RETRY_SECONDS = 0.2


class Pending(Survivors):
    """A sum from which masks are still to be removed."""

    group: Group
    sharing: tuple[str, ...]
    """The sites that masked with one another."""


@dataclass(frozen=True)
class Sum:
    """What a coordinator learns of a round."""

    names: tuple[str, ...]
    """The sites that are in it."""
    update: "Update"
    """The weighted mean."""
    samples: int
    metrics: dict[str, float]
    """Weighed by validation samples; none where no site has any."""
    prompt_format: str
    sequence_length: int


@dataclass
class SecureSum:
    """One round's sum. `outcome` says of each site that drops out why; `wait_seconds` is how long a site that does not
    answer a step is waited for. What is stored below `key` is to be removed once the sum is."""

    sites: Sequence[SiteClient]
    task: RoundTask
    secure: Secure
    digest: str
    shapes: Mapping[str, tuple[int, ...]]
    storage: Storage
    key: str
    wait_seconds: float
    outcome: dict[str, str] = field(default_factory=dict)

    def stored(self) -> bool:
        """Whether an earlier call was ended between the sum and the shares."""
        return self.storage.exists(self.key)

    def run(self) -> Sum:
        """The sum over the sites that stay to the end. UnavailableError when they are fewer than the threshold in
        ATTEMPTS attempts, or too few reveal their shares."""
        if self.stored():
            pending, tensors = unpack(self.storage.read(self.key), Pending, "the storage")
            return self._reveal(pending, tensors[MASKED])
        for _ in range(ATTEMPTS):
            if (collected := self._collect(secrets.token_hex(16))) is not None:
                self.storage.write(self.key, pack(collected[0], {MASKED: collected[1]}))
                return self._reveal(*collected)
        raise self._too_few("mask their updates to the end")

    def _collect(self, attempt: str) -> "tuple[Pending, Numbers] | None":
        """(who masked what, the sum of it); None when too few did."""
        federation, number, threshold = self.task.federation, self.task.round, self.secure.threshold
        by_name = {site.name: site for site in self.sites}
        asked = Attempt(attempt=attempt)
        members = self._step(by_name, lambda site: site.announce(federation, number, asked))
        if len(members) < threshold:
            return None
        group = Group(attempt=attempt, members=members)
        letters = self._step({name: by_name[name] for name in members}, lambda s: s.share(federation, number, group))
        if len(letters) < threshold:
            return None

        def masked(site: SiteClient) -> "Numbers":
            own = {sender: told.letters[site.name] for sender, told in letters.items() if site.name in told.letters}
            numbers = site.masked(federation, number, Letters(attempt=attempt, letters=own))
            if len(numbers) != (size := self._size(group)):
                raise InputError(f"The masked update of site {site.name} has {len(numbers)} numbers, not {size}.")
            return numbers

        vectors = self._step({name: by_name[name] for name in letters}, masked)
        if len(vectors) < threshold:
            return None
        names = tuple(sorted(vectors))
        total = vectors[names[0]].copy()
        for name in names[1:]:
            total += vectors[name]
        return Pending(attempt=attempt, names=names, group=group, sharing=tuple(sorted(letters))), total

    def _reveal(self, pending: Pending, total: "Numbers") -> Sum:
        asked = Survivors(attempt=pending.attempt, names=pending.names)
        among = {site.name: site for site in self.sites if site.name in pending.names}
        problems: dict[str, str] = {}
        shares = self._step(among, lambda s: s.reveal(self.task.federation, self.task.round, asked), problems)
        if len(shares) < self.secure.threshold:
            self.outcome.update(problems)
            raise self._too_few("reveal what removes the masks from the sum")
        where = purpose(self.task.federation, self.task.round, pending.attempt, self.digest)
        return self._decoded(pending, unmask(total, pending, shares, self.secure.threshold, where))

    def _step(
        self,
        sites: Mapping[str, SiteClient],
        ask: Callable[[SiteClient], Answer],
        outcome: dict[str, str] | None = None,
    ) -> dict[str, Answer]:
        """The answers of the sites that give one in time; what became of the others goes into `outcome`."""
        outcome = self.outcome if outcome is None else outcome
        until, answers, waiting = time.monotonic() + self.wait_seconds, dict[str, Answer](), dict(sites)
        with ThreadPoolExecutor(max(1, len(sites)), "site") as pool:
            while waiting:
                asked = {name: pool.submit(ask, site) for name, site in waiting.items()}
                for name, future in asked.items():
                    error = future.exception()
                    if error is None:
                        answers[name] = future.result()
                        outcome.pop(name, None)
                        del waiting[name]
                        continue
                    outcome[name] = error.what if isinstance(error, SoldiomError) else type(error).__name__
                    if not isinstance(error, UnavailableError):
                        del waiting[name]
                if not waiting or time.monotonic() > until:
                    break
                time.sleep(RETRY_SECONDS)
        return answers

    def _size(self, group: Group) -> int:
        numbers = sum(math.prod(shape) for shape in self.shapes.values())
        return numbers + len(COUNTS) + len(common_metrics(group.members))

    def _decoded(self, pending: Pending, total: "Numbers") -> Sum:
        values = decode(total, len(pending.names))
        metrics = common_metrics(pending.group.members)
        flat, behind = values[: len(values) - len(COUNTS) - len(metrics)], values[-len(COUNTS) - len(metrics) :]
        counts = dict(zip(COUNTS, (round(float(count)) for count in behind), strict=False))
        if counts[WEIGHT] <= 0 and len(flat):
            raise InputError(
                "No site has a sample to learn from.", remedy="look at their datasets, or `weighting: equal`"
            )
        measured = counts[VALIDATION_SAMPLES]
        told = next(iter(pending.group.members.values()))
        return Sum(
            names=pending.names,
            update=_split(flat / max(1, counts[WEIGHT]), self.shapes),
            samples=counts[SAMPLES],
            metrics={
                name: float(value) / measured
                for name, value in zip(metrics, behind[len(COUNTS) :], strict=True)
                if measured > 0
            },
            prompt_format=told.prompt_format,
            sequence_length=told.sequence_length,
        )

    def _too_few(self, what: str) -> UnavailableError:
        return UnavailableError(
            f"Round {self.task.round} needs {self.secure.threshold} of {len(self.secure.sites)} sites that {what};"
            " fewer did.",
            problems=[Problem(name, reason) for name, reason in sorted(self.outcome.items())],
            remedy="repair or wait for these sites and run the same again: rounds that were joined are kept",
        )


def unmask(total: "Numbers", pending: Pending, shares: Mapping[str, Shares], threshold: int, where: str) -> "Numbers":
    """The sum of the numbers of `pending.names`: `total` without the own masks of these, and without their masks with
    those who dropped out. `shares` are what each site revealed. InputError for shares that do not fit."""
    positions = {name: position for position, name in enumerate(sorted(pending.group.members))}

    def secret(of: str, held: Mapping[str, str]) -> bytes:
        known = {positions[name]: share for name, share in held.items()}
        if len(known) < threshold:
            raise InputError(f"{len(known)} of {threshold} sites revealed what removes the masks of site {of}.")
        return join_secret(dict(list(known.items())[:threshold]))

    for name in pending.names:
        own = secret(name, {by: told.own_masks[name] for by, told in shares.items() if name in told.own_masks})
        total = total - stream(own, len(total))
    for name in sorted(set(pending.sharing) - set(pending.names)):
        key = secret(name, {by: told.mask_keys[name] for by, told in shares.items() if name in told.mask_keys}).hex()
        if public_key(key) != pending.group.members[name].masks:
            raise InputError(f"The shares that sites revealed are not of the key of site {name}.")
        for other in pending.names:
            mask = stream(agreed_key(key, pending.group.members[other].masks, f"{where} mask"), len(total))
            total = total - mask if other < name else total + mask
    return total


def _split(flat: "npt.NDArray[np.float64]", shapes: Mapping[str, tuple[int, ...]]) -> "Update":
    import numpy as np

    update, start = {}, 0
    for name in sorted(shapes):
        count = math.prod(shapes[name])
        update[name] = flat[start : start + count].astype(np.float32).reshape(shapes[name])
        start += count
    return update
