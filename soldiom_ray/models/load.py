"""Loading a model by its name: `builtin/<name>`, a folder, a GGUF file, the id of a run, or a repository of the Hugging
Face Hub.

Only safetensors weights, GGUF files and plain JSON are read, and of a run only what was signed. Pickled weights are
refused. Code that a model brings is never run: where transformers has the architecture itself, its own class is used,
and other models are refused.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from soldiom_ray.artifacts import Artifacts
from soldiom_ray.domains.builtin_models import BUILTIN_FOLDER, MINILM, SMOLLM2, builtin_names
from soldiom_ray.domains.references import is_local_path
from soldiom_ray.errors import InputError
from soldiom_ray.models.folder_check import check_folder, check_no_adapter
from soldiom_ray.models.gguf import WEIGHTS as GGUF_WEIGHTS
from soldiom_ray.models.gguf import converted_folder, is_gguf, load_gguf, only_gguf
from soldiom_ray.models.hub import MODEL_NAMES, download_model
from soldiom_ray.models.linear_head import load_linear_head
from soldiom_ray.models.making import MAKING
from soldiom_ray.models.minilm import minilm_folder
from soldiom_ray.models.padding import with_padding
from soldiom_ray.models.positions import positions_of
from soldiom_ray.models.signing import verified_weights
from soldiom_ray.models.smollm2 import smollm2_folder
from soldiom_ray.models.task_models import CAUSAL_CLASS, TASK_MODELS
from soldiom_ray.records import Manifest
from soldiom_ray.settings import Settings


@contextmanager
def model_folder(settings: Settings, artifacts: Artifacts | None, name: str) -> Iterator[Path]:
    """The local folder of a model's weights, configuration and tokenizer, checked. Do not write into it.

    `name` is `builtin/<name>`, a folder or GGUF file by its absolute path, the id of a run (method full), or a hub id,
    `@revision` and `:FILE.gguf` allowed. A GGUF file is converted on first use. InputError for a model that does not
    exist (it names what was tried) or is refused, UnavailableError when the hub does not answer and its cache has no
    copy; errors of `gguf.converted_folder`."""
    with ExitStack() as stack:
        if name.startswith("builtin/"):
            folder = _builtin_folder(settings, name)
        elif name.startswith("run-"):
            folder = stack.enter_context(_run_folder(settings, artifacts, name))
        else:
            path = Path(name).expanduser()
            is_local = is_local_path(name) and (path.is_dir() or (is_gguf(name) and path.is_file()))
            folder = _safetensors_folder(settings, path if is_local else download_model(settings, name), name)
        check_folder(folder, name)
        yield folder


def _builtin_folder(settings: Settings, name: str) -> Path:
    if name == f"builtin/{MINILM}":
        return minilm_folder()
    if name == f"builtin/{SMOLLM2}":
        return smollm2_folder(settings)
    folder = BUILTIN_FOLDER / name.removeprefix("builtin/")
    if name not in builtin_names():
        known = ", ".join(builtin_names())
        raise InputError(f"The base model {name!r} does not come with Soldiom; it brings: {known}.", remedy=MODEL_NAMES)
    return folder


def _safetensors_folder(settings: Settings, path: Path, name: str) -> Path:
    """A model's folder as it is, or the one converted from a GGUF file: `path` itself or the only one in the folder."""
    if path.is_file():
        return converted_folder(settings, path)
    if (path / "config.json").is_file():
        return path
    check_no_adapter(path, name)
    if file := only_gguf(sorted(each.name for each in path.iterdir()), name):
        return converted_folder(settings, path / file)
    raise InputError(
        f"The folder {name!r} holds neither config.json nor a GGUF file, so it is no Hugging Face model.",
        remedy=MODEL_NAMES,
    )


def load_tokenizer(folder: Path) -> Any:
    """The folder's tokenizer, with an end and a padding token: those that the model's configuration names where the
    tokenizer names none. InputError when it cannot be loaded."""
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises plain exceptions for a damaged file
        raise InputError(
            f"The tokenizer in {folder.name!r} cannot be loaded: {_first_line(error)}",
            remedy="the folder needs a tokenizer.json",
        ) from error
    if tokenizer.eos_token_id is None:
        for source in ("generation_config.json", "config.json"):
            end = _json(folder / source).get("eos_token_id")
            end = end[0] if isinstance(end, list) else end
            if end is not None and end < len(tokenizer):
                tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
                break
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    folder: Path,
    *,
    adapter: Path | None = None,
    dtype: str = "auto",
    device: str | None = None,
    auto_class: str = CAUSAL_CLASS,
    **configuration: Any,
) -> tuple[Any, Any]:
    """(model, tokenizer or image processor) ready for inference, with `adapter`, the weights of a LoRA or prompt run.

    `dtype` "auto" keeps the stored one, except on a CPU without units for bfloat16, where all is float32; `device` is
    the GPU where there is one. `auto_class` is the class of transformers that fits the task, `configuration` what its
    configuration must hold besides; layers that the folder has no weights for are new. InputError when transformers
    cannot load the folder as such a model."""
    import torch
    import transformers
    from transformers.utils import logging

    from soldiom_ray.models.quantization import is_quantized, load_quantized

    logging.disable_progress_bar()
    if "id2label" in configuration:  # JSON knows no whole numbers as names
        configuration["id2label"] = {int(number): name for number, name in configuration["id2label"].items()}
    if auto_class in NEW_HEADS:
        configuration["ignore_mismatched_sizes"] = True
        logging.set_verbosity_error()  # it would report the new head at length
    configuration = with_padding(_json(folder / "config.json"), configuration)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    torch_dtype: Any = "auto" if dtype == "auto" else getattr(torch, dtype)
    if dtype == "auto" and device == "cpu" and not has_bfloat16(device):
        torch_dtype = torch.float32
    family = _MODEL_FAMILIES.get(auto_class, auto_class)
    if is_quantized(folder):
        return load_quantized(folder, torch_dtype).to(device).eval(), load_processor(folder)
    if (folder / GGUF_WEIGHTS).is_file():
        return load_gguf(folder, torch_dtype).to(device).eval(), load_processor(folder)
    try:
        with MAKING:
            model: Any = getattr(transformers, auto_class).from_pretrained(
                folder, dtype=torch_dtype, trust_remote_code=False, use_safetensors=True, **configuration
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(
            f"The model in {folder.name!r} cannot be loaded as a {family} model: {_first_line(error)}",
            remedy=f"choose a {family} model of an architecture that transformers knows",
        ) from error
    processor = load_processor(folder)
    for config in (model.config, getattr(model, "generation_config", None)):
        if config is not None and getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = getattr(processor, "pad_token_id", None)
    if adapter is not None:
        from peft import PeftModel

        with MAKING:
            model = PeftModel.from_pretrained(model, str(adapter))
    return model.to(device).eval(), processor


NEW_HEADS = frozenset(model.auto_class for model in TASK_MODELS.values() if model.head)
"""Classes whose last layer is new, or of another size, when a training begins."""
_MODEL_FAMILIES = {
    CAUSAL_CLASS: "causal language",
    "AutoModelForSeq2SeqLM": "sequence-to-sequence",
    "AutoModelForSequenceClassification": "text classification",
    "AutoModelForImageClassification": "image classification",
}


def load_processor(folder: Path) -> Any:
    """What makes a model's input: its tokenizer, or the image processor of an image model."""
    if (folder / "preprocessor_config.json").is_file() and not (folder / "tokenizer_config.json").is_file():
        from transformers import AutoImageProcessor

        return AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    return load_tokenizer(folder)


@contextmanager
def load_base(
    artifacts: Artifacts | None,
    settings: Settings,
    name: str,
    *,
    dtype: str = "auto",
    device: str | None = None,
    auto_class: str = CAUSAL_CLASS,
) -> Iterator[tuple[Any, Any]]:
    """(model, tokenizer) of a base model by name."""
    with model_folder(settings, artifacts, name) as folder:
        yield load_model(folder, dtype=dtype, device=device, auto_class=auto_class)


@contextmanager
def load_run(
    artifacts: Artifacts, settings: Settings, run: Manifest, *, dtype: str = "auto", device: str | None = None
) -> Iterator[tuple[Any, Any]]:
    """(model, tokenizer) of a run: its whole weights, with `linear_head`, the one that was fitted on it or None; or its
    base model with the run's adapter."""
    options = {"auto_class": run.details.get("auto_class", CAUSAL_CLASS), "dtype": dtype, "device": device}
    with ExitStack() as stack:
        weights = stack.enter_context(verified_weights(settings, artifacts, run.id))
        if run.details["method"] == "full":
            model, processor = load_model(weights, **options)
            model.linear_head = load_linear_head(weights)
            yield model, processor
            return
        base = stack.enter_context(model_folder(settings, artifacts, run.details["base_model"]))
        yield load_model(base, adapter=weights, **options, **run.details.get("configuration", {}))


def has_bfloat16(device: str) -> bool:
    """Whether the device multiplies bfloat16 in hardware; on CPUs without such units it is slower than float32."""
    import torch

    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    probes = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(bool(probe()) for probe in probes if probe is not None)


def context_length(model: Any) -> int:
    """Tokens that the model takes: its positions, less those of a tuned prompt."""
    from soldiom_ray.models.loss import virtual_tokens

    return (positions_of(model.config) or 2048) - virtual_tokens(model)


@contextmanager
def _run_folder(settings: Settings, artifacts: Artifacts | None, name: str) -> Iterator[Path]:
    if artifacts is None:
        raise InputError(f"The run {name!r} cannot be found without the storage that holds it.", remedy=MODEL_NAMES)
    run = artifacts.find(name)
    if run is None:
        raise InputError(f"The base model {name!r} is no finished run in this storage.", remedy=MODEL_NAMES)
    if run.details.get("method") != "full":
        raise InputError(
            f"The run {name!r} holds an adapter ({run.details.get('method')}), not a whole model.",
            remedy=f"train on its base {run.details.get('base_model')!r}, or make a run with `method: full`",
        )
    if run.details.get("compression"):
        raise InputError(
            f"The run {name!r} is a compressed model, which is not trained further.",
            remedy=f"train on what it was made of: {run.details['base_model']}",
        )
    with verified_weights(settings, artifacts, name) as folder:
        yield folder


def _json(path: Path) -> dict[str, Any]:
    """A JSON object's members; none where the file is missing."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
