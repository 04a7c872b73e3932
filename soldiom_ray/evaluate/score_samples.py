"""Scores of models that read a sample as a whole: classification, and sequence to sequence.

Both models' sums are taken per sample. A classification is measured against the labels' frequencies in the training
split, sequence to sequence against its base model, or a guess where there is none.
"""

import io
import json
import math
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from soldiom_ray.artifacts import Artifacts
from soldiom_ray.domains.schema import Evaluate
from soldiom_ray.errors import InputError
from soldiom_ray.evaluate.ask import ANSWER_TOKENS, Question, spread, to_examples
from soldiom_ray.evaluate.measurement import PRIOR, UNIFORM, Measurement, hash_order
from soldiom_ray.evaluate.metrics import DocumentSums
from soldiom_ray.models.adapters import without_adapter
from soldiom_ray.models.labels import IGNORE_INDEX, labels_of
from soldiom_ray.records import Manifest
from soldiom_ray.settings import Settings

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

BATCH = 32
Sums = tuple[int, float, float]
"""(labels or tokens, their summed loss in nats, how many were right) of one sample."""
Measured = tuple[list[Sums], Sequence[str | None]]
"""A model's sums of each sample, and its answers to those that are shown."""


def score_samples(
    settings: Settings, artifacts: Artifacts, run: Manifest, dataset: Manifest, declared: Evaluate
) -> Iterator[tuple[float, str] | Measurement]:
    """As `score.score_run`: progress, and the `Measurement` last."""
    from soldiom_ray.models.load import load_base, load_run

    rows = _test_samples(artifacts, dataset, run, declared)
    shown = list(islice(spread(rows, declared.seed), declared.examples))
    name, pairs = run.details.get("base_model"), run.details["task"] == "seq2seq_lm"
    base: Measured | None = None
    yield 0.02, f"loading the tuned model of {run.id}"
    with load_run(artifacts, settings, run) as (model, processor):
        tuned = yield from _measure(model, processor, rows, shown, run, "tuned model", 0.05, 0.5)
        classes: list[str] = [model.config.id2label[number] for number in range(model.config.num_labels)]
        vocabulary = int(getattr(model.config, "vocab_size", 0))
        if pairs and run.details["method"] != "full":
            with without_adapter(model) as plain:
                base = yield from _measure(plain, processor, rows, shown, run, "base model", 0.5, 0.94)
        del model
    if not pairs:
        prior, label = _score_prior(artifacts, dataset, rows, classes, multi_label=_is_multi_label(run))
        name, base = PRIOR, (prior, [label] * len(shown))
    elif base is None and name and name != run.id:
        yield 0.5, f"loading the base model {name}"
        with load_base(artifacts, settings, name, auto_class=run.details["auto_class"]) as (model, processor):
            base = yield from _measure(model, processor, rows, shown, run, "base model", 0.52, 0.94)
            del model
    elif base is None:
        uniform = [(count, count * math.log(vocabulary), count / vocabulary) for count, _, _ in tuned[0]]
        name, base = UNIFORM, (uniform, [None] * len(shown))
    documents = [
        DocumentSums(row["id"], row["group"], tuned_sums[0], *base_sums[1:], *tuned_sums[1:])
        for row, base_sums, tuned_sums in zip(rows, base[0], tuned[0], strict=True)
    ]
    yield Measurement(
        documents=documents,
        examples=to_examples([_question(row) for row in shown], base[1], tuned[1]),
        base=str(name),
        tokens=sum(document.tokens for document in documents),
        blocks=len(documents),
        block_tokens=int(run.details["sequence_length"]),
    )


def _test_samples(artifacts: Artifacts, dataset: Manifest, run: Manifest, declared: Evaluate) -> list[dict[str, Any]]:
    """Held-out samples that the task can score, at most `max_tokens` of them, in an order by hash."""
    from soldiom_ray.models.sequence_pairs import source_and_target

    pairs, multi_label = run.details["task"] == "seq2seq_lm", _is_multi_label(run)
    samples = []
    for row in artifacts.rows(dataset, "test/"):
        common = {"id": row["id"], "group": row["group"]}
        if pairs:
            if pair := source_and_target(json.loads(row["messages"] or "[]")):
                samples.append({"source": pair[0], "target": pair[1]} | common)
        elif (labels := labels_of(row["metadata"])) or multi_label:
            samples.append({"text": row["text"], "image": row.get("image"), "labels": labels} | common)
    if not samples:
        raise InputError(
            f"The dataset {dataset.id} holds no test samples that the task {run.details['task']} can score.",
            remedy="prepare it again with `split.test` above 0",
        )
    samples.sort(key=lambda row: hash_order(declared.seed, row["id"]))
    return samples[: declared.max_tokens]


def _is_multi_label(run: Manifest) -> bool:
    return bool(run.details.get("configuration", {}).get("problem_type") == "multi_label_classification")


def _measure(
    model: Any,
    processor: Any,
    rows: Sequence[dict[str, Any]],
    shown: Sequence[dict[str, Any]],
    run: Manifest,
    name: str,
    start: float,
    end: float,
) -> Generator[tuple[float, str], None, tuple[list[Sums], list[str]]]:
    """Progress; returns one model's sums and its answers."""
    sums = yield from _score(model, processor, rows, run, name, start, end)
    return sums, _answers(model, processor, shown, run)


def _score(
    model: Any, processor: Any, rows: Sequence[dict[str, Any]], run: Manifest, name: str, start: float, end: float
) -> Generator[tuple[float, str], None, list[Sums]]:
    """Progress; returns the sums of each row, in order. Samples of about one length are read together."""
    import torch

    length = int(run.details["sequence_length"])
    sizes = [len(row.get("text") or row.get("source") or "") for row in rows]
    order = sorted(range(len(rows)), key=sizes.__getitem__)
    score = _score_pairs if "source" in rows[0] else _score_labels
    scored: dict[int, Sums] = {}
    with torch.no_grad():
        for first in range(0, len(order), BATCH):
            indices = order[first : first + BATCH]
            sums = score(model, processor, [rows[index] for index in indices], length)
            scored |= dict(zip(indices, sums, strict=True))
            yield start + (end - start) * len(scored) / len(rows), f"{name}: {len(scored)} of {len(rows)} samples"
    return [scored[index] for index in range(len(rows))]


def _score_labels(model: Any, processor: Any, rows: Sequence[dict[str, Any]], length: int) -> list[Sums]:
    import torch

    from soldiom_ray.models.classification import sample_losses

    inputs = {name: tensor.to(model.device) for name, tensor in _model_inputs(processor, rows, length).items()}
    logits = model(**inputs).logits.float().cpu()
    numbers = {name: int(number) for number, name in model.config.id2label.items()}
    if model.config.problem_type == "multi_label_classification":
        targets = torch.zeros_like(logits)
        for target, sample in zip(targets, rows, strict=True):
            target[[numbers[name] for name in sample["labels"] if name in numbers]] = 1
        losses = sample_losses(logits, targets)
        right = ((logits > 0) == (targets > 0)).all(1)
    else:
        targets = torch.tensor([numbers.get(sample["labels"][0], -1) for sample in rows])
        known = targets >= 0
        losses = sample_losses(logits, targets.clamp_min(0))
        losses[~known] = math.log(len(numbers)) + 10  # a label that training never saw cannot be predicted
        right = (logits.argmax(1) == targets) & known
    return [(1, float(loss), float(hit)) for loss, hit in zip(losses, right, strict=True)]


def _model_inputs(processor: Any, rows: Sequence[dict[str, Any]], length: int) -> "dict[str, torch.Tensor]":
    """Tensors by the name of the model's argument, [rows, ...], made as in its training."""
    if rows[0]["image"]:
        from PIL import Image

        images = [Image.open(io.BytesIO(row["image"])).convert("RGB") for row in rows]
        return dict(processor(images=images, return_tensors="pt"))
    from soldiom_ray.models.tokens import encode_texts

    ids, mask = _padded(
        encode_texts(processor, [row["text"] for row in rows]), length, int(processor.pad_token_id or 0)
    )
    return {"input_ids": ids, "attention_mask": mask}


def _score_pairs(model: Any, processor: Any, rows: Sequence[dict[str, Any]], length: int) -> list[Sums]:
    from torch.nn import functional

    from soldiom_ray.models.tokens import encode_documents

    targets = encode_documents(processor, [row["target"] for row in rows])
    labels, _ = _padded(targets, length, IGNORE_INDEX, keep_last=False)
    inputs = _encoded_sources(processor, rows, length) | {"labels": labels}
    logits = model(**{name: tensor.to(model.device) for name, tensor in inputs.items()}).logits.float().cpu()
    losses = functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORE_INDEX, reduction="none").sum(
        1
    )
    loss_mask = labels != IGNORE_INDEX
    right = ((logits.argmax(-1) == labels) & loss_mask).sum(1)
    return [
        (int(count), float(loss), float(hits))
        for count, loss, hits in zip(loss_mask.sum(1), losses, right, strict=True)
    ]


def _encoded_sources(processor: Any, rows: Sequence[dict[str, Any]], length: int) -> "dict[str, torch.Tensor]":
    from soldiom_ray.models.tokens import encode_documents

    ids, mask = _padded(
        encode_documents(processor, [row["source"] for row in rows]), length, int(processor.pad_token_id or 0)
    )
    return {"input_ids": ids, "attention_mask": mask}


def _padded(
    encoded: "Iterable[npt.NDArray[Any]]", length: int, pad: int, *, keep_last: bool = True
) -> "tuple[torch.Tensor, torch.Tensor]":
    """(ids, mask), both [texts, longest] in int64, cut as training cuts them."""
    import torch

    from soldiom_ray.models.tokens import truncate

    rows = [torch.from_numpy(truncate(ids, length, keep_last=keep_last).astype("int64")) for ids in encoded]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
    lengths = torch.tensor([len(row) for row in rows])
    return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()


def _score_prior(
    artifacts: Artifacts,
    dataset: Manifest,
    rows: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
    *,
    multi_label: bool,
) -> tuple[list[Sums], str]:
    """(each row's sums, the labels given to every row) of the baseline that predicts labels by their frequency in the
    training split."""
    counts: Counter[str] = Counter()
    samples = 0
    for sample in artifacts.rows(dataset, "train/", ("metadata",)):
        labels = labels_of(sample["metadata"])
        samples += bool(labels) or multi_label
        counts.update(labels)
    shares = {name: (counts[name] + 0.5) / (samples + 1) for name in classes}
    if not multi_label:
        whole, likeliest = sum(shares.values()), max(classes, key=lambda name: shares[name])
        rare = 0.5 / (samples + 1)
        return [
            (1, -math.log(shares.get(row["labels"][0], rare) / whole), float(row["labels"][0] == likeliest))
            for row in rows
        ], likeliest
    predicted = {name for name in classes if shares[name] > 0.5}
    sums = []
    for row in rows:
        actual = set(row["labels"])
        loss = -sum(math.log(share if name in actual else 1 - share) for name, share in shares.items()) / len(classes)
        sums.append((1, loss, float(actual == predicted)))
    return sums, _joined(sorted(predicted))


def _question(row: Mapping[str, Any]) -> Question:
    """A sample as an example shows it: a picture by its text, or by its id."""
    prompt = row.get("source") or row.get("text") or f"picture {row['id']}"
    reference = row["target"] if "target" in row else _joined(row["labels"])
    return Question(row["group"], row["id"], prompt, prompt, reference)


def _joined(labels: Sequence[str]) -> str:
    return ", ".join(labels) or "(no label)"


def _answers(model: Any, processor: Any, rows: Sequence[dict[str, Any]], run: Manifest) -> list[str]:
    """What the model answers to each row: its labels, or its text, greedily."""
    import torch

    if not rows:
        return []
    length = int(run.details["sequence_length"])
    with torch.no_grad():
        if "source" in rows[0]:
            encoded = _encoded_sources(processor, rows, length)
            inputs = {name: tensor.to(model.device) for name, tensor in encoded.items()}
            written = model.generate(**inputs, max_new_tokens=ANSWER_TOKENS, do_sample=False, num_beams=1)
            texts: list[str] = processor.batch_decode(written, skip_special_tokens=True)
            return texts
        inputs = {name: tensor.to(model.device) for name, tensor in _model_inputs(processor, rows, length).items()}
        logits = model(**inputs).logits.float().cpu()
    names = model.config.id2label
    if model.config.problem_type == "multi_label_classification":
        return [_joined([names[number] for number in (row > 0).nonzero()[:, 0].tolist()]) for row in logits]
    return [names[number] for number in logits.argmax(1).tolist()]
