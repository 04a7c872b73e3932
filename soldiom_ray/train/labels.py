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
"""With more different labels than this share of the samples they are no classes but names or numbers of the samples."""


def classes(artifacts: Artifacts, dataset: Manifest, *, several: bool) -> list[str]:
    """The names of all labels of the train and validation splits, sorted. InputError when there are fewer than two, or
    so many that they are no classes, or when samples have several and the recipe does not say `multi_label`."""
    counts: Counter[str] = Counter()
    labelled = 0
    for split in (TRAIN, VALIDATION):
        for row in artifacts.rows(dataset, f"{split}/", ("metadata",)):
            found = labels_of(row["metadata"])
            labelled += bool(found)
            counts.update(found)
            if len(found) > 1 and not several:
                raise InputError(
                    f"Samples of dataset {dataset.id} have several labels (one has {len(found)}).",
                    remedy="set `multi_label: true` under `train`",
                )
    names = sorted(counts)
    if len(names) < 2:
        met = f"only the label {names[0]!r}" if names else "no sample with a label"
        raise InputError(
            f"Dataset {dataset.id} holds {met} in its train and validation splits; a classification needs two labels.",
            remedy="name the column of the labels when the files are prepared: `--column label=NAME`",
        )
    if len(names) > 20 and len(names) > MOST_SHARE * labelled:
        raise InputError(
            f"Dataset {dataset.id} has {len(names)} different labels on {labelled} samples: these are no classes.",
            remedy="name another column when the files are prepared: `--column label=NAME`",
        )
    return names


def numbers(labels: Iterable[list[str]], names: list[str], *, several: bool) -> "npt.NDArray[Any]":
    """[samples] numbers (int64), or [samples, labels] of 0 and 1 (uint8)."""
    import numpy as np

    place = {name: number for number, name in enumerate(names)}
    if not several:
        return np.array([place[one[0]] for one in labels], np.int64)
    rows = [[place[name] for name in one] for one in labels]
    matrix = np.zeros((len(rows), len(names)), np.uint8)
    for row, ones in enumerate(rows):
        matrix[row, ones] = 1
    return matrix


def open_numbers(path: Any, names: list[str], *, several: bool) -> "npt.NDArray[np.int64]":
    """What `numbers` made and was written as bytes."""
    import numpy as np

    if several:
        return np.fromfile(path, np.uint8).reshape(-1, len(names)).astype(np.int64)
    return np.fromfile(path, np.int64)


def configuration(names: list[str], *, several: bool) -> dict[str, Any]:
    """What the model's configuration says of these labels."""
    return {
        "id2label": dict(enumerate(names)),
        "label2id": {name: number for number, name in enumerate(names)},
        "problem_type": "multi_label_classification" if several else "single_label_classification",
    }


def labelled(rows: Iterator[dict[str, Any]], *, several: bool) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Rows with their labels; without any they are passed over, unless a sample may have several or none."""
    for row in rows:
        found = labels_of(row["metadata"])
        if found or several:
            yield row, found
