"""How large steps and validations are where a recipe leaves it open, and what a prompt begins as and stands before."""

from pathlib import Path

import numpy as np
import pytest
from training import context_in

from soldiom_ray.domains.schema import Train
from soldiom_ray.domains.training_size import FORWARD_SHARE, batch_tokens, tokens_to_read, validations
from soldiom_ray.models.labels import IGNORE_INDEX
from soldiom_ray.train.blocks import Blocks, Rows
from soldiom_ray.train.data import StreamWriter
from soldiom_ray.train.methods import learning_rate
from soldiom_ray.train.tasks import task_of


def test_a_short_run_has_steps_enough_and_a_long_one_the_largest() -> None:
    assert [batch_tokens(Train(), tokens) for tokens in (1_000, 60_000, 200_000, 10_000_000)] == [512, 1024, 3072, 8192]
    assert batch_tokens(Train(), None) == 8192
    assert batch_tokens(Train(workers=4), 60_000) == 2048  # a sequence for each worker
    assert batch_tokens(Train(batch_tokens=4000), 60_000) == 4000


def test_a_run_reads_what_its_epochs_and_its_bound_allow() -> None:
    assert tokens_to_read(Train(epochs=2), None) is None
    assert tokens_to_read(Train(epochs=2), 1000) == 2000
    assert (
        tokens_to_read(Train(epochs=2, max_tokens=1500), 1000) == tokens_to_read(Train(max_tokens=1500), None) == 1500
    )


@pytest.mark.parametrize("method", ["full", "lora", "prompt"])
def test_all_validations_of_a_run_together_compute_at_most_a_tenth_of_its_steps(method: str) -> None:
    for tokens in (20_000, 60_000, 2_000_000):
        times, each = validations(Train(method=method), tokens)
        assert 2 <= times <= 8 and each >= 512
        assert (times + 1) * each * FORWARD_SHARE[method] <= 0.1 * tokens or each == 512
    assert validations(Train(validations=5, validation_tokens=300), 60_000) == (5, 300)


def test_rows_begin_with_samples_and_lose_only_what_does_not_count() -> None:
    counts = [0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0]
    blocks = Blocks(np.arange(11, dtype=np.uint16), 3, np.array(counts, np.uint8), np.array([4, 5, 2]))
    rows = Rows.of(blocks)
    # 0-3 is one row; of 4-8 only the part whose last label counts; 9-10 holds nothing to learn
    assert rows.starts.tolist() == [0, 7] and rows.lengths.tolist() == [3, 1]
    every = np.arange(len(rows))
    ids, labels = rows.batch(every)
    assert ids.tolist() == [[0, 1, 2], [7, 0, 0]]
    assert labels.tolist() == [[IGNORE_INDEX, 2, 3], [8, IGNORE_INDEX, IGNORE_INDEX]]
    assert rows.label_count(every) == 3 and rows.positions(every).tolist() == [3, 1]


def test_a_prompt_begins_as_what_the_model_is_to_say(tmp_path: Path) -> None:
    artifacts = context_in(tmp_path).artifacts
    draft = artifacts.draft("tokens", {"answers": True})
    with StreamWriter(draft, "train", 300) as stream:
        stream.add(np.array([1, 5, 6, 7, 2]), np.array([False, False, True, True, True]))
        stream.add(np.array([1, 8, 9, 2]), np.array([False, False, True, True]))
    tokens = draft.commit(details={"dtype": stream.dtype})
    assert task_of("causal_lm").typical_words(artifacts, tokens, 16, {1, 2}) == [6, 7, 9]
    assert task_of("causal_lm").typical_words(artifacts, tokens, 2, {1, 2}) == [6, 7]
    assert task_of("image_classification").typical_words(artifacts, tokens, 16, ()) == []


def test_the_command_says_how_a_training_spent_its_seconds() -> None:
    from soldiom_ray.cli.training import _time_spent

    parts = {"steps": 150.2, "save": 0.2, "start_and_end": 17.0, "total": 167.4}
    assert _time_spent({"details": {"seconds_by_part": parts}, "reused": False}) == (
        "Training took 167 s: steps 150, start and end 17."
    )
    assert "reused" in _time_spent({"details": {"seconds_by_part": parts}, "reused": True})


def test_the_usual_rate_of_whole_models_falls_with_the_steps_of_a_short_run() -> None:
    assert learning_rate(Train(method="full"), 8192) == 3e-4
    assert learning_rate(Train(method="full"), 512) == pytest.approx(7.5e-5)
    assert learning_rate(Train(method="full", batch_tokens=512), 512) == 3e-4
    assert learning_rate(Train(method="full", learning_rate=1e-3), 512) == 1e-3
    assert learning_rate(Train(), 512) == 1e-3
