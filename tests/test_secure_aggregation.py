"""Secure aggregation: the coordinator's sum is right with and without dropouts, and no single update can be seen."""

import json
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sites import Running, running_sites, small_encoder, start
from test_federation import LABELS, declared, federation
from training import context_in
from typer.testing import CliRunner

from soldiom_ray.artifacts import Context
from soldiom_ray.cli.app import app
from soldiom_ray.errors import CancelledError, ConflictError, DeniedError, InputError, UnavailableError
from soldiom_ray.federate.coordinator import coordinate
from soldiom_ray.federate.masks import LARGEST, MOST_WEIGHT, decode, encode, join_secret, split_secret
from soldiom_ray.federate.messages import SiteReport
from soldiom_ray.federate.secure_messages import Attempt, Group, Letters, Secure, Survivors, purpose
from soldiom_ray.federate.secure_site import Member, Place, vector
from soldiom_ray.federate.secure_sum import Pending, unmask
from soldiom_ray.federate.site_settings import (
    SiteSettings,
    create_site,
    fingerprint,
    load_identity,
    load_site,
    save_site,
)
from soldiom_ray.models.load import load_run

FEDERATION, TASK, SIZE = "run-0123456789abcdef", "t" * 64, 50


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Context]:
    contexts = {name: context_in(tmp_path_factory.mktemp(name)) for name in "abcde"}
    for name, context in contexts.items():
        create_site(context.settings, SiteSettings(name=name, dataset="dataset-0"), "https://127.0.0.1:1")
    return contexts


@pytest.fixture
def number() -> int:
    """Of a round that no other test had."""
    return secrets.randbelow(1 << 40) + 1


def member(homes: dict[str, Context], name: str, number: int, threshold: int = 3, **values: Any) -> Member:
    """A site as it is after a start: all that it knows lies in its storage."""
    context = homes[name]
    secure = Secure(sites=tuple(homes), threshold=threshold)
    place = Place(FEDERATION, number, values.pop("task", TASK), secure, context.artifacts.storage, f"site/{number}")
    identity = load_identity(context.settings, SiteSettings(name=name, dataset=""))
    return Member(identity, values.pop("peers", {}), place)


def report_of(samples: int, **values: Any) -> SiteReport:
    return SiteReport(samples=samples, validation_samples=4, metrics={"validation_loss": samples / 10}, **values)


def updates_of(names: Sequence[str]) -> dict[str, tuple[dict[str, Any], SiteReport]]:
    dice = np.random.default_rng(3)
    return {
        name: ({"w": dice.normal(0, 0.02, SIZE).astype(np.float32)}, report_of(10 * (number + 1)))
        for number, name in enumerate(names)
    }


def announced(homes: dict[str, Context], names: Sequence[str], number: int, **values: Any) -> Group:
    asked = Attempt(attempt=secrets.token_hex(16))
    members = {name: member(homes, name, number, **values).announce(asked, report_of(1)) for name in names}
    return Group(attempt=asked.attempt, members=members)


def exchange(homes: dict[str, Context], group: Group, number: int) -> dict[str, Letters]:
    """The letters that each gets."""
    sent = {name: member(homes, name, number).share(group).letters for name in group.members}
    return {
        name: Letters(attempt=group.attempt, letters={by: own[name] for by, own in sent.items() if by != name})
        for name in group.members
    }


@pytest.mark.parametrize("survivors", [("a", "b", "c", "d", "e"), ("a", "c", "e"), ("b", "c", "d", "e")])
def test_the_sum_of_those_who_stay_is_the_weighted_mean_and_what_each_sends_is_random(
    homes: dict[str, Context], number: int, survivors: tuple[str, ...]
) -> None:
    group = announced(homes, "abcde", number)
    letters, updates = exchange(homes, group, number), updates_of("abcde")
    sent = {name: member(homes, name, number).mask(letters[name], *updates[name]) for name in "abcde"}
    assert all(0.2 < (vector_.astype(float) / 2**64).std() < 0.4 for vector_ in sent.values())
    total = np.sum([sent[name] for name in survivors], axis=0, dtype=np.uint64)
    asked = Survivors(attempt=group.attempt, names=survivors)
    shares = {name: member(homes, name, number).reveal(asked) for name in survivors}
    assert all(not told.own_masks.keys() & told.mask_keys.keys() for told in shares.values())
    pending = Pending(**asked.model_dump(), group=group, sharing=tuple("abcde"))
    where = purpose(FEDERATION, number, group.attempt, TASK)
    values = decode(unmask(total, pending, shares, 3, where), len(survivors))
    weight = sum(updates[name][1].samples for name in survivors)
    expected = sum(updates[name][0]["w"].astype(float) * updates[name][1].samples for name in survivors) / weight
    assert np.abs(values[:SIZE] / weight - expected).max() < 1e-8
    assert values[SIZE:-1].tolist() == [weight, weight, 4 * len(survivors)]
    assert abs(values[-1] - sum(4 * updates[name][1].samples / 10 for name in survivors)) < 1e-5
    few = dict(list(shares.items())[:2])
    with pytest.raises(InputError, match="2 of 3 sites revealed"):
        unmask(total, pending, few, 3, where)
    wrong = {name: told.model_copy(update={"own_masks": shares["c"].own_masks}) for name, told in shares.items()}
    with pytest.raises(InputError, match=r"do not belong together|makes no sense"):
        decode(unmask(total, pending, wrong, 3, where), len(survivors))


def test_a_coordinator_that_asks_for_both_secrets_of_a_site_is_refused_for_ever(
    homes: dict[str, Context], number: int
) -> None:
    group = announced(homes, "abcde", number)
    letters, updates = exchange(homes, group, number), updates_of("abcde")
    for name in "abcde":
        member(homes, name, number).mask(letters[name], *updates[name])
    everyone = Survivors(attempt=group.attempt, names=tuple("abcde"))
    first = member(homes, "a", number).reveal(everyone)
    assert member(homes, "a", number).reveal(everyone) == first  # the same question, by a coordinator started anew
    without = Survivors(attempt=group.attempt, names=tuple("abcd"))
    with pytest.raises(ConflictError, match=r"has revealed its shares .* for the sum of a, b, c, d, e"):
        member(homes, "a", number).reveal(without)
    with pytest.raises(ConflictError, match="for another attempt"):
        member(homes, "a", number).announce(Attempt(attempt=secrets.token_hex(16)), report_of(1))
    for names in ("bc", "bcx", "cde"):  # too few, one that is no member, without the site itself
        with pytest.raises(ConflictError, match="reveals nothing"):
            member(homes, "b", number).reveal(Survivors(attempt=group.attempt, names=tuple(names)))


def test_a_site_masks_once_in_an_attempt_and_shares_with_one_group(homes: dict[str, Context], number: int) -> None:
    group = announced(homes, "abcde", number)
    letters, updates = exchange(homes, group, number), updates_of("abcde")
    sent = member(homes, "a", number).mask(letters["a"], *updates["a"])
    assert (member(homes, "a", number).mask(letters["a"], *updates["a"]) == sent).all()
    fewer = letters["a"].model_copy(update={"letters": dict(list(letters["a"].letters.items())[:3])})
    with pytest.raises(ConflictError, match="has masked its update for other sites"):
        member(homes, "a", number).mask(fewer, *updates["a"])
    smaller = group.model_copy(update={"members": {name: group.members[name] for name in "abcd"}})
    with pytest.raises(ConflictError, match="with another group"):
        member(homes, "a", number).share(smaller)


def test_keys_that_the_coordinator_puts_in_or_that_are_for_another_task_are_refused(
    homes: dict[str, Context], number: int
) -> None:
    group = announced(homes, "abc", number)
    forged = group.members["c"].model_copy(update={"masks": group.members["b"].messages[::-1]})
    with pytest.raises(DeniedError, match="site c are not signed"):
        member(homes, "a", number).share(group.model_copy(update={"members": {**group.members, "c": forged}}))
    peers = {name: fingerprint(group.members[name].certificate) for name in "ab"}
    with pytest.raises(DeniedError, match="certificate of site c"):
        member(homes, "a", number, peers=peers).share(group)
    other = announced(homes, "c", number + 1, task="u" * 64).members["c"]
    with pytest.raises(DeniedError, match="site c are not signed"):
        member(homes, "a", number).share(group.model_copy(update={"members": {**group.members, "c": other}}))
    with pytest.raises(ConflictError, match="fewer than the threshold"):
        member(homes, "a", number).share(
            group.model_copy(update={"members": {name: group.members[name] for name in "ab"}})
        )
    letters = exchange(homes, group, number)
    swapped = {"b": letters["c"].letters["b"], "c": letters["a"].letters["c"]}
    with pytest.raises(InputError, match="not written for this site"):
        member(homes, "a", number).mask(Letters(attempt=group.attempt, letters=swapped), *updates_of("a")["a"])


def test_rules_that_hide_nothing_are_none() -> None:
    for names, threshold in (("ab", 2), ("abcd", 2), ("abc", 4), ("aab", 2)):
        with pytest.raises(ValueError):
            Secure(sites=tuple(names), threshold=threshold)


def test_shares_give_the_secret_back_from_the_threshold_on() -> None:
    secret = bytes(range(32))
    shares = dict(enumerate(split_secret(secret, 3, 5)))
    assert join_secret({position: shares[position] for position in (4, 0, 2)}) == secret
    with pytest.raises(InputError, match=r"do not belong together"):  # but once in 2**265
        join_secret({position: shares[position] for position in (0, 1)})


@pytest.mark.parametrize(
    ("values", "weight", "said"),
    [
        ([np.nan], 1, "not finite"),
        ([-np.inf], 1, "not finite"),
        ([2 * LARGEST], 1, "a number of 32"),
        ([1.0], MOST_WEIGHT + 1, "weight of"),
    ],
)
def test_what_does_not_fit_the_sum_is_refused_at_the_site(values: Any, weight: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        encode(np.array(values, np.float32), weight)


def test_all_updates_weigh_the_same_where_the_recipe_says_so() -> None:
    secure = Secure(sites=("a", "b", "c"), threshold=2, weighting="equal")
    parts = [({"w": np.full(2, value, np.float32)}, report_of(count)) for value, count in ((1, 5), (2, 50), (6, 1))]
    total = decode(np.sum([vector(*part, secure, ()) for part in parts], axis=0, dtype=np.uint64), 3)
    assert total[0] / total[2] == 3 and total[3] == 56


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_encoder(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Context:
    return context_in(tmp_path_factory.mktemp("coordinator"))


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory, coordinator: Context) -> Iterator[dict[str, Running]]:
    with running_sites(
        tmp_path_factory.mktemp("sites"), coordinator, {"a": LABELS, "b": LABELS, "c": ("ham",)}
    ) as running:
        yield running


def run(context: Context, base: Path, seed: int, **values: Any) -> Any:
    federate = federation("a", "b", "c", **{"rounds": 1, "secure_aggregation": True} | values)
    return coordinate(context, declared(base, epochs=1, seed=seed), federate, poll_seconds=0.02)


def weights(context: Context, made: Any) -> dict[str, Any]:
    with load_run(context.artifacts, context.settings, made) as (model, _):
        # beside the head of the base, which has none: it is drawn whenever the base is loaded, and not used
        return {k: tensor.numpy().copy() for k, tensor in model.state_dict().items() if "original_module" not in k}


def lost(*_: Any) -> Any:
    raise ConflictError("The site has lost its way.")


def test_a_secure_sum_makes_the_model_that_the_plain_mean_makes_and_tells_nothing_of_a_site(
    base: Path, coordinator: Context, three: dict[str, Running]
) -> None:
    plain, made = (run(coordinator, base, 1, secure_aggregation=secure) for secure in (False, True))
    for (name, one), other in zip(
        weights(coordinator, plain).items(), weights(coordinator, made).values(), strict=True
    ):
        assert np.abs(one - other).max() < 1e-6, name
    first, result = made.details["federation"]["rounds"]
    assert first["used"] == ["a", "b", "c"] and first["total_samples"] == 72
    assert first["samples"] == first["norms"] == {}
    for number, record in enumerate((first, result)):
        assert record["validation_loss"] == pytest.approx(plain.details["federation"]["losses"][number], abs=1e-5)
    assert coordinator.artifacts.get(made.parents[0]).details["federation"] == {"3 sites together": 72}
    entry = three["a"].site.outbox.entries()[-1]
    with pytest.raises(ConflictError, match="in a sum alone"):
        three["a"].site.update(entry.federation, entry.round)
    assert not [key for key in three["a"].site.artifacts.storage.keys("site") if key.endswith("secrets.json")]


def test_sites_that_drop_out_before_or_after_they_sent_do_not_end_a_round(
    base: Path, coordinator: Context, three: dict[str, Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = three["c"].site
    for seed, method, used in ((2, "share", ["a", "b"]), (3, "masked", ["a", "b"]), (4, "reveal", ["a", "b", "c"])):
        with monkeypatch.context() as patched:
            patched.setattr(site, method, lost)
            record, _ = run(coordinator, base, seed).details["federation"]["rounds"]
        assert record["used"] == used, method
        assert record["sites"]["c"] == ("came" if "c" in used else "Site c: The site has lost its way.")
        assert record["total_samples"] == 24 * len(used)


def test_a_round_with_too_few_ends_with_an_error_of_every_site_and_is_repeated_with_the_same_updates(
    base: Path, coordinator: Context, three: dict[str, Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        for name in "bc":
            patched.setattr(three[name].site, "masked", lost)
        with pytest.raises(UnavailableError, match="needs 2 of 3 sites that mask their updates to the end") as caught:
            run(coordinator, base, 5)
        assert [problem.loc for problem in caught.value.problems] == ["b", "c"]
    for name in "abc":
        monkeypatch.setattr(three[name].site, "train_round", only_the_second(three[name].site.train_round))
    assert run(coordinator, base, 5).details["federation"]["rounds"][0]["used"] == ["a", "b", "c"]


def only_the_second(train: Any) -> Any:
    def wrapped(task: Any, *rest: Any) -> None:
        assert task.round == 2
        train(task, *rest)

    return wrapped


def test_a_coordinator_killed_before_the_shares_goes_on_with_sites_that_were_started_anew(
    base: Path, coordinator: Context, three: dict[str, Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> Any:
        raise CancelledError("stop")

    with monkeypatch.context() as patched:
        patched.setattr("soldiom_ray.federate.secure_sum.unmask", killed)  # the shares have come, nothing is stored
        with pytest.raises(CancelledError):
            run(coordinator, base, 6)
    three["a"].stop()
    three["a"] = start(three["a"].context)
    assert run(coordinator, base, 6).details["federation"]["rounds"][0]["used"] == ["a", "b", "c"]


def test_an_update_with_numbers_that_are_not_finite_and_one_of_another_size_are_left_out(
    base: Path, coordinator: Context, three: dict[str, Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    from soldiom_ray.federate.messages import MASKED, SiteReport, pack, unpack

    put, masked = three["b"].site.outbox.put, three["c"].site.masked

    def poisoned(task: Any, digest: str, report: Any, update: bytes) -> Any:
        _, tensors = unpack(update, SiteReport, "b")
        return put(task, digest, report, pack(report, {name: array * np.nan for name, array in tensors.items()}))

    def shorter(*args: Any) -> bytes:
        asked, tensors = unpack(masked(*args), Attempt, "c")
        return pack(asked, {MASKED: tensors[MASKED][1:].copy()})

    monkeypatch.setattr(three["b"].site.outbox, "put", poisoned)
    monkeypatch.setattr(three["c"].site, "masked", shorter)
    with pytest.raises(UnavailableError) as caught:
        run(coordinator, base, 7)
    said = {problem.loc: problem.msg for problem in caught.value.problems}
    assert "not finite" in said["b"] and "masked update of site c has" in said["c"]


def test_a_site_whose_updates_leave_in_sums_alone_takes_part_in_nothing_else(
    base: Path, coordinator: Context, three: dict[str, Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = {"a": {"secure_only": True}, "b": {"peers": {"a": "0" * 64}}}
    for name, values in strict.items():
        monkeypatch.setattr(three[name].site, "site", three[name].site.site.model_copy(update=values))
    with pytest.raises(UnavailableError) as caught:
        run(coordinator, base, 8, secure_aggregation=False, min_sites=3)
    assert caught.value.problems[0].loc == "a" and "in sums alone" in caught.value.problems[0].msg
    with pytest.raises(UnavailableError) as caught:
        run(coordinator, base, 8, min_sites=3)
    assert caught.value.problems[0].loc == "b" and "has not confirmed site c" in caught.value.problems[0].msg


def test_an_administrator_confirms_other_sites_by_their_fingerprints(
    homes: dict[str, Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOLDIOM_HOME", str(homes["a"].settings.home))
    command = CliRunner()
    other = load_identity(homes["b"].settings, SiteSettings(name="b", dataset="")).certificate
    colons = ":".join(fingerprint(other)[at : at + 2] for at in range(0, 64, 2)).upper()
    shown = command.invoke(app, ["site", "trust", "b", colons, "--json"])
    assert [item["state"] for item in json.loads(shown.stdout)["items"]] == ["this site", "confirmed"]
    assert load_site(homes["a"].settings)[0].peers == {"b": fingerprint(other)}
    for words, said in ((["b", "abc"], "no fingerprint"), (["a", colons], "no other site"), (["b"], "is given")):
        refused = command.invoke(app, ["site", "trust", *words])
        assert refused.exit_code and said in str(refused.exception) + refused.output
    save_site(homes["a"].settings, SiteSettings(name="a", dataset="dataset-0"))
