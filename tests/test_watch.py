"""A version that took another's place by itself: watched, kept, or back by itself; with what chance wrongly."""

import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest
from api_server import serve

from soldiom_ray import launch, registry
from soldiom_ray.api import endpoints
from soldiom_ray.api.failures import store_failures
from soldiom_ray.db import answers, audit, deployments, feedback, models, usage, watches
from soldiom_ray.db.engine import open_session
from soldiom_ray.db.tables import Watch
from soldiom_ray.errors import BusyError, UnavailableError
from soldiom_ray.metrics.sequential import Count, evidence, rise, upper_bound
from soldiom_ray.monitor import watch
from soldiom_ray.records import application_name, new_id, now
from soldiom_ray.settings import Settings

OPTIONS = {"margin": 0.05, "error": 0.05}


def test_a_rise_is_found_where_there_is_none_no_more_often_than_stated_however_often_one_looks() -> None:
    drawn = random.Random(17)
    alarms = 0
    for _ in range(200):
        before = Count(sum(drawn.random() < 0.3 for _ in range(100)), 100)
        events = 0
        for trial in range(1, 401):
            events += drawn.random() < 0.35  # the largest share that is no rise
            if trial % 10 == 0 and rise(before, Count(events, trial), **OPTIONS).shown:
                alarms += 1
                break
    assert alarms <= 200 * OPTIONS["error"]


@pytest.mark.parametrize(("share", "most"), [(0.9, 60), (0.7, 200)])
def test_a_rise_is_found_after_few_trials(share: float, most: int) -> None:
    before = Count(60, 200)
    needed = next(n for n in range(1, 2000) if rise(before, Count(round(share * n), n), **OPTIONS).shown)
    assert needed <= most


def test_nothing_is_known_without_trials_and_all_is_certain_against_a_share_of_zero() -> None:
    assert upper_bound(Count(0, 0), 0.05) == 1 and not rise(Count(0, 0), Count(50, 50), **OPTIONS).shown
    assert upper_bound(Count(5, 10), 0.05) > 0.5 and upper_bound(Count(10, 10), 0.05) == 1
    assert evidence(Count(0, 0), 0.5) == pytest.approx(1)
    assert evidence(Count(100_000, 100_000), 0.1) == float("inf")


class Versions:
    """Two served versions of one name, of which the newer is watched for a week that began an hour ago."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.changed = settings, now() - timedelta(hours=1)
        with open_session(settings) as session:
            name = f"v{new_id()[-12:]}"
            made = [models.create(session, family="fine-tuned", name=name) for _ in range(2)]
            self.before, self.since = (row.id for row in made)
            deployments.set_state(session, self.before, "running")
            deployments.set_state(session, self.since, "running")
            row = watches.begin(session, models.get(session, self.since))
            assert row is not None and row.previous_id == self.before
            row.started_at, row.ends_at = self.changed, self.changed + watches.WINDOW
            self.watch_id = row.id

    def rate(self, model_id: str, down: int, up: int, *, users: int = 10, seconds: float = 1.0) -> None:
        at = self.changed + timedelta(minutes=1 if model_id == self.since else -1)
        with open_session(self.settings) as session:
            for place in range(down + up):
                exchange = answers.Exchange({"form": "chat", "messages": [{"role": "user", "content": "q"}]}, "a")
                rater = f"{'down' if place < down else 'up'}-{place % users}"
                columns: dict[str, Any] = {"id": new_id(), "tenant": "default", "model_id": model_id, "owner": "k"}
                answer = answers.add(session, exchange, (), **columns, user_id=rater, seconds=seconds, created_at=at)
                rating = "down" if place < down else "up"
                said = {"user_id": rater, "rating": rating, "correction": "", "reason": "", "encryption_keys": ()}
                feedback.give(session, answer, **said).created_at = at

    def look(self) -> str:
        watch.look(self.settings)
        with open_session(self.settings) as session:
            return session.get_one(Watch, self.watch_id).status

    def row(self) -> dict[str, Any]:
        with open_session(self.settings) as session:
            return watches.as_dict(session.get_one(Watch, self.watch_id))


@pytest.fixture
def versions(api_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Versions]:
    """Without Serve and MLflow: a version is undeployed in its row, and is no champion."""

    def undeploy(settings: Settings, model_id: str, tenant: str | None) -> None:
        with open_session(settings) as session:
            deployments.set_state(session, model_id, "stopped")

    monkeypatch.setattr(launch, "undeploy", undeploy)
    made = Versions(api_settings)
    yield made
    with open_session(api_settings) as session:
        session.get_one(Watch, made.watch_id).status = watches.ENDED


def test_a_version_that_users_call_bad_goes_back_and_the_trail_says_why(versions: Versions) -> None:
    versions.rate(versions.before, down=10, up=40)
    versions.rate(versions.since, down=4, up=16)
    assert versions.look() == "watching"
    versions.rate(versions.since, down=60, up=0)
    assert versions.look() == "withdrawn"
    with open_session(versions.settings) as session:
        [row] = [each for each in audit.list_rows(session, "default")[0] if each.object == versions.since]
        assert (row.actor, row.action) == ("watch", "watch: go back")
        assert row.details["previous"] == versions.before and "Bad ratings" in row.details["reason"]
        assert models.get(session, versions.before).deployed and not models.get(session, versions.since).deployed
    assert versions.look() == "withdrawn"  # and nothing more happens


def test_one_user_who_calls_everything_bad_sends_nothing_back(versions: Versions) -> None:
    versions.rate(versions.before, down=10, up=40)
    versions.rate(versions.since, down=300, up=0, users=1)
    assert versions.look() == "watching"
    assert versions.row()["figures"]["bad_ratings"]["since"] == [watches.MOST_OF_ONE_USER, watches.MOST_OF_ONE_USER]


def test_slow_and_failed_answers_send_a_version_back(versions: Versions) -> None:
    versions.rate(versions.before, down=0, up=50)
    with open_session(versions.settings) as session:
        usage.add(session, tenant="default", model_id=versions.before, requests=50)
        session.flush()
    versions.rate(versions.since, down=0, up=80, seconds=9.0)
    assert versions.look() == "withdrawn"
    assert "Slow answers: 80 of 80 after 0 of 50" in versions.row()["reason"]


def test_failures_of_calls_reach_the_watch_and_full_queues_do_not(versions: Versions) -> None:
    name = application_name(versions.since)
    for error in (UnavailableError("down"), BusyError("full"), RuntimeError("x")):
        endpoints._counted(name, error)
    store_failures(versions.settings)
    with open_session(versions.settings) as session:
        hour = now() - timedelta(hours=2)
        assert usage.of_model(session, versions.since, since=hour, until=now()) == (2, 2)
    assert endpoints.take_failures() == {}


def test_a_week_without_a_fall_keeps_the_version_and_somebody_elses_decision_ends_the_watch(versions: Versions) -> None:
    with open_session(versions.settings) as session:
        session.get_one(Watch, versions.watch_id).ends_at = now() - timedelta(seconds=1)
    assert versions.look() == "kept" and versions.row()["ended_at"]
    other = Versions(versions.settings)
    with open_session(versions.settings) as session:
        deployments.set_state(session, other.since, "stopped")
    assert other.look() == "ended"


def test_two_watchers_do_it_once_and_one_that_died_halfway_is_gone_on_with(
    versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def step_down(settings: Settings, model_id: str, previous_id: str, *, actor: str) -> bool:
        calls.append(model_id)
        if len(calls) == 1:
            raise UnavailableError("MLflow is not reachable.")
        return True

    monkeypatch.setattr(registry, "step_down", step_down)
    versions.rate(versions.before, down=0, up=50)
    versions.rate(versions.since, down=60, up=0)
    assert versions.look() == "withdrawing"  # the first try ended on the way
    threads = [threading.Thread(target=watch.look, args=(versions.settings,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert versions.look() == "withdrawn" and len(calls) == 2
    with open_session(versions.settings) as session:
        rows = [each for each in audit.list_rows(session, "default")[0] if each.object == versions.since]
    assert len(rows) == 1


def test_the_version_before_is_served_again_first_where_it_is_not(
    versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[Any] = []

    def launch_job(settings: Settings, recipe: Any, **options: Any) -> dict[str, Any]:
        launched.append((recipe.version, options["owner"]))
        return {"id": "01a2"}

    monkeypatch.setattr(launch, "launch_job", launch_job)
    versions.rate(versions.before, down=0, up=50)
    versions.rate(versions.since, down=60, up=0)
    with open_session(versions.settings) as session:
        deployments.set_state(session, versions.before, "stopped")
    assert versions.look() == "withdrawing" and launched == [(versions.before, "watch")]
    with open_session(versions.settings) as session:
        assert models.get(session, versions.since).deployed  # something answers all the time
        deployments.set_state(session, versions.before, "running")
    assert versions.look() == "withdrawn"


def test_what_answers_cost_is_counted_by_key_user_and_model_and_an_unforeseen_error_loses_no_answer(
    api_settings: Settings, api_keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def call(name: str, method: str, request: dict[str, Any]) -> Any:
        return {"outputs": [{"text": "y", "finish_reason": "stop", "prompt_tokens": 3, "completion_tokens": 2}]}

    monkeypatch.setattr(endpoints, "call", call)
    with open_session(api_settings) as session:
        model_id = models.create(session, family="fine-tuned", name="costs", deployed=True).id
    server = serve(api_settings)
    headers = {"Authorization": f"Bearer {api_keys['user']}"}
    with httpx.Client(base_url=next(server), headers=headers, timeout=30) as client:
        for user in ("ada", "ada", "bob"):
            assert client.post(f"/api/inference/{model_id}", json={"input": "x", "user_id": user}).status_code == 200
        monkeypatch.setattr(answers, "add", lambda *_, **__: 1 / 0)
        unstored = client.post(f"/api/inference/{model_id}", json={"input": "x"})
        assert unstored.status_code == 200 and unstored.json()["id"] is None
    next(server, None)
    with open_session(api_settings) as session:
        assert usage.of_model(session, model_id, since=now() - timedelta(hours=2), until=now()) == (0, 3)


def test_a_first_version_is_not_watched_and_no_version_twice(api_settings: Settings, versions: Versions) -> None:
    with open_session(api_settings) as session:
        first = models.create(session, family="fine-tuned", name="alone", deployed=True)
        assert watches.begin(session, first) is None
        again = watches.begin(session, models.get(session, versions.since))
        assert again is not None and again.id == versions.watch_id


def canary(versions: Versions, share: float) -> str:
    """The newer version gets a share of the requests to the name, from an hour ago; the name."""
    with open_session(versions.settings) as session:
        deployments.set_state(session, versions.since, "running", config={"share": share})
        row = models.get(session, versions.since)
        return f"{row.family}/{row.name}"


class Handles:
    """Stands for Ray Serve's handles: applications that answer, and those that fail."""

    def __init__(self, *failing: str) -> None:
        self.failing, self.asked = failing, list[str]()

    async def __call__(self, name: str) -> Any:
        class Handle:
            class generate:  # noqa: N801
                @staticmethod
                async def remote(request: dict[str, Any]) -> Any:
                    self.asked.append(name.removeprefix(application_name("")))
                    if name in self.failing:
                        raise UnavailableError("The process died.")
                    return {"outputs": [{"text": "y", "finish_reason": "stop", **COUNTS} for _ in request["inputs"]]}

        return Handle


COUNTS = {"prompt_tokens": 3, "completion_tokens": 2}


def test_a_canary_gets_its_share_and_goes_back_by_itself_when_its_answers_fail(
    versions: Versions, api_keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = canary(versions, 0.25)
    with open_session(versions.settings) as session:
        row = session.get_one(Watch, versions.watch_id)
        row.started_at, row.ends_at = now(), now() + watches.WINDOW
    handles = Handles(application_name(versions.since))
    monkeypatch.setattr(endpoints, "_handle", handles)
    random.seed(4)
    server = serve(replace(versions.settings, rate_limit="100000/minute"))
    headers = {"Authorization": f"Bearer {api_keys['user']}"}
    with httpx.Client(base_url=next(server), headers=headers, timeout=30) as client:
        statuses = [client.post(f"/api/inference/{name}", json={"input": "x"}).status_code for _ in range(120)]
        assert set(handles.asked) == {versions.before, versions.since}
        assert 15 < handles.asked.count(versions.since) < 45 and statuses.count(200) == handles.asked.count(
            versions.before
        )
        assert client.post(f"/api/inference/{versions.before}", json={"input": "x"}).status_code == 200
        store_failures(versions.settings)
        assert versions.look() == "withdrawn"
        handles.asked.clear()
        assert {client.post(f"/api/inference/{name}", json={"input": "x"}).status_code for _ in range(20)} == {200}
        assert set(handles.asked) == {versions.before}
    next(server, None)
    assert "Failed answers" in versions.row()["reason"]


def test_a_canary_is_compared_with_the_version_beside_it_and_watched_anew_when_it_comes_again(
    versions: Versions,
) -> None:
    canary(versions, 0.25)
    versions.rate(versions.before, down=0, up=50)  # in the month before: fast
    versions.rate(versions.since, down=0, up=80, seconds=9.0)
    versions.changed += timedelta(minutes=2)
    versions.rate(versions.before, down=0, up=50, seconds=9.0)  # since: as slow as the canary
    assert versions.look() == "watching" and not versions.row()["figures"]["slow_answers"]["since"][0]
    versions.rate(versions.since, down=0, up=80, seconds=30.0)
    assert versions.look() == "withdrawn"
    canary(versions, 0.25)
    with open_session(versions.settings) as session:
        row = watches.begin(session, models.get(session, versions.since), again=True)
        assert row is not None and row.id == versions.watch_id and row.status == "watching" and not row.reason


def test_of_a_name_a_canary_answers_by_its_share_and_never_where_nothing_is_drawn(versions: Versions) -> None:
    name = canary(versions, 0.25)
    with open_session(versions.settings) as session:
        assert models.get_served(session, name).id == versions.before
        newest = models.get(session, versions.since)
        assert models.shares(session, newest) == {versions.since: 0.25, versions.before: 0.75}
        assert models.get_served(session, name, None, lambda: 0.2).id == versions.since
        assert models.get_served(session, name, None, lambda: 0.3).id == versions.before
        assert models.get_served(session, versions.since, None, lambda: 0.3).id == versions.since
        deployments.set_state(session, versions.before, "stopped")
        session.flush()
        assert models.get_served(session, name, None, lambda: 0.3).id == versions.since  # nobody else is there
