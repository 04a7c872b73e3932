"""Evaluations: start, list, show, their reports and side by side."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from soldiom_ray.api import submit
from soldiom_ray.api.auth import AppSettings, CurrentCaller, GuardedRoute, needs
from soldiom_ray.api.bodies import EvaluationBody
from soldiom_ray.api.routes.jobs import Cursor, Limit
from soldiom_ray.artifacts import Artifacts
from soldiom_ray.db import evaluations
from soldiom_ray.db.engine import open_session
from soldiom_ray.domains.recipes import validate_recipe
from soldiom_ray.errors import NotFoundError
from soldiom_ray.examples import examples_as_dicts, read_examples, read_scores
from soldiom_ray.storage import open_storage

router = APIRouter(route_class=GuardedRoute, tags=["evaluations"])

REPORT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox"
"""A report shows what models wrote: the page may run and load nothing."""
REPORT: dict[int | str, dict[str, Any]] = {200: {"content": {"text/html": {}, "text/markdown": {}}}}


@router.post("/api/evaluations", status_code=202, openapi_extra=needs("trainer"))
def create_evaluation(
    body: EvaluationBody,
    caller: CurrentCaller,
    settings: AppSettings,
    response: Response,
    idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
) -> dict[str, Any]:
    """Score a run against its base, trivial baselines and the version before it, as one job. The job's
    `result.scores` is the evaluation's id."""
    content: dict[str, Any] = {"name": "evaluation", "run": body.run, "evaluate": body.config or {}}
    if body.dataset_id:
        content["dataset"] = body.dataset_id
    return submit.start(settings, caller, validate_recipe(content, "The body"), "evaluate", idempotency_key, response)


@router.get("/api/evaluations", openapi_extra=needs("viewer"))
def list_evaluations(
    caller: CurrentCaller, settings: AppSettings, cursor: Cursor = None, limit: Limit = 50
) -> dict[str, Any]:
    """Evaluations, newest first."""
    with open_session(settings) as session:
        rows, next_cursor = evaluations.list_evaluations(session, caller.tenant, cursor, limit)
        return {"items": [evaluations.as_dict(row) for row in rows], "next": next_cursor}


@router.get("/api/evaluations/{evaluation_id}", openapi_extra=needs("viewer"))
def show_evaluation(evaluation_id: str, caller: CurrentCaller, settings: AppSettings) -> dict[str, Any]:
    """One evaluation, by its id or that of its scores: metrics, intervals, verdict, slices (the headline metric on
    parts of the held-out samples), examples, where its report is."""
    with open_session(settings) as session:
        row = evaluations.get(session, evaluation_id, caller.tenant)
        shown = evaluations.as_dict(row)
    artifacts = Artifacts(open_storage(settings))
    examples = examples_as_dicts(read_examples(artifacts, row.scores_artifact))
    slices = read_scores(artifacts, row.scores_artifact).get("slices", [])
    return shown | {"slices": slices, "examples": examples, "report": f"/api/evaluations/{row.id}/report"}


@router.get(
    "/api/evaluations/{evaluation_id}/report",
    response_class=HTMLResponse,
    responses=REPORT,
    openapi_extra=needs("viewer"),
)
def show_report(
    evaluation_id: str,
    caller: CurrentCaller,
    settings: AppSettings,
    format: Annotated[str, Query(pattern="^(html|markdown)$")] = "html",  # noqa: A002 - the parameter's name
) -> Response:
    """The report as a page that loads nothing, or as Markdown."""
    with open_session(settings) as session:
        row = evaluations.get(session, evaluation_id, caller.tenant)
    artifacts = Artifacts(open_storage(settings))
    manifest = artifacts.find(row.scores_artifact) if row.scores_artifact else None
    name = "report.html" if format == "html" else "report.md"
    if manifest is None or not any(entry.name == name for entry in manifest.files):
        raise NotFoundError(f"Evaluation {row.id} has no report in {format}.", remedy="evaluate the run again")
    text = artifacts.read(manifest, name).decode()
    if format == "markdown":
        return PlainTextResponse(text, media_type="text/markdown")
    return HTMLResponse(text, headers={"Content-Security-Policy": REPORT_POLICY})
