"""The console: a static page that calls this API. Each of its files is a route of its own, so that no path is ever
looked up on the disk."""

from collections.abc import Awaitable, Callable

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from soldiom_ray.api.auth import ANYONE, GuardedRoute, login_of, needs
from soldiom_ray.api.console_bundle import INDEX, BundledFile, bundle

router = APIRouter(route_class=GuardedRoute, tags=["console"])
BASE = "/soldiom"


@router.get("/", include_in_schema=False, openapi_extra=needs(ANYONE))
async def root(request: Request) -> Response:
    """Lead a person's browser to the console, and everybody else to the API's description."""
    wants_page = "text/html" in request.headers.get("accept", "") and INDEX in bundle()
    return RedirectResponse("soldiom/" if wants_page else "docs", 307, headers={"Vary": "Accept"})


@router.get(BASE, include_in_schema=False, openapi_extra=needs(ANYONE))
async def base() -> Response:
    """The console's address without its last slash."""
    return RedirectResponse("soldiom/", 307)


def _serve(file: BundledFile) -> Callable[[Request], Awaitable[Response]]:
    async def serve(request: Request) -> Response:
        login = login_of(request)
        return file.response(request, login.origin if login else "")

    return serve


for _name, _file in bundle().items():
    _path = f"{BASE}/{'' if _name == INDEX else _name}"
    router.add_api_route(_path, _serve(_file), include_in_schema=False, openapi_extra=needs(ANYONE))
