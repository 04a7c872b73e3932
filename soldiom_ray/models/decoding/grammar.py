"""Grammars of answers, compiled once for each schema by llguidance (Willard & Louf 2023 for the idea of masks)."""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from soldiom_ray.errors import InputError, Problem
from soldiom_ray.models.decoding.calls import Calls
from soldiom_ray.models.decoding.closing import END, Closer, Scanner, completes
from soldiom_ray.models.decoding.schemas import Schema, checked
from soldiom_ray.models.decoding.shortest import Pieces, joined, pieces_of

if TYPE_CHECKING:
    from llguidance import LLMatcher

CACHED_GRAMMARS = 64
COMPILE_SECONDS = 1.0
"""Work to find the shortest answer; a schema for which it takes longer would also hold up every token."""
_NO_ANSWER = (
    "no answer was found that obeys it: it contradicts itself, never ends, or has patterns that repeat in one another"
)


@dataclass(frozen=True, slots=True, eq=False)
class Grammar:
    """What answers may be: matchers of tokens and of bytes before their first, and the shortest answer that was found
    with its number of tokens. Where text is free, JSON comes after each `mark`."""

    vocabulary: "Vocabulary"
    tokens: "LLMatcher"
    text: "LLMatcher"
    closer: Closer
    shortest: bytes
    shortest_tokens: int
    mark: bytes = b""


class Grammars:
    """Grammars for one tokenizer, whose last ones are kept. Thread-safe: a schema that is compiled holds up others that
    are to be compiled."""

    def __init__(self, tokenizer: Any, ends: Iterable[int]) -> None:
        self.tokenizer, self.ends = tokenizer, sorted(ends)
        self._compiled: OrderedDict[str, Grammar] = OrderedDict()
        self._lock = threading.Lock()

    def cached(self, schema: Schema) -> Grammar | None:
        """The grammar of a schema that was compiled."""
        return self._compiled.get(_name(schema))

    def compile(self, schema: Schema) -> Grammar:
        """The grammar of a schema. InputError for one that is invalid, not supported, or that no answer obeys."""
        return self._once(_name(schema), lambda: self._compile(schema))

    def compile_calls(self, calls: Calls) -> Grammar:
        """The grammar of answers that may call functions. InputError where no call obeys the schemas."""
        written = calls.grammar
        pieces = joined([pieces_of(schema) for schema in calls.functions.values()])
        return self._once(
            written, lambda: self._made(f"%llguidance {{}}\n{written}", pieces, calls.syntax.mark.encode())
        )

    def _once(self, name: str, compile_it: Callable[[], Grammar]) -> Grammar:
        with self._lock:
            grammar = self._compiled.pop(name, None) or compile_it()
            self._compiled[name] = grammar
            if len(self._compiled) > CACHED_GRAMMARS:
                self._compiled.popitem(last=False)
            return grammar

    def prepare(self) -> None:
        """Read the vocabulary, which takes 0.7 s for 49,000 tokens, before the first schema comes."""
        with self._lock, suppress(InputError):  # which the first schema tells, of a tokenizer that no grammar can bind
            _ = self.vocabulary

    @cached_property
    def vocabulary(self) -> "Vocabulary":
        """The tokenizer's tokens as bytes."""
        return Vocabulary(self.tokenizer, self.ends)

    def _compile(self, schema: Schema) -> Grammar:
        from llguidance import LLMatcher

        tightened = checked(schema)
        written = LLMatcher.grammar_from_json_schema(tightened, overrides={"whitespace_flexible": False})
        return self._made(written, pieces_of(tightened))

    def _made(self, written: str, pieces: Pieces, mark: bytes = b"") -> Grammar:
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(verbose_errors=False)
        text = LLMatcher(self.vocabulary.bytes_only, written, limits=limits, log_level=0)
        if text.is_error():
            raise _uncompiled(text.get_error())
        closer = Closer(pieces)
        shortest = pieces.whole
        if shortest is None or not completes(text, shortest):
            shortest = closer.close(text, Scanner(mark), seconds=COMPILE_SECONDS)
        if shortest is None:
            raise _uncompiled(_limit_of(text) or _NO_ANSWER)
        count = self.vocabulary.count(shortest)
        tokens = LLMatcher(self.vocabulary.tokens, written, limits=limits, log_level=0)
        if tokens.is_error():
            raise _uncompiled(tokens.get_error())
        return Grammar(self.vocabulary, tokens, text, closer, shortest, count, mark)


class Vocabulary:
    """A tokenizer's tokens as the bytes that they stand for. InputError for a tokenizer that does not say them."""

    def __init__(self, tokenizer: Any, ends: Sequence[int]) -> None:
        from llguidance import LLTokenizer, TokenizerWrapper

        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise InputError(
                "This model's tokenizer does not say which bytes its tokens stand for, so no grammar can bind it.",
                remedy="leave `response_format` and `tools` out",
            )
        self.ends = tuple(ends)
        plain = type(backend).from_str(backend.to_str())
        plain.no_padding()
        plain.no_truncation()
        slices = LLTokenizer.json_slices()
        self.tokens: LLTokenizer = LLTokenizer(plain.to_str(), eos_token=list(ends), slices=slices)
        self.bytes_only: LLTokenizer = LLTokenizer(TokenizerWrapper(_Bytes()), slices=[])
        special = {*ends, *(token for token, added in plain.get_added_tokens_decoder().items() if added.special)}
        self.texts = [self.tokens.decode_bytes([token]) for token in range(self.tokens.vocab_size)]
        self.by_text: dict[bytes, int] = {}
        for token, text in enumerate(self.texts):
            if text and token not in special and not self.tokens.is_special_token(token):
                self.by_text.setdefault(text, token)
        self.longest = max(map(len, self.by_text))

    def first(self, text: bytes) -> int:
        """The longest token that a text begins with."""
        for size in range(min(self.longest, len(text)), 0, -1):
            if (token := self.by_text.get(text[:size])) is not None:
                return token
        raise InputError(
            f"This model's tokens cannot write {text[:1]!r}, which the schema asks for.",
            remedy="choose a model whose tokenizer knows all bytes",
        )

    def count(self, text: bytes) -> int:
        """How many tokens a text takes, taking the longest each time."""
        place = number = 0
        while place < len(text):
            place += len(self.texts[self.first(text[place : place + self.longest])])
            number += 1
        return number


class _Bytes:
    """A tokenizer whose tokens are the bytes."""

    eos_token_id, bos_token_id, special_token_ids = END, None, (END,)
    tokens = (*(bytes([byte]) for byte in range(END)), b"<end>")

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


def _name(schema: Schema) -> str:
    """What sets schemas apart: their text, in the order of their properties, which is that of answers."""
    return json.dumps(schema, separators=(",", ":"))


def _limit_of(matcher: "LLMatcher") -> str:
    """What the library says when its first step takes too much; else nothing."""
    probe = matcher.deep_copy()
    probe.validate_tokens([ord("{")])
    probe.compute_bitmask()
    return probe.get_error()


def _uncompiled(reason: str) -> InputError:
    if reason.startswith("oneOf"):
        reason = "`oneOf` is supported where its schemas exclude one another (a `const` in each): use `anyOf`"
    problem = Problem("response_format.json_schema.schema", " ".join(reason.split())[:300])
    return InputError("The schema cannot be used.", remedy="simplify the schema or correct it", problems=[problem])
