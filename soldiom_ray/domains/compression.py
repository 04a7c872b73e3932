"""A smaller version of a registered model: the recipe that compresses, scores and registers it."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from soldiom_ray.db import models
from soldiom_ray.domains.names import find_run
from soldiom_ray.domains.recipes import validate_recipe
from soldiom_ray.domains.schema import Recipe

COMPRESS = "compress"
"""Kind of the jobs that run these recipes."""
MAY_LOSE = {"int8": 0.02, "int4": 0.1, "gguf": 0.02, "gguf-q4": 0.1}
"""Nats per token that a compressed model may be worse by, with 95 % confidence, to pass its gate."""

MEASURED = (
    ("file_bytes", "weights in the file", 1e6, "MB"),
    ("weight_bytes", "weights in memory", 1e6, "MB"),
    ("tokens_per_second", "one answer at a time", 1, "tokens/s"),
)


def savings(measured: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(what, of the model as it was, of the compressed one) of all that a compression has measured."""
    return [
        (
            what,
            f"{measured[key]['before'] / scale:.1f} {unit}",
            f"{measured[key]['after'] / scale:.1f} {unit}",
        )
        for key, what, scale, unit in MEASURED
        if key in measured
    ]


def compression(session: Session, id_or_name: str, tenant: str, to: str) -> Recipe:
    """The recipe of a model's smaller version, which is registered as NAME-FORMAT of the same family and scored against
    the model on the held-out side of its dataset. NotFoundError for an unknown model; InputError for another
    format, and for a base model, which no run of this home has made."""
    run = find_run(session, id_or_name, tenant)
    model = models.get(session, id_or_name, tenant)
    name = f"{model.name[: 100 - len(to) - 1]}-{to}"
    return validate_recipe(
        {
            "name": name,
            "run": run,
            "compress": {"to": to},
            "evaluate": {"gate": {"metric": "loss", "beat": "base", "by": -MAY_LOSE.get(to, 0.0)}},
            "register": {"family": model.family, "name": name, "specialization": model.specialization},
        },
        "soldiom compress",
    )
