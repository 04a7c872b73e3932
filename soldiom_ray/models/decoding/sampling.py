"""The next token of each answer, from logits. What an answer draws depends on its own logits and seed only."""

from collections.abc import Sequence

import torch
from torch import Tensor

from soldiom_ray.models.decoding.answers import Answer, TokenLogprob
from soldiom_ray.models.decoding.constraint import Constraint
from soldiom_ray.models.decoding.watermark import NGRAM, Watermark

NUCLEUS_TOKENS = 512
"""The likeliest tokens that are sorted to find a nucleus; all are where it reaches further."""


def choose(logits: Tensor, answers: Sequence[Answer], penalty: float) -> list[int]:
    """A token for each answer from its row of logits [answers, vocabulary] in float32, which may be changed. `penalty`
    is the repetition penalty of the model (Keskar et al. 2019); log probabilities are recorded in the answers, those of
    the model also where a grammar leaves it fewer tokens."""
    logits = logits.cpu()
    if penalty != 1.0:
        logits = _penalised(logits, answers, penalty)
    tokens: list[int] = logits.argmax(-1).tolist()
    for row, answer in enumerate(answers):
        if answer.constraint is not None:
            tokens[row] = _choose_bound(logits[row], answer, answer.constraint)
        elif answer.options.temperature > 0:
            tokens[row] = _draw(logits[row], answer)
        if answer.options.logprobs is not None:
            answer.logprobs.append(_logprob(logits[row], tokens[row], answer.options.logprobs))
    return tokens


def _choose_bound(logits: Tensor, answer: Answer, constraint: Constraint) -> int:
    """A token among those that a grammar allows."""
    if (forced := constraint.take_forced()) is not None:
        return forced
    scores = constraint.mask(logits)
    return constraint.take(_draw(scores, answer) if answer.options.temperature > 0 else int(scores.argmax()))


def _penalised(logits: Tensor, answers: Sequence[Answer], penalty: float) -> Tensor:
    logits = logits.clone()
    for row, answer in zip(logits, answers, strict=True):
        seen = torch.tensor([token for token in {*answer.prompt, *answer.tokens} if token >= 0])
        scores = row[seen]
        row[seen] = torch.where(scores < 0, scores * penalty, scores / penalty)
    return logits


def _draw(logits: Tensor, answer: Answer) -> int:
    """One token at the answer's temperature, marked where it has a watermark."""
    mark = answer.options.watermark
    if mark is not None and (context := answer.next_context(NGRAM - 1)) is not None:
        answer.marked_contexts.add(context)
        return _draw_marked(logits, answer, mark, context)
    return _draw_plain(logits, answer)


def _draw_marked(logits: Tensor, answer: Answer, mark: Watermark, context: tuple[int, ...]) -> int:
    """One token by the tournament among the likeliest, or one of the others with the probability that is theirs, so
    that the cost per token hardly depends on the vocabulary (15 ms instead of 0.3 for all of 32,000)."""
    chances = (logits / answer.options.temperature).softmax(-1)
    best, order = chances.topk(min(NUCLEUS_TOKENS, len(chances)))
    top_p, number = answer.options.top_p, answer.random.random()
    reached = best.cumsum(0, dtype=torch.float64)
    size = len(best)
    if top_p < 1:
        if reached[-1] < top_p:
            best, order = chances.sort(descending=True, stable=True)
            reached = best.cumsum(0, dtype=torch.float64)
        size = min(int(torch.searchsorted(reached, top_p)) + 1, len(best))
        number *= float(reached[size - 1])
    mass = float(reached[size - 1])
    if number >= mass:
        chances[order] = 0
        rest = chances.cumsum(0, dtype=torch.float64)
        place = int(torch.searchsorted(rest, (number - mass) / max(1 - mass, 1e-9) * float(rest[-1]), right=True))
        return min(place, len(rest) - 1)
    tokens = order[:size].numpy()
    tilted = torch.from_numpy(mark.tilted(best[:size].double().numpy() / mass, context, tokens)).cumsum(0)
    place = int(torch.searchsorted(tilted, number / mass * float(tilted[-1]), right=True))
    return int(tokens[min(place, size - 1)])


def _draw_plain(logits: Tensor, answer: Answer) -> int:
    """One token from the distribution at the answer's temperature, cut to its nucleus (Holtzman et al. 2020): the
    fewest tokens whose probabilities reach `top_p`."""
    probabilities = (logits / answer.options.temperature).softmax(-1)
    top_p, number = answer.options.top_p, answer.random.random()
    if top_p >= 1:
        reached = probabilities.cumsum(0, dtype=torch.float64)
        place = int(torch.searchsorted(reached, number * float(reached[-1]), right=True))
        return min(place, len(reached) - 1)
    best, order = probabilities.topk(min(NUCLEUS_TOKENS, len(probabilities)))
    reached = best.cumsum(0, dtype=torch.float64)
    if reached[-1] < top_p:
        best, order = probabilities.sort(descending=True, stable=True)
        reached = best.cumsum(0, dtype=torch.float64)
    size = min(int(torch.searchsorted(reached, top_p)) + 1, len(reached))
    place = int(torch.searchsorted(reached[:size], number * float(reached[size - 1]), right=True))
    return int(order[min(place, size - 1)])


def _logprob(logits: Tensor, token: int, count: int) -> TokenLogprob:
    scores = logits.log_softmax(-1)
    best, order = scores.topk(count) if count else (scores[:0], scores[:0].long())
    return TokenLogprob(token, float(scores[token]), tuple(zip(order.tolist(), best.tolist(), strict=True)))
