"""The API over HTTP: who may call what, what leaves a trace, what other tenants see."""

from dataclasses import replace
from typing import Any

import httpx
from api_server import artifact, problem, routes, serve

from soldiom_ray.api.auth import ROLE
from soldiom_ray.db import audit, datasets, inputs, jobs, keys, models
from soldiom_ray.db.engine import open_session
from soldiom_ray.records import ROLES
from soldiom_ray.settings import Settings


def test_every_route_declares_a_role_and_is_of_the_guarded_kind(api_settings: Settings) -> None:
    declared = routes(api_settings)
    assert len(declared) > 25
    for route in declared:
        assert type(route).__name__ == "GuardedRoute", route
        assert (route.openapi_extra or {}).get(ROLE) in (*ROLES, "anyone", "local or admin"), route.path


def test_every_call_is_refused_without_a_key_and_to_each_role_below_its_own(
    api_settings: Settings, api_url: str, api_keys: dict[str, str]
) -> None:
    with httpx.Client(base_url=api_url) as client:
        for route in routes(api_settings):
            role = (route.openapi_extra or {})[ROLE]
            path = route.path_format.format(**dict.fromkeys(route.param_convertors, "no-such-id"))
            for method in route.methods or ():
                if role not in ROLES:
                    assert client.request(method, path).status_code in (200, 307, 503)
                    continue
                refused = problem(client.request(method, path), 401)
                assert "sld_" in refused["remedy"]
                assert client.request(method, path).headers["www-authenticate"].startswith("Bearer")
                problem(client.request(method, path, headers={"Authorization": "Bearer sld_00000000_x"}), 401)
                for other in ROLES:
                    answer = client.request(method, path, headers={"Authorization": f"Bearer {api_keys[other]}"})
                    allowed = ROLES.index(other) >= ROLES.index(role)
                    assert (answer.status_code not in (401, 403)) is allowed, (method, path, other, answer.text)
                    assert answer.status_code < 500 or answer.status_code == 503, (method, path, answer.text)


def test_a_refused_viewer_leaves_one_row_in_the_trail_that_an_admin_reads(
    api_settings: Settings, api_url: str, api_keys: dict[str, str], api: httpx.Client
) -> None:
    before = len(api.get("/api/audit", params={"limit": 200}).json()["items"])
    refused = httpx.delete(api_url + "/api/models/abc", headers={"Authorization": f"Bearer {api_keys['viewer']}"})
    assert "viewer" in problem(refused, 403)["detail"]
    items = api.get("/api/audit", params={"limit": 200}).json()["items"]
    assert len(items) == before + 1
    row = items[0]
    assert (row["action"], row["object"], row["decision"]) == (
        "DELETE /api/models/{model_id}",
        "/api/models/abc",
        "deny",
    )
    assert row["details"] == {"key": "viewer", "role": "viewer", "needs": "trainer"}
    assert api.get("/api/audit/verify").json() == {"holds": True, "first_bad": None}
    with open_session(api_settings) as session:
        assert audit.verify(session) is None


def test_another_tenants_things_are_not_found_whatever_the_verb_and_in_no_list(
    api_settings: Settings, api_url: str, api_keys: dict[str, str], api: httpx.Client
) -> None:
    with open_session(api_settings) as session:
        job = jobs.create(session, name="mine", kind="train", config={})
        model = models.create(session, family="fine-tuned", name="mine", deployed=True)
        dataset = datasets.record(session, artifact("dataset", 1), name="mine", source="local", stage="dataset")
        mine = inputs.add(session, user_id="u", input_type="text", content="x", sha256="0", size_bytes=1)
        row, _ = keys.create(session, "viewer", "mine")
        jobs.set_stage(session, job.id, "train", artifact_id="run-00000000000000aa")
    body = {"name": "x", "base_model": "builtin/tiny"}
    calls: list[tuple[str, str, Any]] = [
        ("GET", f"/api/training/jobs/{job.id}", None),
        ("DELETE", f"/api/training/jobs/{job.id}", None),
        ("GET", f"/api/training/jobs/{job.id}/logs", None),
        ("GET", f"/api/training/jobs/{job.id}/logs?follow=true", None),
        ("GET", f"/api/training/jobs/{job.id}/metrics", None),
        ("GET", f"/api/models/{model.id}", None),
        ("GET", "/api/models/mine", None),
        ("GET", f"/api/models/{model.id}/metrics", None),
        ("DELETE", f"/api/models/{model.id}", None),
        ("POST", f"/api/models/{model.id}/deploy", {}),
        ("DELETE", f"/api/models/{model.id}/deploy", None),
        ("POST", f"/api/inference/{model.id}", {"input": "x"}),
        ("POST", f"/api/inference/{model.id}/batch", {"inputs": ["x"]}),
        ("GET", f"/api/datasets/{dataset.id}", None),
        ("GET", f"/api/datasets/{dataset.artifact_id}", None),
        ("POST", "/api/search", {"query": "x", "index": dataset.id}),
        ("POST", "/api/training/jobs", body | {"dataset_id": dataset.id}),
        ("POST", "/api/training/jobs", {"recipe": {"name": "x", "version": model.id, "deploy": {}}}),
        ("POST", "/api/training/jobs", {"recipe": {"name": "x", "run": "run-00000000000000aa", "evaluate": {}}}),
        (
            "POST",
            "/api/training/jobs",
            {"recipe": {"name": "x", "collect": [{"source": "files", "inputs": [mine.id]}]}},
        ),
        ("DELETE", f"/api/keys/{row.id}", None),
    ]
    with httpx.Client(base_url=api_url, headers={"Authorization": f"Bearer {api_keys['other']}"}) as other:
        for method, path, content in calls:
            answer = other.request(method, path, json=content) if content is not None else other.request(method, path)
            problem(answer, 404)
        for path in ("/api/training/jobs", "/api/models", "/api/datasets"):
            assert other.get(path).json() == {"items": [], "next": None}
        assert [item["name"] for item in other.get("/api/keys").json()["items"]] == ["other"]
        stray = other.post("/api/keys", json={"name": "n", "role": "admin", "tenant": "default"})
        problem(stray, 403)
    assert api.get(f"/api/training/jobs/{job.id}").json()["status"] == "pending"


def test_secrets_of_sources_are_not_in_the_job_and_private_addresses_are_for_the_homes_admin(
    api_settings: Settings, api_url: str, api_keys: dict[str, str], api: httpx.Client
) -> None:
    database = {"url": "postgresql://me:hunter2@db.example.org/x", "tables": ["a"]}
    endpoint = {"url": "https://example.org/items", "headers": {"Authorization": "Bearer hunter2"}}
    for path, body in (("database", database), ("url", endpoint)):
        address = f"{api_url}/api/training/collect/{path}"
        trainer = {"Authorization": f"Bearer {api_keys['trainer']}"}
        for refused in ("trainer", "other"):
            headers = {"Authorization": f"Bearer {api_keys[refused]}"}
            answer = problem(httpx.post(address, json=body | {"private": True}, headers=headers), 403)
            assert "SOLDIOM_PRIVATE_HOSTS" in answer["remedy"]
        recipe = {"name": "x", "collect": [body | {"source": path, "private": True}]}
        problem(httpx.post(f"{api_url}/api/training/jobs", json={"recipe": recipe}, headers=trainer), 403)
        problem(httpx.post(address, json=body, headers=trainer, timeout=60), 503)  # Ray does not run here.
        jobs_shown = api.get("/api/training/jobs").text
        assert "hunter2" not in jobs_shown and f'"source":"{path}"' in jobs_shown.replace(" ", "")
    wrong = httpx.post(
        f"{api_url}/api/training/collect/database", json={"url": "postgresql://me:hunter2@h"}, headers=trainer
    )
    assert "hunter2" not in problem(wrong, 422)["errors"][0]["msg"] and "hunter2" not in wrong.text


def test_keys_are_made_listed_without_secrets_and_refused_once_revoked(api_url: str, api: httpx.Client) -> None:
    created = api.post("/api/keys", json={"name": "ci", "role": "viewer"})
    assert created.status_code == 201
    headers = {"Authorization": f"Bearer {created.json()['key']}"}
    assert httpx.get(api_url + "/api/models", headers=headers).status_code == 200
    listed = api.get("/api/keys", params={"limit": 200})
    assert created.json()["id"] in [item["id"] for item in listed.json()["items"]]
    assert created.json()["key"] not in listed.text and "hash" not in listed.text
    assert api.delete(f"/api/keys/{created.json()['id']}").status_code == 204
    problem(httpx.get(api_url + "/api/models", headers=headers), 401)
    problem(api.post("/api/keys", json={"name": "x", "role": "root"}), 422)
    tenant = api.post("/api/keys", json={"name": "t", "role": "admin", "tenant": "acme"})
    assert tenant.status_code == 201 and tenant.json()["tenant"] == "acme"


def test_a_key_over_its_rate_is_told_when_to_come_back_whatever_address_it_claims(
    api_settings: Settings, api_keys: dict[str, str]
) -> None:
    server = serve(replace(api_settings, rate_limit="5/minute"))
    url = next(server)
    for number in range(8):
        headers = {"Authorization": f"Bearer {api_keys['viewer']}", "X-Forwarded-For": f"10.0.0.{number}"}
        answer = httpx.get(url + "/api/models", headers=headers)
        assert answer.headers["ratelimit-policy"] == '"requests";q=5;w=60'
        left, seconds = answer.headers["ratelimit"].removeprefix('"requests";r=').split(";t=")
        assert int(left) == max(0, 4 - number) and 0 < int(seconds) <= 60
        if number < 5:
            assert answer.status_code == 200
        else:
            problem(answer, 429)
            assert 0 < int(answer.headers["retry-after"]) <= 60
    assert httpx.get(url + "/api/models", headers={"Authorization": f"Bearer {api_keys['user']}"}).status_code == 200
    next(server, None)
