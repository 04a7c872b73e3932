"""The faster paths of the training loop compute what transformers' own layers compute."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from soldiom_ray.models.labels import IGNORE_INDEX
from soldiom_ray.models.layers import causal_blocks
from soldiom_ray.models.loss import CausalLoss
from soldiom_ray.models.weight_cache import cache_weights, compute_weight, invalidate_weights

SHAPE = {
    "vocab_size": 301,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 512,
}
POSITIONS = 260


def llama(**more: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SHAPE, **more)).train()


def qwen(**more: Any) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    return Qwen3ForCausalLM(Qwen3Config(**SHAPE, **more)).train()


def adapted(model: Any, **more: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    tuned: Any = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", **more))
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.1)
    return tuned


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    ids, labels = torch.randint(0, 301, (2, 3, POSITIONS))
    labels[0, :50] = IGNORE_INDEX
    return ids, labels


def plain_loss(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=ids, use_cache=False).logits
    return functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="sum")


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def farthest(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    assert actual.keys() == expected.keys()
    return max(float((actual[name] - gradient).norm() / gradient.norm()) for name, gradient in expected.items())


def replaced(model: Any) -> int:
    return sum("forward" in vars(module) for module in model.modules())


MODELS: dict[str, Callable[[], Any]] = {
    "tied": lambda: llama(tie_word_embeddings=True),
    "biased": lambda: llama(tie_word_embeddings=False, attention_bias=True, mlp_bias=True),
    "normed": qwen,
    "adapted": lambda: adapted(llama()),
    "adapted with magnitudes": lambda: adapted(qwen(), use_dora=True),
}


@pytest.mark.parametrize("name", MODELS)
def test_faster_layers_have_the_loss_and_gradients_of_the_plain_ones(name: str) -> None:
    model, (ids, labels) = MODELS[name](), batch()
    plain = plain_loss(model, ids, labels)
    expected = gradients(model, plain)
    with causal_blocks(model):
        assert replaced(model)
        fast = CausalLoss(model)(ids, labels)
        assert fast.item() == pytest.approx(plain.item(), rel=1e-5)
        assert farthest(gradients(model, fast), expected) < 1e-4
    assert not replaced(model)


def test_attention_weights_that_are_computed_again_have_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    from soldiom_ray.models import attention

    model, (ids, labels) = adapted(llama()), batch()
    with causal_blocks(model):
        stored = gradients(model, CausalLoss(model)(ids, labels))
        monkeypatch.setattr(attention, "STORED_POSITIONS", POSITIONS - 1)
        monkeypatch.setattr(attention, "LONG_RANGE_POSITIONS", 100)
        again = gradients(model, CausalLoss(model)(ids, labels))
    assert farthest(again, stored) < 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_in_bfloat16_they_are_as_near_to_float32_as_autocast_is(name: str) -> None:
    model, (ids, labels) = MODELS[name](), batch()
    exact = gradients(model, plain_loss(model, ids, labels))
    with torch.autocast("cpu", torch.bfloat16):
        plain = plain_loss(model, ids, labels)
    usual = farthest(gradients(model, plain), exact)
    with causal_blocks(model):
        with torch.autocast("cpu", torch.bfloat16):
            fast = CausalLoss(model)(ids, labels)
        assert fast.item() == pytest.approx(plain.item(), rel=1e-3)
        assert farthest(gradients(model, fast), exact) < 2 * usual


def test_a_piece_that_is_nearly_certain_still_has_a_gradient_in_bfloat16() -> None:
    from soldiom_ray.models.loss import _to_gradients

    logits = torch.zeros(1, 64)
    logits[0, 3] = 12.0
    exact = torch.softmax(logits, -1)[0, 3] - 1
    rounded = logits.bfloat16()
    assert torch.softmax(rounded, -1)[0, 3] == 1.0
    loss = _to_gradients(rounded, torch.tensor([3]), 1)
    assert float(rounded[0, 3]) == pytest.approx(float(exact), rel=1e-2)
    assert float(loss) == pytest.approx(-float(torch.log_softmax(logits, -1)[0, 3]), rel=1e-2)


def test_a_batch_without_a_label_to_learn_has_no_loss_and_no_gradient() -> None:
    model, (ids, labels) = llama(), batch()
    with causal_blocks(model):
        loss = CausalLoss(model)(ids, torch.full_like(labels, IGNORE_INDEX))
    by_name = gradients(model, loss)
    assert loss.item() == 0 and not any(float(gradient.abs().max()) for gradient in by_name.values())


def test_a_model_whose_output_would_differ_keeps_its_own_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    from soldiom_ray.models import layers

    monkeypatch.setattr(layers, "linear", lambda module, x: torch.zeros(*x.shape[:-1], module.out_features))
    model = llama()
    with causal_blocks(model):
        assert not replaced(model)


def test_a_copy_follows_its_weight() -> None:
    weight = torch.nn.Parameter(torch.randn(50, 8))
    assert compute_weight(weight, torch.bfloat16) is not compute_weight(weight, torch.bfloat16)
    cache_weights([weight])
    first = compute_weight(weight, torch.bfloat16, aligned=True)
    assert first.shape == (64, 8) and not first[50:].any()
    assert compute_weight(weight, torch.bfloat16).data_ptr() == first.data_ptr()
    with torch.no_grad():
        weight.add_(1)
    torch.testing.assert_close(compute_weight(weight, torch.bfloat16), weight.detach().bfloat16())
    weight.data.mul_(2)
    invalidate_weights([weight])
    torch.testing.assert_close(compute_weight(weight, torch.bfloat16), weight.detach().bfloat16())
