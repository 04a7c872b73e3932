"""What is used, by whom; and quotas and budgets, which refuse requests and jobs and stop jobs that run."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from api_server import UPLOAD, problem, serve

from soldiom_ray import heartbeat as heartbeats
from soldiom_ray.api import endpoints
from soldiom_ray.api import quotas as request_quotas
from soldiom_ray.db import jobs, keys, models, quotas, usage
from soldiom_ray.db.engine import open_session
from soldiom_ray.db.tables import Quota
from soldiom_ray.domains.schema import Recipe
from soldiom_ray.errors import BusyError, CancelledError
from soldiom_ray.heartbeat import Heartbeat
from soldiom_ray.launch import create_job
from soldiom_ray.settings import Settings

COUNTS = {"prompt_tokens": 30, "completion_tokens": 20}


@pytest.fixture(scope="module")
def settings(api_settings: Settings) -> Settings:
    return replace(api_settings, rate_limit="100000/minute")


@pytest.fixture(scope="module")
def urls(settings: Settings) -> Iterator[list[str]]:
    """Two replicas of the API, on one database."""
    servers = [serve(settings) for _ in range(2)]
    yield [next(server) for server in servers]
    for server in servers:
        next(server, None)


@pytest.fixture(scope="module")
def model_id(settings: Settings) -> str:
    with open_session(settings) as session:
        return models.create(session, family="fine-tuned", name="metered", deployed=True, tenant="metered").id


@pytest.fixture
def admin(urls: list[str], settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    """An admin of a tenant without quotas, whose model answers with 50 tokens."""

    async def call(name: str, method: str, request: dict[str, Any]) -> Any:
        return {"outputs": [{"text": "y" * 40, "finish_reason": "stop", **COUNTS} for _ in request.get("inputs", [0])]}

    monkeypatch.setattr(endpoints, "call", call)
    monkeypatch.setattr(request_quotas, "KNOWN_SECONDS", 0.0)
    with client_of(urls[0], settings, "admin") as client:
        yield client
    with open_session(settings) as session:
        session.query(Quota).delete()


def client_of(url: str, settings: Settings, role: str) -> httpx.Client:
    with open_session(settings) as session:
        row, plain = keys.create(session, role, role, "metered")
    client = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {plain}"}, timeout=30)
    client.headers["x-key-id"] = row.id
    return client


def tokens_of(admin: httpx.Client) -> int:
    items = admin.get("/api/usage").json()["items"]
    return sum(item["prompt_tokens"] + item["completion_tokens"] for item in items)


def ask(client: httpx.Client, model_id: str, **body: Any) -> httpx.Response:
    return client.post(f"/api/inference/{model_id}", json={"input": "What is it?"} | body)


def test_usage_is_told_by_key_user_model_and_job_and_a_key_sees_its_own(
    admin: httpx.Client, urls: list[str], settings: Settings, model_id: str
) -> None:
    with client_of(urls[1], settings, "user") as user:
        for name in ("ada", "ada", "bob"):
            assert ask(user, model_id, user_id=name).status_code == 200
        assert user.post(UPLOAD, json={"user_id": "ada", "input_type": "text", "content": "x" * 500}).status_code == 201
        assert ask(admin, model_id).status_code == 200
        own = user.get("/api/usage", params={"by": ["user", "model"]}).json()["items"]
        of_ada = next(item for item in own if (item["user"], item["model"]) == ("ada", model_id))
        assert (of_ada["requests"], of_ada["prompt_tokens"], of_ada["completion_tokens"]) == (2, 60, 40)
        assert next(item for item in own if item["model"] == "")["bytes"] == 500
        file = {"file": ("a.txt", b"A file of somebody.", "text/plain")}
        assert admin.post(UPLOAD, files=file, data={"user_id": "ada"}).status_code == 201
        assert [item["size_bytes"] for item in user.get(UPLOAD).json()["items"]] == [500]
        assert len(admin.get(UPLOAD).json()["items"]) == 2
        key_id = user.headers["x-key-id"]
        assert {item["key"] for item in user.get("/api/usage", params={"by": "key"}).json()["items"]} == {key_id}
    everybody = admin.get("/api/usage", params={"by": "key"}).json()["items"]
    assert {item["key"] for item in everybody} == {key_id, admin.headers["x-key-id"]}
    costs = admin.get(f"/api/models/{model_id}/metrics").json()["costs"]
    assert (costs["requests"], costs["prompt_tokens"], costs["bytes"] > 160) == (4, 120, True)
    with open_session(settings) as session:
        usage.add(session, tenant="metered", model_id=model_id, errors=2)
    answer_id = ask(admin, model_id).json()["id"]
    assert admin.post("/api/feedback", json={"answer_id": answer_id, "rating": "up"}).status_code == 201
    [today] = admin.get(f"/api/models/{model_id}/metrics").json()["by_day"]
    assert (today["answers"], today["errors"], today["completion_tokens"]) == (5, 2, 100)
    assert 0 <= today["p50_seconds"] <= today["p95_seconds"] and today["mean_seconds"] >= 0
    assert (today["ratings"], today["satisfaction"]) == (1, 1.0)
    problem(admin.get("/api/usage", params={"since": "2026-01-01T00:00:00"}), 422)
    problem(admin.get("/api/usage", params={"by": ["job", "key"]}), 422)


@pytest.mark.parametrize("whose", ["key", "user", "tenant"])
def test_a_quota_of_tokens_is_one_for_all_replicas_and_says_when_it_is_renewed(
    admin: httpx.Client, urls: list[str], settings: Settings, model_id: str, whose: str
) -> None:
    with client_of(urls[0], settings, "user") as here, client_of(urls[1], settings, "user") as elsewhere:
        elsewhere.headers["Authorization"] = here.headers["Authorization"]
        name = f"eve-{whose}"
        subject = {"key": f"key:{here.headers['x-key-id']}", "user": f"user:{name}", "tenant": ""}[whose]
        used = tokens_of(admin) if whose == "tenant" else 0
        body = {"subject": subject, "resource": "tokens", "period": "day", "amount": used + 100}
        assert admin.put("/api/quotas", json=body).json()["amount"] == used + 100
        first = ask(here, model_id, user_id=name)
        assert '"tokens";r=100;t=' in first.headers["ratelimit"]
        assert f'"tokens";q={used + 100};w=86400' in first.headers["ratelimit-policy"]
        assert ask(elsewhere, model_id, user_id=name).status_code == 200
        refused = ask(here, model_id, user_id=name)
        assert "tokens a day is used up" in problem(refused, 429)["detail"]
        assert 0 < int(refused.headers["retry-after"]) <= 86400 and refused.headers["ratelimit"]
        chat = {"model": model_id, "messages": [{"role": "user", "content": "x"}], "user": name}
        problem(elsewhere.post("/v1/chat/completions", json=chat), 429)
        if whose == "user":
            assert ask(here, model_id, user_id="somebody").status_code == 200
        problem(here.put("/api/quotas", json=body), 403)
        [shown] = admin.get("/api/quotas").json()["items"]
        own = [item["used"] for item in here.get("/api/quotas").json()["items"]]
        assert shown["used"] == used + 100 and own == [used + 100] * (whose != "user")
        assert admin.put("/api/quotas", json=body | {"amount": None}).status_code == 200
        assert ask(here, model_id, user_id=name).status_code == 200
        problem(admin.put("/api/quotas", json=body | {"subject": "nobody"}), 422)


def test_a_quota_of_bytes_refuses_uploads_too(admin: httpx.Client, urls: list[str], settings: Settings) -> None:
    with client_of(urls[0], settings, "user") as user:
        admin.put(
            "/api/quotas", json={"subject": f"key:{user.headers['x-key-id']}", "resource": "bytes", "amount": 100}
        )
        upload = {"user_id": "zoe", "input_type": "text", "content": "x" * 100}
        assert user.post(UPLOAD, json=upload).status_code == 201
        assert "bytes a month" in problem(user.post(UPLOAD, json=upload), 429)["detail"]


def test_a_budget_of_device_minutes_stops_a_job_and_refuses_the_next(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeats, "HEARTBEAT_SECONDS", 0.02)
    recipe = Recipe.model_validate({"name": "costly", "collect": [{"source": "local", "path": "/x"}]})
    with open_session(settings) as session:
        quotas.put(session, "spender", "", "device_minutes", "month", 1)
        job = create_job(session, recipe, kind="workflow", tenant="spender", owner="k1")
        jobs.update(session, job.id, status="running")
    beating = Heartbeat(settings, job.id)
    beating.devices = 600  # of a second each: ten minutes of devices
    with pytest.raises(CancelledError):
        while True:
            beating.report(0.5, "training")
            beating.cancelled.wait(0.01)
    assert beating.refusal is not None and beating.fail(beating.refusal) == 1
    with open_session(settings) as session:
        ended = jobs.as_dict(jobs.get(session, job.id))
        assert ended["status"] == "failed" and "budget of this tenant of 1 device minutes" in ended["error"]
        assert 60 < ended["device_seconds"] < 6000
        span = {
            "since": job.created_at.replace(day=1, hour=0, minute=0, second=0, microsecond=0),
            "until": job.created_at.replace(year=2999),
        }
        [told] = usage.report(session, "spender", ["key"], **span)
        assert told["key"] == "k1" and told["device_seconds"] == pytest.approx(ended["device_seconds"], abs=0.01)
        [alone] = usage.of_jobs(session, "spender", **span)
        assert alone["job"] == job.id and usage.totals(session)["workflow"] >= 60
    with pytest.raises(BusyError, match="used up"), open_session(settings) as session:
        create_job(session, recipe, kind="workflow", tenant="spender", owner="k2")
    with open_session(settings) as session:
        assert len(jobs.list_jobs(session, "spender")[0]) == 1
        assert create_job(
            session, recipe, kind="deploy", tenant="spender", owner="watch"
        ).id  # going back costs nothing
