"""A trained sequence-to-sequence model as it is asked: source texts become target texts, many together."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from soldiom_ray.models.adapters import merged
from soldiom_ray.models.decoding.answers import Answer, Generated, Options
from soldiom_ray.models.positions import positions_of
from soldiom_ray.models.tokens import encode_documents, terminator, truncate

if TYPE_CHECKING:
    from torch import Tensor

MAX_TARGET_TOKENS = 4096
"""Of a model whose positions have no end."""


@dataclass(frozen=True, slots=True)
class Source:
    """The tokens of a source text; `truncated` says that the model does not see all of it."""

    ids: tuple[int, ...]
    truncated: bool = False


class SequenceWriter:
    """A loaded model and its tokenizer. A source is cut to `length` tokens, as in training; targets are greedy or
    sampled, without beams. `write` may be called from several threads, `read` from one at a time."""

    def __init__(self, model: Any, tokenizer: Any, length: int) -> None:
        from peft import PeftModel

        model = merged(model).eval()
        self.tokenizer, self.length = tokenizer, length
        self._prompted = model if isinstance(model, PeftModel) else None
        self._model = model.get_base_model() if self._prompted is not None else model
        advice, config = self._model.generation_config, self._model.config
        self._start = int(next(
            token
            for token in (
                advice.decoder_start_token_id, getattr(config, "decoder_start_token_id", None), config.pad_token_id, 0
            )
            if token is not None
        ))  # fmt: skip
        ends = advice.eos_token_id
        self._ends = frozenset({terminator(tokenizer), *([ends] if isinstance(ends, int) else ends or [])})
        self._penalty = float(advice.repetition_penalty or 1.0)
        self.context = positions_of(config) or MAX_TARGET_TOKENS

    @property
    def device(self) -> str:
        """Where it computes: cpu or cuda."""
        return str(self._model.device.type)

    def read(self, texts: Sequence[str]) -> list[Source]:
        """What the model reads of each text."""
        whole = list(encode_documents(self.tokenizer, texts))
        cut = [truncate(ids, self.length, keep_last=True) for ids in whole]
        return [Source(tuple(ids.tolist()), len(ids) < len(all_ids)) for ids, all_ids in zip(cut, whole, strict=True)]

    def write(
        self, asked: Sequence[tuple[Source, Options]], given_up: Callable[[], Collection[int]] = tuple
    ) -> list[Generated]:
        """The target of each source, in their order. A row that has ended leaves the batch; so do, after each token,
        those at the places that `given_up` names, whose targets stay unfinished."""
        import torch
        from transformers.cache_utils import DynamicCache, EncoderDecoderCache
        from transformers.modeling_outputs import BaseModelOutput

        from soldiom_ray.models.decoding.sampling import choose

        answers = [Answer(self.tokenizer, self._ends, [], options) for _, options in asked]
        running = list(answers)
        with torch.inference_mode():
            states, mask = self._encoded([source for source, _ in asked])
            cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
            tokens = torch.full((len(running), 1), self._start, device=states.device)
            while running:
                logits = self._model(
                    encoder_outputs=BaseModelOutput(last_hidden_state=states), attention_mask=mask,
                    decoder_input_ids=tokens, past_key_values=cache, use_cache=True,
                ).logits[:, -1]  # fmt: skip
                chosen = choose(logits.float(), running, self._penalty)
                for answer, token in zip(running, chosen, strict=True):
                    answer.add(token)
                    if len(answer.tokens) >= answer.options.max_new_tokens:
                        answer.end("length")
                for place in given_up():
                    answers[place].end("length")
                rows = torch.tensor([row for row, answer in enumerate(running) if not answer.finish], dtype=torch.long)
                if len(rows) < len(running):
                    kept = rows.to(states.device)
                    states, mask = states[kept], mask[kept]
                    cache.batch_select_indices(kept)
                running = [answer for answer in running if not answer.finish]
                tokens = torch.tensor(chosen)[rows][:, None].to(states.device)
        return [answer.result() for answer in answers]

    def _encoded(self, sources: Sequence[Source]) -> "tuple[Tensor, Tensor]":
        """What the decoder looks at: states [sources, longest, width] and their mask; a tuned prompt stands first."""
        import torch

        longest, model = max(len(source.ids) for source in sources), self._model
        ids = torch.full((len(sources), longest), int(self.tokenizer.pad_token_id or 0))
        mask = torch.zeros((len(sources), longest), dtype=torch.long)
        for row, source in enumerate(sources):
            ids[row, : len(source.ids)] = torch.tensor(source.ids)
            mask[row, : len(source.ids)] = 1
        ids, mask = ids.to(model.device), mask.to(model.device)
        encoder = model.get_encoder()
        if self._prompted is None:
            return encoder(input_ids=ids, attention_mask=mask).last_hidden_state, mask
        embedded = model.get_input_embeddings()(ids)
        prompt = self._prompted.get_prompt(batch_size=len(sources)).to(embedded.dtype)
        mask = torch.cat([mask.new_ones(prompt.shape[:2]), mask], dim=1)
        states = encoder(inputs_embeds=torch.cat([prompt, embedded], dim=1), attention_mask=mask).last_hidden_state
        return states, mask
