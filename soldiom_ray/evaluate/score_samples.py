"""Scores of models that take a sample as a whole: classifications, and sequence to sequence.

Both models' sums are taken per sample. A classification is measured against the labels' frequencies in the training
split, sequence to sequence against its base model, or a guess where there is none.
"""

import io
import json
import math
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from soldiom_ray.artifacts import Artifacts
from soldiom_ray.domains.schema import Evaluate
from soldiom_ray.errors import InputError
from soldiom_ray.evaluate.measurement import PRIOR, UNIFORM, Measurement, hash_order
from soldiom_ray.evaluate.metrics import DocumentSums
from soldiom_ray.models.labels import IGNORE_INDEX, labels_of
from soldiom_ray.records import Manifest
from soldiom_ray.settings import Settings

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

BATCH = 32
Sums = tuple[int, float, float]
"""Labels or tokens, their summed loss, how many were right."""


def score_samples(
    settings: Settings, artifacts: Artifacts, run: Manifest, dataset: Manifest, declared: Evaluate
) -> Iterator[tuple[float, str] | Measurement]:
    """As `score_run`: progress, then `Measurement`."""
    from soldiom_ray.models.load import load_base, load_run

    rows = _rows(artifacts, dataset, run, declared)
    yield 0.02, f"loading the tuned model of {run.id}"
    with load_run(artifacts, settings, run) as (model, processor):
        tuned = yield from _score(model, processor, rows, run, "tuned model", 0.05, 0.5)
        classes: list[str] = [model.config.id2label[place] for place in range(model.config.num_labels)]
        vocabulary = int(getattr(model.config, "vocab_size", 0))
        del model
    name = run.details.get("base_model")
    if run.details["task"] != "seq2seq_lm":
        name, base = PRIOR, _prior(artifacts, dataset, rows, classes, several=_several(run))
    elif name and name != run.id:
        yield 0.5, f"loading the base model {name}"
        with load_base(artifacts, settings, name, auto_class=run.details["auto_class"]) as (model, processor):
            base = yield from _score(model, processor, rows, run, "base model", 0.52, 0.94)
            del model
    else:
        name, base = UNIFORM, [(count, count * math.log(vocabulary), count / vocabulary) for count, _, _ in tuned]
    documents = [
        DocumentSums(row["id"], row["group"], after[0], before[1], before[2], after[1], after[2])
        for row, before, after in zip(rows, base, tuned, strict=True)
    ]
    yield Measurement(
        documents=documents,
        completions=[],
        base=str(name),
        tokens=sum(document.tokens for document in documents),
        blocks=len(documents),
        block_tokens=int(run.details["sequence_length"]),
    )


def _rows(artifacts: Artifacts, dataset: Manifest, run: Manifest, declared: Evaluate) -> list[dict[str, Any]]:
    """Held-out samples that the task can score, at most `max_tokens` of them, in an order by hash."""
    from soldiom_ray.models.sequence_pairs import source_and_target

    pairs, several = run.details["task"] == "seq2seq_lm", _several(run)
    found = []
    for row in artifacts.rows(dataset, "test/"):
        named = {"id": row["id"], "group": row["group"]}
        if pairs:
            if pair := source_and_target(json.loads(row["messages"] or "[]")):
                found.append({"source": pair[0], "target": pair[1]} | named)
        elif (labels := labels_of(row["metadata"])) or several:
            found.append({"text": row["text"], "image": row.get("image"), "labels": labels} | named)
    if not found:
        raise InputError(
            f"The dataset {dataset.id} holds no test samples that the task {run.details['task']} can score.",
            remedy="prepare it again with `split.test` above 0",
        )
    found.sort(key=lambda row: hash_order(declared.seed, row["id"]))
    return found[: declared.max_tokens]


def _several(run: Manifest) -> bool:
    return bool(run.details.get("configuration", {}).get("problem_type") == "multi_label_classification")


def _score(
    model: Any, processor: Any, rows: Sequence[dict[str, Any]], run: Manifest, what: str, start: float, end: float
) -> Generator[tuple[float, str], None, list[Sums]]:
    """Sums of each row, in order; samples of about one length are read together."""
    import torch

    length = int(run.details["sequence_length"])
    sizes = [len(row.get("text") or row.get("source") or "") for row in rows]
    order = sorted(range(len(rows)), key=sizes.__getitem__)
    score = _pairs if "source" in rows[0] else _labels
    found: dict[int, Sums] = {}
    with torch.no_grad():
        for at in range(0, len(order), BATCH):
            places = order[at : at + BATCH]
            sums = score(model, processor, [rows[place] for place in places], length)
            found |= dict(zip(places, sums, strict=True))
            yield start + (end - start) * len(found) / len(rows), f"{what}: {len(found)} of {len(rows)} samples"
    return [found[place] for place in range(len(rows))]


def _labels(model: Any, processor: Any, rows: Sequence[dict[str, Any]], length: int) -> list[Sums]:
    import torch

    from soldiom_ray.models.classification import sample_losses

    given = {name: tensor.to(model.device) for name, tensor in _input(processor, rows, length).items()}
    logits = model(**given).logits.float().cpu()
    place = {name: int(number) for number, name in model.config.id2label.items()}
    if model.config.problem_type == "multi_label_classification":
        wanted = torch.zeros_like(logits)
        for row, sample in zip(wanted, rows, strict=True):
            row[[place[name] for name in sample["labels"] if name in place]] = 1
        losses = sample_losses(logits, wanted)
        right = ((logits > 0) == (wanted > 0)).all(1)
    else:
        aims = torch.tensor([place.get(sample["labels"][0], -1) for sample in rows])
        known = aims >= 0
        losses = sample_losses(logits, aims.clamp_min(0))
        losses[~known] = math.log(len(place)) + 10  # a label that training never saw cannot be said
        right = (logits.argmax(1) == aims) & known
    return [(1, float(loss), float(hit)) for loss, hit in zip(losses, right, strict=True)]


def _input(processor: Any, rows: Sequence[dict[str, Any]], length: int) -> "dict[str, torch.Tensor]":
    """What the model reads, as its training read it."""
    if rows[0]["image"]:
        from PIL import Image

        pictures = [Image.open(io.BytesIO(row["image"])).convert("RGB") for row in rows]
        return dict(processor(images=pictures, return_tensors="pt"))
    from soldiom_ray.models.tokens import encode_texts

    ids, mask = _padded(
        encode_texts(processor, [row["text"] for row in rows]), length, int(processor.pad_token_id or 0)
    )
    return {"input_ids": ids, "attention_mask": mask}


def _pairs(model: Any, processor: Any, rows: Sequence[dict[str, Any]], length: int) -> list[Sums]:
    from torch.nn import functional

    from soldiom_ray.models.tokens import encode_documents

    sources = encode_documents(processor, [row["source"] for row in rows])
    targets = encode_documents(processor, [row["target"] for row in rows])
    ids, mask = _padded(sources, length, int(processor.pad_token_id or 0))
    labels, _ = _padded(targets, length, IGNORE_INDEX, keep_last=False)
    given = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    logits = model(**{name: tensor.to(model.device) for name, tensor in given.items()}).logits.float().cpu()
    losses = functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORE_INDEX, reduction="none").sum(
        1
    )
    scored = labels != IGNORE_INDEX
    right = ((logits.argmax(-1) == labels) & scored).sum(1)
    return [
        (int(count), float(loss), float(hits)) for count, loss, hits in zip(scored.sum(1), losses, right, strict=True)
    ]


def _padded(
    encoded: "Iterable[npt.NDArray[Any]]", length: int, pad: int, *, keep_last: bool = True
) -> "tuple[torch.Tensor, torch.Tensor]":
    """(ids, mask), both [texts, longest], cut as training cuts them."""
    import torch

    from soldiom_ray.models.tokens import truncate

    rows = [torch.from_numpy(truncate(ids, length, keep_last=keep_last).astype("int64")) for ids in encoded]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
    lengths = torch.tensor([len(row) for row in rows])
    return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()


def _prior(
    artifacts: Artifacts, dataset: Manifest, rows: Sequence[dict[str, Any]], classes: Sequence[str], *, several: bool
) -> list[Sums]:
    """What the labels' frequencies in the training split say of each row."""
    counts: Counter[str] = Counter()
    samples = 0
    for row in artifacts.rows(dataset, "train/", ("metadata",)):
        labels = labels_of(row["metadata"])
        samples += bool(labels) or several
        counts.update(labels)
    shares = {name: (counts[name] + 0.5) / (samples + 1) for name in classes}
    if not several:
        whole, likeliest = sum(shares.values()), max(classes, key=lambda name: shares[name])
        rare = 0.5 / (samples + 1)
        return [
            (1, -math.log(shares.get(row["labels"][0], rare) / whole), float(row["labels"][0] == likeliest))
            for row in rows
        ]
    usual = {name for name in classes if shares[name] > 0.5}
    sums = []
    for row in rows:
        has = set(row["labels"])
        loss = -sum(math.log(share if name in has else 1 - share) for name, share in shares.items()) / len(classes)
        sums.append((1, loss, float(has == usual)))
    return sums
