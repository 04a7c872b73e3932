"""What the names in a recipe mean: the one place that looks up runs, models and datasets for the command line and for
the API.

Whatever takes a run takes the model made of it, and the other way round. `pin` puts what a name means now in its place
before a job starts, so that a job that goes on later goes on with the same.
"""

import re

from sqlalchemy.orm import Session

from soldiom_ray.db import datasets, inputs, jobs, models
from soldiom_ray.db.ownership import check_change
from soldiom_ray.domains.base_catalog import model_of
from soldiom_ray.domains.builtin_models import MINILM, SMOLLM2, builtin_names
from soldiom_ray.domains.references import is_local_path
from soldiom_ray.domains.schema import Recipe
from soldiom_ray.domains.sources import FilesSource
from soldiom_ray.errors import InputError, NotFoundError, Problem, suggestion
from soldiom_ray.records import FAMILIES, RUN_ID

HUB_ID = re.compile(
    r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}(@[A-Za-z0-9][A-Za-z0-9._-]{0,99})?"
    r"(:[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.gguf)?"
)
SHORT_HUB_NAMES = {
    **{name: f"openai-community/{name}" for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "openai-gpt")},
    "distilgpt2": "distilbert/distilgpt2",
}
"""Names without an owner under which the Hub still finds its first models. A job does not take them: here a single word
is a model of the registry."""
EMBEDDERS = (MINILM, f"sentence-transformers/{MINILM}")
"""Names of the embedding model that comes with Soldiom, besides its builtin/ one."""


def pin(session: Session, recipe: Recipe, tenant: str) -> Recipe:
    """The recipe with runs by their ids and models by their versions. NotFoundError for what does not exist or is
    another tenant's or user's, with names that are near; DeniedError for a version to deploy that another user shares;
    InputError for a base that cannot be one."""
    for name in (*recipe.documents, *filter(None, (recipe.dataset,))):
        datasets.get(session, name, tenant)
    for source in recipe.collect or ():
        for name in source.inputs if isinstance(source, FilesSource) else ():
            inputs.get(session, name, tenant)
    changes: dict[str, object] = {}
    if recipe.run:
        changes["run"] = find_run(session, recipe.run, tenant)
    if recipe.version:
        version = models.get(session, recipe.version, tenant)
        check_change(session, version, f"Model {version.id}")
        changes["version"] = version.id
    if recipe.train is not None and recipe.train.architecture is None:
        base = pin_base(session, recipe.train.base_model, tenant, "train.base_model")
        changes["train"] = recipe.train.model_copy(update={"base_model": base})
    if recipe.auto is not None:
        bases = [pin_base(session, name, tenant, f"auto.bases[{i}]") for i, name in enumerate(recipe.auto.bases)]
        changes["auto"] = recipe.auto.model_copy(update={"bases": tuple(bases)})
    if recipe.embed is not None and recipe.embed.model not in EMBEDDERS:
        base = pin_base(session, recipe.embed.model, tenant, "embed.model")
        changes["embed"] = recipe.embed.model_copy(update={"model": base})
    return recipe.model_copy(update=changes)


def with_bases(session: Session, recipe: Recipe, tenant: str) -> Recipe:
    """A pinned recipe with models of the registry replaced by what holds their weights: a run, or what a base model was
    registered from."""
    changes: dict[str, object] = {}
    if recipe.train is not None and recipe.train.architecture is None:
        name = base_of(session, recipe.train.base_model, tenant)
        changes["train"] = recipe.train.model_copy(update={"base_model": name})
    if recipe.auto is not None:
        bases = tuple(base_of(session, name, tenant) for name in recipe.auto.bases)
        changes["auto"] = recipe.auto.model_copy(update={"bases": bases})
    if recipe.embed is not None:
        changes["embed"] = recipe.embed.model_copy(update={"model": base_of(session, recipe.embed.model, tenant)})
    return recipe.model_copy(update=changes)


def find_run(session: Session, name: str, tenant: str) -> str:
    """The id of a run, given by it or by the model made of it. NotFoundError with names that are near; InputError for a
    base model, which no run here has made."""
    if RUN_ID.fullmatch(name) and jobs.has_artifact(session, name, tenant):
        return name
    try:
        model = models.get(session, name, tenant)
    except NotFoundError:
        near = suggestion(name, [*models.known_names(session, tenant), *jobs.runs(session, tenant)], 3)
        raise NotFoundError(
            f"No run and no model {name[:100]!r}.{near}",
            remedy="give the id of a run or of a model, or family/name; `soldiom models list` shows them",
        ) from None
    if model.run_artifact is None:
        raise InputError(
            f"Model {model.family}/{model.name} is a base model: no run of this home has made it.",
            remedy="give a model that was trained here; its scores stand beside its base's",
        )
    return model.run_artifact


def pin_base(session: Session, name: str, tenant: str, location: str) -> str:
    """A base as a job keeps it: built in, a folder, a run, a model with its version, or a hub id; only the job learns
    whether that exists. InputError, which names `location`, for any other name."""
    if is_local_path(name):
        return name
    if name.startswith("builtin/"):
        if name in builtin_names():
            return name
        near, reason = suggestion(name, builtin_names()), f"built in are: {', '.join(builtin_names())}"
    elif RUN_ID.fullmatch(name) and jobs.has_artifact(session, name, tenant):
        return name
    else:
        try:
            model = models.get(session, name, tenant)
            full = f"{model.family}/{model.name}@{model.version}"
            return full if models.get(session, full, tenant).id == model.id else model.id
        except NotFoundError:
            if listed := model_of(name):
                return listed
            if HUB_ID.fullmatch(name) and name.partition("/")[0] not in FAMILIES and not RUN_ID.fullmatch(name):
                return name
        near = suggestion(name, [*models.known_names(session, tenant), *builtin_names()], 3)
        reason = "it is not built in, not a model of the registry, and not of the form of a hub id (OWNER/NAME)"
        if name in SHORT_HUB_NAMES:
            near = f" Did you mean {SHORT_HUB_NAMES[name]!r}?"
    raise InputError(
        f"Unknown base model {name[:100]!r}.{near}",
        remedy=f"use builtin/{SMOLLM2}, a name of `soldiom models list` or `catalog`, or a Hugging Face id OWNER/NAME",
        problems=[Problem(location, reason)],
    )


def base_of(session: Session, name: str, tenant: str) -> str:
    """What holds the weights of a base: a run, what a base model was registered from, or what a name of the catalogue
    stands for; other names stay."""
    if is_local_path(name) or name.startswith("builtin/") or RUN_ID.fullmatch(name):
        return name
    try:
        model = models.get(session, name, tenant)
    except NotFoundError:
        return model_of(name) or name
    return model.run_artifact or model.base_model or name
