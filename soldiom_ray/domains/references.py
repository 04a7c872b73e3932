"""Fields of a recipe whose value names something outside of it. The schema marks each such field with what it names;
who may name what is decided in `access`, what a name means in `names`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, JsonValue

from soldiom_ray.errors import format_location

NAMES = "x-names"
"""Member of a field's JSON schema that says what its value names."""

PATH: dict[str, JsonValue] = {NAMES: "path"}
"""A file or folder of the server."""
MODEL: dict[str, JsonValue] = {NAMES: "model"}
"""builtin/NAME, a folder or GGUF file of the server, a hub id, a run, or a model of the registry."""
SPEECH: dict[str, JsonValue] = {NAMES: "speech model"}
"""The name of an installed program, or a folder of the server."""
DATABASE: dict[str, JsonValue] = {NAMES: "database"}
"""A database's URL: a host, a socket, or a file of the server."""
ENDPOINT: dict[str, JsonValue] = {NAMES: "endpoint"}
"""An HTTP address; `collect.address` decides where connections may go."""
SITE: dict[str, JsonValue] = {NAMES: "site"}
"""A site of a federation that this home knows by name, or the home of one on this machine."""
INPUT: dict[str, JsonValue] = {NAMES: "user input"}
ARTIFACT: dict[str, JsonValue] = {NAMES: "dataset"}
RUN: dict[str, JsonValue] = {NAMES: "run"}
VERSION: dict[str, JsonValue] = {NAMES: "version"}

KINDS = ("path", "model", "speech model", "database", "endpoint", "site", "user input", "dataset", "run", "version")


@dataclass(frozen=True, slots=True)
class Reference:
    """One value that names something: where it stands, what it names."""

    location: str
    kind: str
    value: str
    record: BaseModel
    """The record whose field this is."""


def references(record: BaseModel, location: tuple[str | int, ...] = ()) -> Iterator[Reference]:
    """Every reference in a record and the records within it, in their order; empty values name nothing."""
    for name, field in type(record).model_fields.items():
        here = (*location, field.alias or name)
        value = getattr(record, name)
        extra = field.json_schema_extra
        kind = extra.get(NAMES) if isinstance(extra, dict) else None
        for place, item in _items(here, value):
            if isinstance(item, BaseModel):
                yield from references(item, place)
            elif kind is not None and item:
                yield Reference(format_location(place), str(kind), str(item), record)


def is_local_path(name: str) -> bool:
    """Whether a model's name is a path of the machine. A relative one begins with a dot; every other name is a name,
    whatever folders the process stands in."""
    return name.startswith(("/", "~", "./", "../", "file:")) or name in (".", "..")


def _items(location: tuple[str | int, ...], value: Any) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    if isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield (*location, index), item
    else:
        yield location, value
