"""A model with random weights, as a recipe's `architecture` describes it."""

from typing import Any

from soldiom_ray.domains.schema import Train
from soldiom_ray.errors import InputError
from soldiom_ray.models.making import MAKING
from soldiom_ray.models.task_models import TASK_MODELS


def from_scratch(processor: Any, declared: Train, **configuration: Any) -> Any:
    """A model for this tokenizer (or image processor), in float32. `configuration` is what its configuration must hold
    besides, such as labels. InputError for an architecture that does not fit the task, or a key it does not have."""
    import transformers

    overrides = dict(declared.architecture or {})
    task = TASK_MODELS[declared.task]
    model_type = str(overrides.pop("model_type", task.architectures[0]))
    if model_type not in task.architectures:
        raise InputError(
            f"train.architecture has model_type {model_type!r}, which does not fit the task {declared.task}.",
            remedy=f"known for it: {', '.join(task.architectures)}",
        )
    known = set(transformers.AutoConfig.for_model(model_type).to_dict()) | {"head_dim"}
    if unknown := sorted(overrides.keys() - known):
        raise InputError(
            f"train.architecture names {unknown[0]!r}, which a {model_type} configuration does not have.",
            remedy=f"use such as {', '.join(sorted(known & _COMMON))}",
        )
    config = transformers.AutoConfig.for_model(
        model_type, **(_defaults(model_type, processor, declared) | overrides | configuration)
    )
    with MAKING:
        return getattr(transformers, task.auto_class).from_config(config)


_COMMON = {
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "d_model",
    "d_ff", "d_kv", "num_layers", "num_heads", "image_size", "patch_size", "num_channels", "hidden_sizes", "depths"
}  # fmt: skip


def _defaults(model_type: str, processor: Any, declared: Train) -> dict[str, Any]:
    """What follows from the tokenizer and the declared sequence length, or from the size of the images."""
    if model_type in ("vit", "convnext"):
        return {"image_size": int(processor.size["height"])}
    tokens = {
        "vocab_size": len(processor),
        "bos_token_id": processor.bos_token_id,
        "eos_token_id": processor.eos_token_id,
        "pad_token_id": processor.pad_token_id,
    }
    if model_type == "t5":
        return tokens | {"decoder_start_token_id": processor.pad_token_id, "dropout_rate": 0.0}
    return (
        tokens
        | {"max_position_embeddings": declared.sequence_length}
        | ({"tie_word_embeddings": True} if model_type == "llama" else {})
    )
