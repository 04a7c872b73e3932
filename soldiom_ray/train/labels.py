"""The labels of a dataset's samples as numbers."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from soldiom_ray.artifacts import Artifacts
from soldiom_ray.errors import InputError
from soldiom_ray.models.labels import labels_of
from soldiom_ray.records import Manifest
from soldiom_ray.train.splits import TRAIN, VALIDATION

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MOST_SHARE = 0.5
"""With more different labels than this share of the samples, they name the samples, not classes."""


def label_names(artifacts: Artifacts, dataset: Manifest, *, several: bool) -> list[str]:
    """The names of all labels of the train and validation splits, sorted. InputError when there are fewer than two, or
    so many that they are no classes, or when samples have several and the recipe does not say `multi_label`."""
    counts: Counter[str] = Counter()
    labelled = 0
    for split in (TRAIN, VALIDATION):
        for row in artifacts.rows(dataset, f"{split}/", ("metadata",)):
            labels = labels_of(row["metadata"])
            labelled += bool(labels)
            counts.update(labels)
            if len(labels) > 1 and not several:
                raise InputError(
                    f"Samples of dataset {dataset.id} have several labels (one has {len(labels)}).",
                    remedy="set `multi_label: true` under `train`",
                )
    names = sorted(counts)
    if len(names) < 2:
        held = f"only the label {names[0]!r}" if names else "no sample with a label"
        raise InputError(
            f"Dataset {dataset.id} holds {held} in its train and validation splits; a classification needs two labels.",
            remedy="name the column of the labels when the files are prepared: `--column label=NAME`",
        )
    if len(names) > 20 and len(names) > MOST_SHARE * labelled:
        raise InputError(
            f"Dataset {dataset.id} has {len(names)} different labels on {labelled} samples: these are no classes.",
            remedy="name another column when the files are prepared: `--column label=NAME`",
        )
    return names


def label_ids(labels: Iterable[list[str]], names: list[str], *, several: bool) -> "npt.NDArray[Any]":
    """[samples] positions in `names` (int64), or with `several` [samples, names] of 0 and 1 (uint8). InputError for
    other labels."""
    import numpy as np

    labels = list(labels)
    ids = {name: number for number, name in enumerate(names)}
    if others := {name for of_sample in labels for name in of_sample} - ids.keys():
        raise InputError(
            f"The samples have {len(others)} label(s) besides those that were named.",
            remedy="name all of them, or correct the samples' labels",
        )
    if not several:
        return np.array([ids[of_sample[0]] for of_sample in labels], np.int64)
    rows = [[ids[name] for name in of_sample] for of_sample in labels]
    matrix = np.zeros((len(rows), len(names)), np.uint8)
    for row, columns in enumerate(rows):
        matrix[row, columns] = 1
    return matrix


def open_label_ids(path: Any, names: list[str], *, several: bool) -> "npt.NDArray[np.int64]":
    """What `label_ids` made, read from its bytes, as int64."""
    import numpy as np

    if several:
        return np.fromfile(path, np.uint8).reshape(-1, len(names)).astype(np.int64)
    return np.fromfile(path, np.int64)


def configuration(names: list[str], *, several: bool) -> dict[str, Any]:
    """The part of the model's configuration that names these labels."""
    return {
        "id2label": dict(enumerate(names)),
        "label2id": {name: number for number, name in enumerate(names)},
        "problem_type": "multi_label_classification" if several else "single_label_classification",
    }


def labelled(rows: Iterator[dict[str, Any]], *, several: bool) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """(row, its labels); rows without a label are left out, unless a sample may have several or none."""
    for row in rows:
        labels = labels_of(row["metadata"])
        if labels or several:
            yield row, labels
