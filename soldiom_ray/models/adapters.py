"""Adapters on a model: LoRA matrices or a tuned prompt, as a recipe declares them."""

from collections.abc import Sequence
from typing import Any

from soldiom_ray.domains.schema import Train
from soldiom_ray.errors import InputError


def with_adapter(model: Any, declared: Train, *, peft_type: str | None, head: Sequence[str] = ()) -> Any:
    """The model with what its method trains beside it; itself for method full. `head` names layers on top that are new:
    those of the model are trained whole. InputError when `target_modules` fit no layer."""
    from peft import LoraConfig, PromptTuningConfig, PromptTuningInit, get_peft_model

    if declared.method == "full":
        return model
    if declared.method == "prompt":
        once = {"num_transformer_submodules": 1} if peft_type == "SEQ_2_SEQ_LM" else {}
        random = PromptTuningInit.RANDOM
        config: Any = PromptTuningConfig(
            task_type=peft_type, num_virtual_tokens=declared.virtual_tokens, prompt_tuning_init=random, **once
        )
        return get_peft_model(model, config)
    own = [name for name in head if hasattr(model, name)] or None
    config = LoraConfig(
        r=declared.rank,
        lora_alpha=declared.alpha,
        lora_dropout=declared.dropout,
        target_modules=list(declared.target_modules) or "all-linear",
        exclude_modules=own,
        modules_to_save=own,
        use_dora=declared.dora,
        use_rslora=declared.rslora,
        task_type=peft_type,
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
