"""JSON schemas of capabilities: whether one can be used, and what is wrong with a value by one."""

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from soldiom_ray.errors import Problem, format_location, suggestion


def schema_mistakes(schema: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a schema as such, and what a specialist's schema has to say."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        yield f"is no JSON schema: {error.message[:120]}"
        return
    if schema.get("type") != "object" or schema.get("additionalProperties") is not False:
        yield "must be an object that is closed: `type: object`, `additionalProperties: false`"
    if unknown := set(schema.get("required", ())) - schema.get("properties", {}).keys():
        yield f"requires {sorted(unknown)[0]!r}, which is none of its properties"
    if "$ref" in json.dumps(schema):
        yield "refers to another schema (`$ref`); write it out"


def schema_problems(value: object, schema: Mapping[str, Any], where: str) -> list[Problem]:
    """What is wrong with a value by a schema, at most twenty; a text of the value is never repeated."""
    from jsonschema import Draft202012Validator

    errors = islice(Draft202012Validator(schema).iter_errors(value), 20)
    problems = [Problem(format_location((where, *error.absolute_path)), _message(error)) for error in errors]
    return sorted(problems, key=lambda problem: problem.loc)


def _message(error: Any) -> str:
    """What one of jsonschema's errors says, without the value that it met."""
    limit, value = error.validator_value, error.instance
    match error.validator:
        case "required":
            missing = [name for name in limit if name not in value]
            return f"has no {', '.join(map(repr, missing))}"
        case "additionalProperties":
            known = list(error.schema.get("properties", {}))
            unknown = [str(name)[:60] for name in value if name not in known]
            return f"has an unknown member {unknown[0]!r}; known: {', '.join(known)}.{suggestion(unknown[0], known)}"
        case "type":
            wanted = limit if isinstance(limit, str) else " or ".join(limit)
            return f"must be of type {wanted}"
        case "maxLength":
            return f"has {len(value)} characters; at most {limit} are taken"
        case "minLength":
            return f"has {len(value)} characters; it needs at least {limit}"
        case "maxItems" | "minItems":
            return f"has {len(value)} items; {'at most' if error.validator == 'maxItems' else 'at least'} {limit}"
        case "enum":
            return f"must be one of: {', '.join(map(str, limit))}"
        case _:
            return f"does not obey `{error.validator}: {str(limit)[:80]}`"
