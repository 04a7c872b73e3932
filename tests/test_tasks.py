"""The tasks besides the next token: classification, sequence to sequence, preferences, pictures."""

import asyncio
import base64
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from api_server import answered_by
from training import context_in

from soldiom_ray.artifacts import Artifacts, Context
from soldiom_ray.db import models
from soldiom_ray.db.engine import open_session
from soldiom_ray.deploy.sequences import SequenceEndpoint
from soldiom_ray.domains.schema import Train
from soldiom_ray.errors import InputError
from soldiom_ray.metrics.measurement import UNCALIBRATED
from soldiom_ray.models.decoding.answers import Options
from soldiom_ray.models.load import load_run
from soldiom_ray.models.sequence_writer import SequenceWriter
from soldiom_ray.models.tokens import encode_documents
from soldiom_ray.records import Manifest, Sample
from soldiom_ray.settings import Settings
from soldiom_ray.train.driver import run_locally

ANIMALS, TOOLS = ("cat", "dog", "horse", "mouse"), ("saw", "hammer", "drill", "file")
SENTENCES = 200
"""As few as a pretrained encoder learns the labels from: it is most of this file's time."""
WORDS = ("the", "a", "small", "big", "old", "sleeps", "falls", "here", "there", "again")


def dataset_of(artifacts: Artifacts, rows: Sequence[dict[str, Any]]) -> Manifest:
    """A dataset of these samples; every fifth goes to validation, and to the test side too."""
    draft = artifacts.draft("dataset", {"rows": len(rows), "first": str(rows[0]), "last": str(rows[-1])})
    empty = dict.fromkeys(Sample.model_fields, "") | {"metadata": "{}", "source": "files", "kind": "other"}
    counts = {"pictures": sum("image" in row for row in rows)}
    for split, chosen in (
        ("train", [row for place, row in enumerate(rows) if place % 5]),
        ("validation", [row for place, row in enumerate(rows) if not place % 5]),
        ("test", [row for place, row in enumerate(rows) if not place % 5]),
    ):
        filled = [empty | {"id": f"{split}{place}", "split": split} | row for place, row in enumerate(chosen)]
        draft.write_rows(f"{split}/00000.parquet", filled, Sample)
        counts[split] = len(filled)
    return draft.commit(counts=counts)


def sentences(count: int, seed: int = 1) -> list[tuple[str, list[str]]]:
    """Texts of a few words, with what is in them: animals, tools, both or neither."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        words = rng.choices(WORDS, k=rng.randint(3, 20))
        has = rng.choice([[], ["animal"], ["tool"], ["animal", "tool"]])
        words += [rng.choice(ANIMALS)] * ("animal" in has) + [rng.choice(TOOLS)] * ("tool" in has)
        rng.shuffle(words)
        made.append((" ".join(words), has))
    return made


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers with random weights and a WordPiece tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    pieces = {word: place for place, word in enumerate([*marks, *WORDS, *ANIMALS, *TOOLS])}
    core = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    core.normalizer, core.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def declared(base: Path, **values: object) -> Train:
    return Train.model_validate(
        {
            "base_model": str(base),
            "sequence_length": 32,
            "batch_tokens": 256,
            "epochs": 4,
            "validations": 4,
            "learning_rate": 0.01,
            "precision": "float32",
            "patience": 10,
        }
        | values
    )


def scored(context: Context, run: Manifest) -> dict[str, Any]:
    from soldiom_ray.domains.schema import Evaluate
    from soldiom_ray.evaluate import evaluate
    from soldiom_ray.examples import read_examples

    scores = evaluate(context, run, context.artifacts.get(run.parents[0]), Evaluate())
    assert scores.details["gate"]["verdict"] in context.artifacts.read(scores, "report.md").decode()
    examples = read_examples(context.artifacts, scores.id)
    assert len(examples) == 3 and all(example.prompt and example.reference for example in examples)
    return scores.details


def points(context: Context, run: Manifest, name: str) -> list[float]:
    return [point[name] for point in json.loads(context.artifacts.read(run, "curves.json")) if name in point]


@pytest.mark.long
@pytest.mark.parametrize("method", ["full", "lora", "prompt"])
def test_texts_are_classified_by_each_method(method: str, tmp_path: Path) -> None:
    context = context_in(tmp_path)
    rows = [
        {"text": text, "metadata": json.dumps({"label": "animal" if "animal" in has else "none"})}
        for text, has in sentences(SENTENCES)
    ]
    rates = {"full": 3e-4, "lora": None, "prompt": 0.1}
    minilm: dict[str, Any] = {"learning_rate": rates[method], "epochs": 3, "validation_tokens": 65_536}  # all samples
    train = declared(Path("builtin/all-MiniLM-L6-v2"), task="text_classification", method=method, **minilm)
    run = run_locally(context, dataset_of(context.artifacts, rows), train)
    assert points(context, run, "validation_accuracy")[-1] > 0.9
    assert run.details["best_validation"]["validation_macro_f1"] > 0.9
    with load_run(context.artifacts, context.settings, run) as (model, tokenizer):
        label = model(**tokenizer(["the old horse sleeps here"], return_tensors="pt")).logits.argmax(-1)
        assert model.config.id2label[int(label)] == "animal"
    scores = scored(context, run)
    assert scores["gate"]["passed"] and scores["tuned"]["accuracy"] > 0.9 > scores["base"]["accuracy"]
    best = run.details["best_validation"]
    plain = scores["systems"][UNCALIBRATED]["loss"]
    assert plain == pytest.approx(best["validation_loss"], abs=0.02)
    assert scores["tuned"]["loss"] < plain + 0.05  # calibrated, which may lower it by much


@pytest.mark.long
def test_a_text_may_have_several_labels_or_none(encoder: Path, tmp_path: Path) -> None:
    context = context_in(tmp_path)
    rows = [{"text": text, "metadata": json.dumps({"label": has})} for text, has in sentences(SENTENCES)]
    dataset = dataset_of(context.artifacts, rows)
    train = {"task": "text_classification", "method": "full"}
    with pytest.raises(InputError, match=r"(?s)several labels.*multi_label"):
        run_locally(context, dataset, declared(encoder, **train))
    minilm = {"base_model": "builtin/all-MiniLM-L6-v2", "learning_rate": 3e-4, "epochs": 3}
    run = run_locally(context, dataset, declared(encoder, **train, multi_label=True).model_copy(update=minilm))
    assert points(context, run, "validation_exact_match")[-1] > 0.8
    assert points(context, run, "validation_micro_f1")[-1] > 0.9
    assert scored(context, run)["gate"]["passed"]


def test_a_dataset_without_usable_labels_is_refused_by_name(encoder: Path, tmp_path: Path) -> None:
    context = context_in(tmp_path)
    texts = [text for text, _ in sentences(60)]
    train = declared(encoder, task="text_classification")
    for labels, message in (
        ([None] * 60, "no sample with a label"),
        (["x"] * 60, "only the label 'x'"),
        ([f"n{place}" for place in range(60)], "60 different labels on 60 samples"),
    ):
        rows = [
            {"text": text, "metadata": json.dumps({"label": label} if label else {})}
            for text, label in zip(texts, labels, strict=True)
        ]
        with pytest.raises(InputError, match=message):
            run_locally(context, dataset_of(context.artifacts, rows), train)


def test_a_long_text_keeps_its_beginning_and_end_mark_and_is_reported_as_cut(encoder: Path, tmp_path: Path) -> None:
    from soldiom_ray.models.load import load_tokenizer
    from soldiom_ray.train.tasks import task_of

    context = context_in(tmp_path)
    rows = [{"text": "cat " * (3 + place), "metadata": json.dumps({"label": str(place % 2)})} for place in range(20)]
    task, train = task_of("text_classification"), declared(encoder, task="text_classification")
    tokens = task.tokenize(
        context.artifacts, dataset_of(context.artifacts, rows), load_tokenizer(encoder), "t", train, context.report
    )
    assert task.cuts(context.artifacts, tokens, 12) == {
        "samples": 16, "longest_tokens": 24, "cut_samples": 10, "cut_tokens": 67
    }  # fmt: skip
    with task.open(context.artifacts, tokens, 12, None) as (texts, _):
        import numpy as np

        ids, mask, labels = texts.batch(np.arange(len(texts)))
        assert ids.shape == mask.shape == (16, 12) and len(labels) == 16
        assert all(row[int(used.sum()) - 1] == 3 for row, used in zip(ids, mask, strict=True))


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> tuple[Context, Manifest, Manifest]:
    """A dataset of numbers in two languages, and a sequence-to-sequence model trained on it from random weights."""
    folder = tmp_path_factory.mktemp("translator")
    context = context_in(folder)
    rng = random.Random(2)
    rows = []
    for _ in range(300):
        words = rng.choices(("one", "two", "three", "four"), k=rng.randint(1, 4))
        turned = [{"one": "eins", "two": "zwei", "three": "drei", "four": "vier"}[word] for word in words]
        messages = [
            {"role": "user", "content": " ".join(words)},
            {"role": "assistant", "content": " ".join(turned)},
        ]
        rows.append({"text": " ".join([*words, *turned]), "messages": json.dumps(messages)})
    dataset = dataset_of(context.artifacts, rows)
    small = {"model_type": "t5", "d_model": 32, "d_ff": 64, "num_layers": 2, "num_heads": 2, "d_kv": 16}
    scratch = {"task": "seq2seq_lm", "method": "full", "architecture": small, "vocabulary_size": 300}
    return context, dataset, run_locally(context, dataset, declared(folder, **scratch, epochs=12))


def written_by_transformers(model: Any, tokenizer: Any, text: str, tokens: int) -> str:
    """The greedy target of a source that is encoded as in training."""
    (ids,) = encode_documents(tokenizer, [text])
    source = torch.from_numpy(ids.astype("int64"))[None]
    written = model.generate(input_ids=source, attention_mask=torch.ones_like(source), max_new_tokens=tokens)
    return str(tokenizer.decode(written[0], skip_special_tokens=True))


def test_a_sequence_to_sequence_model_learns_to_translate(translator: tuple[Context, Manifest, Manifest]) -> None:
    context, _, base = translator
    assert points(context, base, "validation_token_accuracy")[-1] > 0.6
    assert scored(context, base)["tuned"]["loss"] == pytest.approx(base.details["best_validation_loss"], abs=0.02)


@pytest.mark.parametrize("method", ["lora", "prompt"])
def test_a_sequence_to_sequence_model_is_trained_further(
    method: str, translator: tuple[Context, Manifest, Manifest], tmp_path: Path
) -> None:
    context, dataset, base = translator
    train = declared(tmp_path, task="seq2seq_lm", method=method, epochs=2).model_copy(update={"base_model": base.id})
    tuned = run_locally(context, dataset, train)
    losses = points(context, tuned, "validation_loss")
    assert min(losses) <= losses[0]
    below = scored(context, tuned)["base"]["loss"]
    assert below == pytest.approx(scored(context, base)["tuned"]["loss"], abs=0.02)
    with load_run(context.artifacts, context.settings, tuned) as (model, tokenizer):
        text = written_by_transformers(model, tokenizer, "one two", 4)
        writer = SequenceWriter(model, tokenizer, 32)
    (answer,) = writer.write([(writer.read(["one two"])[0], Options(4))])
    assert answer.text == text


def test_a_sequence_to_sequence_model_is_served_in_batches(
    translator: tuple[Context, Manifest, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, _, base = translator
    monkeypatch.setenv("SOLDIOM_HOME", str(context.settings.home))
    endpoint = SequenceEndpoint("numbers", base.id, 1, "1")
    texts = ["one two three", "four", "two two", "three one four two", "one"] * 5
    with load_run(context.artifacts, context.settings, base) as (model, tokenizer):
        expected = [written_by_transformers(model, tokenizer, text, 8) for text in texts[:5]]

    async def ask(**request: Any) -> list[dict[str, Any]]:
        return list((await endpoint.generate(request))["outputs"])

    async def crowd() -> list[list[dict[str, Any]]]:
        return await asyncio.gather(*(ask(inputs=[text], parameters={"max_tokens": 8}) for text in texts))

    answers = [output for (output,) in asyncio.run(crowd())]
    assert [answer["text"] for answer in answers[:5]] == expected and answers[:5] * 5 == answers
    assert max(endpoint.batches.sizes) > 1 and {answer["finish_reason"] for answer in answers} <= {"stop", "length"}
    drawn = {"max_tokens": 8, "temperature": 1.5, "seed": 3}
    several = asyncio.run(ask(inputs=texts[:3], parameters=drawn))
    assert several == asyncio.run(ask(inputs=texts[:3], parameters=drawn))
    empty, filled = asyncio.run(ask(inputs=[" ", "one"]))
    assert empty["error"]["detail"] and filled["text"]
    (said,) = asyncio.run(ask(messages=[{"role": "user", "content": "one"}], parameters={"max_tokens": 8}))
    assert said["text"] == expected[4]
    (long,) = asyncio.run(ask(inputs=["one " * 500], parameters={"max_tokens": 2}))
    assert long["truncated"] and long["prompt_tokens"] == base.details["sequence_length"]
    assert long["finish_reason"] == "length" and long["completion_tokens"] == 2
    for request in ({"inputs": ["x"], "stream": True}, {"inputs": ["x"], "parameters": {"logprobs": 1}}):
        with pytest.raises(InputError, match="cannot be asked like this"):
            asyncio.run(ask(**request))
    pairs = [(source, Options(8)) for source in endpoint.writer.read(texts[:3])]
    left = endpoint.writer.write(pairs, lambda: {1})
    assert [each.text for each in left[::2]] == [expected[0], expected[2]] and left[1].completion_tokens == 1
    assert asyncio.run(endpoint.probe())["prompt"] and asyncio.run(endpoint.describe())["engine"] == "batches"
    endpoint.batches.close()


def test_the_api_answers_with_target_texts(
    api: httpx.Client,
    api_settings: Settings,
    translator: tuple[Context, Manifest, Manifest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context, _, base = translator
    monkeypatch.setenv("SOLDIOM_HOME", str(context.settings.home))
    with open_session(api_settings) as session:
        lineage = {"task": "seq2seq_lm"}
        model = models.create(session, family="specialized", name="numbers", deployed=True, lineage=lineage).id
    endpoint = SequenceEndpoint(model, base.id, 1, "1")
    answered_by(endpoint, monkeypatch)
    path = f"/api/inference/{model}"
    answer = api.post(path, json={"input": "one two", "parameters": {"max_tokens": 6}}).json()
    assert answer["output"] and answer["finish_reason"] in ("stop", "length")
    assert answer["usage"]["completion_tokens"] <= 6 and "truncated" not in answer
    several = api.post(path, json={"input": ["one two", " "], "parameters": {"max_tokens": 6}}).json()["outputs"]
    assert several[0]["output"] == answer["output"] and several[1]["error"]["status"] == 422
    for body, words in (
        ({"input": "x", "stream": True}, "a target text comes whole"),
        ({"image": base64.b64encode(b"x").decode()}, "reads no picture"),
        ({"input": " "}, "empty"),
    ):
        refused = api.post(path, json=body)
        assert refused.status_code == 422 and words in refused.text
    chat = {"model": model, "messages": [{"role": "user", "content": "one"}]}
    assert "was trained for seq2seq_lm" in api.post("/v1/chat/completions", json=chat).text
    endpoint.batches.close()


def preferences(count: int) -> list[dict[str, Any]]:
    """Prompts whose chosen answer is polite, and whose rejected one is not."""
    rng = random.Random(4)
    rows = []
    for _ in range(count):
        prompt = " ".join(rng.choices(WORDS, k=rng.randint(2, 6)))
        messages = [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": f"please {rng.choice(WORDS)}"},
        ]
        metadata = {"rejected": f"never {rng.choice(WORDS)} {rng.choice(WORDS)}"}
        rows.append({"text": prompt, "messages": json.dumps(messages), "metadata": json.dumps(metadata)})
    return rows


@pytest.mark.parametrize("method", ["full", "lora", "prompt"])
def test_a_model_comes_to_prefer_the_chosen_answers(method: str, tmp_path: Path) -> None:
    from small_models import small_base

    context = context_in(tmp_path)
    base, dataset = small_base(tmp_path / "base"), dataset_of(context.artifacts, preferences(120))
    rates = {"full": 1e-3, "lora": 1e-2, "prompt": 0.1}
    train = declared(base, task="preference", method=method, learning_rate=rates[method], batch_tokens=512, epochs=6)
    run = run_locally(context, dataset, train)
    assert points(context, run, "validation_loss")[0] == pytest.approx(0.6931, abs=0.02 if method == "prompt" else 1e-4)
    assert points(context, run, "validation_preference_accuracy")[-1] > 0.9
    assert points(context, run, "validation_reward_margin")[-1] > 0


def test_a_comparison_scores_the_answers_alone_and_cuts_the_prompts_beginning(tmp_path: Path) -> None:
    import numpy as np
    from small_models import small_base

    from soldiom_ray.models.load import load_tokenizer
    from soldiom_ray.train.tasks import task_of

    context, tokenizer = context_in(tmp_path), load_tokenizer(small_base(tmp_path / "base"))
    task, train = task_of("preference"), declared(tmp_path, task="preference")
    dataset = dataset_of(context.artifacts, preferences(20))
    tokens = task.tokenize(context.artifacts, dataset, tokenizer, "t", train, context.report)
    with task.open(context.artifacts, tokens, 4096, tokenizer) as (whole, _):
        _, labels, _ = whole.batch(np.arange(1))
        answers = [tokenizer.decode(row[row != -100]) for row in labels]
        assert "please" in answers[0] and "never" in answers[1] and tokenizer.eos_token in answers[0]
        longest = int(whole.positions(np.arange(len(whole))).max()) // 2
    with task.open(context.artifacts, tokens, longest - 5, tokenizer) as (cut, _):
        shorter, scored, _ = cut.batch(np.arange(len(cut)))
        assert shorter.shape[1] == longest - 6
        answers = [tokenizer.decode(row[row != -100]) for row in scored]
        assert all("please" in answer for answer in answers[: len(cut)])
    assert task.cuts(context.artifacts, tokens, longest - 5)["cut_samples"] >= 1


def test_a_dataset_without_rejected_answers_is_refused(tmp_path: Path) -> None:
    from small_models import small_base

    context = context_in(tmp_path)
    rows = [row | {"metadata": "{}"} for row in preferences(20)]
    with pytest.raises(InputError, match="no pair of a chosen and a rejected answer"):
        run_locally(
            context, dataset_of(context.artifacts, rows), declared(small_base(tmp_path / "base"), task="preference")
        )


PICTURES = {"task": "image_classification", "batch_tokens": 60, "epochs": 30, "learning_rate": 0.003, "validations": 2}


@pytest.fixture(scope="module")
def viewer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Context, Manifest, Manifest]:
    """Pictures that are brighter on the left or on the right, and a model trained on them from random weights."""
    import io

    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("viewer")
    context = context_in(folder)
    noise = np.random.default_rng(5)
    rows = []
    for place in range(150):
        values = noise.integers(0, 120, (16, 16), np.uint8)
        label = ("left", "right")[place % 2]
        values[:, 8 * (place % 2) : 8 * (place % 2) + 8] += 100
        sink = io.BytesIO()
        Image.fromarray(values).save(sink, "PNG")
        rows.append({"image": sink.getvalue(), "metadata": json.dumps({"label": label})})
    random.Random(6).shuffle(rows)
    dataset = dataset_of(context.artifacts, rows)
    small = {"model_type": "vit", "image_size": 16, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 1}
    small |= {"num_attention_heads": 2, "intermediate_size": 64}
    train = declared(folder, **PICTURES, method="full", architecture=small)
    return context, dataset, run_locally(context, dataset, train)


def test_pictures_are_classified(viewer: tuple[Context, Manifest, Manifest]) -> None:
    context, _, base = viewer
    assert points(context, base, "validation_accuracy")[-1] > 0.85
    scores = scored(context, base)
    assert scores["tuned"]["accuracy"] > 0.75 > scores["base"]["accuracy"]


def test_a_convolutional_network_learns_pictures_that_are_varied(
    viewer: tuple[Context, Manifest, Manifest], tmp_path: Path
) -> None:
    import numpy as np

    from soldiom_ray.train.tasks import task_of

    context, dataset, _ = viewer
    small = {"model_type": "convnext", "image_size": 16, "patch_size": 2, "num_stages": 2, "hidden_sizes": [16, 32]}
    small |= {"depths": [1, 1], "layer_scale_init_value": 0.1}
    train = declared(tmp_path, **PICTURES | {"batch_tokens": 780}, method="full", augment=True, architecture=small)
    run = run_locally(context, dataset, train)
    assert points(context, run, "validation_accuracy")[-1] > 0.85
    task, artifacts = task_of("image_classification"), context.artifacts
    tokens = task.tokenize(artifacts, dataset, task.new_processor(train), "t", train, context.report)
    with task.open(artifacts, tokens, 8, task.new_processor(train)) as (units, _):
        place = np.array([0])
        plain, varied = units.batch(place)[0], task.varied(units, train).batch(place)[0]
    assert plain.shape == varied.shape and not np.allclose(plain, varied)
    with pytest.raises(ValueError, match="belongs to `task: image_classification`"):
        declared(tmp_path, augment=True)


def test_a_model_of_pictures_is_adapted(viewer: tuple[Context, Manifest, Manifest], tmp_path: Path) -> None:
    import io

    from PIL import Image

    context, dataset, base = viewer
    train = declared(tmp_path, **PICTURES, method="lora").model_copy(update={"base_model": base.id})
    tuned = run_locally(context, dataset, train)
    assert points(context, tuned, "validation_accuracy")[-1] > 0.85
    row = next(context.artifacts.rows(dataset, "train/"))
    with load_run(context.artifacts, context.settings, tuned) as (model, processor):
        picture = Image.open(io.BytesIO(row["image"])).convert("RGB")
        label = model(**processor(images=[picture], return_tensors="pt")).logits.argmax(-1)
        assert model.config.id2label[int(label)] == json.loads(row["metadata"])["label"]


def test_evaluation_reads_and_cuts_texts_as_training_does(encoder: Path, tmp_path: Path) -> None:
    import numpy as np

    from soldiom_ray.models.classifier import read_texts, text_inputs
    from soldiom_ray.models.load import load_tokenizer
    from soldiom_ray.train.tasks import task_of

    context, tokenizer = context_in(tmp_path), load_tokenizer(encoder)
    rows = [{"text": "cat " * (3 + place), "metadata": json.dumps({"label": str(place % 2)})} for place in range(20)]
    task, train = task_of("text_classification"), declared(encoder, task="text_classification")
    dataset = dataset_of(context.artifacts, rows)
    tokens = task.tokenize(context.artifacts, dataset, tokenizer, "t", train, context.report)
    with task.open(context.artifacts, tokens, 12, tokenizer) as (_, held_out):
        ids, mask, _ = held_out.batch(np.arange(len(held_out)))
    test = [row["text"] for row in context.artifacts.rows(dataset, "test/")]
    given = text_inputs(read_texts(tokenizer, test, 12), int(tokenizer.pad_token_id))
    assert (given["input_ids"].numpy() == ids).all() and (given["attention_mask"].numpy() == mask).all()
