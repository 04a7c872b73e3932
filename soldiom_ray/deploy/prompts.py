"""Requests of an endpoint as tokens, without holding up whoever asks beside a long one."""

import asyncio
import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from soldiom_ray.deploy.requests import Request
from soldiom_ray.errors import InputError
from soldiom_ray.models.generate import Prompts
from soldiom_ray.records import PromptFormat

SHORT_CHARACTERS = 20_000
"""Up to here a tokenizer takes less than 100 ms (measured: 90,000 to 800,000 characters/s, by kind of text)."""
PROBE_CHARACTERS, PROBE_PER_TOKEN = 100_000, 16
"""A longer prompt is judged by its beginning first: so many characters, or so many for each token of the context."""


class PromptReader:
    """Short requests are read at once on the event loop; long ones by a thread, one after the other. Each way has a
    tokenizer of its own, which no two threads may share."""

    def __init__(self, tokenizer: Any, context: int) -> None:
        self.short, self._long = (Prompts(copy.deepcopy(tokenizer), context) for _ in range(2))
        self._thread = ThreadPoolExecutor(1, "long-prompts")

    async def read(self, request: Request, prompt_format: PromptFormat) -> list[list[int]]:
        """The tokens of each prompt, a text's as the model is asked. InputError for one that the template refuses or
        the context does not hold."""
        if request.characters <= SHORT_CHARACTERS:
            return self._read(request, prompt_format, self.short)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._read, request, prompt_format, self._long)

    def _read(self, request: Request, prompt_format: PromptFormat, prompts: Prompts) -> list[list[int]]:
        texts = list(request.inputs)
        if request.messages:
            texts = [prompts.chat([message.as_dict() for message in request.messages])]
        elif not request.raw and prompt_format != "text":
            texts = [prompts.chat([{"role": "user", "content": text}]) for text in texts]
        for text in texts:
            _check_beginning(text, prompts.context, prompts.tokenizer)
        return [prompts.prompt_ids(text) for text in texts]


def _check_beginning(text: str, context: int, tokenizer: Callable[..., Any]) -> None:
    """InputError when the beginning of a long text alone takes twice what the context holds: its end is never read."""
    probe = max(PROBE_CHARACTERS, PROBE_PER_TOKEN * context)
    if len(text) <= probe:
        return
    count = len(tokenizer(text[:probe], verbose=False)["input_ids"])
    if count > 2 * context:
        raise InputError(
            f"The prompt takes more than {count} tokens; this model's context is {context}, answer included.",
            remedy="shorten the prompt",
        )
