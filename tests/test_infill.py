"""Samples whose middle is to be filled in: read from columns or from a model's own tokens, kept as they are while they
are cleaned, and written with the tokens that the base's tokenizer has, if it has some."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from soldiom_ray.collect.documents import parse_bytes
from soldiom_ray.domains.builtin_models import BUILTIN_FOLDER
from soldiom_ray.evaluate.ask import choose_questions
from soldiom_ray.models.chat import encode_samples
from soldiom_ray.models.infill import TOKENS, infill_tokens, knows_infill, sample_text
from soldiom_ray.prepare.clean import clean
from soldiom_ray.prepare.pieces import Pieces

PREFIX, MIDDLE, SUFFIX = "def late(hour):\n    ", "return hour > 12 \n", "\n\nprint(late(13))\n"
PARTS = {"prefix": PREFIX, "middle": MIDDLE, "suffix": SUFFIX}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model's tokenizer with StarCoder's tokens."""
    path = tmp_path_factory.mktemp("coder")
    for file in (BUILTIN_FOLDER / "tiny").glob("*token*.json"):
        shutil.copy(file, path)
    tokenizer = AutoTokenizer.from_pretrained(str(BUILTIN_FOLDER / "tiny"))
    tokenizer.add_special_tokens({"additional_special_tokens": list(TOKENS[0])})
    tokenizer.save_pretrained(str(path))
    return path


def row(record: Any) -> dict[str, Any]:
    """The dataset's row of a record."""
    (parsed,) = parse_bytes("a.jsonl", json.dumps(record).encode())
    pieces = Pieces.of(parsed.text, parsed.metadata).mapped(clean)
    return {
        "id": "1",
        "group": "g",
        "text": pieces.text(),
        "messages": pieces.messages(),
        "metadata": json.dumps(pieces.metadata()),
    }


@pytest.mark.parametrize(
    "record",
    [
        PARTS,
        {"prompt": PREFIX, "middle": MIDDLE, "suffix": SUFFIX},
        {"text": f"<fim_prefix>{PREFIX}<fim_suffix>{SUFFIX}<fim_middle>{MIDDLE}<|endoftext|>"},
        {"content": f"<|fim_prefix|>{PREFIX}<|fim_suffix|>{SUFFIX}<|fim_middle|>{MIDDLE}"},
        {"prompt": f"<｜fim▁begin｜>{PREFIX}<｜fim▁hole｜>{SUFFIX}<｜fim▁end｜>", "completion": MIDDLE},
        {"text": f"<PRE> {PREFIX} <SUF>{SUFFIX} <MID>{MIDDLE}<EOT>"},
    ],
)
def test_every_form_is_one_text_that_knows_its_middle(record: dict[str, Any]) -> None:
    sample = row(record)
    text: Any = sample_text(sample)
    assert sample["messages"] == "" and "fim" not in text and "<PRE>" not in text
    prefix, middle, suffix = text.parts
    assert (prefix, middle.strip(), suffix) == (PREFIX, MIDDLE.strip(), SUFFIX)


def test_a_middle_is_written_with_the_tokens_of_the_tokenizer(folder: Path) -> None:
    tokenizer, sample = AutoTokenizer.from_pretrained(str(folder)), row(PARTS)
    assert knows_infill(folder)
    (encoded,) = encode_samples(tokenizer, [(sample_text(sample), [])])
    written = tokenizer.decode(encoded.ids, skip_special_tokens=False)
    expected = f"<fim_prefix>{PREFIX}<fim_suffix>{SUFFIX}<fim_middle>{MIDDLE}{tokenizer.eos_token}"
    assert written == expected and encoded.loss_mask.all()
    (question,), _ = choose_questions([sample], tokenizer, count=1, context=512, seed=0)
    assert question.text == f"<fim_prefix>{PREFIX}<fim_suffix>{SUFFIX}<fim_middle>" and question.reference == MIDDLE


def test_without_such_tokens_it_is_a_text() -> None:
    tiny = BUILTIN_FOLDER / "tiny"
    tokenizer = AutoTokenizer.from_pretrained(str(tiny))
    assert infill_tokens(tokenizer) is None and not knows_infill(tiny)
    with_hole, plain = encode_samples(tokenizer, [(sample_text(row(PARTS)), []), (PREFIX + MIDDLE + SUFFIX, [])])
    assert with_hole.ids.tolist() == plain.ids.tolist()
