"""The watermark: the bits of transformers' own, tokens as likely as the model has them, a p-value that is one."""

import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import small_settings
from transformers.generation.logits_process import SynthIDTextWatermarkLogitsProcessor

from soldiom_ray.domains.builtin_models import BUILTIN_FOLDER
from soldiom_ray.models.decoding.answers import Answer, Options
from soldiom_ray.models.decoding.sampling import choose
from soldiom_ray.models.decoding.watermark import LAYERS, LEAST_TOKENS, NGRAM, TABLE, Watermark, watermark_of
from soldiom_ray.models.load import load_model, load_tokenizer

KEYS = (654, 400, 836, 123, 340, 443, 597, 160, 2**31 + 5)
MARK = Watermark(KEYS, 77)
VOCABULARY = 2000


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(BUILTIN_FOLDER / "tiny")


def written(tokenizer: Any, mark: Watermark | None, seed: int, count: int, **options: Any) -> list[int]:
    """Tokens drawn from distributions of about 5 bits, which do not depend on each other."""
    answer = Answer(
        tokenizer, frozenset(), list(range(1, 9)), Options(count, 1.0, seed=seed, watermark=mark, **options)
    )
    generator = torch.Generator().manual_seed(seed)
    while len(answer.tokens) < count:
        answer.tokens += choose(torch.randn(1, VOCABULARY, generator=generator) * 2.6, [answer], 1.0)
    return answer.tokens


def test_bits_and_tournament_are_those_of_transformers() -> None:
    theirs = SynthIDTextWatermarkLogitsProcessor(NGRAM, list(KEYS), TABLE, 77, 1024, torch.device("cpu"))
    ids = torch.randint(0, 49_000, (1, 40), generator=torch.Generator().manual_seed(1))
    mine = [MARK.bits(ids[0, at : at + 4].tolist(), ids[0, at + 4 : at + 5].numpy())[0] for at in range(36)]
    assert (theirs.compute_g_values(ids)[0].numpy() == np.array(mine)).all() and len(KEYS) == LAYERS
    logits = torch.randn(1, 300, generator=torch.Generator().manual_seed(2)) * 3
    expected = theirs(ids[:, :4], logits).softmax(-1)[0].numpy()
    chances = logits[0].double().softmax(-1).numpy()
    assert MARK.tilted(chances, [0] * 4, np.arange(300)) == pytest.approx(expected, abs=1e-6)


def test_over_all_keys_tokens_are_as_likely_as_without() -> None:
    chances = np.array([0.5, 0.2, 0.15, 0.1, 0.05])
    generator = np.random.default_rng(3)
    marks = [Watermark(tuple(generator.integers(0, 2**31, LAYERS).tolist()), 77) for _ in range(600)]
    mean = np.mean([mark.tilted(chances, [1, 2, 3, 4], np.arange(5)) for mark in marks], axis=0)
    assert mean == pytest.approx(chances, abs=0.07) and mean.sum() == pytest.approx(1)


@pytest.mark.parametrize("options", [{}, {"top_p": 0.9}])
def test_marked_texts_are_found_and_plain_ones_and_those_of_other_keys_are_not(
    tokenizer: Any, options: dict[str, Any]
) -> None:
    marked = [MARK.detect(written(tokenizer, MARK, seed, 100, **options)) for seed in range(12)]
    assert all(each.verdict == "watermarked" and each.p_value < 1e-4 for each in marked)
    others = [written(tokenizer, None, seed, 100) for seed in range(20)]
    others += [written(tokenizer, Watermark(KEYS, 78), seed, 100) for seed in range(20)]
    assert sum(MARK.detect(each).p_value < 0.01 for each in others) <= 3
    assert min(MARK.detect(each).p_value for each in others) > 1e-5


@pytest.mark.endurance
def test_two_hundred_texts_of_each_kind_keep_the_rates(tokenizer: Any) -> None:
    marked = [MARK.detect(written(tokenizer, MARK, seed, 200)).p_value for seed in range(200)]
    plain = [MARK.detect(written(tokenizer, None, seed, 200)).p_value for seed in range(200)]
    other = [MARK.detect(written(tokenizer, Watermark(KEYS, 78), seed, 200)).p_value for seed in range(200)]
    assert np.mean(np.array(marked) <= 0.01) >= 0.95
    for values in (plain, other):  # of a rate of 1 %, 200 texts have more than 7 once in a thousand times
        assert np.sum(np.array(values) <= 0.01) <= 7


def test_the_p_value_is_one() -> None:
    generator = np.random.default_rng(5)
    values = [MARK.detect(generator.integers(0, 40_000, 80).tolist()).p_value for _ in range(300)]
    for level in (0.05, 0.2, 0.5):
        assert np.mean(np.array(values) <= level) == pytest.approx(level, abs=4 * (level / 300) ** 0.5)


def test_short_texts_are_inconclusive_and_repeated_contexts_count_once(tokenizer: Any) -> None:
    plain = written(tokenizer, None, 4, LEAST_TOKENS + NGRAM)
    assert MARK.detect(plain).verdict == "not_found"
    assert MARK.detect(written(tokenizer, MARK, 4, 30)).verdict == "inconclusive"
    assert MARK.detect(plain[:20]).verdict == MARK.detect(plain[:3]).verdict == "inconclusive"
    assert MARK.detect([]).p_value == 1.0
    assert MARK.detect(plain * 4).tokens == len(plain) and MARK.detect([7] * 500).tokens == 1


def test_the_same_seed_gives_the_same_answer_and_greedy_answers_stay_as_they_are(tokenizer: Any) -> None:
    assert written(tokenizer, MARK, 9, 20) == written(tokenizer, MARK, 9, 20) != written(tokenizer, None, 9, 20)
    logits = torch.randn(1, VOCABULARY, generator=torch.Generator().manual_seed(1))
    greedy = Answer(tokenizer, frozenset(), list(range(9)), Options(temperature=0.0, watermark=MARK))
    assert choose(logits.clone(), [greedy], 1.0) == [int(logits.argmax())] and greedy.result().marked == 0


def test_each_model_has_its_own_key_which_the_home_keeps(tmp_path: Path) -> None:
    home = small_settings(tmp_path / "home")
    first = watermark_of(home, "a")
    assert first == watermark_of(home, "a") != watermark_of(home, "b")
    assert first != watermark_of(small_settings(tmp_path / "other"), "a")
    path = home.keys_folder / "watermark.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_answers_in_one_batch_are_marked_each_for_itself() -> None:
    from soldiom_ray.models.generate import Generator

    model, tokenizer = load_model(BUILTIN_FOLDER / "tiny")
    generator = Generator(model, tokenizer)

    def answers(*seeds: int) -> list[tuple[int, ...]]:
        made = [
            generator.answer(generator.prompt_ids("def read("), Options(30, 1.0, seed=seed, watermark=MARK))
            for seed in seeds
        ]
        for each in made:
            generator.scheduler.submit(each)
        while not generator.scheduler.is_idle:
            generator.scheduler.step()
        assert all(0 < each.result().marked <= 30 for each in made)
        return [tuple(each.tokens) for each in made]

    assert answers(1, 2, 3) == [*answers(1), *answers(2), *answers(3)]
