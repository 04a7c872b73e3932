"""YAML that becomes a record: what its text says beyond the values, and what is wrong with it, each mistake with its
line."""

from dataclasses import dataclass, field
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

from soldiom_ray.domains.schema import RENAMED_KEYS
from soldiom_ray.errors import InputError, Problem, format_location, suggestion

Location = tuple[str | int, ...]
_TEXT = "tag:yaml.org,2002:str"
_NO_TEXT = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float", "null", "timestamp"))


def read_yaml(text: str, name: str) -> tuple[object, "Lines"]:
    """The plain values of a YAML text, and where each of them stands. InputError for what is no YAML."""
    lines = Lines()
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is not None:
            lines.record(node, ())
        content = None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InputError(
            f"{name} is not YAML{where}: {getattr(error, 'problem', error)}", remedy="correct the file"
        ) from error
    except ValueError as error:  # 2024-02-30 looks like a date
        raise InputError(f"{name} is not YAML: {error}", remedy="write dates in quotes") from error
    return content, lines


@dataclass
class Lines:
    """What a text says beyond its values: the line of everything, keys that occur twice, and `unquoted` words that YAML
    reads as something else than text."""

    lines: dict[Location, int] = field(default_factory=dict)
    repeated: list[Problem] = field(default_factory=list)
    unquoted: dict[Location, str] = field(default_factory=dict)

    def line_of(self, location: Location) -> int | None:
        """The line of a location, or of the nearest thing around it."""
        sizes = range(len(location), -1, -1)
        return next((self.lines[location[:size]] for size in sizes if location[:size] in self.lines), None)

    def record(self, node: yaml.Node, location: Location) -> None:
        """Record everything below a node. Its keys become text, whatever YAML takes them for (`on`, `no`, `1`)."""
        self.lines.setdefault(location, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                if key.tag in _NO_TEXT:
                    key.tag = _TEXT
                key_location = (*location, str(key.value))
                self.lines[key_location] = key.start_mark.line + 1
                if key.value in seen:
                    where, line = format_location(key_location), self.lines[key_location]
                    self.repeated.append(Problem(where, "stands here a second time; keep one", line))
                seen.add(key.value)
                self.record(value, key_location)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self.record(value, (*location, index))
        elif node.tag in _NO_TEXT and node.value:
            self.unquoted[location] = str(node.value)


def problem_of(root: type[BaseModel], detail: dict[str, Any], lines: Lines) -> Problem:
    """One of pydantic's errors about a record of this type, in our words."""
    location, owner = _walk(root, detail["loc"])
    line = lines.line_of(location)
    unquoted = lines.unquoted.get(location)
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
        known = f"known: {', '.join(choices)}.{suggestion(unquoted or str(value), choices)}"
        message = f"is {repr(unquoted) if unquoted else shown_value}; {known}"
    elif detail["type"] == "union_tag_invalid":
        choices = [tag.strip(" '") for tag in str(detail.get("ctx", {}).get("expected_tags", "")).split(",")]
        tag = lines.unquoted.get((*location, "source")) or str(detail.get("ctx", {}).get("tag", ""))
        return Problem(
            format_location((*location, "source")),
            f"is {tag!r}; known: {', '.join(choices)}.{suggestion(tag, choices)}",
            line,
        )
    elif detail["type"] == "union_tag_not_found":
        message = "needs `source`: local, files, github, huggingface, database or url"
    elif detail["type"] == "string_type" and unquoted:
        message = f'is {unquoted} without quotes, which YAML reads as {_read_as(value)}; write "{unquoted}"'
    elif detail["type"] == "missing":
        message = "is missing"
    elif detail["type"] == "value_error":
        message = str(detail["msg"]).removeprefix("Value error, ")
    else:
        message = f"is {shown_value}: {detail['msg']}"
    return Problem(format_location(location), message, line)


def _read_as(value: Any) -> str:
    if value is None:
        return "no value"
    if isinstance(value, bool):
        return str(value).lower()
    return f"the number {value}" if isinstance(value, int | float) else f"a {type(value).__name__}"


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
        elif get_origin(owner) is dict:
            owner = get_args(owner)[1]
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
