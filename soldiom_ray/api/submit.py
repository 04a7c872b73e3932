"""From a request to a launched job: checks that the caller may use what the recipe refers to, then launches."""

import re
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session
from starlette.responses import Response

from soldiom_ray import launch
from soldiom_ray.api.auth import Caller
from soldiom_ray.api.bodies import TrainingBody
from soldiom_ray.db import datasets, inputs, jobs, models
from soldiom_ray.db.engine import open_session
from soldiom_ray.domains.builtin_models import SMOLLM2, builtin_names
from soldiom_ray.domains.recipes import validate_recipe
from soldiom_ray.domains.schema import Recipe
from soldiom_ray.domains.sources import DatabaseSource, FilesSource, LocalSource, UrlSource
from soldiom_ray.errors import DeniedError, InputError, NotFoundError, Problem
from soldiom_ray.settings import Settings

HUB_ID = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9._-]{1,96}(@[A-Za-z0-9._/-]{1,100})?(:[A-Za-z0-9._-]{1,100}\.gguf)?"
)
RUN_ID = re.compile(r"run-[0-9a-f]{16}")


def start(
    settings: Settings, caller: Caller, recipe: Recipe, kind: str, idempotency_key: str | None, response: Response
) -> dict[str, Any]:
    """Launch the recipe for the caller and set the response's `Location`; returns the job."""
    with open_session(settings) as session:
        _check_references(session, recipe, caller)
    job = launch.launch_job(
        settings, recipe, kind=kind, tenant=caller.tenant, owner=caller.key_id, idempotency_key=idempotency_key
    )
    response.headers["Location"] = f"/api/training/jobs/{job['id']}"
    return job


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
    try:
        return validate_recipe(content, "The body")
    except InputError as error:
        problems = [Problem(_body_location(body, problem.loc), problem.msg) for problem in error.problems]
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


def _body_location(body: TrainingBody, location: str) -> str:
    """Where in the body a location of the recipe comes from."""
    field = BODY_FIELDS.get(location)
    if field and (body.dataset_id is not None or getattr(body, field, None) is not None):
        return f"body.{field}"
    if body.dataset_id is not None:
        return "body." + re.sub(r"^train\b", "config", location)
    return f"body.recipe.{location}".rstrip(".")


def _check_references(session: Session, recipe: Recipe, caller: Caller) -> None:
    """Check that everything the recipe names by id exists and is the caller's, and that only admins read the server's
    own files."""
    for name in (*recipe.documents, *filter(None, (recipe.dataset,))):
        datasets.get(session, name, caller.tenant)
    if recipe.run and not jobs.has_artifact(session, recipe.run, caller.tenant):
        raise NotFoundError(f"No run {recipe.run!r}.", remedy="its id stands in the result of the job that trained it")
    if recipe.version:
        models.get(session, recipe.version, caller.tenant)
    for source in recipe.collect or ():
        local = (isinstance(source, LocalSource) and source.path) or (isinstance(source, FilesSource) and source.paths)
        if local and not caller.may("admin"):
            raise DeniedError(
                "Paths on the server can only be collected by an admin.", remedy="upload the files instead"
            )
        private = isinstance(source, DatabaseSource | UrlSource) and source.private
        if private and not (caller.may("admin") and caller.tenant == "default"):
            raise DeniedError(
                "Private addresses can only be reached by an admin of the tenant 'default'.",
                remedy="leave out `private`; SOLDIOM_PRIVATE_HOSTS allows single hosts to everyone",
            )
        if isinstance(source, FilesSource):
            for name in source.inputs:
                inputs.get(session, name, caller.tenant)
    if recipe.train is not None and recipe.train.architecture is None:
        _check_base(session, recipe.train.base_model, caller)


def _check_base(session: Session, name: str, caller: Caller) -> None:
    """Refuse a base model that cannot exist; only the job learns whether a hub id does."""
    if name.startswith("builtin/"):
        if name in builtin_names():
            return
        reason = f"built in are: {', '.join(builtin_names())}"
    elif name.startswith(("/", ".", "~")):
        if not caller.may("admin"):
            raise DeniedError("Folders on the server can only be named by an admin.", remedy="name a model or a hub id")
        if Path(name).is_absolute() and Path(name).is_dir():
            return
        reason = "no such folder on the server (give its absolute path)"
    elif RUN_ID.fullmatch(name) and jobs.has_artifact(session, name, caller.tenant):
        return
    else:
        try:
            models.get(session, name, caller.tenant)
            return
        except NotFoundError:
            if HUB_ID.fullmatch(name) and not name.startswith(("base/", "fine-tuned/", "specialized/")):
                return
        reason = "it is not built in, not a model of the registry, and not of the form of a hub id (OWNER/NAME)"
    raise InputError(
        f"Unknown base model {name[:100]!r}.",
        remedy=f"use builtin/{SMOLLM2}, a model of GET /api/models, or a Hugging Face id OWNER/NAME",
        problems=[Problem("base_model", reason)],
    )
