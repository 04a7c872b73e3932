"""Which datasets a federation is named by: those that its sites had when they were first heard from.

A site that is down when a federation begins has none yet, and may join it later; one that is down when a federation
goes on had one. What was heard lies in the coordinator's storage: the same command finds the same federation."""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from soldiom_ray.errors import InputError, UnavailableError
from soldiom_ray.federate.client import SiteClient
from soldiom_ray.records import Record
from soldiom_ray.storage import Storage

PREFIX = "federations"


class Heard(Record):
    """What is stored of a federation: site -> dataset."""

    named: dict[str, str]
    """By which it is named; "" for a site that was not heard from when it began."""
    heard: dict[str, str]


class Membership:
    """The sites of a federation and their datasets, from one command to the next."""

    def __init__(self, storage: Storage, made_from: Mapping[str, Any]) -> None:
        """`made_from` is all that names the federation beside the datasets."""
        text = json.dumps(made_from, sort_keys=True).encode()
        self._storage, self._key = storage, f"{PREFIX}/{hashlib.sha256(text).hexdigest()[:32]}.json"
        self._now = Heard(named={}, heard={})

    def begin(self, datasets: Mapping[str, str | None], is_done: Callable[[Mapping[str, str]], bool]) -> dict[str, str]:
        """The datasets that name the federation: of an earlier command where the sites that answer now still have
        theirs, else those of now. `datasets` has None for a site that does not answer; `is_done` says whether a
        federation of such a name has ended, which nobody can join any more."""
        answering = {name: dataset for name, dataset in datasets.items() if dataset is not None}
        known = Heard(named={}, heard={})
        if self._storage.exists(self._key):
            known = Heard.model_validate_json(self._storage.read(self._key))
        same = all(known.heard.get(name, dataset) == dataset for name, dataset in answering.items())
        joins = answering.keys() - known.heard.keys()
        if not known.named or not same or (joins and is_done(known.named)):
            heard = known.heard | answering
            known = Heard(named={name: heard.get(name, "") for name in sorted(datasets)}, heard=heard)
        self._store(Heard(named=known.named, heard=known.heard | answering))
        return known.named

    def hear(self, site: SiteClient) -> None:
        """A site that did not answer at the beginning does so now. InputError when it has another dataset than
        before."""
        info = site.info()
        if self._now.heard.get(info.name, info.dataset) != info.dataset:
            raise InputError(
                f"Site {info.name} has another dataset than the one it had when this federation began.",
                remedy="run the same again while it answers, which begins a federation with its dataset of now",
            )
        self._store(self._now.model_copy(update={"heard": self._now.heard | {info.name: info.dataset}}))

    def _store(self, now: Heard) -> None:
        if now != self._now:
            self._now = now
            self._storage.write(self._key, now.model_dump_json().encode())


def datasets_of(sites: list[SiteClient]) -> tuple[dict[str, str | None], list[str]]:
    """(site -> its dataset, None where it does not answer; sentences about those). UnavailableError when none answers;
    InputError for one that is another than its invitation says."""
    datasets: dict[str, str | None] = {}
    away = []
    for site in sites:
        try:
            datasets[site.name] = site.info().dataset
        except UnavailableError as error:
            datasets[site.name] = None
            away.append(error.what)
    if len(away) == len(sites):
        raise UnavailableError(
            f"None of the {len(sites)} sites of the federation answers: {' '.join(away)}",
            remedy="`soldiom site serve` runs a site",
        )
    return datasets, [f"{what} It has a part from the round in which it does." for what in away]
