"""Traces for OpenTelemetry, where SOLDIOM_OTLP_ENDPOINT names a collector: a request from the API through Serve to the
engine, and the jobs that it starts, under one trace id. A span holds names, ids, counts and times: never a text of a
user, nor the message of an error, which may hold one. Without the setting nothing is loaded and nothing costs time.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any

from soldiom_ray.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

TRACEPARENT = "traceparent"
"""W3C's header, and the member of a request to an endpoint, that names the span which a new one belongs to."""
FLUSH_MILLISECONDS = 5000

_provider: "TracerProvider | None" = None
logger = logging.getLogger(__name__)


def start_tracing(settings: Settings, service: str) -> None:
    """Send this process's spans from now on, as those of a service; nothing without a collector, nothing again."""
    global _provider
    if settings.otlp_endpoint is None or _provider is not None:
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # A provider of our own: Ray and MLflow have theirs, or none, and neither shall send what is ours.
    _provider = TracerProvider(resource=Resource.create({"service.name": f"soldiom-{service}"}))
    exporter = OTLPSpanExporter(endpoint=f"{settings.otlp_endpoint.rstrip('/')}/v1/traces", timeout=5)
    _provider.add_span_processor(BatchSpanProcessor(exporter))


def flush() -> None:
    """Send what has ended: a process that ends abruptly sends nothing by itself."""
    if _provider is not None:
        _provider.force_flush(FLUSH_MILLISECONDS)


def stop_tracing() -> None:
    """Send what has ended, and no more."""
    global _provider
    if _provider is not None:
        _provider.shutdown()
    _provider = None


def is_tracing() -> bool:
    """Whether spans are sent."""
    return _provider is not None


@contextmanager
def span(name: str, parent: str | None = None, **attributes: str | int | float) -> Iterator["Mark"]:
    """A span around a block, below the one that is open here or `parent` (a `traceparent`). An exception marks it as
    failed, by its type alone."""
    if _provider is None:
        yield Mark(None)
        return
    from opentelemetry import trace

    context = _context(parent)
    tracer = _provider.get_tracer("soldiom")
    options: dict[str, Any] = {"record_exception": False, "set_status_on_exception": False}
    with tracer.start_as_current_span(name, context=context, attributes=attributes, **options) as opened:
        mark = Mark(opened)
        try:
            yield mark
        except BaseException as error:
            if not isinstance(error, GeneratorExit):
                opened.set_status(trace.StatusCode.ERROR, type(error).__name__)
            raise


@contextmanager
def detached_span(name: str, parent: str | None = None, **attributes: str | int | float) -> Iterator["Mark"]:
    """As `span`, but nothing inside it is below it: for generators, which are left and entered in other contexts."""
    if _provider is None:
        yield Mark(None)
        return
    from opentelemetry import trace

    opened = _provider.get_tracer("soldiom").start_span(name, context=_context(parent), attributes=attributes)
    try:
        yield Mark(opened)
    except BaseException as error:
        if not isinstance(error, GeneratorExit):
            opened.set_status(trace.StatusCode.ERROR, type(error).__name__)
        raise
    finally:
        opened.end()


class Mark:
    """A span under way, or none."""

    def __init__(self, opened: "Span | None") -> None:
        self._span = opened

    def rename(self, name: str) -> None:
        """Under the name that is known only now."""
        if self._span is not None:
            self._span.update_name(name)

    def set(self, **attributes: str | int | float) -> None:
        """Attributes that are known only now; `__` in a name stands for a point."""
        for name, value in attributes.items() if self._span is not None else ():
            self._span.set_attribute(name.replace("__", "."), value)  # type: ignore[union-attr]

    def happened(self, name: str) -> None:
        """Something at this moment, such as the first text of a stream."""
        if self._span is not None:
            self._span.add_event(name)

    def failed(self, why: str) -> None:
        """Mark it as failed; `why` holds no text of a user."""
        if self._span is not None:
            from opentelemetry.trace import StatusCode

            self._span.set_status(StatusCode.ERROR, why)


def traceparent() -> str | None:
    """What names the span that is open here to other processes; None without one."""
    ids = trace_ids()
    return f"00-{ids['trace']}-{ids['span']}-01" if ids else None


def trace_ids() -> dict[str, str]:
    """The ids of the trace and the span that are open here, for logs; empty without."""
    if _provider is None:
        return {}
    from opentelemetry import trace

    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {"trace": trace.format_trace_id(context.trace_id), "span": trace.format_span_id(context.span_id)}


def with_traceparent(request: Mapping[str, Any]) -> dict[str, Any]:
    """A request to an endpoint that says which span it belongs to; as it is where there is none."""
    parent = traceparent()
    return {**request, TRACEPARENT: parent} if parent else dict(request)


def traced(kind: type) -> type:
    """A class of an endpoint whose `generate` and `stream` are spans below the caller's, and that knows of no trace."""

    class Traced(kind):  # type: ignore[misc]
        def __init__(self, *arguments: Any) -> None:
            from soldiom_ray.settings import load_settings

            super().__init__(*arguments)
            start_tracing(load_settings(), "endpoint")

        async def generate(self, request: Mapping[str, Any]) -> dict[str, Any]:
            plain = {name: value for name, value in request.items() if name != TRACEPARENT}
            with span("engine generate", request.get(TRACEPARENT)) as mark:
                answer: dict[str, Any] = await super().generate(plain)
                for name in ("prompt_tokens", "completion_tokens"):
                    mark.set(**{name: sum(int(output.get(name, 0)) for output in answer["outputs"])})
                return answer

        async def stream(self, request: Mapping[str, Any]) -> Any:
            plain = {name: value for name, value in request.items() if name != TRACEPARENT}
            with detached_span("engine stream", request.get(TRACEPARENT)) as mark:
                async with aclosing(super().stream(plain)) as chunks:  # a caller who goes away ends the generation
                    first = True
                    async for chunk in chunks:
                        if first:
                            mark.happened("first text")
                            first = False
                        if chunk.get("done"):
                            mark.set(**{name: int(value) for name, value in chunk["usage"].items()})
                        yield chunk

    Traced.__name__ = Traced.__qualname__ = kind.__name__
    Traced.__doc__ = kind.__doc__
    return Traced


def _context(parent: str | None) -> Any:
    """The context that a `traceparent` describes; None: the current one."""
    if not parent:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({TRACEPARENT: parent})
