"""Sequence to sequence: an encoder reads a source text, a decoder writes its target (translation, summarisation)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from soldiom_ray.artifacts import Artifacts, Report
from soldiom_ray.domains.schema import Train
from soldiom_ray.models.labels import IGNORE_INDEX
from soldiom_ray.models.loss import Objective
from soldiom_ray.models.sequence_pairs import PairLoss, source_and_target
from soldiom_ray.models.task_models import TASK_MODELS
from soldiom_ray.models.tokens import encode_documents
from soldiom_ray.records import Manifest
from soldiom_ray.train.blocks import Source
from soldiom_ray.train.data import StreamWriter, lengths_of, nothing_to_learn, sample_counter, samples
from soldiom_ray.train.ragged import Ragged
from soldiom_ray.train.splits import TRAIN, VALIDATION
from soldiom_ray.train.tasks.task import Task

if TYPE_CHECKING:
    import numpy.typing as npt

    from soldiom_ray.train.blocks import Indices

TOKENS_VERSION = 1


class Seq2SeqTask(Task):
    """The assistant's last answer in a conversation, from all messages before it."""

    models = TASK_MODELS["seq2seq_lm"]
    words = f"{TRAIN}.target"

    def tokenize(
        self, artifacts: Artifacts, dataset: Manifest, processor: Any, by: str, declared: Train, report: Report
    ) -> Manifest:
        """For each split `<split>.source.bin` and `<split>.target.bin` hold ids with their terminators, each with
        `.lengths.bin`."""
        made_from = {"code": TOKENS_VERSION, "dataset": dataset.id, "tokenizer": by, "task": declared.task}
        draft = artifacts.draft("tokens", made_from, parents=[dataset.id])
        if finished := draft.finished():
            return finished
        count_samples, counts = sample_counter(dataset, report), {}
        for split in (TRAIN, VALIDATION):
            with (
                StreamWriter(draft, f"{split}.source", len(processor)) as sources,
                StreamWriter(draft, f"{split}.target", len(processor)) as targets,
            ):
                both = (part for pair in _pairs(artifacts, dataset, split) for part in pair)
                for number, ids in enumerate(encode_documents(processor, both)):
                    (targets if number % 2 else sources).add(ids)
                    count_samples(number % 2)
                counts[split] = len(targets.lengths)
            if split == TRAIN and not counts[TRAIN]:
                raise nothing_to_learn(dataset, "pair of a source and a target")
        return draft.commit(counts=counts, details={"dtype": targets.dtype, "pad": int(processor.pad_token_id or 0)})

    @contextmanager
    def open(
        self, artifacts: Artifacts, tokens: Manifest, length: int, processor: Any
    ) -> Iterator[tuple[Source, Source]]:
        dtype, pad = tokens.details["dtype"], tokens.details["pad"]
        with artifacts.storage.local_folder(f"tokens/{tokens.id}") as folder:
            train, validation = (
                Pairs(
                    Ragged.open(folder, f"{split}.source", dtype),
                    Ragged.open(folder, f"{split}.target", dtype),
                    length,
                    pad,
                )
                for split in (TRAIN, VALIDATION)
            )
            yield train, validation

    def objective(self, model: Any, tokens: Manifest, declared: Train) -> Objective:
        return PairLoss(model)

    def lengths(self, artifacts: Artifacts, tokens: Manifest) -> "Indices":
        """Of a pair its longer side counts."""
        import numpy as np

        sides = [lengths_of(artifacts, tokens, f"{TRAIN}.{side}") for side in ("source", "target")]
        longer: Indices = np.maximum(*sides)
        return longer


def _pairs(artifacts: Artifacts, dataset: Manifest, split: str) -> Iterator[tuple[str, str]]:
    """(source, target) of every sample that ends with an answer."""
    for _, messages in samples(artifacts, dataset, split):
        if pair := source_and_target(messages):
            yield pair


@dataclass(frozen=True)
class Pairs:
    """Sources and targets as ids. A source longer than `length` keeps its beginning and its terminator; a target only
    its beginning, so that no model learns to stop there."""

    sources: Ragged
    targets: Ragged
    length: int
    pad: int

    def __len__(self) -> int:
        return len(self.sources)

    def positions(self, indices: "Indices") -> "Indices":
        """[len(indices)]: tokens of both sides together."""
        return self.sources.lengths(indices, self.length) + self.targets.lengths(indices, self.length)

    def batch(self, indices: "Indices") -> tuple["npt.NDArray[Any]", ...]:
        """(source ids, attention mask, target ids) int64: [pairs, longest source] twice, [pairs, longest target]."""
        import numpy as np

        rows = self.sources.padded(indices, self.length, self.pad)
        mask = np.arange(rows.shape[1]) < self.sources.lengths(indices, self.length)[:, None]
        return rows, mask.astype(np.int64), self.targets.padded(indices, self.length, IGNORE_INDEX, keep_last=False)

    def label_count(self, indices: "Indices") -> int:
        """The targets' tokens."""
        return int(self.targets.lengths(indices, self.length).sum())
