"""Answers in the making: how each is continued, its tokens, and its text, each character when it is whole."""

import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from soldiom_ray.models.decoding.adapters import Adapter
    from soldiom_ray.models.decoding.constraint import Constraint
    from soldiom_ray.models.decoding.grammar import Grammar
    from soldiom_ray.models.decoding.watermark import Watermark

REPLACEMENT = "\ufffd"
"""How a tokenizer shows bytes that are no whole character (yet)."""


@dataclass(frozen=True, slots=True)
class Options:
    """How one prompt is continued. Temperature 0 takes the likeliest token each time; `logprobs` is the number of
    alternatives whose log probabilities are recorded beside each token's, None for none at all; `grammar` is what the
    answer obeys, for which `max_new_tokens` must hold its shortest answer; `watermark` marks sampled tokens; `adapter`
    answers in place of the model itself."""

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    grammar: "Grammar | None" = None
    watermark: "Watermark | None" = None
    adapter: "Adapter | None" = None


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token's log probability in the model's own distribution, and its likeliest alternatives'."""

    token: int
    logprob: float
    alternatives: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Generated:
    """An answer. `finish_reason` is "length" when the limit or the model's context ended it; one that obeys a grammar
    is whole then too, but shorter than the model would have it. `marked` tokens bear a watermark."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: Literal["stop", "length"]
    tokens: tuple[int, ...] = field(default=(), compare=False)
    logprobs: tuple[TokenLogprob, ...] | None = field(default=None, compare=False)
    marked: int = field(default=0, compare=False)


class Detokenizer:
    """Tokens of one answer become text, each character when it is whole.

    The prompt is decoded before them, so that a joint (a space between words) comes out right. Tokenizers written in
    Python have no stream: their text comes whole, from `flush`."""

    def __init__(self, tokenizer: Any, prompt: Sequence[int]) -> None:
        from tokenizers.decoders import DecodeStream

        self.tokenizer, self.backend = tokenizer, getattr(tokenizer, "backend_tokenizer", None)
        self.waiting: list[int] = []
        # A stream that starts with half a character would repeat the prompt with the answer.
        whole = not tokenizer.decode(prompt, skip_special_tokens=True).endswith(REPLACEMENT)
        self.stream = DecodeStream(ids=list(prompt) if whole else [], skip_special_tokens=True)

    def add(self, token: int) -> str:
        """The text that a token completes, which may be none."""
        from tokenizers.decoders import DecodeStream

        self.waiting.append(token)
        if self.backend is None:
            return ""
        try:
            piece = self.stream.step(self.backend, token)
        except Exception as error:  # what the library raises when bytes turn out to be no character after all
            if "Invalid prefix" not in str(error):
                raise
            self.stream = DecodeStream(skip_special_tokens=True)
            piece = self.stream.step(self.backend, token)
        if piece is None:
            return ""
        self.waiting = []
        return piece

    def flush(self) -> str:
        """What is left at the end: bytes that never became a character, as the tokenizer shows them."""
        rest: str = self.tokenizer.decode(self.waiting, skip_special_tokens=True) if self.waiting else ""
        self.waiting = []
        return rest


class Answer:
    """One answer in the making: its tokens, its text so far, and how much of the text was handed out."""

    def __init__(
        self, tokenizer: Any, ends: frozenset[int], prompt: Sequence[int], options: Options | None = None
    ) -> None:
        self.ends, self.prompt, self.options = ends, list(prompt), options or Options()
        self.stop = [text for text in self.options.stop if text]
        self.detokenizer = Detokenizer(tokenizer, self.prompt)
        self.tokens: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.text = ""
        self.handed_out = 0
        self.finish: Literal["stop", "length"] | None = None
        self.abandoned = False
        seed = self.options.seed
        self.constraint: Constraint | None = None
        self.marked_contexts: set[tuple[int, ...]] = set()
        self.random = random.Random(secrets.randbits(63) if seed is None else seed)

    def next_context(self, length: int) -> tuple[int, ...] | None:
        """The tokens before the next one, where it may be marked: not after the same ones again, nor after fewer."""
        context = tuple(self.tokens[-length:])
        if len(context) < length:
            context = (*self.prompt[len(context) - length :], *context)
        return None if len(context) < length or context in self.marked_contexts else context

    def add(self, token: int) -> None:
        """Take the next token; nothing happens once the answer has ended."""
        if self.finish:
            return
        self.tokens.append(token)
        if token in self.ends:
            self.end("stop")
        elif piece := self.detokenizer.add(token):
            self._append(piece)
        if self.constraint is not None and self.constraint.is_complete:
            self.end("stop")

    def end(self, reason: Literal["stop", "length"]) -> None:
        """Finish, once."""
        if self.finish:
            return
        self._append(self.detokenizer.flush())
        is_shortened = self.constraint is not None and self.constraint.is_shortened
        self.finish = "length" if is_shortened else self.finish or reason

    def take(self) -> str:
        """Text not handed out yet, without an end that may become a stop text."""
        held = 0
        if not self.finish:
            longest = max((len(text) for text in self.stop), default=1) - 1
            held = next((size for size in range(longest, 0, -1) if self._may_stop(self.text[-size:])), 0)
        ready = max(self.handed_out, len(self.text) - held)
        piece, self.handed_out = self.text[self.handed_out : ready], ready
        return piece

    def result(self) -> Generated:
        """The answer as it is now."""
        return Generated(
            self.text,
            len(self.prompt),
            len(self.tokens),
            self.finish or "length",
            tuple(self.tokens),
            None if self.options.logprobs is None else tuple(self.logprobs),
            len(self.marked_contexts),
        )

    def _may_stop(self, ending: str) -> bool:
        return any(text.startswith(ending) for text in self.stop if len(text) > len(ending))

    def _append(self, piece: str) -> None:
        start = max(0, len(self.text) - max((len(text) for text in self.stop), default=0))
        self.text += piece
        positions = [position for text in self.stop if (position := self.text.find(text, start)) >= 0]
        if positions:
            self.text = self.text[: min(positions)]
            self.finish = "stop"
