"""What the console asks besides other clients' calls: whose key this is, and what a training will need."""

from typing import Any

import httpx
import pytest
from api_server import problem

from soldiom_ray.db import audit
from soldiom_ray.db.engine import open_session
from soldiom_ray.settings import Settings

WITHOUT_DATA: dict[str, Any] = {
    "recipe": {
        "name": "planned",
        "collect": [{"source": "github"}],
        "prepare": {},
        "train": {"base_model": "builtin/tiny", "sequence_length": 64},
    }
}


def test_every_key_is_told_its_own_name_and_role(api_url: str, api_keys: dict[str, str]) -> None:
    for role in ("viewer", "user", "trainer", "admin"):
        answer = httpx.get(f"{api_url}/api/keys/current", headers={"Authorization": f"Bearer {api_keys[role]}"})
        assert {name: answer.json()[name] for name in ("name", "role", "tenant")} == {
            "name": role,
            "role": role,
            "tenant": "default",
        }
        assert "key" not in answer.json()


@pytest.mark.service
def test_a_plan_says_what_a_training_needs_before_it_starts(api: httpx.Client) -> None:
    plan = api.post("/api/training/plan", json=WITHOUT_DATA, timeout=320).json()
    assert plan["fits"] is True and plan["base_model"] == "builtin/tiny" and plan["method"] == "lora"
    assert 0 < plan["bytes"]["total"] < plan["bytes"]["available"]
    assert 0 < plan["trainable_parameters"] < plan["parameters"]
    assert api.get("/api/training/jobs").json()["items"] == []


def test_a_plan_reads_nothing_that_its_author_may_not_name(
    api: httpx.Client, api_url: str, api_keys: dict[str, str], api_settings: Settings
) -> None:
    training = {"name": "x", "dataset_id": "dataset-0000000000000000", "base_model": "builtin/tiny"}
    problem(api.post("/api/training/plan", json=training), 404)
    path = WITHOUT_DATA["recipe"] | {"train": {"base_model": "/etc"}}
    refused = problem(api.post("/api/training/plan", json={"recipe": path}), 403)
    assert refused["errors"][0]["loc"] == "body.recipe.train.base_model"
    with open_session(api_settings) as session:
        rows, _ = audit.list_rows(session, "default", None, 5)
        assert any(row.action == "start plan" and row.decision == "deny" for row in rows)
    nothing = {"recipe": {"name": "x", "collect": [{"source": "github"}]}}
    assert "Only a training has a plan" in problem(api.post("/api/training/plan", json=nothing), 422)["detail"]
    hub = {"recipe": WITHOUT_DATA["recipe"] | {"train": {"base_model": "owner/model"}}}
    with httpx.Client(base_url=api_url, headers={"Authorization": f"Bearer {api_keys['other']}"}) as other:
        problem(other.post("/api/training/plan", json=hub), 403)
    viewer = {"Authorization": f"Bearer {api_keys['viewer']}"}
    problem(httpx.post(f"{api_url}/api/training/plan", json=WITHOUT_DATA, headers=viewer), 403)
