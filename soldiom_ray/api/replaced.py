"""What of Ray Serve and uvicorn the API replaces because they have no setting for it: private names, which another
version may not have, and then the limits that hang on them would be gone without a word."""

import inspect
from importlib import import_module
from importlib.metadata import version

from soldiom_ray.errors import Problem, UnavailableError

REPLACED: dict[str, tuple[str, ...]] = {
    "ray.serve._private.proxy:MessageQueue": ("__call__", "get_messages_nowait", "close"),
    "ray.serve._private.replica:ASGIReceiveProxy": (),
    "ray.serve._private.replica:add_port_to_grpc_server": (),
    "uvicorn.config:HTTP_PROTOCOLS": (),
    "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol": (
        "connection_made", "connection_lost", "data_received", "on_message_begin", "on_headers_complete", "on_body",
        "on_message_complete", "_should_upgrade_to_ws",
    ),
    "uvicorn.protocols.http.httptools_impl:STATUS_LINE": (),
    "uvicorn.protocols.http.flow_control:FlowControl": ("pause_reading", "pause_writing"),
}  # fmt: skip
"""MODULE:NAME -> the methods of it that are overridden or called."""
RECEIVES = ("self", "scope", "request_metadata", "receive_asgi_messages")
"""The parameters with which a replica makes an ASGIReceiveProxy."""


def check_replaced() -> None:
    """UnavailableError that names what the installed versions lack of REPLACED: without it a slow or greedy client
    would stop the API for everybody."""
    problems = [Problem(name, missing) for name, methods in REPLACED.items() if (missing := _missing(name, methods))]
    if problems:
        raise UnavailableError(
            f"The API's limits do not fit ray {version('ray')} and uvicorn {version('uvicorn')}.",
            remedy="install the versions of constraints.txt",
            problems=problems,
        )


def _missing(name: str, methods: tuple[str, ...]) -> str:
    module, _, member = name.partition(":")
    try:
        found = getattr(import_module(module), member)
    except (ImportError, AttributeError):
        return "is not there"
    if absent := [method for method in methods if not hasattr(found, method)]:
        return f"has no {', '.join(absent)}"
    if member == "HTTP_PROTOCOLS" and "auto" not in found:
        return "has no entry 'auto'"
    if member == "ASGIReceiveProxy" and (parameters := tuple(inspect.signature(found.__init__).parameters)) != RECEIVES:
        return f"takes {', '.join(parameters)}"
    return ""
