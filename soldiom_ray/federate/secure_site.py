"""A site's part in secure aggregation (Bonawitz et al. 2017): it sends its update under masks that vanish in the sum.

Every pair of sites agrees on a mask that one adds and the other subtracts. A second mask of each site's own protects an
update that comes late. The secrets behind both are shared among the sites: enough of them reveal the own mask of a site
that is in the sum, or the mask key of one that is not. Who reveals both would show that site's update; so a site keeps
on disk, for ever, for which sum of a round it has revealed what, and answers no other question about that round. As the
threshold is more than half of all sites of the federation, two different sums of a round can never both be revealed.

What is kept lies in the site's storage: a site that was started anew goes on."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from pydantic import Field

from soldiom_ray.errors import ConflictError, DeniedError, InputError
from soldiom_ray.federate.masks import (
    EQUAL_WEIGHT,
    LARGEST,
    SECRET_BYTES,
    agreed_key,
    encode,
    new_key,
    open_letter,
    public_key,
    seal_letter,
    split_secret,
    stream,
)
from soldiom_ray.federate.messages import SiteReport
from soldiom_ray.federate.secure_messages import (
    Announcement,
    Attempt,
    Group,
    Letters,
    Secure,
    Shares,
    Survivors,
    common_metrics,
    purpose,
    signed_text,
)
from soldiom_ray.federate.site_settings import Identity, fingerprint, is_signed_by
from soldiom_ray.records import Record
from soldiom_ray.storage import Storage

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from soldiom_ray.federate.masks import Numbers

    Arrays = Mapping[str, npt.NDArray[np.float32]]

SECRETS, REVEALED = "secrets.json", "revealed.json"
Kept = TypeVar("Kept", bound=Record)


class Secrets(Attempt):
    """What a site knows of an attempt; it is removed when it has revealed its shares, or the next round begins."""

    messages: str
    masks: str
    own_mask: str
    announcement: Announcement
    group: Group | None = None
    letters: Letters | None = None
    own_shares: tuple[str, str] = ("", "")
    received: Letters | None = None
    shares: dict[str, tuple[str, str]] = Field(default_factory=dict)
    """Sender -> shares of its own mask and of its mask key."""


class Revealed(Survivors):
    """The lasting mark: for which sum of a round this site has revealed its shares, and the shares."""

    answer: Shares


@dataclass(frozen=True)
class Place:
    """Which round, under which rules, and where in the storage a site keeps what it knows of it."""

    federation: str
    round: int
    task: str
    """Hash of what the coordinator sent."""
    secure: Secure
    storage: Storage
    prefix: str


class Member:
    """A site in one round. Every step may be asked for again, and is answered the same."""

    def __init__(self, identity: Identity, peers: Mapping[str, str], place: Place) -> None:
        """`peers` are the fingerprints of the certificates of other sites that its administrator has confirmed; where
        there are some, others are refused."""
        self.identity, self.peers, self.place = identity, peers, place
        self.name = identity.name

    def announce(self, asked: Attempt, report: SiteReport) -> Announcement:
        """Begin an attempt with new keys; secrets of an earlier one are lost. ConflictError where this site has
        revealed its shares in another attempt at the round."""
        if (mark := self._revealed()) is not None and mark.attempt != asked.attempt:
            raise ConflictError(
                f"This site has revealed its shares of round {self.place.round} for another attempt.",
                remedy="two sums of a round would tell single updates; another `train.seed` makes another federation",
            )
        known = self._secrets()
        if known is not None and known.attempt == asked.attempt:
            return known.announcement
        messages, masks = new_key(), new_key()
        own = Announcement(
            messages=public_key(messages),
            masks=public_key(masks),
            metrics=_measured(report),
            prompt_format=report.prompt_format,
            sequence_length=report.sequence_length,
            certificate=self.identity.certificate,
        )
        text = signed_text(self._purpose(asked.attempt), self.name, own)
        own = own.model_copy(update={"signature": self.identity.sign(text)})
        self._keep(
            Secrets(
                attempt=asked.attempt,
                messages=messages,
                masks=masks,
                own_mask=secrets.token_bytes(SECRET_BYTES).hex(),
                announcement=own,
            )
        )
        return own

    def share(self, group: Group) -> Letters:
        """Shares of both secrets, sealed for each other member. DeniedError for a member that is not who it says, or
        that the administrator has not confirmed; ConflictError for a group that hides nothing."""
        known = self._require(group.attempt)
        if known.group is not None:
            if known.group != group or known.letters is None:
                raise ConflictError("This site has shared its secrets with another group in this attempt.")
            return known.letters
        self._check(group, known)
        where, names = self._purpose(group.attempt), sorted(group.members)
        own = split_secret(bytes.fromhex(known.own_mask), self.place.secure.threshold, len(names))
        key = split_secret(bytes.fromhex(known.masks), self.place.secure.threshold, len(names))
        letters = {
            name: seal_letter(
                agreed_key(known.messages, group.members[name].messages, f"{where} letter of {self.name} to {name}"),
                json.dumps([own[position], key[position]]).encode(),
            )
            for position, name in enumerate(names)
            if name != self.name
        }
        mine = names.index(self.name)
        answer = Letters(attempt=group.attempt, letters=letters)
        update = {"group": group, "letters": answer, "own_shares": (own[mine], key[mine])}
        self._keep(known.model_copy(update=update))
        return answer

    def mask(self, received: Letters, update: "Arrays", report: SiteReport) -> "Numbers":
        """The update, its counts and metrics under this site's masks: random numbers to everybody else. ConflictError
        for other letters than before: two vectors of an attempt would tell masks."""
        known = self._require(received.attempt)
        group = _group_of(known)
        if known.received is not None and known.received != received:
            raise ConflictError("This site has masked its update for other sites in this attempt.")
        if known.received is None:
            known = known.model_copy(update={"received": received, "shares": self._opened(received, known, group)})
        values = vector(update, report, self.place.secure, common_metrics(group.members))
        masked = values + stream(bytes.fromhex(known.own_mask), len(values))
        for name in sorted(known.shares.keys() - {self.name}):
            key = agreed_key(known.masks, group.members[name].masks, f"{self._purpose(known.attempt)} mask")
            mask = stream(key, len(values))
            masked = masked + mask if self.name < name else masked - mask
        self._keep(known)
        return masked

    def reveal(self, survivors: Survivors) -> Shares:
        """Shares that remove what is left of the masks in the sum of these sites. ConflictError for another sum than
        one that was revealed before, and for fewer sites than the threshold."""
        names = tuple(sorted(set(survivors.names)))
        if (mark := self._revealed()) is not None:
            if (mark.attempt, mark.names) == (survivors.attempt, names):
                return mark.answer
            raise ConflictError(
                f"This site has revealed its shares of round {self.place.round} for the sum of"
                f" {', '.join(mark.names)}; it reveals no others.",
                remedy="own mask and mask key of one site together would show its update",
            )
        known = self._require(survivors.attempt)
        if len(names) < self.place.secure.threshold or self.name not in names or not known.shares.keys() >= set(names):
            raise ConflictError(
                f"This site reveals nothing for a sum of {len(names)} site(s): it takes {self.place.secure.threshold},"
                " this one among them, that have masked with one another."
            )
        answer = Shares(
            own_masks={name: known.shares[name][0] for name in names},
            mask_keys={name: share[1] for name, share in known.shares.items() if name not in names},
        )
        done = Revealed(attempt=survivors.attempt, names=names, answer=answer)
        self.place.storage.write(f"{self.place.prefix}/{REVEALED}", done.model_dump_json().encode())
        self.place.storage.remove(f"{self.place.prefix}/{SECRETS}")
        return answer

    def _check(self, group: Group, known: Secrets) -> None:
        secure, others = self.place.secure, group.members.keys() - {self.name}
        if group.members.get(self.name) != known.announcement or not others < set(secure.sites):
            raise ConflictError("The group is not one of the federation's sites that this site gave its keys for.")
        if len(group.members) < secure.threshold:
            raise ConflictError(f"{len(group.members)} site(s) are fewer than the threshold ({secure.threshold}).")
        keys = [key for each in group.members.values() for key in (each.messages, each.masks)]
        if len(set(keys)) < len(keys):
            raise ConflictError("Two sites of the group have the same key.")
        for name in others:
            member = group.members[name]
            if self.peers and self.peers.get(name) != fingerprint(member.certificate):
                raise DeniedError(
                    f"The certificate of site {name} is not one that this site's administrator confirmed.",
                    remedy="compare it with that site's administrator, then `soldiom site trust NAME FINGERPRINT`",
                )
            text = signed_text(self._purpose(group.attempt), name, member)
            if not is_signed_by(member.certificate, text, member.signature):
                raise DeniedError(f"The keys of site {name} are not signed by it for this round and task.")

    def _opened(self, received: Letters, known: Secrets, group: Group) -> dict[str, tuple[str, str]]:
        where = self._purpose(received.attempt)
        shares = {self.name: known.own_shares}
        for sender, letter in received.letters.items():
            if sender not in group.members or sender == self.name:
                raise ConflictError(f"A letter is of {sender[:60]!r}, which is no other member.")
            key = agreed_key(
                known.messages, group.members[sender].messages, f"{where} letter of {sender} to {self.name}"
            )
            try:
                own, mask = json.loads(open_letter(key, letter))
                shares[sender] = (str(own), str(mask))
            except ValueError as error:
                raise InputError(f"The letter of site {sender} holds no shares.") from error
        if len(shares) < self.place.secure.threshold:
            raise ConflictError(f"Only {len(shares)} of {self.place.secure.threshold} sites share their secrets.")
        return shares

    def _purpose(self, attempt: str) -> str:
        return purpose(self.place.federation, self.place.round, attempt, self.place.task)

    def _require(self, attempt: str) -> Secrets:
        known = self._secrets()
        if known is None or known.attempt != attempt:
            raise ConflictError("This site has no part in this attempt.", remedy="begin another one")
        return known

    def _secrets(self) -> Secrets | None:
        return self._read(SECRETS, Secrets)

    def _revealed(self) -> Revealed | None:
        return self._read(REVEALED, Revealed)

    def _read(self, name: str, kind: type[Kept]) -> Kept | None:
        key = f"{self.place.prefix}/{name}"
        return kind.model_validate_json(self.place.storage.read(key)) if self.place.storage.exists(key) else None

    def _keep(self, known: Secrets) -> None:
        self.place.storage.write(f"{self.place.prefix}/{SECRETS}", known.model_dump_json().encode())


def vector(update: "Arrays", report: SiteReport, secure: Secure, metrics: tuple[str, ...]) -> "Numbers":
    """What a site adds to the sum: [numbers of the update + COUNTS + metrics]. InputError for what does not fit."""
    import numpy as np

    weight = report.samples if secure.weighting == "samples" else EQUAL_WEIGHT
    measured = report.validation_samples if _measured(report) else 0
    flat = np.concatenate([np.empty(0, np.float32), *(update[name].ravel() for name in sorted(update))])
    counts = [encode(np.ones(1), count) for count in (weight, report.samples, measured)]
    values = np.array([report.metrics.get(name, 0.0) for name in metrics], np.float64)
    return np.concatenate([encode(flat, weight), *counts, encode(values, measured)])


def _measured(report: SiteReport) -> tuple[str, ...]:
    if not report.validation_samples:
        return ()
    return tuple(sorted(name for name, value in report.metrics.items() if abs(value) <= LARGEST))


def _group_of(known: Secrets) -> Group:
    if known.group is None:
        raise ConflictError("This site has not shared its secrets in this attempt.", remedy="begin another one")
    return known.group
