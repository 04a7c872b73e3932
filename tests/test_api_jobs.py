"""The API over HTTP: jobs and registered models."""

import httpx
from api_server import artifact, problem

from soldiom_ray.db import datasets, jobs, models
from soldiom_ray.db.engine import open_session
from soldiom_ray.settings import Settings


def test_what_a_recipe_may_name_is_checked_before_a_job_begins(
    api_settings: Settings, api_url: str, api_keys: dict[str, str], api: httpx.Client
) -> None:
    with open_session(api_settings) as session:
        dataset = datasets.record(session, artifact("dataset", 2), name="ok", source="local", stage="dataset")
        before = len(jobs.list_jobs(session, "default", limit=200)[0])
    problem(api.post("/api/training/jobs", json={"name": "x", "dataset_id": "dataset-none"}), 404)
    body = {"name": "x", "dataset_id": dataset.id}
    for base in ("builtin/huge", "no-such", "../../etc", "/no/such/folder", "base/nothing", "a/b/c"):
        shown = problem(api.post("/api/training/jobs", json=body | {"base_model": base}), 422)
        assert "base_model" in shown["errors"][0]["loc"] and shown["remedy"]
    shown = problem(api.post("/api/training/jobs", json=body | {"config": {"epoch": 1}}), 422)
    assert shown["errors"][0]["loc"] == "body.config.epoch" and "epochs" in shown["errors"][0]["msg"]
    shown = problem(api.post("/api/training/jobs", json=body | {"name": "Not A Name"}), 422)
    assert shown["errors"][0]["loc"] == "body.name"
    shown = problem(api.post("/api/training/jobs", json={"recipe": {"name": "x", "trian": {}}}), 422)
    assert "train" in shown["errors"][0]["msg"]
    local = {"recipe": {"name": "x", "collect": [{"source": "local", "path": "/etc"}]}}
    answer = httpx.post(
        api_url + "/api/training/jobs", json=local, headers={"Authorization": f"Bearer {api_keys['trainer']}"}
    )
    assert "admin" in problem(answer, 403)["detail"]
    shown = problem(api.post("/api/training/collect/github", json={"min_star": 5}), 422)
    assert shown["errors"][0]["loc"] == "body.min_star"
    with open_session(api_settings) as session:
        assert len(jobs.list_jobs(session, "default", limit=200)[0]) == before


def test_jobs_are_listed_in_pages_and_shown_with_stages_and_times_in_utc(
    api_settings: Settings, api: httpx.Client
) -> None:
    with open_session(api_settings) as session:
        made = [jobs.create(session, name=f"page{i}", kind="train", config={}).id for i in range(3)]
        jobs.update(session, made[0], status="failed", error="It broke.")
        jobs.set_stage(session, made[0], "train", details={"curves": [{"step": 1, "train_loss": 2.0}]})
    first = api.get("/api/training/jobs", params={"limit": 2}).json()
    assert [item["id"] for item in first["items"]] == [made[2], made[1]]
    second = api.get("/api/training/jobs", params={"limit": 2, "cursor": first["next"]}).json()
    assert second["items"][0]["id"] == made[0] and second["items"][0]["error"] == "It broke."
    shown = api.get(f"/api/training/jobs/{made[0]}").json()
    assert shown["stages"][0]["stage"] == "train" and shown["completed_at"].endswith("+00:00")
    assert api.get(f"/api/training/jobs/{made[0]}/metrics").json()["curves"] == [{"step": 1, "train_loss": 2.0}]
    problem(api.delete(f"/api/training/jobs/{made[0]}"), 409)


def test_models_are_shown_with_card_versions_and_endpoint_and_not_deleted_while_deployed(
    api_settings: Settings, api: httpx.Client
) -> None:
    with open_session(api_settings) as session:
        one = models.create(session, family="fine-tuned", name="shown", card="# Card", license="MIT", lineage={"a": 1})
        two = models.create(session, family="fine-tuned", name="shown", specialization="legal", deployed=True)
    shown = api.get(f"/api/models/{one.id}").json()
    assert (shown["card"], shown["license"], shown["deployment"]) == ("# Card", "MIT", None)
    assert [each["version"] for each in shown["versions"]] == [2, 1]
    assert api.get("/api/models/shown").json()["id"] == two.id
    assert [item["id"] for item in api.get("/api/models", params={"specialization": "legal"}).json()["items"]] == [
        two.id
    ]
    problem(api.delete(f"/api/models/{two.id}"), 409)
    shown = problem(api.post(f"/api/inference/{one.id}", json={"input": "x"}), 409)
    assert "deploy" in shown["remedy"]
    problem(api.post("/api/inference/no-such-model", json={"input": "x"}), 404)
    problem(api.post(f"/api/inference/{two.id}", json={"input": "x"}), 503)
    problem(api.post(f"/api/inference/{one.id}", json={"input": "x", "messages": []}), 422)
    problem(api.post(f"/api/inference/{one.id}/batch", json={"inputs": ["x"] * 65}), 413)
    answer = api.delete(f"/api/models/{one.id}")
    assert (answer.status_code, answer.content) == (204, b"")
    problem(api.get(f"/api/models/{one.id}"), 404)
    problem(api.post("/api/search", json={"query": "x"}), 404)
