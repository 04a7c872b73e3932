"""Text from a model: greedy or sampled, one prompt or many, whole or as a stream.

Prompts are decoded together by `decoding/`, the same that endpoints use, so plain, LoRA and prompt-tuned models answer
here as they do when deployed.
"""

import copy
from collections.abc import Generator as Stream
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from soldiom_ray.errors import InputError
from soldiom_ray.models.adapters import merged
from soldiom_ray.models.chat import chat_text, encode_prompt
from soldiom_ray.models.decoding.adapters import Adapter, load_adapter
from soldiom_ray.models.decoding.answers import Answer, Generated, Options
from soldiom_ray.models.decoding.forward import Forward
from soldiom_ray.models.decoding.grammar import Grammars
from soldiom_ray.models.decoding.scheduler import SEQUENCES, Scheduler
from soldiom_ray.models.decoding.select import forward_of
from soldiom_ray.models.tokens import terminator


def check_room(ids: Sequence[int], context: int) -> None:
    """InputError when a prompt leaves no room in the context."""
    if len(ids) >= context:
        raise InputError(
            f"The prompt takes {len(ids)} tokens; this model's context is {context}, answer included.",
            remedy="shorten the prompt",
        )


class Prompts:
    """What a model is asked, as its tokens. `context` is what the model can hold, answer included."""

    def __init__(self, tokenizer: Any, context: int) -> None:
        self.tokenizer, self.context = tokenizer, context

    def chat(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """A conversation as the prompt of the model's next turn, by its chat template or else in plain lines."""
        return chat_text(self.tokenizer, messages, add_generation_prompt=True)

    def prompt_ids(self, prompt: str) -> list[int]:
        """The prompt's tokens. InputError when they leave no room in the model's context."""
        ids = encode_prompt(self.tokenizer, prompt)
        check_room(ids, self.context)
        return ids or [terminator(self.tokenizer)]


class Generator(Prompts):
    """A loaded model that generates text. Not thread-safe: one call at a time. A `repetition_penalty` in the model's
    generation_config.json is applied. Tokens are chosen on the CPU in float32."""

    def __init__(self, model: Any, tokenizer: Any, forward: Forward | None = None) -> None:
        self.model = model
        self.forward = forward or forward_of(model.eval(), SEQUENCES)
        super().__init__(tokenizer, self.forward.context)
        advice = getattr(model, "generation_config", None)
        penalty = float(getattr(advice, "repetition_penalty", None) or 1.0)
        ends = getattr(advice, "eos_token_id", None)
        self.ends = frozenset({terminator(tokenizer), *([ends] if isinstance(ends, int) else ends or [])})
        self.scheduler = Scheduler(self.forward, penalty)
        self.grammars = Grammars(copy.deepcopy(tokenizer), self.ends)

    @classmethod
    def taking_over(cls, model: Any, tokenizer: Any) -> "Generator":
        """The fastest that answers with the model, which is of no other use afterwards: its adapter is merged and its
        weights are packed."""
        model = merged(model)
        return cls(model, tokenizer, forward_of(model, SEQUENCES, take_over=True))

    def adapter(self, name: str, folder: Path) -> Adapter:
        """The adapter in a folder, as options of answers take it; errors as of `load_adapter`. `name` tells it from
        every other."""
        return load_adapter(name, folder, self.forward)

    def answer(self, ids: Sequence[int], options: Options) -> Answer:
        """An answer to a prompt that `prompt_ids` made, still to be computed."""
        return Answer(self.tokenizer, self.ends, ids, options)

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
        options = Options(max_new_tokens, temperature, top_p, seed, tuple(stop))
        answers = [self.answer(ids, options) for ids in map(self.prompt_ids, prompts)]
        for answer in answers:
            self.scheduler.submit(answer)
        try:
            while not self.scheduler.is_idle:
                self.scheduler.step()
        finally:
            self._abandon(answers)
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
        answer = self.answer(self.prompt_ids(prompt), Options(max_new_tokens, temperature, top_p, seed, tuple(stop)))
        self.scheduler.submit(answer)
        try:
            while not answer.finish:
                self.scheduler.step()
                if piece := answer.take():
                    yield piece
        finally:
            self._abandon([answer])
        return answer.result()

    def _abandon(self, answers: Sequence[Answer]) -> None:
        """Let go of what a call that was left early has under way."""
        for answer in answers:
            answer.abandoned = answer.finish is None
        if not self.scheduler.is_idle:
            self.scheduler.forget_abandoned()
