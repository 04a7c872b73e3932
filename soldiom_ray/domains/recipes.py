"""Reading recipes: YAML or JSON becomes a `Recipe`, or one error that lists every mistake with its line."""

from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from soldiom_ray.domains.schema import RENAMED_KEYS, Recipe, with_current_keys
from soldiom_ray.errors import InputError, Problem, format_location, suggestion

HEADINGS = ("prepare", "embed", "train", "evaluate", "register", "deploy")
Location = tuple[str | int, ...]


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
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InputError(
            f"{name} is not YAML{where}: {getattr(error, 'problem', error)}", remedy="correct the file"
        ) from error
    lines: dict[Location, int] = {}
    repeated: list[Problem] = []
    if node is not None:
        _record_lines(node, (), lines, repeated)
    return validate_recipe(content, name, lines, repeated)


def validate_recipe(
    content: object,
    name: str = "recipe",
    lines: Mapping[Location, int] | None = None,
    problems: list[Problem] | None = None,
) -> Recipe:
    """The recipe in plain values, as the API receives it. A heading without content means its defaults."""
    if not isinstance(content, dict):
        raise InputError(
            f"{name} must be a mapping of headings, not {type(content).__name__}.", remedy="see recipes/quickstart.yaml"
        )
    content = {key: {} if key in HEADINGS and value is None else value for key, value in content.items()}
    problems = list(problems or ())
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        problems += [_problem(Recipe, dict(detail), lines or {}) for detail in error.errors(include_url=False)]
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
    for heading, field in (("train", "base_model"), ("embed", "model")):
        if heading in content:
            content[heading][field] = absolute_model(content[heading][field])
    return validate_recipe(content)


def absolute_path(path: str) -> str:
    """A path without `~`, from the root."""
    return str(Path(path).expanduser().absolute())


def absolute_model(name: str) -> str:
    """A model's name; a folder or a GGUF file as its absolute path."""
    path = Path(name).expanduser()
    is_local = bool(name) and (path.is_dir() or (name.lower().endswith(".gguf") and path.is_file()))
    return str(path.absolute()) if is_local else name


def as_yaml(recipe: Recipe) -> str:
    """The recipe as YAML, with every default filled in."""
    return yaml.safe_dump(as_dict(recipe), sort_keys=False, allow_unicode=True, width=100)


def _record_lines(node: yaml.Node, location: Location, lines: dict[Location, int], repeated: list[Problem]) -> None:
    """Add the line of everything below a node to `lines`, and keys that occur twice to `repeated`."""
    lines.setdefault(location, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            key_location = (*location, str(key.value))
            lines[key_location] = key.start_mark.line + 1
            if key.value in seen:
                repeated.append(
                    Problem(format_location(key_location), "stands here a second time; keep one", lines[key_location])
                )
            seen.add(key.value)
            _record_lines(value, key_location, lines, repeated)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _record_lines(value, (*location, index), lines, repeated)


def _problem(root: type[BaseModel], detail: dict[str, Any], lines: Mapping[Location, int]) -> Problem:
    location, owner = _walk(root, detail["loc"])
    line = next((lines[location[:size]] for size in range(len(location), -1, -1) if location[:size] in lines), None)
    value = detail.get("input")
    shown_value = (
        repr(value)[:80] if isinstance(value, str | int | float | bool) or value is None else type(value).__name__
    )
    if {"url", "headers"} & set(location):
        shown_value = "wrong"  # it may hold a password
    if detail["type"] == "extra_forbidden" and owner is not None:
        known_keys = [info.alias or name for name, info in owner.model_fields.items()]
        current = RENAMED_KEYS.get(str(location[0]), {}).get(str(location[-1])) if len(location) == 2 else None
        message = f"is unknown; known: {', '.join(known_keys)}.{suggestion(str(location[-1]), known_keys)}"
        message = f"is called `{current}`" if current else message
    elif detail["type"] == "literal_error":
        expected = str(detail.get("ctx", {}).get("expected", ""))
        choices = [choice.strip("'\" ") for choice in expected.replace(" or ", ", ").split(",")]
        message = f"is {shown_value}; known: {', '.join(choices)}.{suggestion(str(value), choices)}"
    elif detail["type"] == "union_tag_invalid":
        choices = [tag.strip(" '") for tag in str(detail.get("ctx", {}).get("expected_tags", "")).split(",")]
        tag = str(detail.get("ctx", {}).get("tag", ""))
        return Problem(
            format_location((*location, "source")),
            f"is {tag!r}; known: {', '.join(choices)}.{suggestion(tag, choices)}",
            line,
        )
    elif detail["type"] == "union_tag_not_found":
        message = "needs `source`: local, files, github, huggingface, database or url"
    elif detail["type"] == "missing":
        message = "is missing"
    elif detail["type"] == "value_error":
        message = str(detail["msg"]).removeprefix("Value error, ")
    else:
        message = f"is {shown_value}: {detail['msg']}"
    return Problem(format_location(location), message, line)


def _walk(root: type[BaseModel], raw: tuple[str | int, ...]) -> tuple[Location, type[BaseModel] | None]:
    """(location without the tags that pydantic adds for unions, record class that contains its last part)."""
    location: list[str | int] = []
    owner: Any = root
    last_owner: type[BaseModel] | None = root
    for part in raw:
        tagged = _by_tag(owner, part)
        if tagged is not None:
            owner = last_owner = tagged
            continue
        location.append(part)
        if isinstance(part, int):
            owner = _element(owner)
        elif isinstance(owner, type) and issubclass(owner, BaseModel):
            last_owner = owner
            owner = next((i.annotation for n, i in owner.model_fields.items() if part in (n, i.alias)), None)
            owner = _record_of(owner)
    return tuple(location), last_owner


def _record_of(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, UnionType):
        return next((_record_of(arm) for arm in get_args(annotation) if arm is not type(None)), None)
    return annotation


def _element(annotation: Any) -> Any:
    arguments = get_args(_record_of(annotation))
    return arguments[0] if arguments else None


def _by_tag(annotation: Any, part: str | int) -> type[BaseModel] | None:
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    for arm in get_args(annotation):
        is_source = isinstance(arm, type) and issubclass(arm, BaseModel) and "source" in arm.model_fields
        if is_source and part in get_args(arm.model_fields["source"].annotation):
            return arm  # type: ignore[no-any-return]
    return None
