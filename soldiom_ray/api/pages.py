"""The API's description: OpenAPI with our errors and roles, and the same as one HTML page without scripts."""

import json
from html import escape
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
                "properties": {"loc": {"type": "string"}, "msg": {"type": "string"}},
            },
        },
    },
}
STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}
code,pre{font:14px/1.4 ui-monospace,monospace}pre{background:#f4f5f7;padding:.8rem;overflow-x:auto;border-radius:.3rem}
details{border:1px solid #d5d9df;border-radius:.3rem;margin:.4rem 0}summary{padding:.5rem .8rem;cursor:pointer}
details>div{padding:0 .8rem}.m{display:inline-block;width:4.5rem;font-weight:600}.r{float:right;color:#59636e}
table{border-collapse:collapse}td,th{text-align:left;padding:.15rem .8rem .15rem 0;vertical-align:top}"""


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, made once."""
    if app.openapi_schema:
        return app.openapi_schema
    made = get_openapi(
        title="Soldiom",
        version=__version__,
        description="Open data and a team's own data become a specialised model behind an API.",
        routes=app.routes,
    )
    parts = made.setdefault("components", {})
    parts.setdefault("schemas", {})["Problem"] = PROBLEM
    for unused in ("HTTPValidationError", "ValidationError"):
        parts["schemas"].pop(unused, None)
    parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    problem = {
        "description": "What went wrong",
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for operations in made["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = problem
            if operation.get(ROLE) not in (ANYONE, LOCAL_OR_ADMIN):
                operation["security"] = [{"key": []}]
    app.openapi_schema = made
    return made


def page(described: dict[str, Any]) -> str:
    """Every call with its role, parameters, body and answers."""
    groups: dict[str, list[str]] = {}
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            group = (operation.get("tags") or ["other"])[0]
            groups.setdefault(group, []).append(_operation(path, method, operation))
    schemas = described["components"]["schemas"]
    bodies = "".join(
        f'<details id="{escape(name)}"><summary><code>{escape(name)}</code></summary>'
        f"<div>{_json(schema)}</div></details>"
        for name, schema in sorted(schemas.items())
    )
    info = described["info"]
    calls = "".join(f"<h2>{escape(group)}</h2>{''.join(items)}" for group, items in groups.items())
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(info["title"])} API</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f"<h1>{escape(info['title'])} API {escape(info['version'])}</h1><p>{escape(info['description'])}</p>"
        "<p>Send a key with every call: <code>Authorization: Bearer sld_…</code>. Errors are"
        ' <code>application/problem+json</code>. The same as data: <a href="openapi.json">openapi.json</a>.</p>'
        f"{calls}<h2>Shapes</h2>{bodies}</body></html>"
    )


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(each['name'])}</code></td><td>{escape(each['in'])}</td>"
        f"<td>{'required' if each.get('required') else ''}</td>"
        f"<td><code>{escape(_short(each['schema']))}</code></td></tr>"
        for each in operation.get("parameters", ())
    )
    parts = [f"<p>{escape(operation.get('description', ''))}</p>"]
    if rows:
        parts.append(f"<table><tr><th>parameter</th><th>in</th><th></th><th>type</th></tr>{rows}</table>")
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"<p>Body, <code>{escape(kind)}</code>:</p>{_json(content.get('schema', {}))}")
    answers = ", ".join(status for status in operation["responses"] if status != "default")
    parts.append(f"<p>Answers {escape(answers)}.</p>")
    return (
        f'<details><summary><span class="m">{method.upper()}</span><code>{escape(path)}</code>'
        f'<span class="r">{escape(str(operation.get(ROLE, "")))}</span></summary><div>{"".join(parts)}</div></details>'
    )


def _short(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " | ".join(_short(each) for each in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    return str(schema.get("type") or schema.get("$ref", "any").rpartition("/")[2])


def _json(schema: dict[str, Any]) -> str:
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    if name:
        return f'<p><a href="#{escape(name)}">{escape(name)}</a></p>'
    return f"<pre>{escape(json.dumps(schema, indent=2, ensure_ascii=False))}</pre>"
