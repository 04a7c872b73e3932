"""Traces and ids: one trace from the API through Serve to the engine and to jobs, received by an OTLP collector, and
no text of a user in any span."""

import asyncio
import io
import json
import logging
import pickle
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from api_server import serve
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from training import context_in, dataset_in, declared, two_layer_model

from soldiom_ray import launch, logs, tracing
from soldiom_ray.api import endpoints
from soldiom_ray.db import models
from soldiom_ray.db.engine import open_session
from soldiom_ray.errors import InputError
from soldiom_ray.settings import Settings, load_settings
from soldiom_ray.train.work import prepare_work

SECRET = "the patient is called Planted Name"


class Collector:
    """What an OTLP collector received over HTTP."""

    def __init__(self) -> None:
        received: list[bytes] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                received.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.received = received
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def spans(self) -> dict[str, Any]:
        """By their names."""
        tracing.flush()
        found = {}
        for body in self.received:
            assert SECRET.encode() not in body
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    found |= {span.name: span for span in scope.spans}
        return found


@pytest.fixture
def collector(tmp_path: Any) -> Iterator[Collector]:
    made = Collector()
    settings = load_settings({"SOLDIOM_HOME": str(tmp_path), "SOLDIOM_OTLP_ENDPOINT": made.url})
    tracing.start_tracing(settings, "test")
    yield made
    tracing.stop_tracing()
    made.server.shutdown()


class Endpoint:
    """An endpoint as `deploy` has them: a request with a member that it does not know is refused."""

    closed = False

    async def generate(self, request: dict[str, Any]) -> dict[str, Any]:
        if set(request) - {"inputs", "messages", "parameters", "raw"}:
            raise InputError("unknown member")
        return {"outputs": [{"text": SECRET, "finish_reason": "stop", "prompt_tokens": 3, "completion_tokens": 2}]}

    async def stream(self, request: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        try:
            yield {"text": SECRET}
            yield {"done": True, "finish_reason": "stop", "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
        finally:
            Endpoint.closed = True


class Handle:
    """Serve's handle of an endpoint, in this process."""

    def __init__(self, endpoint: Any, name: str) -> None:
        self.endpoint, self.name = endpoint, name

    def __getattr__(self, method: str) -> Any:
        return Handle(self.endpoint, method)

    def options(self, **_: Any) -> Any:
        return self

    def remote(self, *arguments: Any) -> Any:
        return getattr(self.endpoint, self.name)(*arguments)


def test_one_trace_leads_from_a_request_to_the_engine_without_a_text(
    collector: Collector, api_settings: Settings, api_keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = Handle(tracing.traced(Endpoint)(), "")

    async def handle_of(name: str) -> Any:
        return handle

    monkeypatch.setattr(endpoints, "_handle", handle_of)
    with open_session(api_settings) as session:
        model_id = models.create(session, family="fine-tuned", name="traced", deployed=True).id
    server = serve(replace(api_settings, otlp_endpoint=collector.url))
    headers = {"Authorization": f"Bearer {api_keys['user']}", "traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}
    with httpx.Client(base_url=next(server), headers=headers, timeout=30) as client:
        answered = client.post(f"/api/inference/{model_id}", json={"input": SECRET})
        assert answered.status_code == 200 and len(answered.headers["x-request-id"]) == 36
        own = {"x-request-id": "my-request-1"}
        streamed = client.post(f"/api/inference/{model_id}", json={"input": SECRET, "stream": True}, headers=own)
        assert streamed.status_code == 200 and streamed.headers["x-request-id"] == "my-request-1"
        assert client.get("/api/inference/none", headers={"traceparent": "nonsense"}).status_code == 405
    next(server, None)
    spans = collector.spans()
    chain = [spans[name] for name in ("POST /api/inference/{model_id}", "serve generate", "engine generate")]
    assert {span.trace_id.hex() for span in chain} == {"ab" * 16}
    assert spans["serve generate"].parent_span_id and spans["engine generate"].parent_span_id == chain[1].span_id
    counts = {each.key: each.value.int_value for each in spans["engine generate"].attributes}
    assert (counts["prompt_tokens"], counts["completion_tokens"]) == (3, 2)
    assert [event.name for event in spans["engine stream"].events] == ["first text"]
    assert spans["engine stream"].trace_id.hex() == "ab" * 16


def test_a_stream_that_nobody_reads_to_its_end_is_ended(collector: Collector) -> None:
    async def leave() -> None:
        chunks = tracing.traced(Endpoint)().stream({"inputs": ["x"]})
        await anext(chunks)
        await chunks.aclose()

    Endpoint.closed = False
    asyncio.run(leave())
    assert Endpoint.closed and "engine stream" in collector.spans()


def test_a_job_belongs_to_the_request_that_started_it(
    collector: Collector, api_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted: dict[str, Any] = {}

    class Client:
        def submit_job(self, **options: Any) -> None:
            submitted.update(options)

    monkeypatch.setattr(launch.compute, "job_client", lambda settings: Client())
    with tracing.span("request"):
        launch._submit(api_settings, "j1", "n", "train")
    parent = submitted["runtime_env"]["env_vars"]["TRACEPARENT"]
    settings = load_settings({"SOLDIOM_HOME": str(api_settings.home), "TRACEPARENT": parent})
    with pytest.raises(ValueError), tracing.span("job train", settings.trace_parent, job="j1"):
        raise ValueError(SECRET)
    spans = collector.spans()
    assert spans["job train"].parent_span_id == spans["request"].span_id
    assert spans["job train"].status.message == "ValueError" and not spans["job train"].events


def test_the_workers_of_a_training_belong_to_the_job_on_whatever_machine_they_run(
    collector: Collector, tmp_path: Path
) -> None:
    context = context_in(tmp_path / "home")
    context = replace(context, settings=replace(context.settings, otlp_endpoint=collector.url))
    base = two_layer_model(tmp_path / "base")
    with tracing.span("stage train"):
        _, work = prepare_work(context, dataset_in(context.artifacts), declared(base))
    (tmp_path / "work").write_bytes(pickle.dumps(work))
    script = (
        "import pickle, sys; from soldiom_ray.artifacts import Artifacts; from soldiom_ray.storage import open_storage;"
        "from soldiom_ray.train.worker import run_worker; work = pickle.load(open(sys.argv[1], 'rb'));"
        "run_worker(work, Artifacts(open_storage(work.settings)), lambda *_: None, lambda _: None)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "work")], check=True)
    spans = collector.spans()
    assert spans["train worker"].parent_span_id == spans["stage train"].span_id
    assert spans["train worker"].trace_id == spans["stage train"].trace_id
    for inner in ("train steps", "save weights"):
        assert spans[inner].parent_span_id == spans["train worker"].span_id


def test_a_line_of_the_log_names_job_request_and_trace(collector: Collector) -> None:
    lines = io.StringIO()
    handler = logging.StreamHandler(lines)
    handler.setFormatter(logs.JsonLines())
    logger = logging.getLogger("tests.tracing")
    logger.addHandler(handler)
    token = logs.request_id.set("r1")
    with tracing.span("request"):
        logger.warning("something")
    logs.request_id.reset(token)
    line = json.loads(lines.getvalue())
    assert line["request"] == "r1" and len(line["trace"]) == 32 and len(line["span"]) == 16


def test_without_a_collector_nothing_is_added_to_requests() -> None:
    with tracing.span("request") as mark:
        mark.set(status=1)
        assert tracing.traceparent() is None and tracing.with_traceparent({"a": 1}) == {"a": 1}
