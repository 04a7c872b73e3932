"""Our engine as a model of lm-evaluation-harness (the extra `harness`), so that its tasks score what we serve:
likelihoods by the scoring of evaluations, generated answers by the generator of endpoints."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any

from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from soldiom_ray.models.chat import encode_prompt
from soldiom_ray.models.generate import Generator
from soldiom_ray.models.load import context_length
from soldiom_ray.models.score import token_losses

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

MAX_CONTEXT = 2048
"""Tokens: longer contexts cost memory that few tasks need."""
ANSWER_TOKENS = 256
"""Of a generated answer, where the task says nothing."""

Load = Callable[[], AbstractContextManager[tuple[Any, Any]]]
TokenRequest = tuple[tuple[str, str], list[int], list[int]]


class EngineModel(TemplateLM):  # type: ignore[misc, unused-ignore]
    """A causal language model. `load` gives (model, tokenizer), as `models.load.load_base` and `load_run` do; it is
    called once for likelihoods and once for answers, since the generator takes its model over. Close it in the end."""

    def __init__(self, load: Load, max_context: int = MAX_CONTEXT) -> None:
        super().__init__()
        self._load, self._stack = load, ExitStack()
        self.model, self.tokenizer = self._stack.enter_context(load())
        self._generator: Generator | None = None
        self.max_length = min(max_context, context_length(self.model))

    def close(self) -> None:
        """Give back files and memory."""
        self._generator = None
        self._stack.close()

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else int(begin)

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Without a flag as a prompt is read by an endpoint."""
        if add_special_tokens is None:
            return encode_prompt(self.tokenizer, string)
        ids: list[int] = self.tokenizer(string, add_special_tokens=add_special_tokens, verbose=False)["input_ids"]
        return ids

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as an endpoint reads it."""
        from soldiom_ray.models.chat import chat_text

        return chat_text(self.tokenizer, chat_history, add_generation_prompt=add_generation_prompt)

    def _loglikelihood_tokens(self, requests: Sequence[TokenRequest], **_: Any) -> list[tuple[float, bool]]:
        """(log likelihood of the continuation, whether greedy decoding would write it), cut on the left."""
        import numpy as np

        blocks = [np.array((context + continuation)[-self.max_length :]) for _, context, continuation in requests]
        masks = [
            np.arange(len(block)) >= len(block) - len(continuation)
            for block, (_, _, continuation) in zip(blocks, requests, strict=True)
        ]
        scored = token_losses(self.model, blocks, masks)
        return [
            (-float(each.losses.sum(dtype=np.float64)), bool(each.correct[mask[1:]].all()))
            for each, mask in zip(scored, masks, strict=True)
        ]

    def loglikelihood_rolling(self, requests: "Sequence[Instance]", disable_tqdm: bool = False) -> list[float]:
        """The log likelihood of whole texts, each token predicted once, in windows of the context."""
        requested: list[TokenRequest] = []
        sizes = []
        for (text,) in (request.args for request in requests):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text, add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length - 1,
                context_len=1,
            )
            pairs = [make_disjoint_window(window) for window in windows]
            requested += [(("", text), list(context), list(continuation)) for context, continuation in pairs]
            sizes.append(len(pairs))
        values = iter(value for value, _ in self._loglikelihood_tokens(requested))
        return [sum(next(values) for _ in range(size)) for size in sizes]

    def generate_until(self, requests: "Sequence[Instance]", disable_tqdm: bool = False) -> list[str]:
        """Answers up to one of the task's stop texts, greedy unless the task samples."""
        answers: dict[int, str] = {}
        by_options: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            by_options.setdefault(repr(request.args[1]), []).append(number)
        for numbers in by_options.values():
            options = requests[numbers[0]].args[1]
            tokens = min(int(options.get("max_gen_toks", ANSWER_TOKENS)), self.max_length // 2)
            until = options.get("until") or []
            generated = self._answering().generate(
                [self._fitting(requests[number].args[0], self.max_length - tokens) for number in numbers],
                max_new_tokens=tokens,
                temperature=float(options.get("temperature", 1.0)) if options.get("do_sample") else 0.0,
                stop=[until] if isinstance(until, str) else list(until),
            )
            answers |= {number: each.text for number, each in zip(numbers, generated, strict=True)}
        return [answers[number] for number in range(len(requests))]

    def _answering(self) -> Generator:
        if self._generator is None:
            self._generator = Generator.taking_over(*self._stack.enter_context(self._load()))
        return self._generator

    def _fitting(self, prompt: str, tokens: int) -> str:
        """The end of a prompt that leaves room for the answer."""
        ids = self.tok_encode(prompt)
        return prompt if len(ids) <= tokens else str(self.tokenizer.decode(ids[-tokens:]))
