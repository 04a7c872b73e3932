"""Adapters on a model: LoRA matrices or a tuned prompt, as a recipe declares them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from soldiom_ray.domains.schema import Train
from soldiom_ray.errors import InputError


def with_adapter(model: Any, declared: Train, *, peft_type: str | None, head: Sequence[str] = ()) -> Any:
    """The model with the adapter that its method trains; the model itself for method full. `head` names layers on top
    that are new: those that the model has are trained whole, beside the adapter.

    InputError when `target_modules` match no layer."""
    from peft import LoraConfig, PromptTuningConfig, PromptTuningInit, get_peft_model

    if declared.method == "full":
        return model
    if declared.method == "prompt":
        encoder_only = {"num_transformer_submodules": 1} if peft_type == "SEQ_2_SEQ_LM" else {}
        config: Any = PromptTuningConfig(
            task_type=peft_type,
            num_virtual_tokens=declared.virtual_tokens,
            prompt_tuning_init=PromptTuningInit.RANDOM,
            **encoder_only,
        )
        return get_peft_model(model, config)
    new_layers = [name for name in head if hasattr(model, name)] or None
    config = LoraConfig(
        r=declared.rank,
        lora_alpha=declared.alpha,
        lora_dropout=declared.dropout,
        target_modules=list(declared.target_modules) or "all-linear",
        exclude_modules=new_layers,
        modules_to_save=new_layers,
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


@contextmanager
def without_adapter(model: Any) -> Iterator[Any]:
    """The model below an adapter. While it is open, LoRA matrices inside it are switched off."""
    from peft import PeftModel

    if not isinstance(model, PeftModel) or model.active_peft_config.is_prompt_learning:
        yield model.get_base_model() if isinstance(model, PeftModel) else model
        return
    with model.disable_adapter():
        yield model.get_base_model()


def below_adapter(model: Any) -> Any:
    """The model that an adapter was put on, as it was before; the adapter is gone."""
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        return model
    if model.active_peft_config.is_prompt_learning:
        return model.get_base_model()
    return model.unload()


def merged(model: Any) -> Any:
    """The model with its LoRA matrices added to the weights they belong to, which changes it; others as they are."""
    from peft import PeftModel

    if not isinstance(model, PeftModel) or model.active_peft_config.is_prompt_learning:
        return model
    advice = getattr(model, "generation_config", None)
    whole: Any = model.merge_and_unload()
    whole.generation_config = advice
    return whole.eval()
