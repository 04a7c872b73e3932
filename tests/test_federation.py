"""Federated training over real HTTPS on the loopback interface: rounds, sites that are late or lost, what leaves."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from sites import Running, running_sites, small_encoder, start
from training import context_in

from soldiom_ray.artifacts import Context
from soldiom_ray.domains.access import access_through_api, check_access
from soldiom_ray.domains.federation import Federate
from soldiom_ray.domains.recipes import as_dict, validate_recipe
from soldiom_ray.domains.schema import Train
from soldiom_ray.errors import CancelledError, DeniedError, InputError, UnavailableError
from soldiom_ray.federate.aggregate import check_update, combine
from soldiom_ray.federate.coordinator import coordinate
from soldiom_ray.federate.outbox import Outbox
from soldiom_ray.models.load import load_run

LABELS = ("ham", "spam")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_encoder(tmp_path_factory.mktemp("base"))


def declared(base: Path, **values: Any) -> Train:
    return Train.model_validate(
        {
            "base_model": str(base), "task": "text_classification", "rank": 4, "epochs": 2, "batch_tokens": 64,
            "learning_rate": 0.01, "precision": "float32", "sequence_length": 32,
        } | values
    )  # fmt: skip


def federation(*sites: str, **values: Any) -> Federate:
    return Federate.model_validate({"sites": sites, "rounds": 3, "labels": LABELS, "round_seconds": 60} | values)


@pytest.fixture
def coordinator(tmp_path: Path) -> Context:
    return context_in(tmp_path / "coordinator")


@pytest.fixture
def sites(tmp_path: Path, coordinator: Context) -> Iterator[dict[str, Running]]:
    """Three sites, of which one has seen one label alone."""
    with running_sites(tmp_path, coordinator, {"a": LABELS, "b": LABELS, "c": ("ham",)}) as running:
        yield running


def run(context: Context, train: Train, declared: Federate) -> Any:
    return coordinate(context, train, declared, poll_seconds=0.02)


def test_sites_train_a_model_together_that_loads_and_says_how_it_was_made(
    base: Path, coordinator: Context, sites: dict[str, Running]
) -> None:
    made = run(coordinator, declared(base), federation("a", "b", "c"))
    told = made.details["federation"]
    losses = told["losses"]
    assert len(losses) == 4 and losses[-1] < losses[0] - 0.05
    assert [record["used"] for record in told["rounds"]] == [["a", "b", "c"]] * 3 + [[]]
    assert coordinator.artifacts.get(made.parents[0]).details["federation"] == {"a": 24, "b": 24, "c": 24}
    with load_run(coordinator.artifacts, coordinator.settings, made) as (model, _):
        assert model.config.id2label == {0: "ham", 1: "spam"}
    stored = b"".join(path.read_bytes() for path in coordinator.settings.home.rglob("*") if path.is_file())
    assert b"prize" not in stored and b"lunch" not in stored
    assert coordinator.artifacts.storage.keys(f"run/{made.id}/rounds") == []
    assert run(coordinator, declared(base), federation("a", "b", "c")) == made


def test_a_round_goes_on_without_the_site_that_is_late_and_the_one_that_is_gone(
    base: Path, coordinator: Context, sites: dict[str, Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One waits for its administrator longer than a round lasts; one does not answer."""
    sites["b"].site.site = sites["b"].site.site.model_copy(update={"approve": "each"})
    federate = federation("a", "b", "c", rounds=1, min_sites=1, round_seconds=1000)
    sites["c"].site.begin = lost  # type: ignore[method-assign]
    passed = [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed[0], sleep=time.sleep)
    monkeypatch.setattr("soldiom_ray.federate.rounds.time", clock)

    def hurry(fraction: float, message: str) -> None:
        passed[0] += 2000 * (": 1 of 3" in message)

    context = replace(coordinator, report=hurry)
    record, measured = run(context, declared(base, epochs=1), federate).details["federation"]["rounds"]
    assert record["used"] == ["a"] and record["sites"]["a"] == "came" and record["sites"]["b"] == "late"
    assert "does not answer" in record["sites"]["c"] and measured["sites"]["a"] == "came"


def test_a_site_that_is_down_at_the_start_joins_when_it_answers(
    base: Path, coordinator: Context, sites: dict[str, Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    sites["c"].stop()
    passed, told = [0.0], list[str]()
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed[0], sleep=time.sleep)
    monkeypatch.setattr("soldiom_ray.federate.rounds.time", clock)

    def hurry(fraction: float, message: str) -> None:
        passed[0] += 30 * message.startswith("round 1/3: 2 of 3")
        if message.startswith("round 2") and not sites["c"].thread.is_alive():
            sites["c"] = start(sites["c"].context)

    context = replace(coordinator, report=hurry, notify=told.extend)
    made = run(context, declared(base, epochs=1), federation("a", "b", "c"))
    first, _, third, _ = made.details["federation"]["rounds"]
    assert "Site c" in told[0] and "has a part from the round in which it does" in told[0]
    assert first["used"] == ["a", "b"] and third["used"] == ["a", "b", "c"]
    assert run(coordinator, declared(base, epochs=1), federation("a", "b", "c")) == made
    for running in sites.values():
        running.stop()
    with pytest.raises(UnavailableError, match="None of the 3 sites"):
        run(coordinator, declared(base, epochs=1), federation("a", "b", "c"))


def lost(data: bytes) -> Any:
    raise UnavailableError("The site does not answer.")


def test_too_few_updates_end_the_federation_and_the_error_names_every_site(
    base: Path, coordinator: Context, sites: dict[str, Running]
) -> None:
    send = sites["b"].site.outbox.put

    def poisoned(task: Any, digest: str, report: Any, update: bytes) -> Any:
        from soldiom_ray.federate.messages import SiteReport, pack, unpack

        _, tensors = unpack(update, SiteReport, "b")
        name = sorted(tensors)[0]
        tensors[name] = tensors[name].copy()
        tensors[name].flat[0] = np.nan
        return send(task, digest, report, pack(report, tensors))

    sites["b"].site.outbox.put = poisoned  # type: ignore[method-assign]
    with pytest.raises(UnavailableError) as caught:
        run(coordinator, declared(base, epochs=1), federation("a", "b", "c", min_sites=3))
    (problem,) = caught.value.problems
    assert problem.loc == "b" and "not finite" in problem.msg


def test_a_federation_that_was_stopped_repeats_no_round(
    base: Path, coordinator: Context, sites: dict[str, Running]
) -> None:
    trained: list[tuple[str, int]] = []
    for name, running in sites.items():
        running.site.train_round = counting(running.site.train_round, name, trained)  # type: ignore[method-assign]

    def stop(fraction: float, message: str) -> None:
        if message.startswith("round 2/3: 3"):
            raise CancelledError("stop")

    federate = federation("a", "b", "c")
    with pytest.raises(CancelledError):
        run(replace(coordinator, report=stop), declared(base, epochs=1), federate)
    sites["a"].stop()
    sites["a"] = start(sites["a"].context)
    sites["a"].site.train_round = counting(sites["a"].site.train_round, "a", trained)  # type: ignore[method-assign]
    made = run(coordinator, declared(base, epochs=1), federate)
    assert sorted(trained) == [(name, number) for name in "abc" for number in (1, 2, 3, 4)]
    assert len(made.details["federation"]["rounds"]) == 4


def counting(train: Any, name: str, trained: list[tuple[str, int]]) -> Any:
    def wrapped(task: Any, *rest: Any) -> None:
        trained.append((name, task.round))
        train(task, *rest)

    return wrapped


def test_nothing_leaves_a_site_before_its_administrator_has_seen_and_approved_it(
    base: Path, coordinator: Context, sites: dict[str, Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from soldiom_ray.cli.app import app

    site = sites["a"]
    site.site.site = site.site.site.model_copy(update={"approve": "each"})
    from soldiom_ray.federate.site_settings import save_site

    save_site(site.context.settings, site.site.site)
    results: list[Any] = []
    thread = threading.Thread(
        target=lambda: results.append(run(coordinator, declared(base, epochs=1), federation("a", "b", rounds=1)))
    )
    thread.start()
    monkeypatch.setenv("SOLDIOM_HOME", str(site.context.settings.home))
    command = CliRunner()
    seen = []
    while thread.is_alive():
        shown = json.loads(command.invoke(app, ["site", "pending", "--tensors", "--json"]).stdout)["items"]
        if shown:
            seen += shown
            with httpx.Client(verify=False) as client:
                headers = {"Authorization": f"Bearer {site.invitation.key}"}
                url = f"{site.invitation.address}/federations/{shown[0]['federation']}/rounds/{shown[0]['round']}"
                assert client.get(f"{url}/update", headers=headers).status_code == 409
                assert client.get(f"{url}/update", headers={"Authorization": "Bearer wrong"}).status_code == 401
            done = command.invoke(app, ["site", "approve", shown[0]["federation"], str(shown[0]["round"])])
            assert done.exit_code == 0, done.output
    thread.join()
    assert results and [item["round"] for item in seen] == [1, 2]
    first = seen[0]
    assert first["samples"] == 24 and first["norm"] > 0 and first["bytes"] > 0
    assert all(values["norm"] >= 0 and values["shape"] for values in first["tensors"].values()) and first["tensors"]
    left = json.loads(command.invoke(app, ["site", "pending", "--all", "--json"]).stdout)["items"]
    assert {item["state"] for item in left} == {"sent"}
    assert Outbox(site.site.artifacts.storage).entries()[0].report.samples == 24


def test_a_wrong_key_and_another_certificate_are_told_apart(coordinator: Context, sites: dict[str, Running]) -> None:
    from soldiom_ray.errors import UnauthenticatedError
    from soldiom_ray.federate.client import SiteClient

    a, b = sites["a"].invitation, sites["b"].invitation
    client = SiteClient(a.model_copy(update={"key": "x" * 40}))
    with pytest.raises(UnauthenticatedError, match="Site a"):
        client.info()
    client.close()
    with pytest.raises(UnavailableError, match="certificate"):
        SiteClient(a.model_copy(update={"certificate": b.certificate})).info()
    with pytest.raises(InputError, match="https"):
        SiteClient(a.model_copy(update={"address": "http://127.0.0.1:1"}))


def test_a_site_trains_no_base_that_its_administrator_did_not_allow(
    base: Path, coordinator: Context, sites: dict[str, Running]
) -> None:
    sites["a"].site.site = sites["a"].site.site.model_copy(update={"bases": ("builtin/*",)})
    with pytest.raises(UnavailableError) as caught:
        run(coordinator, declared(base), federation("a", "b", min_sites=2))
    assert caught.value.problems[0].loc == "a" and "trains no base" in caught.value.problems[0].msg


def test_trimmed_mean_and_krum_leave_a_harmful_update_out() -> None:
    dice = np.random.default_rng(1)
    honest = [{"w": dice.normal(1, 0.1, (4, 3)).astype(np.float32)} for _ in range(4)]
    harmful = {"w": np.full((4, 3), 1e6, np.float32)}
    plain, _ = combine([*honest, harmful], [1] * 5, federation(rounds=1))
    assert plain["w"].mean() > 1e5
    for aggregation in ("trimmed_mean", "krum"):
        declared = federation(aggregation=aggregation, min_sites=5)
        joined, chosen = combine([*honest, harmful], [1] * 5, declared)
        assert abs(joined["w"].mean() - 1) < 0.2
        assert aggregation == "trimmed_mean" or 4 not in chosen
    weighted, _ = combine([{"w": np.ones(1, np.float32)}, {"w": np.zeros(1, np.float32)}], [3, 1], federation())
    assert weighted["w"][0] == 0.75


@pytest.mark.parametrize(
    ("update", "said"),
    [
        ({"w": np.zeros(3, np.float32), "x": np.zeros(1, np.float32)}, "other tensors"),
        ({"w": np.zeros(4, np.float32)}, r"\[4\], not float32 \[3\]"),
        ({"w": np.zeros(3)}, "float64"),
        ({"w": np.array([0, np.inf, 0], np.float32)}, "not finite"),
    ],
)
def test_an_update_that_is_none_of_this_adapter_is_refused_by_its_site_s_name(update: Any, said: str) -> None:
    with pytest.raises(InputError, match=f"site north.*{said}"):
        check_update("north", update, {"w": np.zeros(3, np.float32)})


def test_the_proximal_term_keeps_a_site_near_where_it_began(base: Path, tmp_path: Path, coordinator: Context) -> None:
    norms = []
    with running_sites(tmp_path, coordinator, {"a": LABELS}) as _:
        for values in ({}, {"algorithm": "fedprox", "mu": 100.0}):
            federate = federation("a", rounds=1, min_sites=1, **values)
            norms.append(run(coordinator, declared(base), federate).details["federation"]["rounds"][0]["norms"]["a"])
    assert norms[1] < 0.7 * norms[0]


@pytest.mark.parametrize(
    ("train", "federate", "said"),
    [
        ({"method": "full"}, {}, "exchanges LoRA adapters"),
        ({"task": "text_classification"}, {"labels": ["ham"]}, "must name all labels"),
        ({"max_tokens": 10}, {}, "no `max_tokens`"),
        ({}, {"aggregation": "krum", "min_sites": 2}, "needs `min_sites: 5`"),
        ({}, {"mu": 1.0}, "`mu` belongs to"),
        ({}, {"sites": ["a", "a"]}, "names a site twice"),
        ({}, {"secure_aggregation": True, "aggregation": "krum", "min_sites": 5}, "which `secure_aggregation` hides"),
    ],
)
def test_what_cannot_be_federated_is_told_when_the_recipe_is_read(train: Any, federate: Any, said: str) -> None:
    with pytest.raises(InputError) as caught:
        validate_recipe({"name": "x", "train": train, "federate": federate})
    assert said in str(caught.value)


def test_sites_are_asked_for_those_who_run_the_server_alone(tmp_path: Path) -> None:
    recipe = validate_recipe({"name": "x", "train": {}, "federate": {"sites": ["a", str(tmp_path)]}})
    settings = context_in(tmp_path).settings
    with pytest.raises(DeniedError, match="Paths of the server"):
        check_access(recipe, access_through_api(settings, "default", is_admin=True))
    named = validate_recipe({"name": "x", "train": {}, "federate": {"sites": ["a", "b"]}})
    assert validate_recipe(as_dict(named)) == named  # as the command line and a job's row write it
    check_access(named, access_through_api(settings, "default", is_admin=True))
    for access in (
        access_through_api(settings, "other", is_admin=True),
        access_through_api(settings, "default", is_admin=False),
    ):
        with pytest.raises(DeniedError, match="Sites are asked only"):
            check_access(named, access)
