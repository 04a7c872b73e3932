"""A model with random weights, as a recipe's `architecture` describes it."""

from typing import Any

from soldiom_ray.domains.schema import Train
from soldiom_ray.errors import InputError


def from_scratch(tokenizer: Any, declared: Train) -> Any:
    """A Llama for this tokenizer; the context is the declared sequence length. InputError for an unknown key."""
    from transformers import LlamaConfig, LlamaForCausalLM

    given = dict(declared.architecture or {})
    defaults = {
        "max_position_embeddings": declared.sequence_length,
        "tie_word_embeddings": True,
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    known = set(LlamaConfig().to_dict()) | {"head_dim"}
    if unknown := sorted(given.keys() - known):
        raise InputError(
            f"train.architecture names {unknown[0]!r}, which a Llama configuration does not have.",
            remedy="use hidden_size, num_hidden_layers, num_attention_heads, num_key_value_heads, intermediate_size",
        )
    return LlamaForCausalLM(LlamaConfig(**(defaults | given)))
