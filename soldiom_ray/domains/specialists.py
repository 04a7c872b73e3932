"""The specialisations: one YAML file per domain, in packs/ and in the home's folder `domains`, read into records.

A pack names the models that its workflow makes, each with the headings of a recipe, and the capabilities that rules
and these models have. A capability takes and gives JSON that obeys its schemas. The headings of a pack and of its
models say only what differs from the schema's defaults.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from soldiom_ray.domains.json_schemas import schema_mistakes, schema_problems
from soldiom_ray.domains.metrics import MetricName
from soldiom_ray.domains.schema import Recipe
from soldiom_ray.domains.sources import Source
from soldiom_ray.domains.yaml_text import Lines, problem_of, read_yaml
from soldiom_ray.errors import InputError, NotFoundError, Problem, format_location, suggestion
from soldiom_ray.records import Family, Record
from soldiom_ray.settings import HOME_TENANT, home_folder

NAME = r"^[a-z][a-z0-9-]{0,39}$"
HEADINGS = ("prepare", "embed", "train", "evaluate", "register", "deploy")
CheckName = Literal["spans_match", "quotes_match", "cites_sources", "counts_all", "in_order"]
Heading = dict[str, Any] | None

logger = logging.getLogger(__name__)


class OpenDataset(Record):
    """A public dataset that a pack was made for: where it is, and under which licence."""

    name: str = Field(description="its id on a hub, or its address")
    license: str = Field(description="SPDX id, or the name of its terms")
    use: str = Field(description="what a pack takes from it")


class Data(Record):
    """The files that a model is made from: `paths` within the folder that --data names, read as a `files` source."""

    paths: tuple[str, ...] = Field((), description="files or folders within the data folder")
    columns: dict[str, str] = Field(default_factory=dict, description="role -> name of a column; unset: guessed")
    include: tuple[str, ...] = Field((), description="file patterns to take; empty: all")
    pictures: bool = Field(False, description="take pictures and nothing else")


class PackModel(Record):
    """A model that the workflow of a pack makes. Its headings are those of a recipe; they go before the pack's own."""

    description: str
    family: Family = "fine-tuned"
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$", description="its name in the registry")
    data: Data = Data()
    collect: tuple[Source, ...] = Field(
        (), description="sources that are taken where the data folder has none of `paths`"
    )
    bases: tuple[str, ...] = Field((), description="larger bases that it may be made from, given with --base")
    prepare: Heading = None
    embed: Heading = None
    train: Heading = None
    evaluate: Heading = None
    register_: Heading = Field(None, alias="register")
    deploy: Heading = None

    @property
    def registered(self) -> str:
        """`family/name`, which stands for its newest version."""
        return f"{self.family}/{self.name}"


class By(Record):
    """What answers a capability: exactly one of a rule, a classifier, a language model, and a search."""

    rule: str | None = Field(None, description="name of a function in specialists/rules.py")
    classify: str | None = Field(None, description="one of the pack's models: its label and the scores of all labels")
    picture: str = Field(
        "",
        description="classify: the field of the input that holds a picture in base64, for a model that reads pictures",
    )
    labels: dict[str, str] = Field(
        default_factory=dict, description="classify: what the answer calls the model's labels; unset: as they are"
    )
    generate: str | None = Field(None, description="one of the pack's models: an answer to the prompt")
    retrieve: bool = Field(False, description="passages of an index, each with its source, or the words not found")
    prompt: str = Field(
        "{text}", description="generate, classify: what the model is asked; {NAME} is a field of the input"
    )
    system: str = Field("", description="generate: system message")
    max_tokens: int = Field(256, ge=1, le=4096, description="generate: tokens of the answer at most")
    min_score: float = Field(0.45, ge=-1, le=1, description="retrieve: cosine similarity below which nothing is found")
    passages: int = Field(3, ge=1, le=20, description="retrieve: passages of the answer at most")

    @property
    def kind(self) -> Literal["rule", "classify", "generate", "retrieve"]:
        """Which of the four it is."""
        return "rule" if self.rule else "classify" if self.classify else "generate" if self.generate else "retrieve"

    @property
    def model(self) -> str | None:
        """The pack's name of the model that answers, if one does."""
        return self.classify or self.generate

    @model_validator(mode="after")
    def _is_one(self) -> "By":
        if sum(map(bool, (self.rule, self.classify, self.generate, self.retrieve))) != 1:
            raise ValueError("needs exactly one of `rule`, `classify`, `generate` and `retrieve`")
        return self


class Capability(Record):
    """A question that a specialist answers."""

    description: str
    input: dict[str, Any] = Field(description="JSON schema of what it is asked with: an object")
    output: dict[str, Any] = Field(description="JSON schema of its answer: an object")
    by: By
    checks: tuple[CheckName, ...] = Field((), description="what an answer must pass besides its schema")
    metric: MetricName | None = Field(None, description="what it is measured by")
    baseline: str = Field("", description="what it is measured against, besides its base")
    example: dict[str, Any] = Field(default_factory=dict, description="an input to try it with")


class Pack(Record):
    """One specialisation."""

    name: str = Field(pattern=NAME)
    title: str
    description: str
    notice: str = Field(min_length=20, description="stands in every answer")
    not_for: tuple[str, ...] = Field(min_length=1, description="what it must not be used for")
    datasets: tuple[OpenDataset, ...] = ()
    prepare: Heading = None
    embed: Heading = None
    train: Heading = None
    evaluate: Heading = None
    register_: Heading = Field(None, alias="register")
    deploy: Heading = None
    models: dict[str, PackModel] = Field(default_factory=dict)
    capabilities: dict[str, Capability] = Field(min_length=1)

    def headings(self, model: str | None = None) -> dict[str, dict[str, Any]]:
        """The recipe's headings of one of its models (unset: its first), those of the pack below them."""
        chosen = self.models[model] if model else next(iter(self.models.values()), None)
        merged: dict[str, dict[str, Any]] = {}
        for heading in HEADINGS:
            field = "register_" if heading == "register" else heading
            values = (getattr(self, field), getattr(chosen, field, None))
            if any(value is not None for value in values):
                merged[heading] = {key: value for part in values for key, value in (part or {}).items()}
        if chosen:
            own = {"family": chosen.family, "name": chosen.name, "specialization": self.name}
            merged["register"] = own | merged.get("register", {})
        return merged


def read_pack(text: str, name: str) -> Pack:
    """The pack in a YAML text. InputError with every mistake and its line, also those in schemas and headings."""
    content, lines = read_yaml(text, name)
    if not isinstance(content, dict):
        raise InputError(f"{name} must be a mapping, not {type(content).__name__}.", remedy="see docs/domains.md")
    problems = list(lines.repeated)
    try:
        pack = Pack.model_validate(content)
    except ValidationError as error:
        problems += [problem_of(Pack, dict(detail), lines) for detail in error.errors(include_url=False)]
    else:
        problems += [*_heading_problems(pack, lines), *_capability_problems(pack, lines)]
    if problems:
        problems.sort(key=lambda problem: (problem.line or 0, problem.loc))
        count = f"{len(problems)} mistake{'s' if len(problems) > 1 else ''}"
        raise InputError(
            f"{name} has {count}.", remedy="correct the file; docs/domains.md has the form", problems=problems
        )
    return pack


def packs(tenant: str = HOME_TENANT) -> Mapping[str, Pack]:
    """The packs that come with Soldiom and those of this home, by name. One of the home with mistakes is left out, and
    the log names it. Those of the home are the command line's, and so its tenant's alone: they name labels, titles and
    folders of its data."""
    own = _own_packs(own_folder(), _own_stamps()) if tenant == HOME_TENANT else {}
    return {**own, **built_in_packs()}


@lru_cache(maxsize=1)
def built_in_packs() -> Mapping[str, Pack]:
    """The packs that come with Soldiom, by name."""
    folder = files("soldiom_ray.domains").joinpath("packs")
    texts = sorted(
        (entry.name, entry.read_text(encoding="utf-8")) for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )
    return {pack.name: pack for pack in (read_pack(text, name) for name, text in texts)}


def own_folder() -> Path:
    """Where the packs of this home are, `NAME.yaml` each: what `soldiom new-domain` writes and people edit."""
    return home_folder() / "domains"


def _own_stamps() -> tuple[tuple[str, int], ...]:
    """Name and time of each pack of this home: what tells that one has changed."""
    paths = (path for path in sorted(own_folder().glob("*.yaml")) if path.is_file())
    return tuple((path.name, path.stat().st_mtime_ns) for path in paths)


@lru_cache(maxsize=4)
def _own_packs(folder: Path, stamps: tuple[tuple[str, int], ...]) -> Mapping[str, Pack]:
    read = {}
    for name, _ in stamps:
        try:
            pack = read_pack((folder / name).read_text(encoding="utf-8"), name)
        except (OSError, UnicodeDecodeError, InputError) as error:
            logger.warning("a domain of this home is left out", extra={"data": {"file": name, "error": str(error)}})
            continue
        read[pack.name] = pack
    return read


def find_pack(name: str, tenant: str = HOME_TENANT) -> Pack:
    """A pack by its name; NotFoundError names those that are near."""
    known = packs(tenant)
    if name in known:
        return known[name]
    if tenant == HOME_TENANT and re.fullmatch(NAME, name) and (own := own_folder() / f"{name}.yaml").is_file():
        return read_pack(own.read_text(encoding="utf-8"), own.name)  # raises what is wrong with it
    raise NotFoundError(
        f"No domain {name[:60]!r}; known: {', '.join(known)}.{suggestion(name, known)}",
        remedy="`soldiom domains list` shows them",
    )


def find_capability(pack: Pack, name: str) -> Capability:
    """A capability of a pack by its name; NotFoundError names those that are near."""
    try:
        return pack.capabilities[name]
    except KeyError:
        known = pack.capabilities
        raise NotFoundError(
            f"Domain {pack.name} has no capability {name[:60]!r}; it has: {', '.join(known)}.{suggestion(name, known)}",
            remedy=f"`soldiom domains show {pack.name}` describes them",
        ) from None


def find_model(pack: Pack, name: str) -> PackModel:
    """A model of a pack by the pack's name for it."""
    try:
        return pack.models[name]
    except KeyError:
        known = ", ".join(pack.models) or "none"
        raise NotFoundError(
            f"Domain {pack.name} makes no model {name[:60]!r}; it makes: {known}.{suggestion(name, pack.models)}",
            remedy=f"`soldiom domains show {pack.name}` describes them",
        ) from None


def with_domain(content: object) -> tuple[object, list[Problem]]:
    """A recipe's plain values with what its `domain` (NAME, or NAME/MODEL) says of the headings that stand in it, below
    what they say themselves; and what is wrong with the name. A heading that the recipe leaves out stays out."""
    if not isinstance(content, dict) or not isinstance(content.get("domain"), str):
        return content, []
    name, _, model = content["domain"].partition("/")
    try:
        pack = find_pack(name)
        if model:
            find_model(pack, model)
        defaults = pack.headings(model or None)
    except NotFoundError as error:
        return content, [Problem("domain", error.what)]
    defaults.get("register", {}).pop("name", None)
    merged = {
        key: {**defaults[key], **(value or {})} if key in defaults and isinstance(value, dict | None) else value
        for key, value in content.items()
    }
    return merged, []


def _heading_problems(pack: Pack, lines: Lines) -> Iterator[Problem]:
    """What is wrong with the headings of each model, once the pack's are below them."""
    for name, model in pack.models.items():
        headings = {key: value for key, value in pack.headings(name).items() if key != "deploy" or value is not None}
        content = {"name": pack.name, "collect": [{"source": "files", "paths": ["x"]}], "prepare": {}, **headings}
        place = ("models", name)
        own = Lines(
            lines={**lines.lines, **{at[2:]: line for at, line in lines.lines.items() if at[:2] == place}},
            unquoted={at[2:]: word for at, word in lines.unquoted.items() if at[:2] == place},
        )
        try:
            Recipe.model_validate(content)
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                problem = problem_of(Recipe, dict(detail), own)
                yield Problem(f"models.{name}.{problem.loc}".rstrip("."), problem.msg, problem.line)
        if pathological := [path for path in model.data.paths if path.startswith("/") or ".." in path.split("/")]:
            location = ("models", name, "data", "paths")
            yield Problem(
                format_location(location), f"leaves the data folder: {pathological[0]!r}", lines.line_of(location)
            )


def _capability_problems(pack: Pack, lines: Lines) -> Iterator[Problem]:
    """What is wrong with the schemas, models, rules and prompts of the capabilities."""
    for name, capability in pack.capabilities.items():
        place = ("capabilities", name)
        for side in ("input", "output"):
            for message in schema_mistakes(getattr(capability, side)):
                yield Problem(format_location((*place, side)), message, lines.line_of((*place, side)))
        for part, message in _by_mistakes(pack, capability):
            location = (*place, "by", part)
            yield Problem(format_location(location), message, lines.line_of(location))
        if capability.example and (mistakes := schema_problems(capability.example, capability.input, "example")):
            where = lines.line_of((*place, "example"))
            yield from (Problem(f"capabilities.{name}.{each.loc}", each.msg, where) for each in mistakes)


def _by_mistakes(pack: Pack, capability: Capability) -> Iterator[tuple[str, str]]:
    by = capability.by
    if by.model and by.model not in pack.models:
        yield by.kind, f"is {by.model!r}, no model of the pack; it makes: {', '.join(pack.models)}"
    if by.rule:
        from soldiom_ray.specialists.rules import RULES

        if by.rule not in RULES:
            yield "rule", f"is {by.rule!r}; known: {', '.join(RULES)}.{suggestion(by.rule, RULES)}"
    if by.picture and by.picture not in capability.input.get("properties", {}):
        yield "picture", f"is {by.picture!r}, which is no field of the input"
    if by.model:
        fields = capability.input.get("properties", {})
        for field in () if by.picture else placeholders(by.prompt):
            if field not in fields:
                yield "prompt", f"names {{{field}}}, which is no field of the input; it has: {', '.join(fields)}"


def placeholders(prompt: str) -> list[str]:
    """The fields that a prompt names in braces."""
    return re.findall(r"\{([a-z_]+)\}", prompt)
