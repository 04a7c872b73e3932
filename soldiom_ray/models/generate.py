"""Text from a model: greedy or sampled, one prompt or a batch, whole or as a stream.

The decoding loop is our own so that plain, LoRA and prompt-tuned models, batches and streams take the same path, and a
prompt's answer does not depend on the others of its batch.
"""

import inspect
import secrets
from collections.abc import Generator as Stream
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from soldiom_ray.errors import InputError
from soldiom_ray.models.chat import chat_text, encode_prompt
from soldiom_ray.models.load import context_length
from soldiom_ray.models.loss import virtual_tokens
from soldiom_ray.models.tokens import terminator

if TYPE_CHECKING:
    from torch import Tensor

UNFINISHED = "\ufffd"
"""How a tokenizer shows bytes that are no whole character yet."""
LOOK_BACK = 6
"""Tokens decoded together with new ones, so that a joint (a space, a character of several tokens) comes out right."""


@dataclass(frozen=True)
class Generated:
    """An answer. `finish_reason` is "length" when the limit or the model's context ended it."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: Literal["stop", "length"]


class Generator:
    """A loaded model that answers. Not thread-safe: one call at a time. A `repetition_penalty` in the model's
    generation_config.json is applied."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.plain: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.device = next(self.plain.parameters()).device
        self.context = context_length(model)
        advice = getattr(self.plain, "generation_config", None)
        self.repetition_penalty = float(getattr(advice, "repetition_penalty", None) or 1.0)
        ends = getattr(advice, "eos_token_id", None)
        self.ends = {terminator(tokenizer), *([ends] if isinstance(ends, int) else ends or [])}
        accepted = inspect.signature(self.plain.forward).parameters
        self.takes_positions, self.takes_last_only = "position_ids" in accepted, "logits_to_keep" in accepted

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
    ) -> list[Generated]:
        """Answers in order. Temperature 0 is greedy; with a seed the same call gives the same answers."""
        answers = [_Answer(self, ids, stop) for ids in map(self.prompt_ids, prompts)]
        for _ in self._decode(answers, max_new_tokens, temperature, top_p, seed):
            pass
        return [answer.result() for answer in answers]

    def stream(
        self,
        prompt: str,
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
    ) -> Stream[str, None, Generated]:
        """The answer in pieces as it is made; joined they are its text. The generator returns the `Generated`."""
        answer = _Answer(self, self.prompt_ids(prompt), stop)
        for _ in self._decode([answer], max_new_tokens, temperature, top_p, seed):
            if piece := answer.take():
                yield piece
        if piece := answer.take():
            yield piece
        return answer.result()

    def chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """A conversation as the prompt text of the model's next turn, by its chat template or else in plain lines."""
        return chat_text(self.tokenizer, messages, answer_next=True)

    def prompt_ids(self, prompt: str) -> list[int]:
        """The prompt's tokens. InputError when they leave no room in the model's context."""
        ids = encode_prompt(self.tokenizer, prompt)
        if len(ids) >= self.context:
            raise InputError(
                f"The prompt takes {len(ids)} tokens; this model's context is {self.context}, answer included.",
                remedy="shorten the prompt",
            )
        return ids or [terminator(self.tokenizer)]

    def _decode(
        self, answers: list["_Answer"], limit: int, temperature: float, top_p: float, seed: int | None
    ) -> Iterator[None]:
        """Give every unfinished answer one token after the other; yields after each."""
        import torch

        if not answers:
            return
        width = max(len(answer.prompt) for answer in answers)
        ids = torch.tensor([[0] * (width - len(a.prompt)) + a.prompt for a in answers], device=self.device)
        mask = torch.tensor([[0] * (width - len(a.prompt)) + [1] * len(a.prompt) for a in answers], device=self.device)
        samplers = (
            [torch.Generator().manual_seed(secrets.randbits(63) if seed is None else seed) for _ in answers]
            if temperature > 0
            else []
        )
        cache: Any = None
        for count in range(max(0, limit)):
            with torch.inference_mode():
                logits, cache, mask = self._forward(ids, mask, cache)
            chosen = [
                _choose(self._penalised(row, answers[i]), temperature, top_p, samplers[i] if samplers else None)
                for i, row in enumerate(logits.float().cpu())
            ]
            for answer, token in zip(answers, chosen, strict=True):
                answer.add(token)
                if len(answer.prompt) + count + 1 >= self.context:
                    answer.end("length")
            yield
            if all(answer.finish for answer in answers):
                break
            ids = torch.tensor(chosen, device=self.device)[:, None]
            mask = torch.cat((mask, mask.new_ones(len(answers), 1)), dim=1)
        for answer in answers:
            answer.end("length")

    def _penalised(self, logits: "Tensor", answer: "_Answer") -> "Tensor":
        """Tokens that were there already made less likely, as the model's own generation_config asks (Keskar et al.
        2019, CTRL)."""
        import torch

        if self.repetition_penalty == 1.0:
            return logits
        seen = torch.tensor(sorted({*answer.prompt, *answer.tokens}))
        values = logits[seen]
        logits[seen] = torch.where(values > 0, values / self.repetition_penalty, values * self.repetition_penalty)
        return logits

    def _forward(self, ids: "Tensor", mask: "Tensor", cache: Any) -> tuple["Tensor", Any, "Tensor"]:
        """(logits of the last position, cache, mask with a tuned prompt's positions in front)."""
        import torch

        inputs: dict[str, Any] = {"input_ids": ids}
        if cache is None and (virtual := virtual_tokens(self.model)):
            embedded = self.model.word_embeddings(ids)
            prompts = self.model.get_prompt(batch_size=len(ids)).to(embedded.dtype)
            # [prompt, padding, text] becomes [padding, prompt, text], row by row.
            joined = torch.cat((prompts, embedded), dim=1)
            padding = (mask == 0).sum(1)
            places = torch.arange(joined.shape[1], device=ids.device)[None] - padding[:, None]
            source = torch.where(places < virtual, places.clamp_min(0), places + padding[:, None])
            inputs = {"inputs_embeds": joined.gather(1, source[:, :, None].expand(-1, -1, joined.shape[2]))}
            mask = (places >= 0).long()
        if self.takes_positions:
            positions = (mask.cumsum(1) - 1).clamp_min(0)
            inputs["position_ids"] = positions if cache is None else positions[:, -1:]
        if self.takes_last_only:
            inputs["logits_to_keep"] = 1
        made = self.plain(**inputs, attention_mask=mask, past_key_values=cache, use_cache=True)
        return made.logits[:, -1], made.past_key_values, mask


def _choose(logits: "Tensor", temperature: float, top_p: float, sampler: Any) -> int:
    """One token: the likeliest, or one drawn from the smallest set that holds `top_p` (Holtzman et al. 2020)."""
    import torch

    if temperature <= 0:
        return int(logits.argmax())
    chances = (logits / temperature).softmax(-1)
    if top_p < 1:
        ordered, places = chances.sort(descending=True)
        kept = ordered.cumsum(0) - ordered < top_p
        kept[0] = True
        return int(places[torch.multinomial(ordered * kept, 1, generator=sampler)])
    return int(torch.multinomial(chances, 1, generator=sampler))


@dataclass
class _Answer:
    """One answer in the making: its tokens, its text so far, and how much of the text was handed out."""

    owner: Generator
    prompt: list[int]
    stop: Sequence[str]
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    given: int = 0
    decoded: int = 0
    finish: Literal["stop", "length"] | None = None

    def add(self, token: int) -> None:
        if self.finish:
            return
        if token in self.owner.ends:
            self.tokens.append(token)
            self.end("stop")
            return
        self.tokens.append(token)
        piece = self._new_text()
        if not piece.endswith(UNFINISHED):
            self._append(piece)

    def end(self, reason: Literal["stop", "length"]) -> None:
        """Finish (once); bytes that never became a character are shown as the tokenizer shows them."""
        if self.finish:
            return
        if self.decoded < len(self.tokens):
            self._append(self._new_text())
        self.finish = self.finish or reason

    def take(self) -> str:
        """Text not handed out yet, without an end that may become a stop text."""
        held = 0
        if not self.finish:
            most = max((len(text) for text in self.stop), default=1) - 1
            held = next(
                (
                    size
                    for size in range(most, 0, -1)
                    if any(s.startswith(self.text[-size:]) for s in self.stop if len(s) > size)
                ),
                0,
            )
        ready = max(self.given, len(self.text) - held)
        piece, self.given = self.text[self.given : ready], ready
        return piece

    def result(self) -> Generated:
        return Generated(self.text, len(self.prompt), len(self.tokens), self.finish or "length")

    def _new_text(self) -> str:
        """The text of the tokens not decoded yet, seen behind a few earlier ones."""
        tokens = [token for token in self.tokens if token not in self.owner.ends]
        before = (self.prompt + tokens[: self.decoded])[-LOOK_BACK:]
        decode = self.owner.tokenizer.decode
        whole: str = decode(before + tokens[self.decoded :], skip_special_tokens=True)
        return whole[len(decode(before, skip_special_tokens=True)) :]

    def _append(self, piece: str) -> None:
        start = max(0, len(self.text) - max((len(text) for text in self.stop), default=0))
        self.text += piece
        self.decoded = len(self.tokens)
        found = [place for text in self.stop if text and (place := self.text.find(text, start)) >= 0]
        if found:
            self.text = self.text[: min(found)]
            self.finish = "stop"
