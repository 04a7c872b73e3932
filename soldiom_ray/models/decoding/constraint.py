"""One answer bound to a grammar: which tokens may come next, and how it still ends within its limit.

Beside the answer stands a completion of it, tried on the grammar and no longer than the tokens that are left. A token
that would leave none is replaced by the completion's next one, so an answer is whole whenever its limit holds the
shortest one."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from soldiom_ray.models.decoding.closing import Scanner, completes
from soldiom_ray.models.decoding.grammar import Grammar

if TYPE_CHECKING:
    from llguidance import LLMatcher

LONGEST_NUMBER = 24
"""Characters; fractions have no other bound, and small models write digits for ever."""
LEAST_SHARE = 16


class Constraint:
    """The state of an answer of at most `limit` tokens, whose grammar's shortest answer takes no more."""

    def __init__(self, grammar: Grammar, limit: int) -> None:
        self.grammar, self.left = grammar, limit
        self.tokens, self.text = grammar.tokens.deep_copy(), grammar.text.deep_copy()
        self.scanner = Scanner(grammar.mark)
        self.completion = grammar.shortest
        self.shares: list[int] = []
        self.is_shortened = False
        self.is_complete = False

    def mask(self, scores: Tensor) -> Tensor:
        """Scores [vocabulary] of tokens that cannot come next become -inf."""
        if self.tokens.is_error():  # a limit of the library; the completion needs no mask
            allowed = torch.zeros(len(scores), dtype=torch.bool)
            allowed[self._next_of_completion()] = True
        else:
            bits = torch.frombuffer(bytearray(self.tokens.compute_bitmask()), dtype=torch.uint8)
            flags = (bits[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1
            allowed = torch.zeros(len(scores), dtype=torch.bool)
            flat = flags.view(-1)[: len(scores)].bool()
            allowed[: len(flat)] = flat
        return scores.masked_fill(~allowed, -torch.inf)

    def take(self, token: int) -> int:
        """The token that comes: the one that was chosen, or the completion's where that would not end in time."""
        if token in self.grammar.vocabulary.ends:
            if self.text.is_accepting():
                self.is_complete = True
                return token
        elif self._follow(token):
            return token
        token = self._next_of_completion()
        if not self.completion:
            self.is_complete = True
            return token
        ending = self.completion[len(self.grammar.vocabulary.texts[token]) :]
        matcher = self.text.deep_copy()
        matcher.consume_tokens(list(self.grammar.vocabulary.texts[token]))
        self._commit(token, matcher, ending)
        return token

    def take_forced(self) -> int | None:
        """The token that comes where the grammar leaves no choice, which needs no scores; else None."""
        forced = [] if self.tokens.is_error() else self.tokens.compute_ff_tokens()
        return forced[0] if forced and self._follow(forced[0]) else None

    def _next_of_completion(self) -> int:
        vocabulary = self.grammar.vocabulary
        return vocabulary.first(self.completion) if self.completion else vocabulary.ends[0]

    def _follow(self, token: int) -> bool:
        """Take a chosen token, if the answer still ends in time."""
        text = self.grammar.vocabulary.texts[token]
        if self._is_overlong():
            return False
        matcher = self.text.deep_copy()
        if not matcher.consume_tokens(list(text)):
            return False
        scanner = self.scanner.copy()
        scanner.feed(text)
        completion = self._completion_after(text, matcher, scanner)
        if completion is None or not self._fits(completion):
            self.is_shortened |= completion is not None
            return False
        self._commit(token, matcher, completion)
        return True

    def _commit(self, token: int, matcher: "LLMatcher", completion: bytes) -> None:
        self.tokens.consume_token(token)
        self.text, self.completion, self.left = matcher, completion, self.left - 1
        self.scanner.feed(self.grammar.vocabulary.texts[token])
        del self.shares[self.scanner.depth :]
        while len(self.shares) < self.scanner.depth:
            self.shares.append(self._share(len(self.shares)))
        self.is_complete = not self.completion and self.text.is_stopped()

    def _completion_after(self, text: bytes, matcher: "LLMatcher", scanner: Scanner) -> bytes | None:
        """A completion after a token's text: what is left of the one before where that still fits."""
        if self.completion.startswith(text):
            return self.completion[len(text) :]
        for former in (self.completion[len(text) :], self.completion):
            if scanner.in_string and completes(matcher, former):
                return former
        longest = self.left * self.grammar.vocabulary.longest
        return self.grammar.closer.close(matcher, scanner, self.completion, longest=longest)

    def _fits(self, completion: bytes) -> bool:
        return len(completion) < self.left or self.grammar.vocabulary.count(completion) < self.left

    def _is_overlong(self) -> bool:
        """Whether something that is open must end now: a number with many digits, or what has used its share."""
        if any(share >= self.left for share in self.shares):
            self.is_shortened = True
            return True
        return not self.scanner.in_string and len(self.scanner.word) >= LONGEST_NUMBER

    def _share(self, depth: int) -> int:
        """How many tokens must be left when what has just opened ends, so that one endless text does not take all from
        what must come after it: half of what is free; 0 where nothing but brackets comes after it."""
        scanner, place = self.scanner.copy(), 0
        while scanner.depth > depth and place < len(self.completion):
            scanner.feed(self.completion[place : place + 1])
            place += 1
        if not self.completion[place:].strip(b"]}"):
            return 0
        free = self.left - self.grammar.vocabulary.count(self.completion)
        return self.left - max(LEAST_SHARE, free // 2) if free > LEAST_SHARE else 0
