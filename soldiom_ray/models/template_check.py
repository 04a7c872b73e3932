"""Whether a base's chat template compiles, and takes the conversations of a dataset, before anything is trained.

Both are seen from the files alone: no library of models is loaded."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from soldiom_ray.domains.messages import Message, is_taught, tools_of
from soldiom_ray.errors import InputError
from soldiom_ray.models.chat import chat_text
from soldiom_ray.models.expressible import folded, template_gaps

MAX_SHAPES = 2000
"""Of the conversations with the same roles in the same order one is rendered, and at most so many shapes are."""


@dataclass
class TemplateReport:
    """How a chat template takes conversations: `gaps` counts those with something that it cannot express, by what that
    is; `refused` those that it refuses even when that is folded, `refusal` says why the first is; `inexpressible` all
    of both."""

    conversations: int = 0
    gaps: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    inexpressible: int = 0
    refusal: InputError | None = None

    @classmethod
    def sum(cls, reports: Sequence["TemplateReport"]) -> "TemplateReport":
        """Reports of several sides as one."""
        return cls(
            sum(report.conversations for report in reports),
            sum((report.gaps for report in reports), Counter()),
            sum(report.refused for report in reports),
            sum(report.inexpressible for report in reports),
            next((report.refusal for report in reports if report.refusal), None),
        )

    def as_dict(self) -> dict[str, Any]:
        """The counts, for a run's details."""
        names = ("conversations", "gaps", "refused", "inexpressible")
        return {name: dict(value) if name == "gaps" else value for name in names if (value := getattr(self, name))}


def check_template(folder: Path, name: str) -> None:
    """InputError when a folder's chat template is no template that Jinja understands."""
    FolderTemplate.read(folder, name)


def check_conversations(folder: Path, name: str, conversations: Iterable[Sequence[Message]]) -> TemplateReport:
    """How a folder's chat template takes the conversations."""
    template, report = FolderTemplate.read(folder, name), TemplateReport()
    refusals: dict[tuple[object, ...], InputError | None] = {}
    for messages in conversations:
        report.conversations += 1
        gaps = template_gaps(template, messages)
        report.gaps.update(gaps)
        refusal = _refusal(template, messages, refusals) if template else None
        report.refused += refusal is not None
        report.inexpressible += bool(gaps or refusal)
        report.refusal = report.refusal or refusal
    return report


def _refusal(
    template: "FolderTemplate", messages: Sequence[Message], refusals: dict[tuple[object, ...], InputError | None]
) -> InputError | None:
    """Why a template refuses a conversation, folded; rendered once for each shape. None for one that it takes."""
    turns = ((message["role"], bool(message.get("tool_calls")), is_taught(message)) for message in messages)
    shape = (bool(tools_of(messages)), *turns)
    if shape not in refusals and len(refusals) < MAX_SHAPES:
        refusals[shape] = None
        try:
            render(template, messages)
        except InputError as error:
            refusals[shape] = error
    return refusals.get(shape)


def is_expressible(tokenizer: Any, messages: Sequence[Message]) -> bool:
    """Whether a chat template writes a conversation as it is, without folding."""
    if template_gaps(tokenizer, messages):
        return False
    try:
        render(tokenizer, messages)
    except InputError:
        return False
    return True


def render(tokenizer: Any, messages: Sequence[Message]) -> None:
    """Write a conversation as its training will, and up to each answer that is taught; InputError when the chat
    template refuses it."""
    turns = folded(tokenizer, messages)
    chat_text(tokenizer, turns, add_generation_prompt=False)
    for number in (number for number, turn in enumerate(turns) if is_taught(turn)):
        chat_text(tokenizer, turns[:number], add_generation_prompt=True)


class FolderTemplate:
    """The chat template of a folder's tokenizer, rendered as transformers does."""

    def __init__(self, chat_template: str, compiled: Any, special_tokens: dict[str, str]) -> None:
        self.chat_template, self.special_tokens = chat_template, special_tokens
        self._compiled = compiled

    def apply_chat_template(self, messages: Sequence[Message], **options: Any) -> str:
        """The text; whatever the template raises."""
        text: str = self._compiled.render(messages=messages, **self.special_tokens, **options)
        return text

    @classmethod
    def read(cls, folder: Path, name: str) -> "FolderTemplate | None":
        """None for a tokenizer without a template; InputError for one that does not compile."""
        import jinja2

        settings, default = _json(folder / "tokenizer_config.json"), None
        tokens = _json(folder / "special_tokens_map.json") | settings
        special = {key: _content(value) for key, value in tokens.items() if key.endswith("_token")}
        environment = _environment()
        for file, kind, template in _templates(folder, settings):
            try:
                compiled = environment.from_string(template)
            except jinja2.TemplateSyntaxError as error:
                raise InputError(
                    f"The chat template of the model {name!r} ({file}) does not compile: line {error.lineno}:"
                    f" {error.message}",
                    remedy=f"correct it, or copy {file} from the model that this one was made from",
                ) from error
            if default is None and kind == "default":
                default = template, compiled
        return cls(*default, {key: value for key, value in special.items() if value}) if default else None


def _environment() -> Any:
    """Jinja as transformers sets it up for chat templates."""
    import jinja2
    from jinja2.ext import Extension
    from jinja2.nodes import Node
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """The tag around what the assistant says."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> list[Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals |= {
        "raise_exception": refuse,
        "strftime_now": lambda form: datetime.now().astimezone().strftime(form),
    }
    return environment


def _templates(folder: Path, settings: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(file, name, template) of all that a tokenizer brings, the one that counts first."""
    path = folder / "chat_template.jinja"
    templates = [(path.name, "default", path.read_text(encoding="utf-8"))] if path.is_file() else []
    for file, stated in (
        ("tokenizer_config.json", settings.get("chat_template")),
        ("chat_template.json", _json(folder / "chat_template.json").get("chat_template")),
    ):
        for each in stated if isinstance(stated, list) else [{"name": "default", "template": stated}]:
            if template := each.get("template"):
                templates.append((file, str(each.get("name")), str(template)))
    return templates


def _content(token: Any) -> str:
    """The text of a token as a tokenizer's files name it: alone, or with how it is split off."""
    return str(token.get("content") or "") if isinstance(token, dict) else str(token or "")


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
