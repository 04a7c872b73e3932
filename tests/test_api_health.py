"""The API over HTTP: health, metrics, and the description of its calls."""

import subprocess
import sys

import httpx
from api_server import problem, routes

from soldiom_ray.api.auth import ROLE
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


def test_the_description_names_every_call_with_role_and_errors_and_the_page_needs_no_network(
    api_settings: Settings, api_url: str
) -> None:
    described = httpx.get(api_url + "/openapi.json").json()
    page = httpx.get(api_url + "/docs")
    assert "http://" not in page.text and "https://" not in page.text and "<script" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for route in routes(api_settings):
        for method in route.methods or ():
            operation = described["paths"][route.path][method.lower()]
            assert operation[ROLE] == (route.openapi_extra or {})[ROLE]
            assert "application/problem+json" in operation["responses"]["default"]["content"]
            assert "422" not in operation["responses"]
            assert (operation[ROLE] in ROLES) is ("security" in operation)
        assert f"<code>{route.path}</code>" in page.text


def test_the_process_of_the_api_imports_no_torch_and_no_stage() -> None:
    code = (
        "import sys, soldiom_ray.api.app, soldiom_ray.api.start\n"
        "stages = ['collect', 'prepare', 'embed', 'train', 'evaluate', 'register', 'deploy', 'models', 'flow']\n"
        "heavy = ['torch', 'transformers', 'mlflow', 'chromadb', 'pyarrow', *[f'soldiom_ray.{s}' for s in stages]]\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
