"""The loss of a causal language model without ever holding the logits of all positions.

The logits of a small model are its largest tensor. Here the hidden states of the last layer meet the output matrix a
thousand positions at a time, and the gradients of that last step are made in the same pass.
"""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from soldiom_ray.models.attention import SharedPrefix
from soldiom_ray.models.labels import IGNORE_INDEX
from soldiom_ray.models.weight_cache import compute_weight, is_planned

if TYPE_CHECKING:
    import numpy.typing as npt

CHUNK_POSITIONS = 1024
HEAD_POSITIONS, FLOAT_ROWS = 256, 16
"""Positions that meet the output matrix together where no gradients are made, and rows of their logits that are in
float32 at a time on a CPU: they stay in its caches."""
HEAD_STEP = 32
"""Without gradients, rows are a multiple of it: each other number costs a kernel that stays in memory, 3.8 MB with a
vocabulary of 49,152 (oneDNN keeps up to 1,024)."""
ROW_STEP = 128
"""Some positions' rows are a multiple of it."""


class Objective(nn.Module):
    """A task's loss: a batch's tensors -> the summed loss, a float32 scalar, of all labels that count in it.

    Every rank calls it with its own batch and gets its own sum."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def evaluate(self, *batch: Tensor) -> tuple[Tensor, Tensor]:
        """(the summed loss, counts that `metrics` understands); counts of several batches and ranks are added. Called
        in evaluation mode and without gradients."""
        loss = self(*batch)
        return loss, loss.new_empty(0)

    def metrics(self, counts: Tensor) -> dict[str, float]:
        """The task's metrics from counts that were added over batches and ranks."""
        return {}


class CausalLoss(Objective):
    """Token ids and labels, both [batch, positions] in int64 -> the summed loss, a float32 scalar.

    Labels are already shifted: `labels[:, i]` follows `ids[:, i]`; positions that do not count have IGNORE_INDEX."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.chunked = is_chunkable(model)
        self.logits_buffer = torch.empty(0)
        """[CHUNK_POSITIONS, vocabulary]: fresh memory costs ten times what writing to it does."""

    def forward(self, ids: Tensor, labels: Tensor) -> Tensor:
        if not self.chunked:
            logits = position_logits(self.model, ids)
            return functional.cross_entropy(
                logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
            )
        hidden = hidden_states(self.model, ids)
        head: Any = language_model(self.model).get_output_embeddings()
        device = ids.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        with torch.autocast(device, enabled=False):
            weight, flat = head.weight, hidden.flatten(0, 1).to(dtype)
            copy = compute_weight(weight, dtype, aligned=True)
            if self.logits_buffer.dtype != dtype or self.logits_buffer.shape != (CHUNK_POSITIONS, len(copy)):
                self.logits_buffer = flat.new_empty(CHUNK_POSITIONS, len(copy))
            arguments = (flat, weight, copy, head.bias, labels.flatten(), self.logits_buffer)
            total: Tensor = _ChunkedLoss.apply(*arguments)  # type: ignore[no-untyped-call]
        return total


class NextTokenLosses:
    """Token ids and the ids that follow, both [batch, positions] -> (losses in float32, whether each following id was
    the likeliest), both [batch, positions]; 0 and False where the following id is IGNORE_INDEX. Inference only."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.chunked = is_chunkable(model)
        self.device = next(model.parameters()).device

    def read_prefix(self, prefix: SharedPrefix, ids: "npt.NDArray[Any]") -> None:
        """Have the following calls begin after these tokens, [tokens], and after a tuned prompt. Only within a
        `causal_blocks` that has this prefix, and of a model that is `chunked`; nothing happens without tokens."""
        if not len(ids):
            return
        with torch.no_grad(), prefix.recording(virtual_tokens(self.model) + len(ids)):
            hidden_states(self.model, torch.from_numpy(ids.astype("int64"))[None].to(self.device))

    def __call__(self, ids: Tensor, labels: Tensor, prefix: SharedPrefix | None = None) -> tuple[Tensor, Tensor]:
        states = hidden_states(self.model, ids, prefix) if self.chunked else position_logits(self.model, ids)
        head: Any = language_model(self.model).get_output_embeddings() if self.chunked else nn.Identity()
        counted = labels != IGNORE_INDEX
        losses = torch.zeros(labels.shape, dtype=torch.float32, device=labels.device)
        hits = torch.zeros_like(counted)
        selected, targets = states[counted], labels[counted]
        del states
        rows = len(selected)
        if self.chunked:
            selected = functional.pad(selected, (0, 0, 0, -rows % HEAD_STEP))
            targets = functional.pad(targets, (0, -rows % HEAD_STEP))
        parts = zip(torch.split(selected, HEAD_POSITIONS), torch.split(targets, HEAD_POSITIONS), strict=True)
        scored = [_score_logits(head(part.to(head.weight.dtype)) if self.chunked else part, aim) for part, aim in parts]
        if scored:
            losses[counted], hits[counted] = (torch.cat(of)[:rows] for of in zip(*scored, strict=True))
        return losses, hits


def _score_logits(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(losses in float32, whether the target is the likeliest), both [rows], from logits [rows, vocabulary] in any
    dtype."""
    losses, hits = [], []
    at_once = FLOAT_ROWS if logits.device.type == "cpu" else len(logits)
    for rows, aims in zip(torch.split(logits, at_once), torch.split(targets, at_once), strict=True):
        wide, at = rows.float(), aims[:, None]
        targets_at = wide.gather(1, at)[:, 0]
        # The largest of the others instead of the place of the largest, which takes three times as long to find.
        others = wide.scatter_(1, at, -math.inf).amax(-1)
        top, is_hit = torch.maximum(targets_at, others), targets_at > others
        for row in (targets_at == others).nonzero()[:, 0].tolist():  # the first of equal ones is the likeliest
            is_hit[row] = aims[row] < wide[row].argmax()
        # Step by step: logsumexp took 20 ms for 16 rows of 49,152 where this takes 1.1 (one core).
        sums = wide.sub_(top[:, None]).exp_().sum(-1).add_((targets_at - top).exp_())
        losses.append(sums.log_().add_(top).sub_(targets_at))
        hits.append(is_hit)
    return torch.cat(losses), torch.cat(hits)


def hidden_states(model: Any, ids: Tensor, prefix: SharedPrefix | None = None) -> Tensor:
    """The last layer's output at each id: ids [batch, positions] -> [batch, positions, width] in the model's dtype.
    Positions of a tuned prompt are left out. The ids follow the `prefix`, where one was recorded."""
    plain = language_model(model)
    decoder = getattr(plain, plain.base_model_prefix)
    if prefix is not None and prefix.positions:
        places = torch.arange(prefix.positions, prefix.positions + ids.shape[1], device=ids.device)[None]
        states = decoder(input_ids=ids, position_ids=places, use_cache=False)[0]
    elif virtual := virtual_tokens(model):
        embedded = model.word_embeddings(ids)
        prompts = model.get_prompt(batch_size=len(ids)).to(embedded.dtype)
        states = decoder(inputs_embeds=torch.cat((prompts, embedded), dim=1), use_cache=False)[0][:, virtual:]
    else:
        states = decoder(input_ids=ids, use_cache=False)[0]
    result: Tensor = states
    return result


def position_logits(model: Any, ids: Tensor) -> Tensor:
    """The model's own logits at each id, [batch, positions, vocabulary], for architectures that do more than one matrix
    product at their end. Positions of a tuned prompt are left out."""
    logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits[:, virtual_tokens(model) :]


def virtual_tokens(model: Any) -> int:
    """How many positions a tuned prompt takes; 0 for other models."""
    config = getattr(model, "active_peft_config", None)
    return int(getattr(config, "num_virtual_tokens", 0) or 0)


def language_model(model: Any) -> Any:
    """The language model below an adapter; the model itself where it has none."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def is_chunkable(model: Any) -> bool:
    """Whether the model's logits are its hidden states times its output matrix, seen on a few tokens: some
    architectures scale or cap them, and an adapter may sit on the output layer."""
    plain = language_model(model)
    head = plain.get_output_embeddings() if hasattr(plain, "get_output_embeddings") else None
    if type(head) is not nn.Linear or not getattr(plain, "base_model_prefix", ""):
        return False
    if is_planned(head.weight):
        return True
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            ids = torch.arange(1, 9, device=head.weight.device)[None] % head.weight.shape[0]
            expected = position_logits(model, ids).float()
            product = head(hidden_states(model, ids).to(head.weight.dtype)).float()
            return bool(torch.allclose(product, expected, rtol=1e-2, atol=1e-2))
    finally:
        model.train(training)


class _ChunkedLoss(torch.autograd.Function):
    """Cross-entropy of `hidden @ weight.T + bias`, summed over the rows whose label is not IGNORE_INDEX; others are not
    multiplied. hidden [rows, width], weight [vocabulary, width], labels [rows] -> a float32 scalar.

    The forward pass makes the gradients too (softmax minus the one-hot label), in the memory of the logits, so no
    logits are stored, copied to float32 or made twice. `copy` [vocabulary or more, width] is the weight in hidden's
    dtype, `buffer` [CHUNK_POSITIONS, rows of copy] takes the logits of a chunk."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        copy: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        buffer: Tensor,
    ) -> Tensor:
        needs_hidden, needs_weight, _, needs_bias = ctx.needs_input_grad[:4]
        rows = (labels != IGNORE_INDEX).nonzero()[:, 0]
        counted, complete = len(rows), len(rows) == len(labels)
        inputs, targets = (hidden, labels) if complete else _gathered(hidden, labels, rows)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(inputs) if needs_hidden else None
        weight_gradient: Tensor | None = None
        bias_gradient = torch.zeros_like(bias, dtype=torch.float32) if needs_bias and bias is not None else None
        for start in range(0, len(inputs), CHUNK_POSITIONS):
            part = slice(start, start + CHUNK_POSITIONS)
            outputs = buffer[: len(inputs[part])]
            torch.mm(inputs[part], copy.t(), out=outputs)
            outputs[:, len(weight) :] = -torch.inf
            if bias is not None:
                outputs[:, : len(weight)] += bias
            total += _to_gradients(outputs, targets[part], counted - start)
            if gradient is not None:
                torch.mm(outputs, copy, out=gradient[part])
            if needs_weight:
                share = (outputs.t() @ inputs[part])[: len(weight)]
                weight_gradient = share.float() if weight_gradient is None else weight_gradient.add_(share)
            if bias_gradient is not None:
                bias_gradient += outputs[:, : len(weight)].sum(0, dtype=torch.float32)
        if gradient is not None and not complete:
            gradient = torch.zeros_like(hidden).index_copy_(0, rows, gradient[:counted])
        ctx.save_for_backward(gradient, weight_gradient, bias_gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, Tensor | None, None, Tensor | None, None, None]:
        # In place: the output matrix's gradient is the largest tensor of a small model. Nothing runs backward twice.
        hidden, weight, bias = (None if g is None else g.mul_(outer[0]) for g in ctx.saved_tensors)
        return hidden, weight, None, bias, None, None


def _gathered(hidden: Tensor, labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """(hidden [rows or more, width], labels) at these rows, with rows that do not count up to a multiple of ROW_STEP:
    every other number of rows would have oneDNN make a kernel of its own, and leave gaps in the heap."""
    more = min(-len(rows) % ROW_STEP, len(labels) - len(rows))
    padded = functional.pad(rows, (0, more))
    return hidden[padded], labels[padded].clamp_(min=0)


def _to_gradients(logits: Tensor, targets: Tensor, counted: int) -> Tensor:
    """Logits [rows, vocabulary] become, in place, the gradients of the summed loss, which is returned as a float32
    scalar; `targets` is [rows]. Only the first `counted` rows count.

    Probabilities are rounded to the logits' dtype. What is left of 1 besides the target is therefore summed from the
    other tokens: in bfloat16 1 - 0.999 would be nothing."""
    torch.softmax(logits, -1, out=logits)
    # By index and by product: scatter_ and sum took 67 and 71 ms where these take 1 and 6 (512 rows, bf16, one core).
    target_cells = torch.arange(len(logits), device=logits.device), targets
    likely = logits[target_cells].float()
    logits[target_cells] = 0.0
    rest = (logits @ logits.new_ones(logits.shape[1])).float().clamp_(max=1.0)
    logits[target_cells] = -rest.to(logits.dtype)
    logits[counted:] = 0.0
    tiny = torch.finfo(torch.float32).tiny
    losses = torch.where(rest < 0.5, torch.log1p(-rest), likely.clamp_min(tiny).log())
    return -losses[:counted].sum()
