"""The embedder against plain computations in float32: batches, pooling, limits, prompts, and folders that mislead."""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from soldiom_ray.errors import InputError
from soldiom_ray.models.embedder import BATCH_TOKENS, Embedder, length_batches
from soldiom_ray.models.minilm import minilm_folder
from soldiom_ray.models.pooling import read_pooling
from soldiom_ray.settings import Settings, load_settings

TEXTS = ["a cat sat on the mat", "a", "", "dogs and cats " * 40, "the mat " * 9]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return load_settings({"SOLDIOM_HOME": str(tmp_path_factory.mktemp("home"))})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A BERT of two small layers with random weights and MiniLM's tokenizer."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    torch.manual_seed(3)
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def write_pooling(
    folder: Path, pooling: dict[str, Any], *, limit: int = 40, prompts: dict[str, str] | None = None
) -> None:
    """Write the files of the sentence-transformers format."""
    modules = [{"path": "", "type": "sentence_transformers.models.Transformer"}]
    modules.append({"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"})
    (folder / "1_Pooling").mkdir()
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": limit}))
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts or {}}))


def reference(folder: Path, text: str, limit: int, mode: str) -> Any:
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    tokens = tokenizer(text, truncation=True, max_length=limit, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**tokens).last_hidden_state[0]
    pooled = {"cls": hidden[0], "mean": hidden.mean(0), "max": hidden.amax(0), "lasttoken": hidden[-1]}[mode]
    return torch.nn.functional.normalize(pooled, dim=0).numpy()


@pytest.mark.parametrize(
    ("mode", "pooling"),
    [
        ("cls", {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}),
        ("mean", {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}),
        ("max", {"pooling_mode": "max"}),
        ("lasttoken", {"pooling_mode": ["lasttoken"]}),
    ],
)
def test_pooling_and_the_length_limit_are_read_from_the_folder(
    settings: Settings, folder: Path, mode: str, pooling: dict[str, Any]
) -> None:
    write_pooling(folder, pooling)
    embedder = Embedder(settings, str(folder))
    assert (embedder.dimension, embedder.max_tokens) == (32, 40)
    for text, vector in zip(TEXTS, embedder.encode(TEXTS), strict=True):
        assert 1 - float(reference(folder, text, 40, mode) @ vector) < 1e-2


def test_a_folder_without_such_files_is_pooled_by_the_mean_within_its_positions(
    settings: Settings, folder: Path
) -> None:
    embedder = Embedder(settings, str(folder))
    assert embedder.max_tokens == 64
    (vector,) = embedder.encode(["dogs and cats " * 40])
    assert 1 - float(reference(folder, "dogs and cats " * 40, 64, "mean") @ vector) < 1e-2


def test_a_question_gets_the_prompt_that_the_model_wants(settings: Settings, folder: Path) -> None:
    write_pooling(folder, {"pooling_mode": "mean"}, prompts={"query": "question: ", "document": "text: "})
    embedder = Embedder(settings, str(folder))
    asked, stored = embedder.encode(["why"], query=True)[0], embedder.encode(["why"])[0]
    assert 1 - float(reference(folder, "question: why", 40, "mean") @ asked) < 1e-2
    assert 1 - float(reference(folder, "text: why", 40, "mean") @ stored) < 1e-2


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("modules.json", '[{"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]', "module 'Dense'"),
        ("modules.json", '[{"path": "../../etc", "type": "x.Pooling"}]', "leads out of its folder"),
        ("modules.json", "{}", "is no list"),
        ("modules.json", "[7]", "module ''"),
        ("modules.json", "[", "is not JSON"),
        ("sentence_bert_config.json", "[]", "is no dict"),
    ],
)
def test_folders_that_mislead_are_refused(tmp_path: Path, file: str, content: str, message: str) -> None:
    (tmp_path / file).write_text(content)
    with pytest.raises(InputError, match=message):
        read_pooling(tmp_path, "it")


def test_two_ways_of_pooling_at_once_are_refused(tmp_path: Path) -> None:
    write_pooling(tmp_path, {"pooling_mode_cls_token": True, "pooling_mode_weightedmean_tokens": True})
    with pytest.raises(InputError, match=r"pools by cls\+weightedmean_tokens"):
        read_pooling(tmp_path, "it")


def test_batches_hold_every_text_once_within_their_tokens() -> None:
    lengths = [int(value) for value in np.random.default_rng(1).integers(1, 300, 500)] + [5000]
    batches = length_batches(lengths, 64, BATCH_TOKENS)
    assert sorted(position for batch in batches for position in batch) == list(range(501))
    assert batches[0] == [500]
    assert all(len(batch) * max(lengths[index] for index in batch) <= BATCH_TOKENS for batch in batches[1:])
    padded = sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)
    assert padded <= 1.05 * sum(lengths)


def test_threads_that_encode_at_once_get_what_one_alone_gets(settings: Settings) -> None:
    embedder = Embedder(settings)
    expected, vectors = embedder.encode(TEXTS, max_tokens=32), {}

    def work(number: int) -> None:
        vectors[number] = embedder.encode(TEXTS, max_tokens=32 if number % 2 else 64)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(vectors[number], expected) for number in (1, 3, 5))
    assert not np.array_equal(vectors[0], expected)
