"""Calls of functions in answers: how a model writes them, the grammar that they obey, and how they are read."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from soldiom_ray.errors import InputError, Problem
from soldiom_ray.models.chat import chat_text
from soldiom_ray.models.decoding.closing import Scanner
from soldiom_ray.models.decoding.schemas import checked, refused

MOST_CALLS = 8
_NAME, _KEY = "function_7c1e", "argument_90b2"
_ARGUMENTS = re.compile(rf'\{{\s*"{_KEY}"\s*:\s*1\s*\}}')


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """How a call is written: a function's name and its arguments as JSON, `before`, `between` and `after` them. `mark`
    is what begins it in a text."""

    before: str = '<tool_call>\n{"name": "'
    between: str = '", "arguments": '
    after: str = "}\n</tool_call>"

    @property
    def mark(self) -> str:
        """What sets a call apart from text: what is before its first bracket, or all where nothing is."""
        return self.before.partition("{")[0].strip() or self.before

    @property
    def repeats(self) -> bool:
        """Whether several calls may follow one another."""
        return self.mark.startswith("<")


@dataclass(frozen=True, slots=True)
class Calls:
    """What of functions an answer may hold: calls of these (name -> schema of the arguments), one at least where they
    are `required`, several where they are `parallel`."""

    functions: Mapping[str, Mapping[str, Any]]
    required: bool
    parallel: bool
    syntax: CallSyntax

    @property
    def grammar(self) -> str:
        """The grammar in llguidance's dialect of Lark."""
        syntax, mark = self.syntax, self.syntax.mark
        start, place = syntax.before.partition(mark)[2], syntax.before.index(mark)
        several = f'("\\n" call){{0,{MOST_CALLS - 1}}}' if self.parallel and syntax.repeats else ""
        rules = []
        for number, (name, schema) in enumerate(self.functions.items()):
            bound = json.dumps({**schema, "x-guidance": {"whitespace_flexible": False}})
            head, tail = _literal(start + json.dumps(name)[1:-1] + syntax.between), _literal(syntax.after)
            rules.append(f"call{number}: {head} %json {bound} {tail}")
        names = " | ".join(f"call{number}" for number in range(len(rules)))
        lines = [f"call: {_literal(mark)} rest", f"rest: {names}", *rules]
        if self.required:
            opening = f"{_literal(syntax.before[:place])} " if place else ""
            return "\n".join([f"start: {opening}call {several}", *lines])
        pattern = re.escape(mark).replace("/", "\\/")
        free = f"FREE: /(?s:.*)/ & ~/(?s:.*{pattern}.*)/"
        return "\n".join([f"start: FREE | marked rest {several}", f"marked[lazy]: /(?s:.*){pattern}/", free, *lines])


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def bound_calls(
    tools: Sequence[Mapping[str, Any]], choice: str | Mapping[str, Any], *, parallel: bool, syntax: CallSyntax
) -> Calls | None:
    """What an answer may call; None where nothing binds it. Arguments obey their function's schema; those of one that
    is not `strict`, and whose schema no grammar expresses, are any object. InputError for what is no function or a
    strict schema that cannot be used."""
    functions: dict[str, Mapping[str, Any]] = {}
    for number, tool in enumerate(tools):
        place, function = f"tools.{number}.function", tool.get("function", tool)
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str) or not name:
            raise refused([Problem(".name", "is missing")], place, "give each tool a `function` with its `name`")
        try:
            schema = checked(function.get("parameters") or {"type": "object"}, f"{place}.parameters")
        except InputError:
            if function.get("strict"):
                raise
            schema = {"type": "object"}
        functions[name] = schema if "type" in schema else {"type": "object", **schema}
    if choice == "none" or not functions:
        return None
    if isinstance(choice, Mapping):
        wanted = str(choice.get("name", ""))
        if wanted not in functions:
            known = ", ".join(list(functions)[:20])
            raise InputError(f"`tool_choice` names {wanted[:60]!r}; `tools` hold {known}.", remedy="name one of them")
        functions = {wanted: functions[wanted]}
    return Calls(functions, choice != "auto", parallel and not isinstance(choice, Mapping), syntax)


def call_syntax(tokenizer: Any) -> CallSyntax:
    """How a model's chat template writes a call; the marks of the Hermes and Qwen families where it writes none, needs
    special tokens for it, or does not write arguments as JSON."""
    call = {"type": "function", "id": "call00001", "function": {"name": _NAME, "arguments": {_KEY: 1}}}
    user = {"role": "user", "content": "x"}
    try:
        prompt = chat_text(tokenizer, [user], add_generation_prompt=True)
        turn = {"role": "assistant", "content": "", "tool_calls": [call]}
        whole = chat_text(tokenizer, [user, turn], add_generation_prompt=False)
    except InputError:
        return CallSyntax()
    before, _, rest = whole.removeprefix(prompt).partition(_NAME)
    arguments = _ARGUMENTS.search(rest)
    if not whole.startswith(prompt) or arguments is None or not before.strip():
        return CallSyntax()
    special = list(getattr(tokenizer, "all_special_tokens", ()))
    after = rest[arguments.end() :]
    after = after[: min((place for text in special if (place := after.find(text)) >= 0), default=len(after))].rstrip()
    found = CallSyntax(before, rest[: arguments.start()], after)
    return CallSyntax() if any(text in found.before + found.between for text in special) else found


class CallReader:
    """Pieces of an answer in; out text, names and arguments of calls as they come: {"text"} or {"tool_call": {"index",
    "name"}} or {"tool_call": {"index", "arguments"}}."""

    def __init__(self, syntax: CallSyntax) -> None:
        self.syntax, self.mark = syntax, syntax.mark
        self.held, self.count = "", 0
        self.rest = syntax.before.partition(self.mark)[2]
        self.arguments: Scanner | None = None
        self.state = "text"

    def add(self, piece: str) -> Iterator[dict[str, Any]]:
        """What a piece brings."""
        self.held += piece
        while self.held:
            before = self.state, self.held
            yield from {"text": self._text, "name": self._name, "arguments": self._arguments}[self.state]()
            if (self.state, self.held) == before:
                return

    def end(self) -> Iterator[dict[str, Any]]:
        """What was held back at the end of the answer."""
        if self.state == "text" and self.held and not self.count:
            yield {"text": self.held}

    def _text(self) -> Iterator[dict[str, Any]]:
        text, mark, after = self.held.partition(self.mark)
        if mark:
            self.state, self.held = "name", after
        elif not self.count:
            longest = min(len(text), len(self.mark) - 1)
            keep = next((size for size in range(longest, 0, -1) if self.mark.startswith(text[-size:])), 0)
            text, self.held = text[: len(text) - keep], text[len(text) - keep :]
        if text and not self.count:  # after a call comes only what closes it
            yield {"text": text}

    def _name(self) -> Iterator[dict[str, Any]]:
        name, between, after = self.held.removeprefix(self.rest).partition(self.syntax.between)
        if between and self.held.startswith(self.rest):
            self.state, self.held, self.arguments = "arguments", after, Scanner()
            yield {"tool_call": {"index": self.count, "name": json.loads(f'"{name}"')}}

    def _arguments(self) -> Iterator[dict[str, Any]]:
        scanner = self.arguments or Scanner()
        for place, letter in enumerate(self.held):
            scanner.feed(letter.encode())
            if not scanner.open:
                text, self.held, self.state = self.held[: place + 1], self.held[place + 1 :], "text"
                yield {"tool_call": {"index": self.count, "arguments": text}}
                self.count += 1
                return
        text, self.held = self.held, ""
        yield {"tool_call": {"index": self.count, "arguments": text}}


def read_calls(text: str, syntax: CallSyntax) -> tuple[str, list[dict[str, str]]]:
    """(text, calls with name and arguments as JSON) of a whole answer."""
    reader = CallReader(syntax)
    words = ""
    calls: list[dict[str, str]] = []
    for part in (*reader.add(text), *reader.end()):
        words += part.get("text", "")
        if call := part.get("tool_call"):
            if "name" in call:
                calls.append({"name": call["name"], "arguments": ""})
            else:
                calls[-1]["arguments"] += call["arguments"]
    return words, calls
