"""Liveness, readiness of every dependency, and metrics."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import APIRouter
from sqlalchemy import text
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from soldiom_ray.api.auth import ANYONE, LOCAL_OR_ADMIN, AppSettings, GuardedRoute, needs
from soldiom_ray.api.metrics import RequestMetrics, device_seconds_text, drift_text, going_back_text
from soldiom_ray.api.problems import RETRY_SECONDS
from soldiom_ray.db import counts, drift, usage, watches
from soldiom_ray.db.engine import open_session
from soldiom_ray.errors import SoldiomError
from soldiom_ray.services.http import get
from soldiom_ray.settings import HOME_TENANT, Settings
from soldiom_ray.storage import open_storage

router = APIRouter(route_class=GuardedRoute, tags=["health"])


@router.get("/healthz", openapi_extra=needs(ANYONE))
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz", openapi_extra=needs(ANYONE), response_model=dict[str, Any])
def readyz(settings: AppSettings) -> Response:
    """State of every dependency; 503 when one is not running."""
    probes = {
        "postgres": lambda: _database(settings),
        "storage": lambda: _storage(settings),
        "ray": lambda: _http(settings.dashboard_url, "/api/gcs_healthz"),
        "chroma": lambda: _http(settings.chroma_url, "/api/v2/heartbeat"),
        "mlflow": lambda: _http(settings.mlflow_url, "/health"),
    }
    with ThreadPoolExecutor(len(probes)) as pool:
        futures = {name: pool.submit(probe) for name, probe in probes.items()}
        services = {name: {"state": future.result()} for name, future in futures.items()}
    ready = all(service["state"] == "running" for service in services.values())
    headers = {} if ready else {"Retry-After": str(RETRY_SECONDS)}
    state = "ready" if ready else "not ready"
    return JSONResponse({"status": state, "services": services}, 200 if ready else 503, headers)


@router.get("/metrics", response_class=PlainTextResponse, openapi_extra=needs(LOCAL_OR_ADMIN))
def metrics(request: Request) -> Response:
    """Metrics for Prometheus; those of models and jobs, which are of every tenant, for admins of the tenant `default`
    only."""
    caller = getattr(request.state, "caller", None)  # None: from this machine
    everybody = caller is None or caller.tenant == HOME_TENANT
    counted: RequestMetrics = request.app.state.metrics
    if everybody:
        stored, batches = _stored(request.app.state.settings)
        text = counted.text(batches=batches) + stored
    else:
        text = counted.text(of_models=False)
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


def _stored(settings: Settings) -> tuple[str, dict[str, list[tuple[dict[str, str], int]]]]:
    """What is counted in the database, by processes of their own, and what batches add to the counts of models. Nothing
    where it does not answer."""
    try:
        with open_session(settings, reach="all") as session:
            texts = (
                device_seconds_text(usage.totals(session)),
                drift_text(drift.states(session)),
                going_back_text(watches.going_back(session)),
            )
            return "".join(texts), counts.of_batches(session)
    except SoldiomError:
        return "", {}


def _database(settings: Settings) -> str:
    try:
        with open_session(settings) as session:
            session.execute(text("SELECT 1 FROM alembic_version"))
    except SoldiomError:
        return "unreachable" if settings.database_url else "not set up"
    return "running"


def _storage(settings: Settings) -> str:
    try:
        open_storage(settings).exists("probe")
    except SoldiomError:
        return "unreachable"
    return "running"


def _http(url: str | None, path: str) -> str:
    if not url:
        return "not set up"
    return "running" if get(url.rstrip("/") + path).status == 200 else "unreachable"
