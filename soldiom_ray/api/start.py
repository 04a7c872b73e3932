"""`python -m soldiom_ray.api.start`: put the API on Ray Serve and end once it runs."""

import gc
import sys
from dataclasses import replace
from typing import Any

from soldiom_ray import compute
from soldiom_ray.api.replaced import check_replaced
from soldiom_ray.errors import SoldiomError
from soldiom_ray.logs import start_logging
from soldiom_ray.settings import Settings, job_environment, load_settings, save_secrets
from soldiom_ray.tracing import start_tracing

REQUEST_SECONDS = 900.0
"""Serve cuts streams, too, after this time."""
IDLE_SECONDS = 30
"""How long a connection without a request stays open."""
HEAD = "node:__internal_head__"
"""A resource that Ray gives to the head alone."""


def start(settings: Settings) -> None:
    """Start Serve where it does not run yet, and run this version of the API on it; returns when it answers.
    UnavailableError when the API's limits do not fit the installed versions of Ray and uvicorn."""
    from ray import serve
    from ray.serve.config import HTTPOptions

    check_replaced()
    compute.connect(settings)
    save_secrets(settings)
    serve.start(
        proxy_location="HeadOnly",
        http_options=HTTPOptions(
            host=settings.api_host,
            port=settings.api_port,
            request_timeout_s=REQUEST_SECONDS,
            keep_alive_timeout_s=IDLE_SECONDS,
            ssl_certfile=str(settings.tls_cert) if settings.tls_cert else None,
            ssl_keyfile=str(settings.tls_key) if settings.tls_key else None,
        ),
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    )
    serve.run(_deployment(settings).bind(), name="api", route_prefix="/", blocking=False)


def _deployment(settings: Settings) -> Any:
    """The deployment. Its process reads the settings where it runs; what only this environment says goes along."""
    from ray import serve

    rate_limit, tls_cert, tls_key = settings.rate_limit, settings.tls_cert, settings.tls_key

    def build() -> Any:
        from soldiom_ray.api.app import make_app
        from soldiom_ray.api.backpressure import bound_bodies_in_replica
        from soldiom_ray.api.memory import return_freed_memory

        bound_bodies_in_replica()
        compute.bind_replica_port()
        return_freed_memory()
        start_logging()
        start_tracing(load_settings(), "api")
        app = make_app(replace(load_settings(), rate_limit=rate_limit, tls_cert=tls_cert, tls_key=tls_key))
        gc.collect()
        gc.freeze()  # what is loaded stays, and is looked through no more
        return app

    return serve.deployment(
        serve.ingress(build)(),
        name="api",
        num_replicas=1,
        # A request that waits for its body costs the replica little; the proxy limits those of each key.
        max_ongoing_requests=1024,
        max_queued_requests=1024,
        max_surge_percent=100,
        health_check_period_s=2,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=10,
        # On the head, with the proxy, the job server, and the home's files.
        ray_actor_options={
            "num_cpus": 0,
            "resources": {HEAD: 0.001},
            "runtime_env": {"env_vars": job_environment(settings)},
        },
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    )


def main() -> int:
    """The command; its exit code."""
    start_logging()
    try:
        start(load_settings())
    except SoldiomError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
