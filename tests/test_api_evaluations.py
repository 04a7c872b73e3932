"""Evaluations and promotions through the API."""

from collections.abc import Callable

import httpx
import pytest
from api_server import problem

from soldiom_ray.artifacts import Artifacts
from soldiom_ray.db import audit, evaluations, models
from soldiom_ray.db.engine import open_session
from soldiom_ray.settings import Settings
from soldiom_ray.storage import open_storage

pytestmark = pytest.mark.service
Call = Callable[..., httpx.Response]


@pytest.fixture
def call(api_url: str, api_keys: dict[str, str]) -> Call:
    def send(who: str, method: str, path: str, body: object = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {api_keys[who]}"}
        return httpx.request(method, f"{api_url}{path}", json=body, headers=headers, timeout=60)

    return send


def test_an_evaluation_is_shown_with_its_report_to_its_tenant_alone(api_settings: Settings, call: Call) -> None:
    draft = Artifacts(open_storage(api_settings)).draft("scores", {"for": "the report"})
    example = {"group": "g", "prompt": "Why?", "reference": "So.", "base": "x", "tuned": "y"}
    piece = {"fact": "language", "value": "en", "metric": "accuracy", "samples": 9, "base": 0.1, "tuned": 0.9}
    draft.write("scores.json", httpx.Response(200, json={"examples": [example], "slices": [piece]}).content)
    draft.write("report.html", b"<!doctype html><h1>Scores</h1>")
    draft.write("report.md", b"# Scores\n")
    scores = draft.commit(details={"tuned": {"accuracy": 0.9}})
    with open_session(api_settings) as session:
        made = {"run_artifact": "run-00000000000000bb", "scores_artifact": scores.id}
        row = evaluations.record(session, scores=scores.details, **made)
        evaluation = row.id
    for name in (evaluation, scores.id):
        shown = call("viewer", "GET", f"/api/evaluations/{name}").json()
        assert shown["scores"] == {"tuned": {"accuracy": 0.9}} and shown["examples"][0]["reference"] == "So."
        assert shown["slices"] == [piece]
    page = call("viewer", "GET", shown["report"])
    assert page.text.startswith("<!doctype html>") and "sandbox" in page.headers["content-security-policy"]
    assert call("viewer", "GET", shown["report"] + "?format=markdown").text == "# Scores\n"
    problem(call("viewer", "GET", shown["report"] + "?format=pdf"), 422)
    for path in ("", "/report"):
        problem(call("other", "GET", f"/api/evaluations/{evaluation}{path}"), 404)
    assert evaluation in [item["id"] for item in call("viewer", "GET", "/api/evaluations").json()["items"]]
    assert call("other", "GET", "/api/evaluations").json()["items"] == []


def test_an_evaluation_is_asked_for_by_trainers_and_names_what_is_wrong(call: Call) -> None:
    problem(call("user", "POST", "/api/evaluations", {"run": "run-00000000000000bb"}), 403)
    problem(call("trainer", "POST", "/api/evaluations", {"run": "run-00000000000000cc"}), 404)
    wrong = {"run": "run-00000000000000bb", "config": {"metrics": ["f3"], "gate": {"beat": "value"}}}
    answer = problem(call("trainer", "POST", "/api/evaluations", wrong), 422)
    assert "macro_f1" in str(answer["errors"]) and "go together" in str(answer["errors"])


def test_a_gate_is_overridden_by_an_admin_with_a_reason_alone(api_settings: Settings, call: Call) -> None:
    gate = {"passed": False, "verdict": "Not passed: no difference is shown."}
    with open_session(api_settings) as session:
        model = models.create(session, family="fine-tuned", name="gated", gate=gate).id
    path = f"/api/models/{model}/promote"
    assert "no difference" in problem(call("trainer", "POST", path), 409)["detail"]
    problem(call("trainer", "POST", path, {"force": True, "reason": "it is better"}), 403)
    problem(call("admin", "POST", path, {"force": True}), 422)
    assert (
        "not in MLflow"
        in problem(call("admin", "POST", path, {"force": True, "reason": "shown by hand"}), 409)["detail"]
    )
    problem(call("other", "POST", path, {"force": True, "reason": "x"}), 404)
    with open_session(api_settings) as session:
        rows = [row for row in audit.list_rows(session, None)[0] if row.action == "promote" and row.object == model]
    assert [row.details["reason"] for row in rows] == ["shown by hand", "", "it is better", ""]
    assert {row.decision for row in rows} == {"deny"}
