"""A site's server: a coordinator with the site's key asks, nobody else; TLS alone."""

import hashlib
import hmac
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from soldiom_ray.errors import InputError, NotFoundError, SoldiomError, TooLargeError, UnauthenticatedError
from soldiom_ray.federate.messages import MAX_BYTES, MEDIA, SiteState
from soldiom_ray.federate.secure_messages import Attempt, Group, Letters, Survivors
from soldiom_ray.federate.site import Site
from soldiom_ray.federate.site_settings import host_and_port, load_site, site_folder
from soldiom_ray.records import RUN_ID, Record
from soldiom_ray.settings import Settings

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

log = logging.getLogger(__name__)


def make_site_app(site: Site, key: str) -> "Starlette":
    """The site's routes as an ASGI application. Every one asks for the key."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    expected = hashlib.sha256(key.encode()).digest()

    def answer(work: "Callable[[Request], Awaitable[Any]]") -> "Callable[[Request], Awaitable[Response]]":
        async def respond(request: "Request") -> "Response":
            try:
                given = request.headers.get("authorization", "").removeprefix("Bearer ")
                if not hmac.compare_digest(hashlib.sha256(given.encode()).digest(), expected):
                    raise UnauthenticatedError("The key is not this site's.", remedy="ask its administrator for it")
                result = await work(request)
            except SoldiomError as error:
                return JSONResponse(error.to_problem(), error.status, media_type="application/problem+json")
            if isinstance(result, Record):
                return Response(result.model_dump_json(), media_type="application/json")
            return Response(result or b"", media_type=MEDIA)

        return respond

    async def info(request: "Request") -> Any:
        return site.info()

    async def begin(request: "Request") -> SiteState:
        return await run_in_threadpool(site.begin, await _body(request))

    async def state(request: "Request") -> SiteState:
        return await run_in_threadpool(site.state, *_round_of(request))

    async def update(request: "Request") -> bytes:
        return await run_in_threadpool(site.update, *_round_of(request))

    def step(method: str, kind: type[Record]) -> "Callable[[Request], Awaitable[Any]]":
        async def take(request: "Request") -> Any:
            data = await _body(request)
            try:
                asked = kind.model_validate_json(data)
            except ValidationError as error:
                raise InputError(
                    f"What was sent is no {kind.__name__}: {error.error_count()} mistake(s).",
                    remedy="have both run the same version of Soldiom",
                ) from None
            work: Callable[[str, int, Record], Any] = getattr(site, method)
            return await run_in_threadpool(work, *_round_of(request), asked)

        return take

    async def forget(request: "Request") -> bytes:
        await run_in_threadpool(site.forget, _federation_of(request))
        return b""

    one = "/federations/{federation}/rounds/{number:int}"
    return Starlette(
        routes=[
            Route("/site", answer(info)),
            Route("/rounds", answer(begin), methods=["POST"]),
            Route(one, answer(state)),
            Route(f"{one}/update", answer(update)),
            *(
                Route(f"{one}/{name}", answer(step(method, kind)), methods=["POST"])
                for name, method, kind in (
                    ("keys", "announce", Attempt),
                    ("shares", "share", Group),
                    ("masked", "masked", Letters),
                    ("revealed", "reveal", Survivors),
                )
            ),
            Route("/federations/{federation}", answer(forget), methods=["DELETE"]),
        ]
    )


def serve_site(settings: Settings, host: str | None = None) -> None:
    """Serve the site of this home until the process is told to end. `host` is where it listens, unset: the host of its
    address. NotFoundError where the home is no site."""
    import uvicorn

    site_settings, invitation = load_site(settings)
    site = Site(settings, site_settings)
    name, port = host_and_port(invitation.address)
    folder = site_folder(settings)
    config = uvicorn.Config(
        make_site_app(site, invitation.key),
        host=host or name,
        port=port,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ssl_certfile=str(folder / "certificate.pem"),
        ssl_keyfile=str(folder / "key.pem"),
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    try:
        server.run()
    finally:
        site.close()
    if not server.started:
        raise InputError(
            f"The site cannot listen on {host or name}:{port}.", remedy="end what uses the port, or give --host"
        )


async def _body(request: "Request") -> bytes:
    """TooLargeError beyond MAX_BYTES."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BYTES:
            raise TooLargeError(f"The message is larger than {MAX_BYTES >> 20} MiB.", remedy="lower `train.rank`")
        parts.append(part)
    return b"".join(parts)


def _round_of(request: "Request") -> tuple[str, int]:
    return _federation_of(request), request.path_params["number"]


def _federation_of(request: "Request") -> str:
    federation = str(request.path_params["federation"])
    if not RUN_ID.fullmatch(federation):
        raise NotFoundError(f"No federation {federation[:40]!r}.", remedy="give the id that the round began with")
    return federation
