"""From a request to a launched job: what its caller may name, then the launch."""

import re
from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from soldiom_ray import launch
from soldiom_ray.api import planner
from soldiom_ray.api.auth import Caller
from soldiom_ray.api.bodies import TrainingBody
from soldiom_ray.db import audit
from soldiom_ray.db.engine import open_session
from soldiom_ray.domains.access import access_through_api, check_access
from soldiom_ray.domains.recipes import validate_recipe
from soldiom_ray.domains.schema import Recipe
from soldiom_ray.domains.specialists import with_domain
from soldiom_ray.errors import DeniedError, InputError, Problem
from soldiom_ray.settings import Settings


def start(
    settings: Settings,
    caller: Caller,
    recipe: Recipe,
    kind: str,
    idempotency_key: str | None,
    response: Response,
    body: TrainingBody | None = None,
    owner: str | None = None,
) -> dict[str, Any]:
    """Launch the recipe for the caller, or for an `owner` at the caller's expense, and set the response's `Location`;
    returns the job. Errors name the fields as they are in `body`, or in a body that is the recipe's only source."""
    try:
        _check_access(settings, caller, recipe, kind)
        job = launch.launch_job(
            settings,
            recipe,
            kind=kind,
            tenant=caller.tenant,
            owner=caller.user if owner is None else owner,
            account=caller.user,
            as_admin=caller.may("admin"),
            idempotency_key=idempotency_key,
        )
    except (DeniedError, InputError) as error:
        raise type(error)(error.what, remedy=error.remedy, problems=_in_body(error.problems, body)) from error
    response.headers["Location"] = f"/api/training/jobs/{job['id']}"
    return job


def plan_request(settings: Settings, caller: Caller, body: TrainingBody) -> dict[str, Any]:
    """What the planner is asked for a training of this body; errors as of `start`."""
    recipe = training_recipe(body)
    try:
        _check_access(settings, caller, recipe, "plan")
        return planner.planner_request(settings, recipe, caller.tenant)
    except (DeniedError, InputError) as error:
        raise type(error)(error.what, remedy=error.remedy, problems=_in_body(error.problems, body)) from error


def _check_access(settings: Settings, caller: Caller, recipe: Recipe, kind: str) -> None:
    """`check_access` for the caller; a refusal is a row of the audit trail."""
    try:
        check_access(recipe, access_through_api(settings, caller.tenant, is_admin=caller.may("admin")))
    except DeniedError as denied:
        details = {"key": caller.name, "role": caller.role, "fields": [problem.loc for problem in denied.problems][:20]}
        with open_session(settings) as session:
            audit.append(session, caller.key_id, f"start {kind}", recipe.name, "deny", details, caller.tenant)
        raise


def training_recipe(body: TrainingBody) -> Recipe:
    """The recipe that a training body stands for. InputError names the fields as they are in the body."""
    content: dict[str, Any] = dict(body.recipe or {})
    train = dict(body.config or {})
    if body.base_model is not None:
        train["base_model"] = body.base_model
    if body.training_method is not None:
        train["method"] = body.training_method
    if body.name is not None:
        content["name"] = body.name
    if body.dataset_id is not None:
        register = {"specialization": body.specialization} if body.specialization else {}
        content |= {"dataset": body.dataset_id, "train": train, "evaluate": {}, "register": register}
    else:
        if train:
            content["train"] = _merged(content.get("train"), train)
        if body.specialization:
            content["register"] = _merged(content.get("register"), {"specialization": body.specialization})
    if body.sweep is not None:
        content["sweep"] = body.sweep
    with_defaults, problems = with_domain(content)
    try:
        return validate_recipe(with_defaults, "The body", earlier=problems)
    except InputError as error:
        problems = _in_body(error.problems, body)
        raise InputError(error.what, remedy="correct the fields that `errors` names", problems=problems) from error


def _merged(heading: object, values: dict[str, Any]) -> object:
    """A heading of a recipe with values set; one of a wrong type as it is, for the validation to refuse."""
    return {**heading, **values} if isinstance(heading, dict) else values if heading is None else heading


BODY_FIELDS = {
    "train.base_model": "base_model",
    "train.method": "training_method",
    "name": "name",
    "dataset": "dataset_id",
    "register.specialization": "specialization",
}
"""Location in the recipe -> field of the body that sets it."""


def _in_body(problems: Sequence[Problem], body: TrainingBody | None) -> list[Problem]:
    """Problems of a recipe at the fields of the body that it came from."""
    if body is None:
        return [Problem(re.sub(r"^collect\[0\]", "body", problem.loc), problem.msg) for problem in problems]
    return [Problem(_body_location(body, problem.loc), problem.msg) for problem in problems]


def _body_location(body: TrainingBody, location: str) -> str:
    """Where in the body a location of the recipe comes from."""
    field = BODY_FIELDS.get(location)
    if field and (body.dataset_id is not None or getattr(body, field, None) is not None):
        return f"body.{field}"
    if body.sweep is not None and re.match(r"sweep\b", location):
        return f"body.{location}"
    if body.dataset_id is not None:
        return "body." + re.sub(r"^train\b", "config", location)
    return f"body.recipe.{location}".rstrip(".")
