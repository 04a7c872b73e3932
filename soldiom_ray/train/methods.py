"""What is trained: the whole model, LoRA matrices, or a prompt; from a base or from random weights."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from soldiom_ray.domains.schema import Train
from soldiom_ray.domains.training_size import LARGEST_BATCH_TOKENS
from soldiom_ray.errors import InputError
from soldiom_ray.models.adapters import with_adapter
from soldiom_ray.models.saving import save_model
from soldiom_ray.train.tasks.task import Task

LEARNING_RATES = {"full": 3e-4, "lora": 1e-3, "prompt": 3e-2}
"""For language models."""
FULL_CLASSIFICATION_RATE = 1e-4
"""Whole encoders are tuned at 2e-5 to 1e-4 (Devlin et al. 2019)."""
PREFERENCE_SHARE = 0.1
"""Preferences are learnt at a fraction of a first tuning's rate, or the model forgets (Rafailov et al. 2023)."""


def learning_rate(declared: Train, batch: int) -> float:
    """The declared rate, or the usual one of its method and task; `batch` is the tokens of a step.

    Where the size of a step was chosen for a short run, method full takes a rate smaller by its square root (Malladi et
    al. 2022): at 3e-4, forty steps of 512 tokens gained nothing certain on PubMedQA."""
    if declared.learning_rate is not None:
        return declared.learning_rate
    if declared.method == "full" and declared.task.endswith("classification") and declared.architecture is None:
        return FULL_CLASSIFICATION_RATE
    rate = LEARNING_RATES[declared.method] * (PREFERENCE_SHARE if declared.task == "preference" else 1)
    if declared.method == "full" and declared.batch_tokens is None:
        rate *= min(1.0, batch / LARGEST_BATCH_TOKENS) ** 0.5
    return rate


def build(
    task: Task,
    folder: Path | None,
    processor: Any,
    declared: Train,
    configuration: dict[str, Any],
    *,
    bfloat16: bool,
    device: str,
    words: Sequence[int] = (),
) -> Any:
    """The model to train, its trainable parameters in float32. `folder` is None for a model from scratch;
    `configuration` comes from `Task.configure`, `words`, what a prompt begins as, from `Task.typical_words`."""
    import torch

    torch.manual_seed(declared.seed)
    if folder is None:
        from soldiom_ray.models.from_scratch import from_scratch

        model = from_scratch(processor, declared, **configuration)
    else:
        from soldiom_ray.models.load import load_model

        frozen = declared.method != "full" and bfloat16
        model, _ = load_model(
            folder,
            dtype="bfloat16" if frozen else "float32",
            device=device,
            auto_class=task.auto_class,
            **_quantized(declared, device),
            **configuration,
        )
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = False
    model = with_adapter(model, declared, peft_type=task.peft_type, head=task.head)
    if declared.method == "prompt":
        _initialize_prompt(model, declared.virtual_tokens, words)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model.to(device).train()


def save(model: Any, processor: Any, folder: Path, *, method: str, bfloat16: bool) -> None:
    """Write a folder that loads again: whole weights (in bfloat16 when trained so) or an adapter, and the processor."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    if method == "full":
        if bfloat16:
            model = model.to(torch.bfloat16)
        if hasattr(model.config, "use_cache"):
            model.config.use_cache = True
        save_model(model, folder)
    else:
        model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _quantized(declared: Train, device: str) -> dict[str, Any]:
    """The base's weights in 4 bits (QLoRA, Dettmers et al. 2023), where the recipe asks for them."""
    if declared.quantization == "none":
        return {}
    if device == "cpu":
        raise InputError(
            "train.quantization is nf4, which needs a GPU; this worker has none.",
            remedy="leave `quantization` out: LoRA on bfloat16 weights runs on a CPU",
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(
            "train.quantization is nf4, which needs the package bitsandbytes.", remedy="pip install bitsandbytes"
        )
    import torch
    from transformers import BitsAndBytesConfig

    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    }


def _initialize_prompt(tuned: Any, virtual_tokens: int, words: Sequence[int]) -> None:
    """Let virtual tokens begin as the embeddings of these words, one after the other; of any in the vocabulary where
    there are none (Lester, Al-Rfou, Constant 2021)."""
    import torch

    embeddings = tuned.get_base_model().get_input_embeddings().weight
    chosen = torch.randint(0, embeddings.shape[0], (virtual_tokens,))
    if words:
        chosen = torch.tensor(words).repeat(-(-virtual_tokens // len(words)))[:virtual_tokens]
    with torch.no_grad():
        tuned.prompt_encoder["default"].embedding.weight.copy_(embeddings[chosen.to(embeddings.device)].float())
