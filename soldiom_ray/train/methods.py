"""What is trained: the whole model, LoRA matrices, or a prompt; from a base or from random weights."""

from pathlib import Path
from typing import Any

from soldiom_ray.domains.schema import Train
from soldiom_ray.errors import InputError

LEARNING_RATES = {"full": 3e-4, "lora": 1e-3, "prompt": 3e-3}


def build(folder: Path | None, tokenizer: Any, declared: Train, *, bfloat16: bool, device: str) -> Any:
    """The model to train, its trainable parameters in float32. `folder` is None for a model from scratch."""
    import torch

    torch.manual_seed(declared.seed)
    if folder is None:
        from soldiom_ray.models.scratch import from_scratch

        model = from_scratch(tokenizer, declared)
    else:
        from soldiom_ray.models.load import load_model

        frozen = declared.method != "full" and bfloat16
        model, _ = load_model(folder, dtype="bfloat16" if frozen else "float32", device=device)
    model.config.use_cache = False
    if declared.method == "lora":
        model = _with_lora(model, declared)
    elif declared.method == "prompt":
        model = _with_prompt(model, declared)
    return model.to(device).train()


def save(model: Any, tokenizer: Any, folder: Path, *, method: str, bfloat16: bool) -> None:
    """Write a folder that loads again: whole weights (in bfloat16 when trained so) or an adapter; and the tokenizer."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    if method == "full":
        if bfloat16:
            model = model.to(torch.bfloat16)
        model.config.use_cache = True
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _with_lora(model: Any, declared: Train) -> Any:
    from peft import LoraConfig, get_peft_model

    targets = list(declared.target_modules) or "all-linear"
    config = LoraConfig(
        r=declared.rank,
        lora_alpha=declared.alpha,
        lora_dropout=declared.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        names = sorted(
            {name.rpartition(".")[2] for name, part in model.named_modules() if type(part).__name__ == "Linear"}
        )
        raise InputError(
            f"train.target_modules {list(declared.target_modules)} fit no layer of this model.",
            remedy=f"known: {', '.join(names)}; or leave it empty for all linear layers",
        ) from error


def _with_prompt(model: Any, declared: Train) -> Any:
    """Virtual tokens that begin as the embeddings of vocabulary entries (Lester, Al-Rfou, Constant 2021)."""
    import torch
    from peft import PromptTuningConfig, PromptTuningInit, get_peft_model

    config = PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=declared.virtual_tokens, prompt_tuning_init=PromptTuningInit.RANDOM
    )
    tuned: Any = get_peft_model(model, config)
    words = model.get_input_embeddings().weight
    chosen = torch.randint(0, words.shape[0], (declared.virtual_tokens,))
    with torch.no_grad():
        tuned.prompt_encoder["default"].embedding.weight.copy_(words[chosen].float())
    return tuned
