"""Reading recipes: YAML or JSON becomes a `Recipe`, or one error that lists every mistake with its line."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from soldiom_ray.domains.schema import Recipe, with_current_keys
from soldiom_ray.domains.specialists import with_domain
from soldiom_ray.domains.yaml_text import Lines, problem_of, read_yaml
from soldiom_ray.errors import InputError, Problem

HEADINGS = ("prepare", "embed", "train", "sweep", "auto", "federate", "compress", "evaluate", "register", "deploy")


def load_recipe(path: Path) -> Recipe:
    """The recipe in a file. Paths of local sources are taken relative to the working directory."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(
            f"No recipe file {str(path)!r}.", remedy="recipes that come with the project are in recipes/"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Recipe {str(path)!r} cannot be read: {error}", remedy="give a YAML file in UTF-8") from error
    return parse_recipe(text, str(path))


def parse_recipe(text: str, name: str = "recipe") -> Recipe:
    """The recipe in a YAML text. Raises InputError with every mistake and its line."""
    content, source = read_yaml(text, name)
    content, problems = with_domain(content)
    return validate_recipe(content, name, source, problems)


def validate_recipe(
    content: object,
    name: str = "recipe",
    source: Lines | None = None,
    earlier: Sequence[Problem] = (),
) -> Recipe:
    """The recipe in plain values. A heading without content means its defaults. InputError with every mistake, the
    `earlier` ones among them."""
    if not isinstance(content, dict):
        raise InputError(
            f"{name} must be a mapping of headings, not {type(content).__name__}.", remedy="see recipes/quickstart.yaml"
        )
    content = {key: {} if key in HEADINGS and value is None else value for key, value in content.items()}
    source = source or Lines()
    problems = [*source.repeated, *(replace(each, line=source.line_of((each.loc,))) for each in earlier)]
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        problems += [problem_of(Recipe, dict(detail), source) for detail in error.errors(include_url=False)]
    if problems:
        problems.sort(key=lambda problem: (problem.line or 0, problem.loc))
        count = f"{len(problems)} mistake{'s' if len(problems) > 1 else ''}"
        raise InputError(
            f"{name} has {count}.", remedy="correct and run `soldiom recipe check FILE`", problems=problems
        )
    return recipe


def read_stored_recipe(content: Mapping[str, Any], name: str) -> Recipe:
    """The recipe in a job's row, which an earlier version may have written with former keys."""
    return validate_recipe(with_current_keys(content), name)


def as_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain JSON values, without absent headings; `read_stored_recipe` reads it back."""
    content = recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {key: value for key, value in content.items() if value != []}


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """The recipe of whoever runs the server with its local paths absolute: its job runs in another folder."""
    content = as_dict(recipe)
    for source in content.get("collect", []):
        if source.get("path"):
            source["path"] = absolute_path(source["path"])
        if source.get("paths"):
            source["paths"] = [absolute_path(path) for path in source["paths"]]
        if source.get("speech_model"):
            source["speech_model"] = absolute_model(source["speech_model"])
    for heading, key in (("train", "base_model"), ("embed", "model")):
        if heading in content:
            content[heading][key] = absolute_model(content[heading][key])
    if "federate" in content:
        content["federate"]["sites"] = [absolute_model(name) for name in content["federate"].get("sites", ())]
    if "auto" in content:
        content["auto"]["bases"] = [absolute_model(name) for name in content["auto"].get("bases", ())]
    return validate_recipe(content)


def absolute_path(path: str) -> str:
    """A path without `~`, from the root; an empty one as it is, for the schema to refuse."""
    if not path.strip():
        return path
    return str(Path(path).expanduser().absolute())


def absolute_model(name: str) -> str:
    """A model's name; a folder or a GGUF file as its absolute path."""
    path = Path(name).expanduser()
    is_local = bool(name) and (path.is_dir() or (name.lower().endswith(".gguf") and path.is_file()))
    return str(path.absolute()) if is_local else name


def as_yaml(recipe: Recipe) -> str:
    """The recipe as YAML, with every default filled in."""
    return yaml.safe_dump(as_dict(recipe), sort_keys=False, allow_unicode=True, width=100)
