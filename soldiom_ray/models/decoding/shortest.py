"""Shortest values of schemas: the pieces that a half-written answer is completed with. They are proposals: whether a
grammar allows them is tried (`closing.py`)."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from soldiom_ray.models.decoding.schemas import Schema, resolved, subschemas_of

MAX_CHARACTERS = 20_000
"""A longer shortest value is none: no answer is that long."""
_DEPTH = 16
_FORMATS = {
    "date-time": "2000-01-01T00:00:00Z",
    "date": "2000-01-01",
    "time": "00:00:00Z",
    "duration": "P1D",
    "email": "a@b.co",
    "hostname": "a.co",
    "ipv4": "0.0.0.0",  # noqa: S104
    "ipv6": "::",
    "uuid": "00000000-0000-0000-0000-000000000000",
    "uri": "a:b",
}
_LITERAL = re.compile(r"(?<!\\)[^\W_]{2,}")
_ANY = ("0", '""', "{}", "[]", "null", "true", "false")


@dataclass(frozen=True, slots=True)
class Pieces:
    """Texts that a schema lets a completion hold, as JSON: names of properties, required ones first; values, shortest
    first; letters in a row of patterns, for strings that must hold them; and the shortest `whole` answer, where there
    is one."""

    names: tuple[bytes, ...]
    values: tuple[bytes, ...]
    literals: tuple[bytes, ...]
    whole: bytes | None

    @property
    def strings(self) -> Iterator[bytes]:
        """All texts in quotes."""
        yield from self.names
        yield from (value for value in self.values if value.startswith(b'"'))


def pieces_of(schema: Schema) -> Pieces:
    """The pieces for answers that obey a schema."""
    required: dict[str, None] = {}
    optional: dict[str, None] = {}
    values: set[str] = set(_ANY)
    literals: dict[str, None] = {}
    finder = _Finder(schema)
    for _, each in subschemas_of(schema):
        required |= dict.fromkeys(name for name in each.get("required", ()) if isinstance(name, str))
        optional |= dict.fromkeys(each.get("properties", {}))
        values |= {written(value) for value in each.get("enum", ())}
        literals |= dict.fromkeys(_LITERAL.findall(each.get("pattern", "")))
        if (shortest := finder.shortest(each)) is not None:
            values.add(shortest)
    names = [written(name).encode() for name in (required | optional)]
    by_length = sorted((value.encode() for value in values), key=lambda value: (len(value), value))
    whole = finder.shortest(schema)
    runs = tuple(literal.encode() for literal in sorted(literals, key=len))
    return Pieces(tuple(names), tuple(by_length), runs, None if whole is None else whole.encode())


def joined(parts: Sequence[Pieces]) -> Pieces:
    """The pieces for answers that hold values of several schemas."""

    def all_of(texts: Iterable[tuple[bytes, ...]]) -> tuple[bytes, ...]:
        return tuple(dict.fromkeys(chain.from_iterable(texts)))

    values = sorted(all_of(each.values for each in parts), key=len)
    names, literals = all_of(each.names for each in parts), all_of(each.literals for each in parts)
    return Pieces(names, tuple(values), literals, None)


def written(value: Any) -> str:
    """A value as the grammar writes it: without spaces, in Unicode."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class _Finder:
    """Shortest values within one schema; None for what has none or a very long one."""

    def __init__(self, root: Schema) -> None:
        self.root = root
        self.found: dict[tuple[int, int], str | None] = {}

    def shortest(self, schema: Any, depth: int = _DEPTH) -> str | None:
        """The shortest value as JSON, nested at most so deep."""
        name = (id(schema), depth)
        if name not in self.found:
            value = self._shortest(schema, depth - 1) if depth else None
            self.found[name] = None if value is None or len(value) > MAX_CHARACTERS else value
        return self.found[name]

    def _shortest(self, schema: Any, depth: int) -> str | None:
        schema = resolved(schema, self.root)
        if not isinstance(schema, Mapping):
            return None if schema is False else "0"
        if "const" in schema:
            return written(schema["const"])
        if "enum" in schema:
            return _least(map(written, schema["enum"]))
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return _least(self.shortest(each, depth) for each in schema[key])
        if "allOf" in schema:
            return self._shortest(self._joined(schema), depth)
        kinds = schema.get("type") or self._kind(schema)
        return _least(self._of_kind(kind, schema, depth) for kind in ([kinds] if isinstance(kinds, str) else kinds))

    def _joined(self, schema: Schema) -> dict[str, Any]:
        """A schema and all that must hold beside it, as one."""
        joined = {key: value for key, value in schema.items() if key != "allOf"}
        for each in schema["allOf"]:
            part = resolved(each, self.root)
            for key, value in part.items() if isinstance(part, Mapping) else ():
                if key in ("properties", "patternProperties"):
                    joined[key] = {**joined.get(key, {}), **value}
                elif key == "required":
                    joined[key] = [*joined.get(key, ()), *value]
                else:
                    joined[key] = value
        return joined

    def _kind(self, schema: Schema) -> str:
        if {"properties", "required", "minProperties"} & schema.keys():
            return "object"
        if {"items", "prefixItems", "minItems"} & schema.keys():
            return "array"
        return "string" if {"pattern", "format", "minLength"} & schema.keys() else "integer"

    def _of_kind(self, kind: str, schema: Schema, depth: int) -> str | None:
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, depth)
        if kind == "string":
            return _string(schema)
        if kind in ("integer", "number"):
            return _number(schema)
        return "null" if kind == "null" else "true"

    def _object(self, schema: Schema, depth: int) -> str | None:
        properties: Mapping[str, Any] = schema.get("properties", {})
        wanted = set(schema.get("required", ()))
        names = [name for name in properties if name in wanted] + sorted(wanted - properties.keys())
        spare = [name for name in properties if name not in wanted]
        names += spare[: max(0, schema.get("minProperties", 0) - len(names))]
        parts = [self.shortest(properties.get(name, schema.get("additionalProperties", {})), depth) for name in names]
        if any(part is None for part in parts):
            return None
        return "{" + ",".join(f"{written(name)}:{part}" for name, part in zip(names, parts, strict=True)) + "}"

    def _array(self, schema: Schema, depth: int) -> str | None:
        items, first = schema.get("items", {}), list(schema.get("prefixItems", ()))
        if isinstance(items, list):
            items, first = schema.get("additionalItems", {}), items
        count = min(int(schema.get("minItems", 0)), MAX_CHARACTERS)
        parts = [self.shortest(each, depth) for each in first[:count]]
        parts += [self.shortest(items, depth)] * (count - len(parts))
        written_parts = [part for part in parts if part is not None]
        return None if len(written_parts) < len(parts) else "[" + ",".join(written_parts) + "]"


def _least(values: Iterable[str | None]) -> str | None:
    return min((value for value in values if value is not None), key=len, default=None)


def _string(schema: Schema) -> str | None:
    if "pattern" in schema:
        return None
    if (format_ := schema.get("format")) in _FORMATS:
        return written(_FORMATS[format_])
    return written("a" * min(int(schema.get("minLength", 0)), MAX_CHARACTERS))


def _number(schema: Schema) -> str:
    step = schema.get("multipleOf", 1)
    low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
    high = schema.get("maximum", schema.get("exclusiveMaximum", 0))
    near = 0 if low <= 0 <= high else low if low > 0 else high
    if schema.get("type") == "number" and "multipleOf" not in schema:
        inner = (low + high) / 2 if "exclusiveMinimum" in schema and "exclusiveMaximum" in schema else near
        return written(int(inner) if float(inner).is_integer() else inner)
    value = int(near // step * step)
    at_bound = value == schema.get("exclusiveMinimum")
    return str(int(value + step) if value < near or at_bound else int(value))
