"""Text from a model: greedy or sampled, one prompt or a batch, whole or as a stream.

The decoding loop is our own so that plain, LoRA and prompt-tuned models, batches and streams take the same path, and
every prompt has a random generator of its own. Logits are processed by transformers, tokens become text by tokenizers'
DecodeStream.
"""

import inspect
import secrets
from collections.abc import Generator as Stream
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from soldiom_ray.errors import InputError
from soldiom_ray.models.chat import chat_text, encode_prompt
from soldiom_ray.models.load import context_length
from soldiom_ray.models.loss import virtual_tokens
from soldiom_ray.models.tokens import terminator

if TYPE_CHECKING:
    from torch import Tensor

REPLACEMENT = "\ufffd"
"""How a tokenizer shows bytes that are no whole character (yet)."""


@dataclass(frozen=True)
class Generated:
    """An answer. `finish_reason` is "length" when the limit or the model's context ended it."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: Literal["stop", "length"]


class Generator:
    """A loaded model that generates text. Not thread-safe: one call at a time. A `repetition_penalty` in the model's
    generation_config.json is applied. Sampling and choosing run on the CPU in float32."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.plain: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.device = next(self.plain.parameters()).device
        self.context = context_length(model)
        generation_config = getattr(self.plain, "generation_config", None)
        self.repetition_penalty = float(getattr(generation_config, "repetition_penalty", None) or 1.0)
        ends = getattr(generation_config, "eos_token_id", None)
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
        """Answers to the prompts, in order. Temperature 0 is greedy; with a seed a call gives the same answers again.
        InputError when a prompt leaves no room in the context."""
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
        """The answer in pieces while it is generated; joined they are its text. The iterator returns the `Generated`.
        Errors as of `generate`."""
        answer = _Answer(self, self.prompt_ids(prompt), stop)
        for _ in self._decode([answer], max_new_tokens, temperature, top_p, seed):
            if piece := answer.take():
                yield piece
        if piece := answer.take():
            yield piece
        return answer.result()

    def chat(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """A conversation as the prompt of the model's next turn, by its chat template or else in plain lines."""
        return chat_text(self.tokenizer, messages, add_generation_prompt=True)

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
        # Padded on the left with a token of its own, so that a repetition penalty reaches no other.
        rows = torch.tensor([[a.prompt[0]] * (width - len(a.prompt)) + a.prompt for a in answers])
        mask = torch.tensor([[0] * (width - len(a.prompt)) + [1] * len(a.prompt) for a in answers], device=self.device)
        processors = self._processors(temperature, top_p)
        samplers = (
            [torch.Generator().manual_seed(secrets.randbits(63) if seed is None else seed) for _ in answers]
            if temperature > 0
            else []
        )
        cache: Any = None
        ids = rows.to(self.device)
        for count in range(max(0, limit)):
            with torch.inference_mode():
                logits, cache, mask = self._forward(ids, mask, cache)
                chosen = _choose(processors(rows, logits.float().cpu()), samplers)
            for answer, token in zip(answers, chosen.tolist(), strict=True):
                answer.add(token)
                if len(answer.prompt) + count + 1 >= self.context:
                    answer.end("length")
            yield
            if all(answer.finish for answer in answers):
                break
            rows = torch.cat((rows, chosen[:, None]), dim=1)
            ids = chosen.to(self.device)[:, None]
            mask = torch.cat((mask, mask.new_ones(len(answers), 1)), dim=1)
        for answer in answers:
            answer.end("length")

    def _processors(self, temperature: float, top_p: float) -> Any:
        """What changes the logits [batch, vocabulary] before a token is chosen: the repetition penalty that the model's
        own generation_config asks for (Keskar et al. 2019), temperature, nucleus (Holtzman et al. 2020)."""
        from transformers.generation import logits_process

        processors: Any = logits_process.LogitsProcessorList()
        if self.repetition_penalty != 1.0:
            processors.append(logits_process.RepetitionPenaltyLogitsProcessor(self.repetition_penalty))
        if temperature > 0:
            processors.append(logits_process.TemperatureLogitsWarper(float(temperature)))
            if top_p < 1:
                processors.append(logits_process.TopPLogitsWarper(top_p))
        return processors

    def _forward(self, ids: "Tensor", mask: "Tensor", cache: Any) -> tuple["Tensor", Any, "Tensor"]:
        """(logits of the last position [batch, vocabulary], cache, mask [batch, positions so far]); ids are [batch, new
        positions]. The mask that is returned includes the positions of a tuned prompt."""
        import torch

        inputs: dict[str, Any] = {"input_ids": ids}
        if cache is None and (virtual := virtual_tokens(self.model)):
            embedded = self.model.word_embeddings(ids)
            prompts = self.model.get_prompt(batch_size=len(ids)).to(embedded.dtype)
            # [prompt, padding, text] becomes [padding, prompt, text], row by row.
            joined = torch.cat((prompts, embedded), dim=1)
            padding = (mask == 0).sum(1)
            offsets = torch.arange(joined.shape[1], device=ids.device)[None] - padding[:, None]
            source = torch.where(offsets < virtual, offsets.clamp_min(0), offsets + padding[:, None])
            inputs = {"inputs_embeds": joined.gather(1, source[:, :, None].expand(-1, -1, joined.shape[2]))}
            mask = (offsets >= 0).long()
        if self.takes_positions:
            positions = (mask.cumsum(1) - 1).clamp_min(0)
            inputs["position_ids"] = positions if cache is None else positions[:, -1:]
        if self.takes_last_only:
            inputs["logits_to_keep"] = 1
        output = self.plain(**inputs, attention_mask=mask, past_key_values=cache, use_cache=True)
        return output.logits[:, -1], output.past_key_values, mask


def _choose(scores: "Tensor", samplers: Sequence[Any]) -> "Tensor":
    """One token for each row of scores [batch, vocabulary], [batch]: the likeliest, or one drawn with the row's own
    random generator."""
    import torch

    if not samplers:
        return scores.argmax(-1)
    chances = scores.softmax(-1)
    return torch.cat(
        [torch.multinomial(row, 1, generator=sampler) for row, sampler in zip(chances, samplers, strict=True)]
    )


class _Detokenizer:
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


class _Answer:
    """One answer in the making: its tokens, its text so far, and how much of the text was handed out."""

    def __init__(self, owner: Generator, prompt: list[int], stop: Sequence[str]) -> None:
        self.ends, self.prompt, self.stop = owner.ends, prompt, [text for text in stop if text]
        self.detokenizer = _Detokenizer(owner.tokenizer, prompt)
        self.tokens: list[int] = []
        self.text = ""
        self.handed_out = 0
        self.finish: Literal["stop", "length"] | None = None

    def add(self, token: int) -> None:
        """Take the next token; nothing happens once the answer has ended."""
        if self.finish:
            return
        self.tokens.append(token)
        if token in self.ends:
            self.end("stop")
        elif piece := self.detokenizer.add(token):
            self._append(piece)

    def end(self, reason: Literal["stop", "length"]) -> None:
        """Finish, once."""
        if self.finish:
            return
        self._append(self.detokenizer.flush())
        self.finish = self.finish or reason

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
        return Generated(self.text, len(self.prompt), len(self.tokens), self.finish or "length")

    def _may_stop(self, ending: str) -> bool:
        return any(text.startswith(ending) for text in self.stop if len(text) > len(ending))

    def _append(self, piece: str) -> None:
        start = max(0, len(self.text) - max((len(text) for text in self.stop), default=0))
        self.text += piece
        positions = [position for text in self.stop if (position := self.text.find(text, start)) >= 0]
        if positions:
            self.text = self.text[: min(positions)]
            self.finish = "stop"
