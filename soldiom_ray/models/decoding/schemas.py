"""JSON Schemas of answers: what is refused and why, what small models need besides, and shortest values."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from soldiom_ray.errors import InputError, Problem

MAX_CHARACTERS, MAX_DEPTH = 64 << 10, 40
LARGEST_INTEGER = 2**53 - 1
"""Integers without bounds stay within what every reader of JSON holds exactly (RFC 8259, section 6)."""
LARGEST_NUMBER = 1e15
FORMATS = frozenset(
    {"date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"}
)  # fmt: skip
REMEDIES = {
    "not": "say with `enum` or `anyOf` what is allowed",
    "if": "use `anyOf` with one schema for each case",
    "then": "use `anyOf` with one schema for each case",
    "else": "use `anyOf` with one schema for each case",
    "contains": "describe every item with `items`",
    "minContains": "describe every item with `items`",
    "maxContains": "describe every item with `items`",
    "uniqueItems": "leave it out and remove repeated items afterwards",
    "dependentRequired": "use `anyOf` with one schema for each case",
    "dependentSchemas": "use `anyOf` with one schema for each case",
    "dependencies": "use `anyOf` with one schema for each case",
    "propertyNames": "name the properties in `properties`, or use `patternProperties`",
    "unevaluatedItems": "use `items: false` beside `prefixItems`",
    "unevaluatedProperties": "use `additionalProperties: false`",
    "$dynamicRef": "use `$ref`",
    "$recursiveRef": "use `$ref`",
}
"""Keywords that no grammar expresses, and what to write instead."""
_ONE, _LIST, _NAMED = (
    ("additionalProperties", "items", "additionalItems"),
    ("anyOf", "oneOf", "allOf", "prefixItems", "items"),
    ("properties", "patternProperties", "$defs", "definitions"),
)
_STRUCTURE = {"properties", "patternProperties", "additionalProperties", "required", "allOf", "anyOf", "oneOf"}

Schema = Mapping[str, Any]
_DEEPER: Schema = {}


def checked(schema: Schema, place: str = "response_format.json_schema.schema") -> dict[str, Any]:
    """The schema as answers are made by: every answer that it allows is allowed by the original. Objects hold the
    properties that they name, unless the schema says otherwise, and numbers are bounded: small models do not end.

    InputError naming each keyword that is invalid or that no grammar expresses, below its `place` in the request."""
    try:
        characters = len(json.dumps(schema, allow_nan=False))
    except (ValueError, RecursionError) as error:
        raise refused([Problem("", f"is no JSON: {type(error).__name__}")], place) from None
    if characters > MAX_CHARACTERS:
        raise refused([Problem("", f"takes {characters} characters; at most {MAX_CHARACTERS}")], place)
    subschemas = subschemas_of(schema)
    if deep := [Problem(path, f"is nested deeper than {MAX_DEPTH}") for path, each in subschemas if each is _DEEPER]:
        raise refused(deep, place, "use `$ref` for what repeats")
    problems = [problem for path, each in subschemas for problem in _problems(path, each, schema)]
    problems += _invalid(schema) if not problems else []
    if problems:
        raise refused(problems, place)
    alone = not any("allOf" in each or ("$ref" in each and _STRUCTURE & each.keys()) for _, each in subschemas)
    result: dict[str, Any] = _tightened(schema, alone=alone)
    if problems := [problem for path, each in subschemas_of(result) for problem in _uncounted(path, each)]:
        raise refused(problems, place)
    return result


def subschemas_of(schema: Schema) -> list[tuple[str, Schema]]:
    """Every subschema that is an object, the schema itself first, with its path."""
    return list(_walk(schema, "", 0))


def refused(problems: list[Problem], place: str, remedy: str = "correct the schema") -> InputError:
    """The error of a schema that stands at a place in the request."""
    located = [Problem(f"{place}{each.loc}", each.msg) for each in problems[:20]]
    return InputError("The schema cannot be used.", remedy=remedy, problems=located)


def _walk(schema: Any, path: str, depth: int) -> Iterator[tuple[str, Schema]]:
    """Every subschema that is an object, with its path; `_DEEPER` in the place of one that is nested too deep."""
    if not isinstance(schema, Mapping):
        return
    if depth > MAX_DEPTH:
        yield path, _DEEPER
        return
    yield path, schema
    for key in _ONE:
        yield from _walk(schema.get(key), f"{path}.{key}", depth + 1)
    for key in _LIST:
        if isinstance(schema.get(key), list):
            for number, each in enumerate(schema[key]):
                yield from _walk(each, f"{path}.{key}[{number}]", depth + 1)
    for key in _NAMED:
        if isinstance(schema.get(key), Mapping):
            for name, each in schema[key].items():
                yield from _walk(each, f"{path}.{key}.{name}", depth + 1)


def _problems(path: str, schema: Schema, root: Schema) -> Iterator[Problem]:
    for keyword, remedy in REMEDIES.items():
        if keyword in schema and not (keyword == "uniqueItems" and schema[keyword] is False):
            yield Problem(f"{path}.{keyword}", f"is not supported: {remedy}")
    format_ = schema.get("format")
    if isinstance(format_, str) and format_ not in FORMATS:
        known = ", ".join(sorted(FORMATS))
        yield Problem(
            f"{path}.format", f"{format_[:60]!r} is not supported: leave it out or use `pattern`; known: {known}"
        )
    step = schema.get("multipleOf")
    if isinstance(step, float) and not step.is_integer():
        yield Problem(
            f"{path}.multipleOf", "is a fraction, which readers round differently: ask for an integer of parts"
        )
    reference = schema.get("$ref")
    if isinstance(reference, str):
        try:
            resolved(schema, root)
        except LookupError as error:
            yield Problem(f"{path}.$ref", str(error.args[0]))


def _uncounted(path: str, schema: Schema) -> Iterator[Problem]:
    """A grammar does not see that an object has a name twice, which counts as one property."""
    if schema.get("minProperties", 0) > 1 and schema.get("additionalProperties") is not False:
        remedy = "name the properties in `properties` and set `additionalProperties: false`"
        yield Problem(f"{path}.minProperties", f"is not supported beside properties of any name: {remedy}")


def _invalid(schema: Schema) -> list[Problem]:
    """What the meta-schema says against a schema."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for

    try:
        validator_for(schema, default=Draft202012Validator).check_schema(schema)
    except SchemaError as error:
        return [Problem(error.json_path[1:], f"is no JSON Schema: {error.message[:200]}")]
    return []


def resolved(schema: Any, root: Schema) -> Any:
    """What a schema refers to, through any number of references. LookupError saying which is not there."""
    seen: set[str] = set()
    while isinstance(schema, Mapping) and isinstance(reference := schema.get("$ref"), str):
        if reference in seen:
            raise LookupError(f"{reference[:100]!r} refers to itself only")
        seen.add(reference)
        if reference != "#" and not reference.startswith("#/"):
            raise LookupError(f"{reference[:100]!r} is elsewhere: put it into `$defs` and refer to `#/$defs/...`")
        schema = root
        for part in reference[1:].split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            try:
                schema = schema[int(name)] if isinstance(schema, list) else schema[name]
            except (LookupError, TypeError, ValueError):
                raise LookupError(f"{reference[:100]!r} is not in the schema") from None
    return schema


def _tightened(schema: Any, *, alone: bool) -> Any:
    """A copy whose numbers have bounds and whose objects hold what they name, where a schema stands `alone`: beside
    others that must hold too it would forbid what they ask for."""
    if not isinstance(schema, Mapping):
        return schema
    copy: dict[str, Any] = {key: value for key, value in schema.items() if key != "uniqueItems"}
    combines = bool({"anyOf", "oneOf"} & schema.keys())
    for key in _ONE:
        if isinstance(copy.get(key), Mapping):
            copy[key] = _tightened(copy[key], alone=alone)
    for key in _LIST:
        if isinstance(copy.get(key), list):
            within = alone and (key not in ("anyOf", "oneOf") or not _STRUCTURE - {"anyOf", "oneOf"} & schema.keys())
            copy[key] = [_tightened(each, alone=within) for each in copy[key]]
    for key in _NAMED:
        if isinstance(copy.get(key), Mapping):
            copy[key] = {name: _tightened(each, alone=alone) for name, each in copy[key].items()}
    return copy if combines or not alone else copy | _closed(copy) | _number_bounds(copy)


def _closed(schema: Schema) -> dict[str, Any]:
    if (
        not isinstance(schema.get("properties"), Mapping)
        or {"additionalProperties", "patternProperties"} & schema.keys()
    ):
        return {}
    names = schema["properties"].keys()
    enough = names >= set(schema.get("required", ())) and len(names) >= schema.get("minProperties", 0)
    return {"additionalProperties": False} if enough else {}


def _number_bounds(schema: Schema) -> dict[str, Any]:
    kinds = schema.get("type")
    kinds = [kinds] if isinstance(kinds, str) else kinds or []
    if not {"integer", "number"} & set(kinds) or {"enum", "const"} & schema.keys():
        return {}
    most: float = LARGEST_NUMBER if "number" in kinds else LARGEST_INTEGER
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    bounds: dict[str, Any] = {}
    if low is None and (high is None or high > -most):
        bounds["minimum"] = -most
    if high is None and (low is None or low < most):
        bounds["maximum"] = most
    return bounds
