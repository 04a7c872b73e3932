"""The API over HTTP: health, metrics, and the description of its calls."""

import re
import subprocess
import sys

import httpx
from api_server import problem, routes

from soldiom_ray.api.auth import ROLE
from soldiom_ray.domains.schema import Train
from soldiom_ray.records import ROLES
from soldiom_ray.settings import Settings


def test_health_names_every_dependency_and_the_metrics_are_not_for_strangers(
    api_url: str, api_keys: dict[str, str]
) -> None:
    assert httpx.get(api_url + "/healthz").json() == {"status": "ok"}
    ready = httpx.get(api_url + "/readyz")
    states = {name: each["state"] for name, each in ready.json()["services"].items()}
    assert ready.status_code == 503
    assert states["postgres"] == states["storage"] == "running"
    assert set(states) == {"postgres", "storage", "ray", "chroma", "mlflow"}
    counts = httpx.get(api_url + "/metrics")
    assert 'soldiom_requests_total{method="GET",route="/healthz",status="200"}' in counts.text
    problem(httpx.get(api_url + "/metrics", headers={"X-Forwarded-For": "127.0.0.1"}), 401)
    headers = {"X-Forwarded-For": "127.0.0.1", "Authorization": f"Bearer {api_keys['viewer']}"}
    problem(httpx.get(api_url + "/metrics", headers=headers), 403)


def test_the_description_names_every_call_with_role_and_errors(api_settings: Settings, api_url: str) -> None:
    document = httpx.get(api_url + "/openapi.json").json()
    described = [route for route in routes(api_settings) if route.include_in_schema]
    assert len(described) > 25
    for route in described:
        for method in route.methods or ():
            operation = document["paths"][route.path_format][method.lower()]
            assert operation[ROLE] == (route.openapi_extra or {})[ROLE]
            assert "application/problem+json" in operation["responses"]["default"]["content"]
            assert "422" not in operation["responses"]
            assert (operation[ROLE] in ROLES) is ("security" in operation)
            assert f"`{operation[ROLE]}`" in operation["description"] or operation[ROLE] not in ROLES
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    report = document["paths"]["/api/evaluations/{evaluation_id}/report"]["get"]["responses"]["200"]["content"]
    assert set(report) == {"text/html", "text/markdown"}
    fields = document["components"]["schemas"]["TrainingBody"]["properties"]
    assert fields["base_model"]["description"] == Train.model_fields["base_model"].description
    assert all(field.get("description") for field in fields.values())


def test_the_pages_need_no_key_and_load_nothing_from_elsewhere(api_url: str) -> None:
    page = httpx.get(api_url, follow_redirects=True)
    assert page.url.path == "/docs" and page.status_code == 200
    policy = page.headers["content-security-policy"].split("; ")
    assert "default-src 'none'" in policy and "script-src 'self'" in policy and "connect-src 'self'" in policy
    assert not any("http" in rule or "*" in rule for rule in policy)
    assert "://" not in page.text and "<script>" not in page.text
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(links) == 5
    for link in links:
        answer = httpx.get(page.url.join(link))
        assert answer.status_code == 200 and answer.content, link


def test_the_process_of_the_api_imports_no_torch_and_no_stage() -> None:
    code = (
        "import sys, soldiom_ray.api.app, soldiom_ray.api.start\n"
        "stages = ['collect', 'prepare', 'embed', 'train', 'evaluate', 'register', 'deploy', 'models', 'flow']\n"
        "heavy = ['torch', 'transformers', 'mlflow', 'chromadb', 'pyarrow', *[f'soldiom_ray.{s}' for s in stages]]\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
