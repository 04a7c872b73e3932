"""The application: its routes, its middleware, and the thread that reconciles job rows with their processes."""

import logging
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from soldiom_ray import __version__, launch
from soldiom_ray.api import problems
from soldiom_ray.api.auth import RateLimit
from soldiom_ray.api.failures import store_failures
from soldiom_ray.api.hosts import HostCheck
from soldiom_ray.api.methods import MethodsMiddleware
from soldiom_ray.api.metrics import RequestMetrics
from soldiom_ray.api.middleware import RequestMiddleware
from soldiom_ray.api.oidc import Issuer, read_provider
from soldiom_ray.api.openapi import openapi_document
from soldiom_ray.api.quotas import Quotas
from soldiom_ray.api.routes import (
    batches,
    collect,
    console,
    datasets,
    docs,
    evaluations,
    feedback,
    health,
    inference,
    jobs,
    keys,
    models,
    openai,
    sign_in,
    specialists,
    usage,
    users,
)
from soldiom_ray.db import answers
from soldiom_ray.db.engine import open_session
from soldiom_ray.monitor import drift, watch
from soldiom_ray.settings import Settings

RECONCILE_SECONDS = 10.0
REMOVAL_SECONDS = 3600.0

logger = logging.getLogger(__name__)


def make_app(settings: Settings, *, reconciles: bool = True) -> FastAPI:
    """The API for these settings. With `reconciles`, a thread ends the rows of jobs whose processes are gone."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        stop = threading.Event()
        if reconciles:
            threading.Thread(target=_reconcile, args=(settings, stop), daemon=True, name="reconcile").start()
        yield
        stop.set()

    app = FastAPI(
        title="Soldiom",
        version=__version__,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.settings = settings
    app.state.issuer = Issuer(read_provider(settings.oidc)) if settings.oidc else None
    app.state.rate_limit = RateLimit(settings.rate_limit)
    app.state.quotas = Quotas(settings)
    app.state.metrics = RequestMetrics()
    for module in (
        collect,
        jobs,
        evaluations,
        models,
        batches,
        inference,
        openai,
        specialists,
        datasets,
        feedback,
        users,
        usage,
        keys,
        sign_in,
        health,
        docs,
    ):
        app.include_router(module.router)
    problems.install_handlers(app)
    app.include_router(console.router)
    app.add_middleware(MethodsMiddleware, routes=app.routes)
    app.add_middleware(
        RequestMiddleware,
        hosts=HostCheck(settings),
        observe=app.state.metrics.observe,
        over_tls=settings.tls_cert is not None,
        upload_bytes=settings.upload_max_bytes,
    )
    app.openapi = lambda: openapi_document(app)  # type: ignore[method-assign]
    return app


def _reconcile(settings: Settings, stop: threading.Event) -> None:
    """Until stopped: end the rows of jobs whose processes are gone, store the logs of those that ended, look at what is
    watched, and remove answers that are too old. A failure is logged by its type and tried again."""
    removed = 0.0
    while not stop.wait(RECONCILE_SECONDS):
        try:
            launch.reconcile(settings)
            launch.store_logs(settings)
            store_failures(settings)
            watch.look(settings)
            drift.look(settings)
            if time.monotonic() - removed > REMOVAL_SECONDS:
                with open_session(settings) as session:
                    answers.remove_older(session, settings.answer_days)
                removed = time.monotonic()
        except Exception as error:
            logger.warning("reconciliation failed", extra={"data": {"type": type(error).__name__}})
