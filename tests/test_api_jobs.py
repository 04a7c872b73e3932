"""The API over HTTP: jobs and registered models."""

import json
import shutil
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from api_server import artifact, problem, serve

from soldiom_ray import launch
from soldiom_ray.db import datasets, jobs, models
from soldiom_ray.db.engine import open_session
from soldiom_ray.domains.builtin_models import BUILTIN_FOLDER
from soldiom_ray.domains.names import pin
from soldiom_ray.domains.recipes import validate_recipe
from soldiom_ray.records import now
from soldiom_ray.settings import Settings
from soldiom_ray.storage import open_storage


def test_what_a_recipe_may_name_is_checked_before_a_job_begins(
    api_settings: Settings, api_url: str, api_keys: dict[str, str], api: httpx.Client
) -> None:
    with open_session(api_settings) as session:
        dataset = datasets.record(session, artifact("dataset", 2), name="ok", source="local", stage="dataset")
        before = len(jobs.list_jobs(session, "default", limit=200)[0])
    problem(api.post("/api/training/jobs", json={"name": "x", "dataset_id": "dataset-none"}), 404)
    body = {"name": "x", "dataset_id": dataset.id}
    for base in ("builtin/huge", "no-such", "base/nothing", "a/b/c", "a/..", "builtin/../../etc"):
        refusal = problem(api.post("/api/training/jobs", json=body | {"base_model": base}), 422)
        assert "base_model" in refusal["errors"][0]["loc"] and refusal["remedy"]
    for base in ("../../etc", "/no/such/folder", "/etc", "~/x", "file:///etc"):
        refusal = problem(api.post("/api/training/jobs", json=body | {"base_model": base}), 403)
        assert refusal["errors"] == [{"loc": "body.base_model", "msg": "names a path of the server"}]
    refusal = problem(api.post("/api/training/jobs", json=body | {"config": {"epoch": 1}}), 422)
    assert refusal["errors"][0]["loc"] == "body.config.epoch" and "epochs" in refusal["errors"][0]["msg"]
    refusal = problem(api.post("/api/training/jobs", json=body | {"name": "Not A Name"}), 422)
    assert refusal["errors"][0]["loc"] == "body.name"
    refusal = problem(api.post("/api/training/jobs", json={"recipe": {"name": "x", "trian": {}}}), 422)
    assert "train" in refusal["errors"][0]["msg"]
    local = {"recipe": {"name": "x", "collect": [{"source": "local", "path": "/etc"}]}}
    answer = httpx.post(
        api_url + "/api/training/jobs", json=local, headers={"Authorization": f"Bearer {api_keys['trainer']}"}
    )
    assert "admin" in problem(answer, 403)["detail"]
    refusal = problem(api.post("/api/training/collect/github", json={"min_star": 5}), 422)
    assert refusal["errors"][0]["loc"] == "body.min_star"
    with open_session(api_settings) as session:
        assert len(jobs.list_jobs(session, "default", limit=200)[0]) == before


def test_a_base_in_a_folder_that_cannot_be_trained_is_refused_before_a_job_begins(
    api_settings: Settings, api_keys: dict[str, str], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(BUILTIN_FOLDER / "tiny", tmp_path / "packed"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    with open_session(api_settings) as session:
        dataset = datasets.record(session, artifact("dataset", 3), name="ok", source="local", stage="dataset")
        before = len(jobs.list_jobs(session, "default", limit=200)[0])
    server = serve(replace(api_settings, rate_limit="100000/minute", api_folders=(tmp_path,)))
    url = next(server) + "/api/training/jobs"
    body = {"name": "x", "dataset_id": dataset.id, "base_model": str(folder)}
    headers = {"Authorization": f"Bearer {api_keys['admin']}"}
    refusal = problem(httpx.post(url, json=body, headers=headers, timeout=60), 422)
    assert "quantized (gptq)" in refusal["detail"] and "unquantized original" in refusal["remedy"]
    next(server, None)
    with open_session(api_settings) as session:
        assert len(jobs.list_jobs(session, "default", limit=200)[0]) == before


def test_jobs_are_listed_in_pages_and_shown_with_stages_and_times_in_utc(
    api_settings: Settings, api: httpx.Client
) -> None:
    with open_session(api_settings) as session:
        ids = [jobs.create(session, name=f"page{i}", kind="train", config={}).id for i in range(3)]
        jobs.update(session, ids[0], status="failed", error="It broke.")
        jobs.set_stage(session, ids[0], "train", details={"curves": [{"step": 1, "train_loss": 2.0}]})
    first = api.get("/api/training/jobs", params={"limit": 2}).json()
    assert [item["id"] for item in first["items"]] == [ids[2], ids[1]]
    second = api.get("/api/training/jobs", params={"limit": 2, "cursor": first["next"]}).json()
    assert second["items"][0]["id"] == ids[0] and second["items"][0]["error"] == "It broke."
    job = api.get(f"/api/training/jobs/{ids[0]}").json()
    assert job["stages"][0]["stage"] == "train" and job["completed_at"].endswith("+00:00")
    assert api.get(f"/api/training/jobs/{ids[0]}/metrics").json()["curves"] == [{"step": 1, "train_loss": 2.0}]
    problem(api.delete(f"/api/training/jobs/{ids[0]}"), 409)


def test_models_are_shown_with_card_versions_and_endpoint_and_not_deleted_while_deployed(
    api_settings: Settings, api: httpx.Client
) -> None:
    with open_session(api_settings) as session:
        first = models.create(
            session, family="fine-tuned", name="shown", card="# Card", license="MIT", lineage={"a": 1}
        )
        second = models.create(session, family="fine-tuned", name="shown", specialization="legal", deployed=True)
    model = api.get(f"/api/models/{first.id}").json()
    assert (model["card"], model["license"], model["deployment"]) == ("# Card", "MIT", None)
    assert [each["version"] for each in model["versions"]] == [2, 1]
    assert api.get("/api/models/shown").json()["id"] == second.id
    assert [item["id"] for item in api.get("/api/models", params={"specialization": "legal"}).json()["items"]] == [
        second.id
    ]
    problem(api.delete(f"/api/models/{second.id}"), 409)
    refusal = problem(api.post(f"/api/inference/{first.id}", json={"input": "x"}), 409)
    assert "deploy" in refusal["remedy"]
    problem(api.post("/api/inference/no-such-model", json={"input": "x"}), 404)
    problem(api.post(f"/api/inference/{second.id}", json={"input": "x"}), 503)
    problem(api.post(f"/api/inference/{first.id}", json={"input": "x", "messages": []}), 422)
    problem(api.post(f"/api/inference/{first.id}/batch", json={"inputs": ["x"] * 65}), 409)
    answer = api.delete(f"/api/models/{first.id}")
    assert (answer.status_code, answer.content) == (204, b"")
    problem(api.get(f"/api/models/{first.id}"), 404)
    problem(api.post("/api/search", json={"query": "x"}), 404)


def test_the_log_of_an_ended_job_is_stored_sealed_and_shown_when_ray_has_forgotten_it(
    api_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(api_settings, encryption_keys=(bytes(32),))
    logs = {"one": "what one printed", "two": "what two printed"}
    with open_session(settings) as session:
        ids = {name: jobs.create(session, name=name, kind="train", config={}).id for name in logs}
        jobs.update(
            session, ids["one"], submission_id="one", status="failed", completed_at=now() - timedelta(minutes=1)
        )
        jobs.update(session, ids["two"], submission_id="two", status="running")

    class Ray:
        def get_job_logs(self, submission: str) -> str:
            if submission not in logs:
                raise RuntimeError("no such job")
            return logs[submission]

    monkeypatch.setattr(launch.compute, "job_client", lambda _: Ray())
    launch.store_logs(settings)
    stored = open_storage(settings).keys("logs")
    assert stored == [f"logs/{ids['one']}.log"]
    assert b"printed" not in (settings.home / "storage" / stored[0]).read_bytes()
    logs.pop("one")
    assert launch.job_logs(settings, ids["one"], None) == "what one printed"
    launch.store_logs(settings, unfinished=True)
    logs.clear()
    assert launch.job_logs(settings, ids["two"], None) == "what two printed"


def test_a_log_seen_through_the_api_names_no_folder_of_the_server(
    api_settings: Settings, api: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_session(api_settings) as session:
        job = jobs.create(session, name="folders", kind="train", config={}).id
        jobs.update(session, job, submission_id="folders", status="failed", completed_at=now())
    text = f'{sys.executable} -m x\n{api_settings.home}/storage/a\n  File "{launch.__file__}", line 1'

    class Ray:
        def get_job_logs(self, submission: str) -> str:
            return text

    monkeypatch.setattr(launch.compute, "job_client", lambda _: Ray())
    whole = api.get(f"/api/training/jobs/{job}/logs").text
    followed = api.get(f"/api/training/jobs/{job}/logs", params={"follow": "true"}).text
    for shown in (whole, followed):
        assert "$SOLDIOM_HOME/storage/a" in shown and "$PYTHON/bin/python" in shown and "launch.py" in shown
        assert sys.prefix not in shown and str(Path(launch.__file__).parent) not in shown
    assert launch.job_logs(api_settings, job, None) == text


def test_a_hub_name_without_its_owner_is_refused_with_the_whole_name(api: httpx.Client) -> None:
    recipe = {"name": "x", "collect": [{"source": "huggingface"}], "prepare": {}, "train": {"base_model": "gpt2"}}
    refused = problem(api.post("/api/training/jobs", json={"name": "x", "recipe": recipe}), 422)
    assert "openai-community/gpt2" in refused["detail"]


def test_a_name_of_the_catalogue_is_a_base(api_settings: Settings) -> None:
    recipe = {"name": "x", "collect": [{"source": "huggingface"}], "prepare": {}, "train": {"base_model": "Llama-3-8b"}}
    with open_session(api_settings) as session:
        pinned = pin(session, validate_recipe(recipe), "default")
    assert pinned.train is not None and pinned.train.base_model == "meta-llama/Meta-Llama-3-8B"
