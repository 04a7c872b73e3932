"""Decoding many answers at once: each is what the model gives alone, whoever is beside it."""

import shutil
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from small_models import code

from soldiom_ray.models.decoding import native
from soldiom_ray.models.decoding.answers import Answer, Options
from soldiom_ray.models.decoding.forward import FlatModel, Forward, StepwiseModel
from soldiom_ray.models.decoding.llama import LlamaModel, TorchOperations
from soldiom_ray.models.decoding.pool import BLOCK, KeyValuePool, LayerShape, block_names
from soldiom_ray.models.decoding.scheduler import Scheduler
from soldiom_ray.models.decoding.select import forward_of
from soldiom_ray.models.tokens import train_tokenizer

CONTEXT = 512
SIZES = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT}


needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="this machine has no C compiler"
)


def build(name: str, dtype: torch.dtype = torch.float32, **sizes: int) -> Any:
    """A small model with random weights whose answers change from token to token."""
    import transformers as hf

    torch.manual_seed(5)
    ends: Any = {"eos_token_id": None, "bos_token_id": None, "pad_token_id": None, "tie_word_embeddings": False}
    config: Any = {
        "llama": lambda: hf.LlamaConfig(**SIZES | sizes, **HEADS, **ends),
        "gpt2": lambda: hf.GPT2Config(
            vocab_size=300,
            n_embd=64,
            n_layer=3,
            n_head=4,
            n_positions=CONTEXT,
            **ends,
        ),
        "mistral": lambda: hf.MistralConfig(**SIZES, **HEADS, **ends, sliding_window=24),
        "qwen2": lambda: hf.Qwen2Config(**SIZES, **HEADS, **ends),
        "gemma": lambda: hf.GemmaConfig(**SIZES, **HEADS, **ends, head_dim=16),
        "bloom": lambda: hf.BloomConfig(vocab_size=300, hidden_size=64, n_layer=2, n_head=4, **ends),
    }[name]()
    model = hf.AutoModelForCausalLM.from_config(config).to(dtype).eval()
    with torch.no_grad():  # random weights repeat one token for ever, larger ones do not
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return model


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer((code(seed) for seed in range(5)), 290, CONTEXT)


def prompt_of(length: int, seed: int) -> list[int]:
    return torch.randint(0, 290, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def run(forward: Forward, tokenizer: Any, asked: Sequence[tuple[list[int], Options]], late: int = 0) -> list[Answer]:
    """Answers to prompts that are asked together, the last `late` of them one step after the other."""
    scheduler = Scheduler(forward)
    answers = [Answer(tokenizer, frozenset(), prompt, options) for prompt, options in asked]
    for number, answer in enumerate(answers):
        if number >= len(answers) - late:
            scheduler.step()
        scheduler.submit(answer)
    while not scheduler.is_idle:
        scheduler.step()
    assert forward.pool.reserved == 0
    return answers


def expected_tokens(model: Any, prompt: list[int], count: int) -> list[int]:
    ids = torch.tensor([prompt])
    output = model.generate(ids, max_new_tokens=count, do_sample=False, attention_mask=torch.ones_like(ids))
    return output[0, len(prompt) :].tolist()  # type: ignore[no-any-return]


LENGTHS = [3, 20, 64, 65, 150, 300]


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral", "qwen2", "gemma", "bloom"])
def test_greedy_answers_are_those_of_transformers(name: str, tokenizer: Any) -> None:
    model = build(name)
    forward = forward_of(model, 8)
    assert isinstance(forward, StepwiseModel if name == "bloom" else FlatModel)
    prompts = [prompt_of(length, seed) for seed, length in enumerate(LENGTHS)]
    answers = run(forward, tokenizer, [(prompt, Options(12 + len(prompt) % 5)) for prompt in prompts], late=3)
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer.tokens == expected_tokens(model, prompt, answer.options.max_new_tokens)
    assert len({token for answer in answers for token in answer.tokens}) > 10
    if name in ("llama", "qwen2"):
        lean = forward_of(model, 8, take_over=True)
        assert isinstance(lean, LlamaModel)
        asked = [(answer.prompt, answer.options) for answer in answers]
        assert [each.tokens for each in run(lean, tokenizer, asked)] == [answer.tokens for answer in answers]


@pytest.mark.parametrize("take_over", [False, True])
def test_an_answer_is_the_same_alone_and_in_a_crowd_in_bfloat16_too(take_over: bool, tokenizer: Any) -> None:
    forward = forward_of(build("llama", torch.bfloat16, intermediate_size=1536), 64, take_over=take_over)
    assert isinstance(forward, LlamaModel) == take_over
    one = (prompt_of(100, 1), Options(24, temperature=1.0, top_p=0.9, seed=11))
    two = (prompt_of(40, 2), Options(24))
    alone = [run(forward, tokenizer, [each])[0].tokens for each in (one, two)]
    crowd = [(prompt_of(10 + 7 * seed, 50 + seed), Options(5 + seed, 0.7, seed=seed)) for seed in range(38)]
    among = run(forward, tokenizer, [*crowd[:20], one, *crowd[20:], two], late=9)
    assert [among[20].tokens, among[-1].tokens] == alone
    again = run(forward, tokenizer, [(one[0], Options(24, temperature=1.0, top_p=0.9, seed=12))])[0]
    assert again.tokens != alone[0]


@needs_compiler
def test_compiled_kernels_give_what_torch_gives(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    """Where a compiler is missing the answers are the same; in float32 sums differ in their last bits only."""
    assert native.kernels_for(torch.empty(0)) is not None
    prompts = [prompt_of(length, seed) for seed, length in enumerate(LENGTHS)]
    asked = [(prompt, Options(20, logprobs=0)) for prompt in prompts]
    compiled = run(forward_of(build("llama"), 8, take_over=True), tokenizer, asked)
    monkeypatch.setattr(native, "_kernels", lambda dtype: None)
    plain = run(forward_of(build("llama"), 8, take_over=True), tokenizer, asked)
    for one, other in zip(compiled, plain, strict=True):
        assert one.tokens == other.tokens
        differences = [abs(a.logprob - b.logprob) for a, b in zip(one.logprobs, other.logprobs, strict=True)]
        assert max(differences) < 1e-3


@needs_compiler
@pytest.mark.parametrize("rows", [1, 7, 40])
def test_compiled_operations_round_where_torch_rounds(rows: int) -> None:
    kernels, plain = native.kernels_for(torch.empty(0, dtype=torch.bfloat16)), TorchOperations()
    assert kernels is not None
    generator = torch.Generator().manual_seed(rows)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(torch.bfloat16)

    def same(one: torch.Tensor, other: torch.Tensor) -> None:
        assert ((one - other).abs() <= other.abs() / 128 + 1e-30).all()  # one step of bfloat16

    states, delta, weight = draw(rows, 96), draw(rows, 96), draw(96)
    others = states.clone()
    same(kernels.add_norm(states, delta, weight, 1e-5), plain.add_norm(others, delta, weight, 1e-5))
    assert torch.equal(states, others)
    heads, cosines, sines, slots = draw(rows, 8, 16), draw(rows, 16), draw(rows, 16), torch.arange(rows).flip(0)
    turned, pool, other_pool = heads.clone(), draw(rows + 1, 4, 16), draw(rows + 1, 4, 16)
    kernels.rotate(heads, cosines, sines, pool, slots)
    plain.rotate(turned, cosines, sines, other_pool, slots)
    assert torch.equal(heads[:, :4], turned[:, :4]) and torch.equal(pool[:rows], other_pool[:rows])
    same(kernels.gate(30 * states), plain.gate(30 * states))


def test_greedy_answers_in_bfloat16_are_transformers_up_to_ties(tokenizer: Any) -> None:
    """In bfloat16 logits have steps of 1 in 256: at the first token that differs both must be within two of them."""
    model = build("llama", torch.bfloat16)
    forward = forward_of(model, 8)
    prompts = [prompt_of(length, seed) for seed, length in enumerate(LENGTHS)]
    for prompt, answer in zip(prompts, run(forward, tokenizer, [(p, Options(20)) for p in prompts]), strict=True):
        theirs = expected_tokens(model, prompt, 20)
        same = next((place for place in range(20) if answer.tokens[place] != theirs[place]), None)
        if same is not None:
            with torch.inference_mode():
                logits = model(torch.tensor([prompt + theirs[:same]])).logits[0, -1].float()
            gap = float(logits[theirs[same]] - logits[answer.tokens[same]])
            assert gap <= 2 * float(logits.abs().max()) / 256


def test_greedy_answers_are_the_likeliest_tokens_of_the_training_forward_pass(tokenizer: Any) -> None:
    model, prompt = build("llama"), prompt_of(90, 4)
    (answer,) = run(forward_of(model, 4), tokenizer, [(prompt, Options(16, logprobs=3))])
    with torch.inference_mode():
        scores = model(torch.tensor([prompt + answer.tokens])).logits[0].float().log_softmax(-1)
    for place, token in enumerate(answer.tokens):
        row = scores[len(prompt) - 1 + place]
        assert int(row.argmax()) == token == answer.logprobs[place].token
        assert answer.logprobs[place].logprob == pytest.approx(float(row[token]), abs=1e-3)
        assert [token for token, _ in answer.logprobs[place].alternatives] == row.topk(3).indices.tolist()


def test_a_prompt_that_begins_like_an_earlier_one_is_read_from_there_on(tokenizer: Any) -> None:
    forward = forward_of(build("llama", torch.bfloat16), 8)
    system = prompt_of(3 * BLOCK + 10, 7)
    asked = [(system + prompt_of(30, seed), Options(8)) for seed in (1, 2)]
    fresh = [run(forward_of(build("llama", torch.bfloat16), 8), tokenizer, [each])[0].tokens for each in asked]
    scheduler = Scheduler(forward)
    shared = []
    for prompt, options in asked:
        answer = Answer(tokenizer, frozenset(), prompt, options)
        scheduler.submit(answer)
        while not scheduler.is_idle:
            scheduler.step()
        shared.append(answer.tokens)
    assert shared == fresh and scheduler.copied_tokens == 3 * BLOCK


def test_a_long_prompt_does_not_stall_the_others(tokenizer: Any) -> None:
    scheduler = Scheduler(forward_of(build("llama"), 8))
    short = Answer(tokenizer, frozenset(), prompt_of(5, 1), Options(60))
    scheduler.submit(short)
    scheduler.step()
    long = Answer(tokenizer, frozenset(), prompt_of(400, 2), Options(4))
    scheduler.submit(long)
    before = len(short.tokens)
    steps = 0
    while not long.tokens:
        scheduler.step()
        steps += 1
    assert steps == 4 and len(short.tokens) - before == steps


def test_answers_wait_for_room_and_abandoned_ones_give_theirs_back(tokenizer: Any) -> None:
    forward = forward_of(build("llama"), 1)
    scheduler = Scheduler(forward)
    answers = [Answer(tokenizer, frozenset(), prompt_of(10, seed), Options(300)) for seed in range(3)]
    for answer in answers:
        scheduler.submit(answer)
    scheduler.step()
    assert [bool(answer.tokens) for answer in answers] == [True, False, False]
    answers[0].abandoned = answers[1].abandoned = True
    scheduler.step()
    assert answers[2].tokens and len(answers[0].tokens) < 4 and not answers[1].tokens
    while not scheduler.is_idle:
        scheduler.step()
    assert len(answers[2].tokens) == 300 and forward.pool.reserved == 0


def test_the_pool_gives_ranges_that_never_overlap_and_drops_what_is_only_retained() -> None:
    pool = KeyValuePool([LayerShape(1, 4, 4)], 4 * BLOCK, torch.float32, torch.device("cpu"))
    first, second = pool.reserve(2 * BLOCK), pool.reserve(BLOCK)
    assert first and second and pool.reserve(2 * BLOCK) is None
    blocks = block_names(list(range(2 * BLOCK + 1)))
    pool.keys[0][first.start : first.start + 2 * BLOCK] = 3.0
    pool.publish(first, blocks)
    pool.release(second)
    copy = pool.reserve(2 * BLOCK)
    assert copy and pool.copy_prefix(copy, blocks) == 2
    assert bool((pool.keys[0][copy.start : copy.start + 2 * BLOCK] == 3).all())
    pool.release(first)
    pool.release(copy)
    assert pool.reserved == 0
    whole = pool.reserve(4 * BLOCK)
    assert whole and pool.copy_prefix(whole, blocks) == 0
    assert block_names([1] * BLOCK) == [] and block_names([1] * 65, "a") != block_names([1] * 65)
