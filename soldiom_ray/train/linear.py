"""Fitting a linear head (`models.linear_head`) on a body that stays as it is: what `train.head: linear` does instead of
training steps."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from soldiom_ray.artifacts import Report
from soldiom_ray.errors import InputError
from soldiom_ray.models.classification import (
    confusion_counts,
    multi_label_metrics,
    sample_losses,
    single_label_metrics,
)
from soldiom_ray.models.linear_head import (
    CHOICES,
    MAX_SAMPLE_LABELS,
    LinearHead,
    Samples,
    body_vectors,
    fit_linear_heads,
)
from soldiom_ray.models.tokens import truncate
from soldiom_ray.train.laps import Laps
from soldiom_ray.train.loop import Outcome
from soldiom_ray.train.state import Metrics
from soldiom_ray.train.tasks.classification import Texts

if TYPE_CHECKING:
    import numpy as np

AT_ONCE = 64


def fit_linear_head(
    model: Any,
    train: Texts,
    validation: Texts,
    pooling: str,
    seed: int,
    positions: int,
    report: Report,
    observe: Callable[[Metrics], None],
) -> tuple[LinearHead, Outcome]:
    """The head that has the least loss on the validation side (the middle one where that is empty), and what a
    training would tell of it: each choice is a step. The body reads `positions` at once. InputError where only one
    label occurs."""
    import numpy as np
    import torch

    began, laps, count = time.monotonic(), Laps(), int(model.config.num_labels)
    order = np.sort(np.random.default_rng(seed).permutation(len(train))[: max(1, MAX_SAMPLE_LABELS // count)])
    learnt = _samples(
        model.eval(), train, order, pooling, positions, lambda share: report(0.6 * share, "vectors of the texts")
    )
    held_out = _samples(model, validation, np.arange(len(validation)), pooling, positions, lambda share: None)
    laps.end("steps")
    if len(np.unique(learnt.labels)) < 2:  # of several labels per sample: only 0, or only 1
        raise InputError("All samples of the training side have one label.", remedy="collect samples of others")
    tokens = int(train.positions(order).sum())
    heads, curves = [], list[Metrics]()
    for step, head in enumerate(fit_linear_heads(learnt, count, pooling), 1):
        heads.append(head)
        point: Metrics = {"step": step, "tokens": tokens, "seconds": round(time.monotonic() - began, 2)}
        for name, side in (("train", learnt), ("validation", held_out)):
            if len(side.labels):
                logits, labels = torch.from_numpy(head.logits(side.ids, side.vectors)), torch.from_numpy(side.labels)
                point[f"{name}_loss"] = float(sample_losses(logits, labels).mean())
                if name == "validation":
                    counts = confusion_counts(logits, labels)
                    metrics = single_label_metrics(counts) if labels.dim() == 1 else multi_label_metrics(counts)
                    point |= {f"validation_{key}": value for key, value in metrics.items()}
        curves.append(point)
        observe(point)
        report(0.6 + 0.4 * step / len(CHOICES), f"fit {step} of {len(CHOICES)}")
    laps.end("steps")
    if len(held_out.labels):
        best = min(range(len(heads)), key=lambda place: curves[place]["validation_loss"])
    else:
        best = len(heads) // 2
    seconds = time.monotonic() - began
    return heads[best], Outcome(
        steps=len(heads),
        tokens=tokens,
        best_step=best + 1,
        best_loss=float(curves[best].get("validation_loss", curves[best]["train_loss"])),
        seconds=seconds,
        tokens_per_second=tokens / max(seconds, 1e-9),
        stopped_early=False,
        curves=curves,
        seconds_by_part=laps.seconds,
    )


def _samples(
    model: Any,
    texts: Texts,
    order: "np.ndarray[Any, Any]",
    pooling: str,
    positions: int,
    report: Callable[[float], None],
) -> Samples:
    """Token ids as the model reads them, the body's vectors, and labels; texts of about one length together."""
    import numpy as np
    import torch

    ids = [truncate(texts.ids.row(int(index)), texts.length, keep_last=True) for index in order]
    vectors = np.zeros((len(order), int(model.config.hidden_size)), np.float32)
    by_length = np.argsort([len(row) for row in ids], kind="stable")
    first = 0
    while first < len(by_length):
        places = by_length[first : first + AT_ONCE]
        places = places[: max(1, positions // max(1, len(ids[places[-1]])))]
        rows, mask, _ = (torch.from_numpy(part).to(model.device) for part in texts.batch(order[places]))
        with torch.inference_mode():
            vectors[places] = body_vectors(model, rows, mask, pooling)
        first += len(places)
        report(first / len(by_length))
    return Samples(ids, vectors, texts.labels[order])
