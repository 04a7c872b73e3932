"""What both sides of `training.py` share: the model, the documents, the clock, the loss on held-out documents."""

import math
import resource
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Ids = npt.NDArray[np.int64]

SHAPE = {
    "hidden_size": 384,
    "num_hidden_layers": 8,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "intermediate_size": 1024,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}


def plain_model(job: dict[str, Any]) -> Any:
    """The model both begin from: the base's weights where there is one, else random ones of the job's seed."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    if job.get("base"):
        return LlamaForCausalLM.from_pretrained(job["base"], dtype=torch.float32)
    torch.manual_seed(job["seed"])
    return LlamaForCausalLM(LlamaConfig(vocab_size=job["pieces"], bos_token_id=0, eos_token_id=0, **SHAPE))


def with_lora(model: Any) -> Any:
    """Its weights frozen in bfloat16, LoRA of rank 16 in float32 beside every linear layer."""
    import torch
    from peft import LoraConfig, get_peft_model

    adapter = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    tuned: Any = get_peft_model(model.to(torch.bfloat16), adapter)
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return tuned


def documents(job: dict[str, Any], split: str) -> "list[Ids]":
    """Ids of each document, the end token last."""
    import numpy as np

    with np.load(job["documents"]) as arrays:
        return np.split(arrays[split], arrays[f"{split}_ends"][:-1])


def held_out_loss(model: Any, job: dict[str, Any]) -> float:
    """Mean loss per token over the held-out documents, each read alone, in float32 by the model's own forward pass."""
    import torch

    model = model.float().eval()
    if hasattr(model.config, "_attn_implementation"):
        model.set_attn_implementation("sdpa")
    total, count = 0.0, 0
    with torch.no_grad():
        for ids in documents(job, "held_out"):
            row = torch.from_numpy(ids.astype("int64"))[None]
            logits = model(input_ids=row).logits[0, :-1].float()
            total += float(torch.nn.functional.cross_entropy(logits, row[0, 1:], reduction="sum"))
            count += len(ids) - 1
    return total / count


def share_of_rate(step: int, steps: int, warmup: int) -> float:
    """`Schedule.rate` for both sides: the peer's own begins with a step at a rate of nothing."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


class Clock:
    """Seconds and memory of a training. The first step is not counted: it warms caches on both sides."""

    def __init__(self) -> None:
        self.ticks: list[float] = []
        self.used: list[float] = []
        self.began = self.peak = self.tokens = 0.0

    def begin(self) -> None:
        self.began = time.perf_counter()

    def tick(self) -> None:
        self.ticks.append(time.perf_counter())
        self.used.append(time.process_time())

    def finish(self, tokens: int) -> None:
        """All `tokens` were learnt from in the steps that ticked."""
        self.tokens = tokens
        self.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def result(self) -> dict[str, Any]:
        steps, seconds = len(self.ticks), self.ticks[-1] - self.ticks[0]
        counted, used = self.tokens * (steps - 1) / steps, self.used[-1] - self.used[0]
        return {
            "steps": steps,
            "tokens": self.tokens,
            "first_step_seconds": self.ticks[0] - self.began,
            "seconds": self.ticks[-1] - self.began,
            "tokens_per_second": counted / seconds,
            "tokens_per_core_second": counted / used,
            "peak_mib": self.peak,
        }
