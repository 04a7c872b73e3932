"""The loss of a causal language model without ever holding the logits of all positions.

The logits of a small model are its largest tensor. Here the hidden states of the last layer meet the output matrix a
thousand positions at a time, and the gradients of that last step are made in the same pass.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from soldiom_ray.models.labels import IGNORE_INDEX
from soldiom_ray.models.weight_cache import working_copy

CHUNK_POSITIONS = 1024


class Objective(nn.Module):
    """What a task learns: a batch's tensors -> the summed loss (float32) of all labels that are to be learnt."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def judge(self, *batch: Tensor) -> tuple[Tensor, Tensor]:
        """(the summed loss, counts that `metrics` understands); counts of several batches are added. In evaluation
        mode and without gradients."""
        loss = self(*batch)
        return loss, loss.new_empty(0)

    def metrics(self, counts: Tensor) -> dict[str, float]:
        """The task's metrics from added counts."""
        return {}


class CausalLoss(Objective):
    """Token ids and labels -> the summed loss. Labels are already shifted: `labels[i]` follows `ids[i]`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.chunked = is_chunkable(model)
        self.memory = torch.empty(0)
        """The logits of one chunk: fresh memory costs ten times what writing to it does."""

    def forward(self, ids: Tensor, labels: Tensor) -> Tensor:
        if not self.chunked:
            logits = logits_of(self.model, ids)
            return functional.cross_entropy(
                logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
            )
        hidden = hidden_states(self.model, ids)
        head: Any = plain_model(self.model).get_output_embeddings()
        kind = torch.get_autocast_dtype(ids.device.type) if torch.is_autocast_enabled(ids.device.type) else hidden.dtype
        with torch.autocast(ids.device.type, enabled=False):
            weight, flat = head.weight, hidden.flatten(0, 1).to(kind)
            copy = working_copy(weight, kind, aligned=True)
            if self.memory.dtype != kind or self.memory.shape != (CHUNK_POSITIONS, len(copy)):
                self.memory = flat.new_empty(CHUNK_POSITIONS, len(copy))
            given = (flat, weight, copy, head.bias, labels.flatten(), self.memory)
            total: Tensor = _ChunkedLoss.apply(*given)  # type: ignore[no-untyped-call]
        return total


class NextTokens:
    """Token ids and the ids that follow -> (loss, whether it was the likeliest) of each, both [batch, positions]."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.chunked = is_chunkable(model)

    def __call__(self, ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        states = hidden_states(self.model, ids) if self.chunked else logits_of(self.model, ids)
        head: Any = plain_model(self.model).get_output_embeddings() if self.chunked else nn.Identity()
        losses, hits = [], []
        parts = torch.split(states.flatten(0, 1), CHUNK_POSITIONS)
        for part, wanted in zip(parts, torch.split(labels.flatten(), CHUNK_POSITIONS), strict=True):
            logits = head(part.to(head.weight.dtype) if self.chunked else part).float()
            losses.append(functional.cross_entropy(logits, wanted, reduction="none"))
            hits.append(logits.argmax(-1) == wanted)
        return torch.cat(losses).view_as(labels), torch.cat(hits).view_as(labels)


def hidden_states(model: Any, ids: Tensor) -> Tensor:
    """The last layer's output at each id, [batch, positions, width]; virtual tokens of a tuned prompt are left out."""
    plain = plain_model(model)
    decoder = getattr(plain, plain.base_model_prefix)
    if virtual := virtual_tokens(model):
        embedded = model.word_embeddings(ids)
        prompts = model.get_prompt(batch_size=len(ids)).to(embedded.dtype)
        states = decoder(inputs_embeds=torch.cat((prompts, embedded), dim=1), use_cache=False)[0][:, virtual:]
    else:
        states = decoder(input_ids=ids, use_cache=False)[0]
    result: Tensor = states
    return result


def logits_of(model: Any, ids: Tensor) -> Tensor:
    """The model's own logits at each id, for architectures that do more than one matrix product at their end."""
    logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits[:, virtual_tokens(model) :]


def virtual_tokens(model: Any) -> int:
    """How many positions a tuned prompt takes; 0 for other models."""
    config = getattr(model, "active_peft_config", None)
    return int(getattr(config, "num_virtual_tokens", 0) or 0)


def plain_model(model: Any) -> Any:
    """The language model below an adapter."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def is_chunkable(model: Any) -> bool:
    """Whether the model's logits are its hidden states times its output matrix, seen on a few tokens: some
    architectures scale or cap them, and an adapter may sit on the output layer."""
    plain = plain_model(model)
    head = plain.get_output_embeddings() if hasattr(plain, "get_output_embeddings") else None
    if type(head) is not nn.Linear or not getattr(plain, "base_model_prefix", ""):
        return False
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            ids = torch.arange(1, 9, device=head.weight.device)[None] % head.weight.shape[0]
            expected = logits_of(model, ids).float()
            found = head(hidden_states(model, ids).to(head.weight.dtype)).float()
            return bool(torch.allclose(found, expected, rtol=1e-2, atol=1e-2))
    finally:
        model.train(training)


class _ChunkedLoss(torch.autograd.Function):
    """Cross-entropy of `hidden @ weight.T + bias`, summed over the labels that are to be learnt; no row without one is
    multiplied. The forward pass makes the gradients too (softmax minus the one-hot label), in the memory of the logits,
    so no logits are kept, copied to float32 or made twice. `copy` holds the weight as it is multiplied, and may have
    more rows; `memory` is as large as the logits of a chunk."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        copy: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        memory: Tensor,
    ) -> Tensor:
        needs_hidden, needs_weight, _, needs_bias = ctx.needs_input_grad[:4]
        rows = (labels != IGNORE_INDEX).nonzero()[:, 0]
        every = len(rows) == len(labels)
        scored, wanted = (hidden, labels) if every else (hidden[rows], labels[rows])
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(scored) if needs_hidden else None
        weight_gradient: Tensor | None = None
        bias_gradient = torch.zeros_like(bias, dtype=torch.float32) if needs_bias and bias is not None else None
        for start in range(0, len(scored), CHUNK_POSITIONS):
            part = slice(start, start + CHUNK_POSITIONS)
            outputs = memory[: len(scored[part])]
            torch.mm(scored[part], copy.t(), out=outputs)
            outputs[:, len(weight) :] = -torch.inf
            if bias is not None:
                outputs[:, : len(weight)] += bias
            total += _to_gradients(outputs, wanted[part])
            if gradient is not None:
                torch.mm(outputs, copy, out=gradient[part])
            if needs_weight:
                share = (outputs.t() @ scored[part])[: len(weight)]
                weight_gradient = share.float() if weight_gradient is None else weight_gradient.add_(share)
            if bias_gradient is not None:
                bias_gradient += outputs[:, : len(weight)].sum(0, dtype=torch.float32)
        if gradient is not None and not every:
            gradient = torch.zeros_like(hidden).index_copy_(0, rows, gradient)
        ctx.save_for_backward(gradient, weight_gradient, bias_gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, Tensor | None, None, Tensor | None, None, None]:
        # In place: the output matrix's gradient is the largest tensor of a small model. Nothing runs backward twice.
        hidden, weight, bias = (None if g is None else g.mul_(outer[0]) for g in ctx.saved_tensors)
        return hidden, weight, None, bias, None, None


def _to_gradients(logits: Tensor, wanted: Tensor) -> Tensor:
    """Logits [rows, pieces] become the gradients of the summed loss, which is returned; `wanted` is [rows].

    Probabilities are rounded to the logits' kind. What is left of 1 besides the wanted piece is therefore summed from
    the others: in bfloat16 1 - 0.999 would be nothing."""
    torch.softmax(logits, -1, out=logits)
    # By index and by product: scatter_ and sum took 67 and 71 ms where these take 1 and 6 (512 rows, bf16, one core).
    places = torch.arange(len(logits), device=logits.device), wanted
    likely = logits[places].float()
    logits[places] = 0.0
    rest = (logits @ logits.new_ones(logits.shape[1])).float().clamp_(max=1.0)
    logits[places] = -rest.to(logits.dtype)
    tiny = torch.finfo(torch.float32).tiny
    return -torch.where(rest < 0.5, torch.log1p(-rest), likely.clamp_min(tiny).log()).sum()
