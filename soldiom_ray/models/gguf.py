"""GGUF files as base models: converted once to safetensors, stored in the home under the file's hash.

GGUF is llama.cpp's file format: weights (often quantized), configuration and tokenizer in one file. Reading is left to
transformers and its `gguf` package, which know the architectures and the quantizations (Q4_0 to Q8_0, K-quants, F16).
"""

import errno
import hashlib
import json
import logging
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from soldiom_ray.errors import InputError, StorageFullError, UnavailableError
from soldiom_ray.models.making import MAKING
from soldiom_ray.models.saving import replaced, save_model
from soldiom_ray.settings import Settings, private_lock

log = logging.getLogger(__name__)
WEIGHTS = "model.gguf"
"""In the folder of a model that was written as GGUF here, beside its configuration and tokenizer."""
MAGIC = b"GGUF"
SHARD = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)
FORMAT_VERSION = 1
"""Part of the converted folder's name: raise it when conversion writes something else."""


def is_gguf(name: str) -> bool:
    """Whether a file's name is that of a GGUF file."""
    return name.lower().endswith(".gguf")


def only_gguf(names: Sequence[str], model: str) -> str | None:
    """The GGUF file among the names of a folder or repository; None when there is none. InputError for several."""
    files = [name for name in names if is_gguf(name)]
    if len(files) > 1:
        raise InputError(
            f"The model {model!r} holds {len(files)} GGUF files: {', '.join(files[:12])}.",
            remedy="name one of them: FOLDER/FILE.gguf, or OWNER/NAME:FILE.gguf for a repository of the hub",
        )
    return files[0] if files else None


def converted_folder(settings: Settings, file: Path, card: str | None = None, sha256: str = "") -> Path:
    """The safetensors folder made from a GGUF file, converted on first use.

    Weights are written in bfloat16: dequantized values carry fewer bits than that. `card` becomes the folder's
    README.md; without one the card says what the file says of itself. `sha256` is the file's, where it is known. While
    converting, the process holds about four bytes per parameter. InputError for a file that is damaged, split, or of an
    architecture that transformers cannot read from GGUF; UnavailableError when the package gguf is not installed or
    the home cannot be written; StorageFullError."""
    _check_file(file)
    sha256 = sha256 or file_sha256(file)
    target = settings.home / "models" / f"gguf-{sha256[:32]}-{FORMAT_VERSION}"
    if (target / "config.json").is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with private_lock(target.with_suffix(".lock")):
        if not (target / "config.json").is_file():
            log.info(f"converting {file.name} to safetensors, once for this file; small models take a few seconds")
            try:
                _convert(file, target, sha256, card)
            except OSError as error:
                reason = error.strerror or type(error).__name__
                kind = StorageFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else UnavailableError
                raise kind(
                    f"The model {file.name} cannot be converted into {target}: {reason}.",
                    remedy="SOLDIOM_HOME needs two bytes per parameter for it, and the right to write",
                ) from error
    return target


def _check_file(file: Path) -> None:
    if SHARD.search(file.name):
        raise InputError(
            f"The model {file.name!r} is one part of a split GGUF file.",
            remedy="merge its parts first (llama-gguf-split --merge), or choose another file or the safetensors model",
        )
    with file.open("rb") as stream:
        magic = stream.read(len(MAGIC))
    if magic != MAGIC:
        raise _damaged(file, "it does not begin with the bytes GGUF")


def _convert(file: Path, target: Path, sha256: str, card: str | None) -> None:
    """Convert into a temporary folder beside the target, then rename: half a model is never seen."""
    with tempfile.TemporaryDirectory(prefix=".gguf-", dir=target.parent) as name:
        folder = Path(name) / "model"
        model, tokenizer, metadata = _read(file)
        save_model(model, folder)
        tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text(card or _card(file, sha256, metadata), encoding="utf-8")
        folder.rename(target)


def _read(file: Path) -> tuple[Any, Any, dict[str, str]]:
    """(model in bfloat16, tokenizer, metadata) of a file."""
    try:
        import gguf
    except ImportError as error:
        raise UnavailableError(
            f"The model {file.name!r} is a GGUF file, and the package gguf is not installed.",
            remedy="run `pip install gguf`, or choose a model with safetensors weights",
        ) from error
    import torch
    from transformers import AutoTokenizer

    try:
        with _parsed_once(gguf):
            metadata = _metadata(gguf.GGUFReader(str(file)))
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
            model = _expanded(file, torch.bfloat16)
    except Exception as error:  # the reader raises what the damaged bytes lead it to
        if "architecture" in str(error):
            raise InputError(
                f"The model {file.name!r} has an architecture that cannot be read from GGUF: {_first_line(error)}",
                remedy="choose the same model with safetensors weights",
            ) from error
        raise _damaged(file, _first_line(error)) from error
    model.config._name_or_path = metadata.get("general.name", file.stem)
    return model, tokenizer, metadata


def load_gguf(folder: Path, dtype: Any) -> Any:
    """The causal language model of a folder that holds WEIGHTS, its weights expanded to `dtype` of torch ("auto":
    bfloat16). InputError for a damaged file."""
    import gguf
    import torch

    file = folder / WEIGHTS
    try:
        with _parsed_once(gguf):
            return _expanded(file, torch.bfloat16 if dtype == "auto" else dtype)
    except Exception as error:  # as above
        raise _damaged(file, _first_line(error)) from error


def _expanded(file: Path, dtype: Any) -> Any:
    from transformers import AutoModelForCausalLM, GgufConfig, modeling_gguf_pytorch_utils
    from transformers.utils import logging

    logging.disable_progress_bar()
    with MAKING, replaced(modeling_gguf_pytorch_utils, "tqdm", _without_bar):
        model: Any = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=dtype,
            trust_remote_code=False,
        )
    return model.to(dtype)


def _without_bar(items: Sequence[Any], **_: object) -> Sequence[Any]:
    """In place of tqdm, whose bar would fill a job's log."""
    return items


@contextmanager
def _parsed_once(gguf: Any) -> Iterator[None]:
    """While it is open, a file is parsed once, where transformers parses it for the configuration, the tokenizer and
    the weights, and an architecture's table of names is made once, not for every module: 26 CPU seconds become 7
    for a model of 30 layers and 49,152 words (with what saving it imported)."""
    reader = cache(gguf.GGUFReader)
    with (
        replaced(gguf, "GGUFReader", lambda path, *mode: reader(str(path), *mode)),
        replaced(gguf, "get_tensor_name_map", cache(gguf.get_tensor_name_map)),
    ):
        yield


def _metadata(reader: Any) -> dict[str, str]:
    """Short text fields that the file says of itself, and its quantization as `quantization`."""
    fields = {
        key: str(field.contents())[:500]
        for key, field in reader.fields.items()
        if key.startswith("general.") and key not in ("general.tags", "general.languages")
    }
    types: dict[str, int] = {}
    for tensor in reader.tensors:
        types[tensor.tensor_type.name] = types.get(tensor.tensor_type.name, 0) + int(tensor.n_elements)
    return fields | {"quantization": max(types, key=types.__getitem__, default="unknown")}


def _card(file: Path, sha256: str, metadata: dict[str, str]) -> str:
    license_ = metadata.get("general.license", "")
    header = f"---\nlicense: {json.dumps(license_)}\n---\n\n" if license_ else ""
    return (
        f"{header}# {metadata.get('general.name', file.stem)}\n\n"
        f"Converted from the GGUF file `{file.name}` (sha256 {sha256}), most of whose weights were stored as "
        f"{metadata['quantization']}. The weights here are those values in bfloat16: what the quantization lost stays "
        "lost, so scores published for the original model can be a little higher.\n"
    )


def _damaged(file: Path, why: str) -> InputError:
    return InputError(
        f"The model {file.name!r} cannot be read as a GGUF file: {why}.",
        remedy="download the file again, or choose a model with safetensors weights",
    )


def file_sha256(file: Path) -> str:
    """SHA-256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
