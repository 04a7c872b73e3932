"""What a training will need, before anything is loaded: parameters, memory, time."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soldiom_ray.domains.schema import Train
from soldiom_ray.errors import InputError

MOST_POSITIONS_AT_ONCE = 8192
"""Positions in one forward pass; more are accumulated. Longer passes were no faster (measured at 4096 to 16384)."""
START_BYTES = 550 << 20
"""Torch, transformers and the optimiser's code in a process."""
MARGIN = 0.9
CHUNK_LOGITS = 1024


@dataclass(frozen=True)
class Needs:
    """A model under a training method: parameters, and bytes of memory of one worker."""

    method: str
    parameters: int
    trainable: int
    weights_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    logits_bytes: int
    bytes_per_position: int
    """Activations kept for the backward pass, for each position in a forward pass."""
    sequence_length: int

    def total(self, positions: int) -> int:
        """Bytes when `positions` are in one forward pass."""
        fixed = self.weights_bytes + self.gradient_bytes + self.optimizer_bytes + self.logits_bytes + START_BYTES
        return fixed + positions * self.bytes_per_position


def needed(folder: Path | None, tokenizer: Any, declared: Train, *, bfloat16: bool) -> Needs:
    """Read off the configuration: the model is built without storage (torch's meta device)."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        if folder is None:
            from soldiom_ray.models.scratch import from_scratch

            model: Any = from_scratch(tokenizer, declared)
        else:
            try:
                model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder, trust_remote_code=False))
            except (ValueError, OSError, KeyError) as error:
                kind = json.loads((folder / "config.json").read_text()).get("model_type")
                raise InputError(
                    f"The model {declared.base_model!r} (model_type {kind!r}) is no causal language model we know.",
                    remedy="choose another base model",
                ) from error
    config = model.config
    parameters = sum(p.numel() for p in model.parameters())
    width = int(getattr(config, "hidden_size", 0) or getattr(config, "n_embd", 0) or 1024)
    layers = int(getattr(config, "num_hidden_layers", 0) or getattr(config, "n_layer", 0) or 12)
    heads = int(getattr(config, "num_attention_heads", 0) or getattr(config, "n_head", 0) or 1)
    inner = int(getattr(config, "intermediate_size", 0) or 4 * width)
    length = min(
        declared.sequence_length, int(getattr(config, "max_position_embeddings", 0) or declared.sequence_length)
    )
    trainable = _trainable(model, declared, parameters, width)
    kept = 2 if bfloat16 else 4
    full = declared.method == "full"
    # Kept per layer and position: inputs of the products (5 widths, 3 inner widths), two norms in float32 with their
    # inputs, and the attention weights of two halves (scores and softmax, on the CPU). Set by the peaks of two models
    # (4 M and 110 M parameters, full and LoRA): about 10 % above them.
    layer = kept * (8 * width + 4 * inner) + 4 * 6 * width + (0 if length > 1024 else 2 * kept * heads * length)
    if declared.method == "lora":
        layer += kept * (8 * width + 2 * inner)  # each adapted layer keeps its input once more
    vocabulary = int(getattr(config, "vocab_size", 0) or 50_000)
    return Needs(
        method=declared.method,
        parameters=parameters,
        trainable=trainable,
        weights_bytes=parameters * (4 + (2 if bfloat16 else 0) if full else kept),
        gradient_bytes=4 * trainable,
        optimizer_bytes=8 * trainable,
        logits_bytes=CHUNK_LOGITS * vocabulary * 12 + (6 * vocabulary * width if full else 0),
        bytes_per_position=layers * layer + 12 * width,
        sequence_length=length,
    )


def positions_at_once(needs: Needs, free: int, base_model: str) -> int:
    """The largest forward pass that fits, at most MOST_POSITIONS_AT_ONCE. InputError when one sequence does not."""
    room = free * MARGIN - needs.total(0)
    positions = int(min(MOST_POSITIONS_AT_ONCE, room // needs.bytes_per_position))
    if positions >= min(needs.sequence_length, MOST_POSITIONS_AT_ONCE):
        return max(positions, needs.sequence_length)
    raise InputError(
        f"Training {base_model!r} ({needs.parameters / 1e6:,.0f} M parameters) with method {needs.method} and"
        f" sequences of {needs.sequence_length} needs {_gib(needs.total(needs.sequence_length))} per worker;"
        f" {_gib(free)} are free.",
        remedy=_remedy(needs, free),
    )


def plan(
    folder: Path | None,
    declared: Train,
    memory_bytes: int,
    *,
    tokenizer: Any = None,
    train_tokens: int | None = None,
    tokens_per_second: float | None = None,
    bfloat16: bool = True,
) -> dict[str, Any]:
    """What `soldiom plan` shows: parameters, memory by part, whether it fits, and seconds where the speed is known."""
    needs = needed(folder, tokenizer, declared, bfloat16=bfloat16)
    try:
        positions, refusal = positions_at_once(needs, memory_bytes, declared.base_model), ""
    except InputError as error:
        positions, refusal = 0, f"{error.what} {error.remedy}"
    tokens = None
    if train_tokens is not None:
        tokens = int(min(declared.epochs * train_tokens, declared.max_tokens or declared.epochs * train_tokens))
    return {
        "method": needs.method,
        "parameters": needs.parameters,
        "trainable_parameters": needs.trainable,
        "bytes": {
            "weights": needs.weights_bytes,
            "gradients": needs.gradient_bytes,
            "optimizer": needs.optimizer_bytes,
            "logits": needs.logits_bytes,
            "activations": max(positions, needs.sequence_length) * needs.bytes_per_position,
            "total": needs.total(max(positions, needs.sequence_length)),
            "available": memory_bytes,
        },
        "sequence_length": needs.sequence_length,
        "positions_at_once": positions,
        "fits": positions > 0,
        "refusal": refusal,
        "tokens": tokens,
        "seconds": round(tokens / tokens_per_second, 1) if tokens and tokens_per_second else None,
    }


def free_bytes(device: str) -> int:
    """Memory a worker may still take here: the GPU's, or this machine's within the limits of its container."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info()[0])
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) << 10
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()).isdecimal():
        free = min(free, max(0, int(text) - int(used.read_text())))
    return free


def _trainable(model: Any, declared: Train, parameters: int, width: int) -> int:
    if declared.method == "full":
        return parameters
    if declared.method == "prompt":
        return declared.virtual_tokens * width
    from torch import nn

    head = model.get_output_embeddings()
    names = declared.target_modules
    layers = [
        part
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear) and part is not head and (not names or name.rpartition(".")[2] in names)
    ]
    return sum(declared.rank * (part.in_features + part.out_features) for part in layers)


def _remedy(needs: Needs, free: int) -> str:
    ideas = []
    for length in (1024, 512, 256, 128):
        if length < needs.sequence_length and needs.total(length) <= free * MARGIN:
            ideas.append(f"sequence_length {length}")
            break
    if needs.method == "full":
        adapter = (
            needs.total(needs.sequence_length) - needs.gradient_bytes - needs.optimizer_bytes - needs.weights_bytes
        )
        if adapter + 2 * needs.parameters <= free * MARGIN:
            ideas.append("method lora")
    ideas.append(f"a machine with {_gib(needs.total(needs.sequence_length) / MARGIN)} free")
    ideas.append("a smaller base model")
    return "use " + ", or ".join(ideas)


def _gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"
