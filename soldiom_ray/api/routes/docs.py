"""The API's description: as OpenAPI, and as pages of Swagger UI on which calls can be tried. Its files come from the
wheel fastapi-offline, so that a browser loads nothing from elsewhere."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response

from soldiom_ray.api.auth import ANYONE, GuardedRoute, needs

router = APIRouter(route_class=GuardedRoute, tags=["description"])

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Swagger UI sets styles inline and has icons as data: addresses; it sends calls to this API only."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Soldiom API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="icon" href="docs/favicon.png">
</head>
<body>
<noscript>The pages need JavaScript. The same as data: <a href="openapi.json">openapi.json</a>.</noscript>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
START = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  filter: true,
  tryItOutEnabled: true,
  validatorUrl: null,
});
"""
"""The key that a reader enters stays in the page's memory: `persistAuthorization` is off by default."""


@router.get("/openapi.json", response_model=dict[str, Any], openapi_extra=needs(ANYONE))
def openapi(request: Request) -> Response:
    """This description as OpenAPI."""
    state = request.app.state
    if not hasattr(state, "openapi_json"):  # made once: it takes a second, and anyone may ask for it
        state.openapi_json = json.dumps(request.app.openapi()).encode()
    return Response(state.openapi_json, media_type="application/json")


@router.get("/docs", response_class=HTMLResponse, openapi_extra=needs(ANYONE))
async def docs() -> Response:
    """This description as pages; they need no network beyond this API."""
    return HTMLResponse(PAGE, headers={"Content-Security-Policy": POLICY})


@router.get("/docs/start.js", include_in_schema=False, openapi_extra=needs(ANYONE))
async def start_script() -> Response:
    """Script that starts Swagger UI. A file of its own, because the policy allows no inline scripts."""
    return Response(START, media_type="text/javascript")


@router.get("/docs/swagger-ui-bundle.js", include_in_schema=False, openapi_extra=needs(ANYONE))
async def swagger_script() -> Response:
    """Swagger UI."""
    return _file("swagger-ui-bundle.js", "text/javascript")


@router.get("/docs/swagger-ui.css", include_in_schema=False, openapi_extra=needs(ANYONE))
async def swagger_style() -> Response:
    """Swagger UI's style sheet."""
    return _file("swagger-ui.css", "text/css")


@router.get("/docs/favicon.png", include_in_schema=False, openapi_extra=needs(ANYONE))
async def icon() -> Response:
    """The pages' icon."""
    return _file("favicon.png", "image/png")


def _file(name: str, media_type: str) -> Response:
    path = Path(str(files("fastapi_offline") / "static" / name))
    return FileResponse(path, media_type=media_type, headers={"Cache-Control": "max-age=3600"})
