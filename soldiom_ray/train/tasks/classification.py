"""Text classification: a model with a classification head reads a text and names its label or labels."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from soldiom_ray.artifacts import Artifacts, Report
from soldiom_ray.domains.schema import Train
from soldiom_ray.models.classification import ClassificationLoss
from soldiom_ray.models.loss import Objective
from soldiom_ray.models.task_models import TASK_MODELS
from soldiom_ray.models.tokens import encode_texts
from soldiom_ray.records import Manifest
from soldiom_ray.train.blocks import Source
from soldiom_ray.train.data import StreamWriter, sample_counter
from soldiom_ray.train.labels import configuration, label_ids, label_names, labelled, open_label_ids
from soldiom_ray.train.ragged import Ragged
from soldiom_ray.train.splits import TRAIN, VALIDATION
from soldiom_ray.train.tasks.task import Task

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from soldiom_ray.train.blocks import Indices

TOKENS_VERSION = 1


class TextClassificationTask(Task):
    """A text to its label, or its labels."""

    models = TASK_MODELS["text_classification"]
    words = TRAIN

    def __init__(self, labels: Sequence[str] = ()) -> None:
        """`labels` are given where a dataset need not have all of them; else they are those that it has."""
        self.labels = list(labels)

    def tokenize(
        self, artifacts: Artifacts, dataset: Manifest, processor: Any, by: str, declared: Train, report: Report
    ) -> Manifest:
        """For each split `<split>.bin` holds the ids, `<split>.lengths.bin` their counts, `<split>.labels.bin` the
        labels' ids."""
        several = declared.multi_label
        made_from = {
            "code": TOKENS_VERSION,
            "dataset": dataset.id,
            "tokenizer": by,
            "task": declared.task,
            "several": several,
        } | ({"labels": self.labels} if self.labels else {})
        draft = artifacts.draft("tokens", made_from, parents=[dataset.id])
        if finished := draft.finished():
            return finished
        names = self.labels or label_names(artifacts, dataset, several=several)
        count_samples = sample_counter(dataset, report)
        for split in (TRAIN, VALIDATION):
            labels_of_texts: list[list[str]] = []

            def texts(split: str = split, labels_of_texts: list[list[str]] = labels_of_texts) -> Iterator[str]:
                for row, labels in labelled(
                    artifacts.rows(dataset, f"{split}/", ("text", "metadata")), several=several
                ):
                    labels_of_texts.append(labels)
                    yield row["text"]

            with StreamWriter(draft, split, len(processor)) as streams:
                for ids in encode_texts(processor, texts()):
                    streams.add(ids)
                    count_samples()
            draft.write(f"{split}.labels.bin", label_ids(labels_of_texts, names, several=several).tobytes())
        details = {"labels": names, "several": several, "pad": int(processor.pad_token_id or 0), "dtype": streams.dtype}
        return draft.commit(details=details)

    @contextmanager
    def open(
        self, artifacts: Artifacts, tokens: Manifest, length: int, processor: Any
    ) -> Iterator[tuple[Source, Source]]:
        details = tokens.details
        with artifacts.storage.local_folder(f"tokens/{tokens.id}") as folder:
            train, validation = (
                Texts(
                    Ragged.open(folder, split, details["dtype"]),
                    open_label_ids(folder / f"{split}.labels.bin", details["labels"], several=details["several"]),
                    length,
                    details["pad"],
                )
                for split in (TRAIN, VALIDATION)
            )
            yield train, validation

    def objective(self, model: Any, tokens: Manifest, declared: Train) -> Objective:
        return ClassificationLoss(model, ("input_ids", "attention_mask"), multi_label=declared.multi_label)

    def configure(self, tokens: Manifest) -> dict[str, Any]:
        return configuration(tokens.details["labels"], several=tokens.details["several"]) | {
            "pad_token_id": tokens.details["pad"]
        }


@dataclass(frozen=True)
class Texts:
    """Texts as token ids; `labels` is [texts] label ids, or [texts, labels] of 0 and 1 where there may be several."""

    ids: Ragged
    labels: "npt.NDArray[np.int64]"
    length: int
    pad: int

    def __len__(self) -> int:
        return len(self.ids)

    def positions(self, indices: "Indices") -> "Indices":
        """[len(indices)]: tokens of each text."""
        return self.ids.lengths(indices, self.length)

    def batch(self, indices: "Indices") -> tuple["npt.NDArray[Any]", ...]:
        """(ids, attention mask), both [texts, longest] int64, and labels [texts] or [texts, labels]."""
        import numpy as np

        rows = self.ids.padded(indices, self.length, self.pad)
        mask = np.arange(rows.shape[1]) < self.positions(indices)[:, None]
        return rows, mask.astype(np.int64), self.labels[indices]

    def label_count(self, indices: "Indices") -> int:
        """Every text counts once."""
        return len(indices)
