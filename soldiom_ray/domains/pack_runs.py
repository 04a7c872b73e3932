"""The workflow of a pack on data that is named: which of its models can be made, and the recipe of each."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soldiom_ray.domains.specialists import Pack, PackModel, find_model
from soldiom_ray.errors import InputError, NotFoundError


@dataclass(frozen=True, slots=True)
class PackRun:
    """The recipes of the models that can be made, by the pack's names of them, and why others cannot."""

    recipes: Mapping[str, dict[str, Any]]
    left_out: Mapping[str, str]


def plan_run(
    pack: Pack,
    data: Path | None,
    data_of: Mapping[str, Path],
    *,
    model: str | None = None,
    base: str | None = None,
    deploys: bool = True,
) -> PackRun:
    """The recipes that make a pack's models, or the one that is named.

    `data` is a folder that holds files of the names that the models declare; a folder or file without any of them is
    the first model's data as a whole. `data_of` names the data of single models. A model without data is made from
    sources of its own where it declares some. InputError where no model can be made; NotFoundError for a path that
    does not exist, and for names that the pack does not have.
    """
    for path in filter(None, (data, *data_of.values())):
        if not path.exists():
            raise NotFoundError(f"There is no file or folder {str(path)!r}.", remedy="name existing data with --data")
    for name in (*data_of, *filter(None, (model,))):
        find_model(pack, name)
    names = [model] if model else list(pack.models)
    if data and not any(_declared(pack.models[name], data) for name in names):
        data_of = {next(name for name in names if name not in data_of): data, **data_of} if names else data_of
    recipes, left_out = {}, {}
    for name in names:
        declared = pack.models[name]
        if sources := _sources(declared, data, data_of.get(name)):
            recipes[name] = _recipe(pack, name, sources, base, deploys)
        else:
            left_out[name] = f"no data is named; it reads {', '.join(declared.data.paths)}, or --data {name}=FILES"
    if not recipes:
        raise InputError(
            f"No data is named for domain {pack.name}; its models read "
            + "; ".join(f"{name}: {', '.join(pack.models[name].data.paths)}" for name in names),
            remedy=f"name their folder, or files of your own: `soldiom run domain:{pack.name} --data FOLDER`",
        )
    return PackRun(recipes, left_out)


def _declared(model: PackModel, folder: Path) -> list[str]:
    """The model's paths that are in a folder."""
    return [str(folder / path) for path in model.data.paths if folder.is_dir() and (folder / path).exists()]


def _sources(model: PackModel, folder: Path | None, own: Path | None) -> list[dict[str, Any]]:
    options = model.data.model_dump(mode="json", exclude={"paths"}, exclude_defaults=True)
    if own is not None:
        options.pop("columns", None)  # of the declared files; those of others are guessed
        return [{"source": "files", "paths": _declared(model, own) or [str(own)], **options}]
    if folder is not None and (paths := _declared(model, folder)):
        return [{"source": "files", "paths": paths, **options}]
    return [source.model_dump(mode="json", exclude_none=True) for source in model.collect]


def _recipe(pack: Pack, name: str, sources: list[dict[str, Any]], base: str | None, deploys: bool) -> dict[str, Any]:
    headings: dict[str, dict[str, Any]] = {"prepare": {}, "train": {}, "evaluate": {}, **pack.headings(name)}
    generates = headings["train"].get("task", "causal_lm") == "causal_lm"
    headings["train"] = headings["train"] | ({"base_model": base} if base and generates else {})
    served = headings.pop("deploy", {})
    content: dict[str, Any] = {
        "name": pack.models[name].name,
        "domain": f"{pack.name}/{name}",
        "collect": sources,
        **headings,
    }
    return content | ({"deploy": served} if deploys else {})
