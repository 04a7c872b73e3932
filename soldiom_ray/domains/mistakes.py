"""What to say of a member that a record does not have."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel

from soldiom_ray.errors import suggestion

MEANT: Mapping[str, str] = {
    "max_new_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "max_length": "max_tokens",
    "num_predict": "max_tokens",
    "stop_sequences": "stop",
    "stop_strings": "stop",
    "random_seed": "seed",
    "prompt": "input",
    "text": "input",
    "inputs": "input",
    "functions": "tools",
}
"""Name in other programs' interfaces -> ours, where a record has it."""


def unknown_member(annotation: Any, location: Sequence[str | int]) -> str:
    """What to say of the member at a location within a value of this type: the known ones, and the one that is likely
    meant, which may belong to a record within; "" for a location that leads to no record."""
    name = str(location[-1])
    owners = list(_owners(annotation, location[:-1]))
    if not owners:
        return ""
    members = [info.alias or field for owner in owners for field, info in owner.model_fields.items()]
    for candidate in (name, MEANT.get(name, "")):
        if candidate in members:
            return f'is unknown; known: {", ".join(members)}. Did you mean "{candidate}"?'
        for field in members:
            inner = [each for owner in owners for each in _owners(owner, (field,))]
            if candidate and any(candidate in each.model_fields for each in inner):
                return f"is unknown here: `{candidate}` belongs in `{field}`; known: {', '.join(members)}."
    return f"is unknown; known: {', '.join(members)}.{suggestion(name, members)}"


def _owners(annotation: Any, location: Sequence[str | int]) -> Iterator[type[BaseModel]]:
    """The records that a value of this type may hold at a location."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not location:
            yield annotation
            return
        fields = annotation.model_fields.items()
        info = next((info for field, info in fields if location[0] in (field, info.alias)), None)
        if info is not None:
            yield from _owners(info.annotation, location[1:])
        return
    rest = location[1:] if location and isinstance(location[0], int) else location
    for argument in get_args(annotation):
        if argument is not type(None) and argument is not Ellipsis:
            yield from _owners(argument, rest)
