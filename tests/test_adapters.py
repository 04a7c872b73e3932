"""Adapters of one base beside each other: each answer is what its own adapter gives alone."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_decoding import build, expected_tokens, prompt_of, run
from test_decoding import tokenizer as tokenizer

from soldiom_ray.deploy.adapters import AdapterCache, ServedAdapter
from soldiom_ray.errors import InputError
from soldiom_ray.models.decoding import native
from soldiom_ray.models.decoding.adapters import Adapter, load_adapter
from soldiom_ray.models.decoding.answers import Options
from soldiom_ray.models.decoding.forward import FlatModel
from soldiom_ray.models.decoding.llama import LlamaModel
from soldiom_ray.models.decoding.pool import BLOCK
from soldiom_ray.models.decoding.select import forward_of

LENGTHS = [3, 64, 65, 150]
KINDS: list[dict[str, Any]] = [
    {"r": 4, "target_modules": "all-linear"},
    {"r": 3, "lora_alpha": 5, "use_rslora": True, "targets": 2},
    {"r": 16, "lora_alpha": 24, "targets": 1},
    {"num_virtual_tokens": 5},
]
TARGETS = {"llama": ["q_proj", "v_proj", "down_proj"], "gpt2": ["c_attn", "mlp.c_proj"], "gemma": ["k_proj", "up_proj"]}


def adapted(name: str, number: int, folder: Path, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """The small model with an adapter of random weights, which is also written to a folder."""
    from peft import LoraConfig, PromptTuningConfig, get_peft_model

    kind = KINDS[number % len(KINDS)] | changes
    if "num_virtual_tokens" in kind:
        config: Any = PromptTuningConfig(task_type="CAUSAL_LM", **kind)
    else:
        targets = TARGETS[name][: kind.pop("targets", 3)]
        config = LoraConfig(task_type="CAUSAL_LM", **{"target_modules": targets, "lora_alpha": 8} | kind)
    model = get_peft_model(build(name, dtype), config).eval()
    generator = torch.Generator().manual_seed(100 + number)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key or "prompt" in key:
                scale = 0.3 if "lora_" in key else 1.0
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(("name", "forward_type"), [("llama", LlamaModel), ("gpt2", FlatModel), ("gemma", FlatModel)])
def test_answers_of_several_adapters_and_of_the_base_are_those_of_peft(
    name: str, forward_type: type, tokenizer: Any, tmp_path: Path
) -> None:
    tuned = {number: adapted(name, number, tmp_path / str(number)) for number in range(4)}
    forward = forward_of(build(name), 16, take_over=True)
    assert isinstance(forward, forward_type)
    loaded = {number: load_adapter(str(number), tmp_path / str(number), forward) for number in tuned}
    assert loaded[3].virtual_tokens == 5 and loaded[0].bytes > loaded[1].bytes
    asked, expected = [], []
    for place, length in enumerate(LENGTHS):
        for number in (None, *tuned):
            prompt = prompt_of(length, place)
            asked.append((prompt, Options(10, adapter=loaded[number] if number is not None else None)))
            expected.append((number, prompt))
    answers = run(forward, tokenizer, asked, late=6)
    plain = build(name)
    different = set()
    for (number, prompt), answer in zip(expected, answers, strict=True):
        assert answer.tokens == expected_tokens(plain if number is None else tuned[number], prompt, 10)
        different.add(tuple(answer.tokens))
    assert len(different) > 10


def crowd(load: Callable[[int], Adapter | None], tokenizer: Any, forward: Any) -> None:
    """An answer of an adapter is the same alone and among others of other adapters."""
    one = (prompt_of(100, 1), Options(16, temperature=1.0, top_p=0.9, seed=11, adapter=load(0)))
    two = (prompt_of(40, 2), Options(16, adapter=load(1)))
    alone = [run(forward, tokenizer, [each])[0].tokens for each in (one, two)]
    others = [
        (prompt_of(10 + 7 * seed, 50 + seed), Options(5 + seed, 0.7, seed=seed, adapter=load(seed % 5)))
        for seed in range(36)
    ]
    among = run(forward, tokenizer, [*others[:20], one, *others[20:], two], late=9)
    assert [among[20].tokens, among[-1].tokens] == alone


def test_an_adapters_answer_is_the_same_in_a_crowd_in_bfloat16_too(tokenizer: Any, tmp_path: Path) -> None:
    forward = forward_of(build("llama", torch.bfloat16), 64, take_over=True)
    loaded: dict[int, Adapter | None] = {4: None}
    for number in range(4):
        adapted("llama", number, tmp_path / str(number), torch.bfloat16)
        loaded[number] = load_adapter(str(number), tmp_path / str(number), forward)
    crowd(loaded.__getitem__, tokenizer, forward)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_compiled_product_is_torchs(dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for ranks and widths that are no multiples of what the kernel computes at once."""
    from soldiom_ray.models.decoding.adapters import PassAdapters

    for number in range(3):
        adapted("llama", number, tmp_path / str(number), dtype, r=5 + 8 * number)
    rows = [0, 0, 0, 0, 0, None, 1, 2, 2, None, 1]
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(len(rows), 64, generator=generator).to(dtype)
    before = torch.randn(len(rows), 64 + 2 * 32, generator=generator).to(dtype)
    results = []
    for compiled in (True, False):
        if not compiled:
            monkeypatch.setattr(native, "_kernels", lambda dtype: None)
        forward = forward_of(build("llama", dtype), 8, take_over=True)
        loaded = [load_adapter(str(number), tmp_path / str(number), forward) for number in range(3)]
        y = before.clone()
        assert forward.products is not None
        taken = [None if row is None else loaded[row] for row in rows]
        PassAdapters(taken, forward.products, x).add(4, x, y)
        results.append(y)
    assert torch.equal(results[0][5], before[5]) and not torch.equal(results[0][6], before[6])
    limit = 1e-4 if dtype == torch.float32 else 0.05
    assert ((results[0] - results[1]).abs() <= limit * (1 + results[1].abs())).all()


def test_prompts_of_different_adapters_share_no_cache(tokenizer: Any, tmp_path: Path) -> None:
    adapted("llama", 0, tmp_path / "0")
    forward = forward_of(build("llama"), 8, take_over=True)
    adapter = load_adapter("0", tmp_path / "0", forward)
    prompt = prompt_of(2 * BLOCK + 10, 3)
    fresh = [run(forward, tokenizer, [(prompt, Options(8, adapter=each))])[0].tokens for each in (None, adapter)]
    again = [run(forward, tokenizer, [(prompt, Options(8, adapter=each))])[0].tokens for each in (adapter, None)]
    assert fresh == again[::-1] and fresh[0] != fresh[1]


def test_an_adapter_that_adds_more_than_low_rank_products_is_refused(tmp_path: Path) -> None:
    forward = forward_of(build("llama"), 8, take_over=True)
    adapted("llama", 0, tmp_path / "dora", use_dora=True)
    adapted("llama", 0, tmp_path / "head", target_modules=["q_proj", "lm_head"])
    for name in ("dora", "head"):
        with pytest.raises(InputError, match=rf"(?s)adapter {name} cannot be served.*deploy it by itself"):
            load_adapter(name, tmp_path / name, forward)
    other = forward_of(build("llama", intermediate_size=192), 8, take_over=True)
    adapted("llama", 0, tmp_path / "size")
    with pytest.raises(InputError, match="gate_proj are of another size"):
        load_adapter("size", tmp_path / "size", other)
    with pytest.raises(InputError, match="takes no adapters"):
        load_adapter("size", tmp_path / "size", forward_of(build("bloom"), 8))


def test_adapters_are_loaded_once_and_leave_by_use_when_others_need_their_room() -> None:
    def load(name: str) -> ServedAdapter:
        if name == "damaged":
            raise InputError("no")
        return ServedAdapter(Adapter(name, vectors=torch.zeros(4, 8)), "text")

    async def use() -> None:
        cache = AdapterCache(load, limit=2 * 4 * 8 * 4)
        same = await asyncio.gather(*(cache.get("a") for _ in range(5)))
        assert cache.loads == 1 and len({id(each) for each in same}) == 1
        for name in ("b", "a", "c", "a"):
            assert (await cache.get(name)).adapter.name == name
        assert cache.describe() == {"loaded": 2, "bytes": 256, "loads": 3}
        await cache.get("b")  # it has made room for c
        assert cache.loads == 4
        with pytest.raises(InputError):
            await cache.get("damaged")
        leaving = asyncio.create_task(cache.get("d"))
        await asyncio.sleep(0)
        leaving.cancel()
        assert (await cache.get("d")).adapter.name == "d" and cache.loads == 5

    asyncio.run(use())
