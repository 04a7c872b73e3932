"""The base model of a run in the registry: registered once per content, under family `base`."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soldiom_ray.artifacts import Context
from soldiom_ray.domains.base_catalog import license_of
from soldiom_ray.domains.references import is_local_path
from soldiom_ray.errors import NotFoundError
from soldiom_ray.licenses import Ingredient, from_name, from_text
from soldiom_ray.records import Manifest

if TYPE_CHECKING:
    from soldiom_ray.db.tables import Model

CARD_BYTES = 200_000
"""Longer cards of foreign models are cut here."""


@dataclass(frozen=True, slots=True)
class RegisteredBase:
    """A base model as the registry knows it."""

    model_id: str
    label: str
    license: str
    ingredients: tuple[Ingredient, ...] = ()
    """What it was made of itself, with its licence: one for a model from elsewhere, several for one of our runs."""


def ensure_base(context: Context, run: Manifest) -> RegisteredBase | None:
    """A run's base model in the registry, registered when it is missing; None for a model from random weights.

    UnavailableError when the database or MLflow cannot be reached, errors of `models.load.model_folder` when the base
    has to be read."""
    name = run.details.get("base_model")
    if not name or name == run.id:
        return None
    row = _registered(context, str(name))
    if row is None:
        row = _register_base(context, str(name))
    if row.mlflow_version is None:
        row = _put_in_mlflow(context, row)
    label = f"{row.family}/{row.name} version {row.version}"
    stored = row.lineage.get("ingredients")
    ingredients = [Ingredient(**entry) for entry in stored] if stored else [_ingredient(row)]
    return RegisteredBase(row.id, label, row.license, tuple(ingredients))


def _ingredient(row: "Model") -> Ingredient:
    return Ingredient("base", row.license, f"the base model {row.base_model or row.name}")


def base_name(model: str) -> str:
    """The registry's name of a base model: `builtin/tiny` is `tiny`, a hub id keeps its owner."""
    if model.startswith("builtin/"):
        return model.removeprefix("builtin/")
    text = Path(model).name if is_local_path(model) and Path(model).is_dir() else model.replace("/", "--")
    slug = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:100]
    return slug or "model"


def _registered(context: Context, name: str) -> "Model | None":
    """The row of a base that is in the registry by its own id, or as the run artifact it came from."""
    from soldiom_ray.db import models
    from soldiom_ray.db.engine import open_session

    with open_session(context.settings) as session:
        if name.startswith("run-"):
            return models.of_run(session, name, context.tenant)
        try:
            row = models.get(session, name, context.tenant)
        except NotFoundError:
            return None
        return row if row.id == name else None


def _register_base(context: Context, name: str) -> "Model":
    from soldiom_ray.db import models
    from soldiom_ray.db.engine import open_session
    from soldiom_ray.models.load import model_folder

    with model_folder(context.settings, context.artifacts, name) as folder:
        fingerprint = weights_fingerprint(folder)
        card, license_ = _card_and_license(folder, name)
    with open_session(context.settings) as session:
        slug = base_name(name)
        for row in _versions(session, slug, context.tenant):
            if row.lineage.get("fingerprint") == fingerprint and (row.shared or row.owner == context.owner):
                return row
        return models.create(
            session,
            family="base",
            name=slug,
            tenant=context.tenant,
            owner="" if name.startswith("builtin/") else context.owner,
            base_model=name,
            license=license_,
            card=card,
            lineage={"base_model": name, "fingerprint": fingerprint},
            performance_metrics={},
            gate={},
        )


def _versions(connection: Any, name: str, tenant: str) -> Iterator["Model"]:
    from soldiom_ray.db import models

    cursor = None
    while True:
        rows, cursor = models.list_models(connection, tenant, family="base", name=name, cursor=cursor)
        yield from rows
        if cursor is None:
            return


def _put_in_mlflow(context: Context, row: "Model") -> "Model":
    from soldiom_ray.db import models
    from soldiom_ray.db.engine import open_session
    from soldiom_ray.registry import put_version, registered_name, source_of

    name = registered_name("base", row.name, context.tenant, row.owner)
    version = put_version(
        context.settings,
        name,
        source=source_of(context.settings, row.run_artifact)
        if row.run_artifact
        else f"soldiom:///base/{base_name(str(row.base_model))}",
        run_id=None,
        tags={"family": row.family, "tenant": context.tenant, "model_id": row.id, "license": row.license[:500]},
        description=f"Base model {row.base_model}",
    )
    with open_session(context.settings) as session:
        return models.update(session, row.id, context.tenant, mlflow_name=name, mlflow_version=version)


def weights_fingerprint(folder: Path) -> str:
    """SHA-256 over the names and contents of a folder's weights, configuration and tokenizer."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in (".safetensors", ".json", ".model", ".txt"):
            digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _card_and_license(folder: Path, name: str) -> tuple[str, str]:
    """(card, licence) of a model from its folder; a line in place of a missing card, "" for an unknown licence."""
    card_path = next((path for path in (folder / "README.md", folder / "card.md") if path.is_file()), None)
    text = card_path.read_bytes()[:CARD_BYTES].decode(errors="replace").replace("\0", "") if card_path else ""
    license_ = _front_matter_license(text)
    if not license_:
        for path in sorted(folder.glob("LICENSE*")):
            license_ = license_ or from_text(path.read_text(errors="replace"))
    license_ = license_ or license_of(name)
    if not text:
        text = f"# {name}\n\nThe folder of this base model brings no card.\n"
    return text, license_


def _front_matter_license(text: str) -> str:
    """The licence (SPDX) that a card's YAML front matter names; "" where it names none."""
    import yaml

    match = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    if not match:
        return ""
    try:
        content = yaml.safe_load(match.group(1))
    except yaml.YAMLError:
        return ""
    value = content.get("license") if isinstance(content, dict) else None
    return from_name(value) if isinstance(value, str) else ""
