"""Options of commands. What a field of the recipe means and what its default is stands in the recipe's schema only."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer
from typer.core import TyperCommand

from soldiom_ray.errors import InputError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

FIELD = "field of the recipe: "
"""Start of a help text that `RecipeCommand` replaces by the field's description."""

Name = Annotated[str, typer.Option(help="Name of the result.")]


def recipe_option(field: str, *names: str, scope: str = "", **settings: Any) -> Any:
    """An option that sets a field of the recipe, named as in the recipe: "train.rank", "collect.github.topics". Its
    help is the field's description, choices and default, after `scope`, which says when the option applies."""
    return typer.Option(*names, help=f"{FIELD}{field} {scope}", **settings)


class RecipeCommand(TyperCommand):
    """A command whose options are fields of the recipe. The schema is loaded when the help is printed, not before: it
    costs 0.11 s of CPU, and `soldiom --help` as a whole 0.13 s."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Print the options, with their help from the schema."""
        for parameter in self.params:
            text = getattr(parameter, "help", None) or ""
            if text.startswith(FIELD):
                path, _, scope = text.removeprefix(FIELD).partition(" ")
                parameter.help = describe(find_field(path), scope, with_default=not parameter.required)  # type: ignore[attr-defined]
        super().format_options(ctx, formatter)


def find_field(path: str) -> "FieldInfo":
    """The field of the recipe's schema at a path, such as "train.rank" or "collect.github.topics"."""
    from soldiom_ray.domains.schema import Recipe

    heading, *inner, name = path.split(".")
    records = _records(Recipe.model_fields[heading].annotation)
    if heading == "collect":
        source = inner.pop(0)
        record = next(each for each in records if source in get_args(each.model_fields["source"].annotation))
    else:
        record = next(records)
    for part in inner:
        record = next(_records(record.model_fields[part].annotation))
    field: FieldInfo = record.model_fields[name]
    return field


def describe(field: "FieldInfo", scope: str = "", *, with_default: bool = True) -> str:
    """Help text of a field: its description as a sentence after `scope`, its choices and its default."""
    text = f"{scope} {field.description or ''}".strip()
    if re.match(r"[a-z]+[ ,;]", text):  # not `nf4: ...` or `builtin/tiny ...`, which are values
        text = text[0].upper() + text[1:]
    choices, has_several = _choices(field.annotation), get_origin(field.annotation) is tuple
    notes = [f"{'any of' if has_several else 'one of'}: {', '.join(choices)}"] if choices else []
    default = field.get_default(call_default_factory=True)
    is_shown = with_default and not field.is_required() and default is not False
    if is_shown and default not in (None, "", (), {}):
        notes.append(f"default: {'all' if choices and default == tuple(choices) else _spell(default)}")
    return f"{text}." + (f"  [{'; '.join(notes)}]" if notes else "")


def split_list(values: list[str] | None) -> list[str]:
    """Values given repeatedly, separated by commas, or both."""
    return [part.strip() for value in values or () for part in value.split(",") if part.strip()]


def pairs(values: list[str] | None, option: str) -> dict[str, str]:
    """NAME=VALUE options as a mapping. Raises InputError for one of another form."""
    mapping = {}
    for text in values or ():
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise InputError(f"{option} {text!r} is not NAME=VALUE.", remedy=f"for example {option} text=body")
        mapping[name.strip()] = value.strip()
    return mapping


def drop_unset(**values: Any) -> dict[str, Any]:
    """The values that the command line sets; for the others the schema's defaults hold."""
    return {name: value for name, value in values.items() if value not in (None, [], {})}


def _records(annotation: Any) -> Iterator[Any]:
    """Record types within a type annotation."""
    if hasattr(annotation, "model_fields"):
        yield annotation
    else:
        for argument in get_args(annotation):
            yield from _records(argument)


def _choices(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    return [choice for argument in get_args(annotation) for choice in _choices(argument)]


def _spell(value: Any) -> str:
    """A default as it would be typed."""
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and value >= 100_000:
        return f"{value:_}"
    return f"{value:g}" if isinstance(value, float) else str(value)
