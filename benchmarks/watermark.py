"""The watermark: how often it is found by length, how often it is found where it is not, and what it costs.

    python benchmarks/watermark.py                    # builtin/tiny and distributions of given entropy
    python benchmarks/watermark.py --quick

Texts of a real model go the whole way: tokens are drawn by the engine, become text, and the text is read again, as
detection has it. The distributions beside it have a given number of bits per token, so that the figures say what a
model whose answers are surer or less sure would have. Cost is that of choosing one token with the mark and without.
"""

import argparse
import random
import time
from collections.abc import Callable, Sequence

import torch

from soldiom_ray.models.decoding.answers import Answer, Options
from soldiom_ray.models.decoding.sampling import choose
from soldiom_ray.models.decoding.watermark import LAYERS, Watermark

LENGTHS = (25, 50, 100, 200, 400)
LEVEL = 0.01


def keyed(seed: int) -> Watermark:
    """A watermark of its own."""
    numbers = random.Random(seed)
    return Watermark(tuple(numbers.randrange(1 << 31) for _ in range(LAYERS)), numbers.randrange(1 << 31))


MARK, OTHER = keyed(1), keyed(2)


def texts_of_model(
    count: int, tokens: int, temperature: float, mark: Watermark | None
) -> tuple[list[list[int]], float]:
    """Tokens of answers of `builtin/tiny` as they are read again from the text, and bits per token of the model."""
    from soldiom_ray.domains.builtin_models import BUILTIN_FOLDER
    from soldiom_ray.models.generate import Generator
    from soldiom_ray.models.load import load_model

    model, tokenizer = load_model(BUILTIN_FOLDER / "tiny")
    generator = Generator(model, tokenizer)
    generator.ends = frozenset()
    names = ("read", "write", "sort", "merge", "count", "parse", "load", "find", "open", "make")
    answers = []
    for number in range(count):
        ids = generator.prompt_ids(f"def {names[number % 10]}_{names[number // 10 % 10]}_{number}(")
        options = Options(tokens, temperature, seed=number, watermark=mark, logprobs=0)
        answers.append(generator.answer(ids, options))
        generator.scheduler.submit(answers[-1])
    while not generator.scheduler.is_idle:
        generator.scheduler.step()
    bits = [-each.logprob / 0.6931 for answer in answers for each in answer.logprobs]
    texts = [tokenizer(answer.text, add_special_tokens=False)["input_ids"] for answer in answers]
    return texts, sum(bits) / len(bits)


def texts_of_entropy(count: int, tokens: int, spread: float, mark: Watermark | None) -> tuple[list[list[int]], float]:
    """Tokens drawn from distributions over 4,000 tokens that do not depend on each other, and their mean entropy."""
    from soldiom_ray.domains.builtin_models import BUILTIN_FOLDER
    from soldiom_ray.models.load import load_tokenizer

    tokenizer = load_tokenizer(BUILTIN_FOLDER / "tiny")
    texts, bits = [], []
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        answer = Answer(tokenizer, frozenset(), list(range(1, 9)), Options(tokens, 1.0, seed=number, watermark=mark))
        for _ in range(tokens):
            logits = torch.randn(1, 4_000, generator=generator) * spread
            bits.append(float(torch.distributions.Categorical(logits=logits[0]).entropy()) / 0.6931)
            answer.tokens += choose(logits, [answer], 1.0)
        texts.append(answer.tokens)
    return texts, sum(bits) / len(bits)


def rates(
    make: Callable[[Watermark | None], tuple[list[list[int]], float]], lengths: Sequence[int]
) -> tuple[float, list[str]]:
    """Bits per token of plain texts; for each length the shares of marked, plain and wrongly keyed texts found."""
    (marked, _), (plain, bits), (other, _) = make(MARK), make(None), make(OTHER)
    cells = []
    for length in lengths:
        shares = []
        for texts in (marked, plain, other):
            long_enough = [text[:length] for text in texts if len(text) >= 0.9 * length]
            hits = sum(MARK.detect(text).p_value <= LEVEL for text in long_enough)
            shares.append(f"{hits / len(long_enough):.3f}" if long_enough else "-")
        cells.append(" / ".join(shares))
    return bits, cells


def edited(count: int, tokens: int) -> list[str]:
    """How often a mark is found after a share of the tokens was replaced at random."""
    texts, _ = texts_of_entropy(count, tokens, 2.6, MARK)
    cells = []
    for share in (0.1, 0.3, 0.5):
        numbers, hits = random.Random(4), 0
        for text in texts:
            changed = [numbers.randrange(4_000) if numbers.random() < share else token for token in text]
            hits += MARK.detect(changed).p_value <= LEVEL
        cells.append(f"{hits / len(texts):.2f}")
    return cells


def microseconds(vocabulary: int, mark: Watermark | None, top_p: float, rounds: int) -> float:
    """CPU of choosing one token."""
    from soldiom_ray.domains.builtin_models import BUILTIN_FOLDER
    from soldiom_ray.models.load import load_tokenizer

    tokenizer = load_tokenizer(BUILTIN_FOLDER / "tiny")
    answer = Answer(tokenizer, frozenset(), list(range(1, 9)), Options(rounds, 1.0, top_p, seed=1, watermark=mark))
    logits = [torch.randn(1, vocabulary, generator=torch.Generator().manual_seed(at)) * 6.0 for at in range(8)]
    began = time.process_time()
    for at in range(rounds):
        answer.tokens += choose(logits[at % 8], [answer], 1.0)
    return 1e6 * (time.process_time() - began) / rounds


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=200, help="of each kind")
    parser.add_argument("--quick", action="store_true", help="few and short texts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    count, lengths = (20, LENGTHS[:3]) if options.quick else (options.texts, LENGTHS)
    print(f"marked found / plain found / other key found, at p <= {LEVEL}, {count} texts of each kind\n")
    print(f"| tokens from | bits per token | {' | '.join(f'{length} tokens' for length in lengths)} |")
    print(f"|---|---|{'---|' * len(lengths)}", flush=True)
    sources: dict[str, Callable[[Watermark | None], tuple[list[list[int]], float]]] = {
        f"builtin/tiny, temperature {temperature}": lambda mark, t=temperature: texts_of_model(
            count, min(240, lengths[-1]), t, mark
        )  # type: ignore[misc]
        for temperature in (0.7, 1.0, 1.3)
    }
    sources |= {
        f"random distributions, spread {spread}": lambda mark, s=spread: texts_of_entropy(count, lengths[-1], s, mark)  # type: ignore[misc]
        for spread in (12.0, 6.0, 4.5, 2.6)
    }
    for name, make in sources.items():
        bits, cells = rates(make, lengths)
        print(f"| {name} | {bits:.2f} | {' | '.join(cells)} |", flush=True)
    print(f"\nof 200 tokens with 10, 30, 50 % replaced found: {', '.join(edited(count // 2, lengths[-2]))}")
    print("\n| vocabulary | without | marked | top_p 0.9, without | marked |\n|---|---|---|---|---|")
    for vocabulary in (4_096, 32_000, 49_152, 128_256):
        cells = [microseconds(vocabulary, mark, top_p, 300) for top_p in (1.0, 0.9) for mark in (None, MARK)]
        print(f"| {vocabulary:,} | {' | '.join(f'{each:.0f} us' for each in cells)} |", flush=True)


if __name__ == "__main__":
    main()
