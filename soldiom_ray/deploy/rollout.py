"""Put an endpoint on Ray Serve and wait for it; what served before goes on until the new replicas are up."""

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from soldiom_ray import compute
from soldiom_ray.domains.schema import Deploy
from soldiom_ray.domains.tasks import CAUSAL_LM, CLASSIFICATIONS, SEQ2SEQ
from soldiom_ray.errors import UnavailableError
from soldiom_ray.records import application_name
from soldiom_ray.settings import Settings, job_environment
from soldiom_ray.tracing import traced

LOAD_SECONDS = 900.0
"""How long loading may take: a large model from a hub is downloaded first."""

TORCH_ENVIRONMENT = compute.QUIET_THREADS | {"GOMP_SPINCOUNT": "10000"}
"""Of replicas. Between two products of a token pass 20 to 30 microseconds; a thread that sleeps there takes 50 to wake,
one that waits for ever steals the time of the API beside it. So OpenMP's threads spin for a fraction of a millisecond
(with 1500 some still slept: one stream 25 tokens/s, with 10000 32, for the same seconds of the cores)."""

WARM_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A model of the registry to be served, by its run or its base, and the declared way. `task` is what it was trained
    for; `calibration` what its evaluation fitted, of a classifier; `classifiers` the models that its content filter
    names, with their ids."""

    model_id: str
    run: str | None
    base: str | None
    declared: Deploy
    task: str = CAUSAL_LM
    calibration: Mapping[str, Any] | None = None
    classifiers: Mapping[str, str] = field(default_factory=dict)


def start(settings: Settings, endpoint: Endpoint) -> None:
    """Have Serve run the endpoint, in place of an earlier one; returns before the model is loaded."""
    from ray import serve

    target = serve.RunTarget(
        target=_application(settings, endpoint), name=application_name(endpoint.model_id), route_prefix=None
    )
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def wait_until_running(endpoint: Endpoint, report: Callable[[float, str], None], seconds: float = LOAD_SECONDS) -> None:
    """Return when the endpoint is up; UnavailableError when it cannot be loaded, with Serve's reason."""
    from ray import serve

    name, started = application_name(endpoint.model_id), time.monotonic()
    while True:
        application = serve.status().applications.get(name)
        state = str(application.status.value) if application else "NOT_STARTED"
        if state == "RUNNING":
            return
        elapsed = time.monotonic() - started
        if state in ("DEPLOY_FAILED", "UNHEALTHY") or elapsed > seconds:
            reason = _reason(application) or f"it was not up after {elapsed:.0f} s ({state})"
            raise UnavailableError(
                f"Model {endpoint.model_id} could not be loaded: {reason}",
                remedy="see the replica's log in the Ray dashboard, correct the cause and deploy again",
            )
        report(min(0.8, 0.1 + 0.7 * elapsed / 60), "loading the model")
        time.sleep(0.2)


def warm_up(endpoint: Endpoint) -> dict[str, Any]:
    """The first request, through the handle that the API uses: {prompt, text, seconds}."""
    started = time.monotonic()
    try:
        answer = asyncio.run(_probe(endpoint))
    except Exception as error:
        known = compute.serve_error(error, f"endpoint of model {endpoint.model_id}", WARM_SECONDS)
        raise known or UnavailableError(
            f"Model {endpoint.model_id} was loaded but does not answer: {type(error).__name__}.",
            remedy="see the replica's log in the Ray dashboard",
        ) from error
    return answer | {"seconds": round(time.monotonic() - started, 3)}


async def _probe(endpoint: Endpoint) -> dict[str, Any]:
    """In an event loop, since Serve's handles may need one (RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP=0)."""
    from ray import serve

    handle = serve.get_app_handle(application_name(endpoint.model_id))
    async with asyncio.timeout(WARM_SECONDS):
        answer: dict[str, Any] = await handle.probe.remote()
    return answer


def stop(model_id: str) -> None:
    """Remove an endpoint once its open requests are answered. Nothing happens when there is none."""
    from ray import serve

    if application_name(model_id) in serve.status().applications:
        serve.delete(application_name(model_id))


def is_serving(model_id: str) -> bool:
    """Whether an endpoint answers now."""
    from ray import serve

    application = serve.status().applications.get(application_name(model_id))
    return application is not None and str(application.status.value) == "RUNNING"


def _application(settings: Settings, endpoint: Endpoint) -> Any:
    import ray
    from ray import serve
    from ray.serve.config import BackpressureConfig
    from ray.serve.schema import LoggingConfig

    declared = endpoint.declared
    gpus = 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0
    threads = max(1, (os.cpu_count() or 1) // declared.replicas)
    kind, arguments = _endpoint_class(settings, endpoint, threads)
    deployment = serve.deployment(
        traced(kind),
        name=kind.__name__,
        num_replicas=declared.replicas,
        ray_actor_options={
            "num_cpus": 0,
            "num_gpus": gpus,
            "runtime_env": {"env_vars": job_environment(settings) | TORCH_ENVIRONMENT},
        },
        max_ongoing_requests=declared.max_concurrent,
        max_queued_requests=declared.max_queued,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        # Without a surge the old replica stops before the new one has loaded, and a bad one leaves nothing.
        max_surge_percent=100,
        max_constructor_retry_count=2,
        health_check_period_s=2,
        health_check_timeout_s=5,
        graceful_shutdown_timeout_s=30,
        logging_config=LoggingConfig(log_level="WARNING", enable_access_log=False),
    )
    return deployment.bind(*arguments)


def _endpoint_class(settings: Settings, endpoint: Endpoint, threads: int) -> tuple[type, tuple[Any, ...]]:
    """The class that serves the endpoint's task, and what its constructor takes."""
    from soldiom_ray.deploy.app import ModelEndpoint
    from soldiom_ray.deploy.classifiers import ClassifierEndpoint
    from soldiom_ray.deploy.guard import Guard
    from soldiom_ray.deploy.sequences import SequenceEndpoint
    from soldiom_ray.models.decoding.watermark import watermark_of

    revision = endpoint.declared.model_dump_json(exclude={"share"})  # the replicas of any share are the same
    declared = endpoint.declared.content_filter
    guard = Guard(endpoint.model_id, declared, endpoint.classifiers) if declared else None
    if endpoint.task in CLASSIFICATIONS:
        return ClassifierEndpoint, (endpoint.model_id, endpoint.run, endpoint.calibration, threads, revision)
    if endpoint.task == SEQ2SEQ:
        return SequenceEndpoint, (endpoint.model_id, endpoint.run, threads, revision, guard)
    marks = endpoint.declared.watermark
    mark = watermark_of(settings, endpoint.model_id)
    return ModelEndpoint, (endpoint.model_id, endpoint.run, endpoint.base, threads, revision, guard, mark, marks)


def _reason(application: Any) -> str:
    """The error of the replica's constructor: the last meaningful line of Serve's message; "" where there is none."""
    deployments = getattr(application, "deployments", {}).values()
    messages = [str(getattr(deployment, "message", "")) for deployment in deployments]
    for message in (*messages, str(getattr(application, "message", ""))):
        lines = [line.strip() for line in message.splitlines() if line.strip()]
        errors = [line for line in lines if "soldiom_ray.errors." in line or "Error: " in line]
        if errors or lines:
            return (errors or lines)[-1].removeprefix("soldiom_ray.errors.")[:500]
    return ""
