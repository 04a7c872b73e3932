"""A model with random weights, as a recipe's `architecture` describes it."""

from typing import Any

from soldiom_ray.domains.schema import Train
from soldiom_ray.errors import InputError
from soldiom_ray.models.task_models import TASK_MODELS


def from_scratch(processor: Any, declared: Train, **configuration: Any) -> Any:
    """A model for this tokenizer (or image processor). InputError for an architecture or a key that is not known."""
    import transformers

    given = dict(declared.architecture or {})
    task = TASK_MODELS[declared.task]
    kind = str(given.pop("model_type", task.architectures[0]))
    if kind not in task.architectures:
        raise InputError(
            f"train.architecture has model_type {kind!r}, which does not fit the task {declared.task}.",
            remedy=f"known for it: {', '.join(task.architectures)}",
        )
    plain = transformers.AutoConfig.for_model(kind)
    known = set(plain.to_dict()) | {"head_dim"}
    if unknown := sorted(given.keys() - known):
        raise InputError(
            f"train.architecture names {unknown[0]!r}, which a {kind} configuration does not have.",
            remedy=f"use such as {', '.join(sorted(known & _COMMON))}",
        )
    config = transformers.AutoConfig.for_model(kind, **(_defaults(kind, processor, declared) | given | configuration))
    return getattr(transformers, task.auto_class).from_config(config)


_COMMON = {
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "d_model",
    "d_ff", "d_kv", "num_layers", "num_heads", "image_size", "patch_size", "num_channels"
}  # fmt: skip


def _defaults(kind: str, processor: Any, declared: Train) -> dict[str, Any]:
    """What follows from the tokenizer and the declared length, or from the pictures' size."""
    if kind == "vit":
        size = processor.size
        return {"image_size": int(size["height"])}
    pieces = {
        "vocab_size": len(processor),
        "bos_token_id": processor.bos_token_id,
        "eos_token_id": processor.eos_token_id,
        "pad_token_id": processor.pad_token_id,
    }
    if kind == "t5":
        return pieces | {"decoder_start_token_id": processor.pad_token_id, "dropout_rate": 0.0}
    return (
        pieces
        | {"max_position_embeddings": declared.sequence_length}
        | ({"tie_word_embeddings": True} if kind == "llama" else {})
    )
