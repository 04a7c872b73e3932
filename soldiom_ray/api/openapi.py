"""The OpenAPI document: FastAPI's, with our errors, the bearer key and the role that each call needs."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from soldiom_ray import __version__
from soldiom_ray.api.auth import ANYONE, LOCAL_OR_ADMIN, ROLE

PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "remedy": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["loc", "msg"],
                "properties": {"loc": {"type": "string"}, "msg": {"type": "string"}, "line": {"type": "integer"}},
            },
        },
        "retry_after_seconds": {"type": "number"},
    },
}


def openapi_document(app: FastAPI) -> dict[str, Any]:
    """The document, made once for an application."""
    if app.openapi_schema:
        return app.openapi_schema
    document = get_openapi(
        title="Soldiom",
        version=__version__,
        description="Open data and a team's own data become a specialised model behind an API.",
        routes=app.routes,
    )
    parts = document.setdefault("components", {})
    parts.setdefault("schemas", {})["Problem"] = PROBLEM
    for unused in ("HTTPValidationError", "ValidationError"):
        parts["schemas"].pop(unused, None)
    description = "A key that `soldiom up` printed or `soldiom keys create` made: sld_…"
    parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer", "description": description}}
    problem = {
        "description": "What went wrong",
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = problem
            role, text = operation.get(ROLE), operation.get("description", "")
            operation["summary"] = " ".join(text.replace("`", "").split()).partition(". ")[0].removesuffix(".")
            operation["description"] = f"{text}\n\n{_access(role)}".strip()
            if role not in (ANYONE, LOCAL_OR_ADMIN):
                operation["security"] = [{"key": []}]
    app.openapi_schema = document
    return document


def _access(role: str) -> str:
    if role == ANYONE:
        return "Needs no key."
    if role == LOCAL_OR_ADMIN:
        return "Needs no key on the API's own machine, elsewhere a key of the role `admin`."
    return f"Needs a key of the role `{role}`" + (" or a higher one." if role != "admin" else ".")
