"""What a training asks of its task."""

from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from soldiom_ray.artifacts import prefix_of
from soldiom_ray.train.data import lengths_of
from soldiom_ray.train.ragged import count_cuts
from soldiom_ray.train.splits import TRAIN

if TYPE_CHECKING:
    from soldiom_ray.artifacts import Artifacts, Report
    from soldiom_ray.domains.schema import Train
    from soldiom_ray.models.loss import Objective
    from soldiom_ray.models.task_models import TaskModel
    from soldiom_ray.records import Manifest, PromptFormat
    from soldiom_ray.train.blocks import Indices, Source
    from soldiom_ray.train.strategies import Strategy


WORDS_READ = 20_000
"""Tokens among which the words of a prompt are looked for: a few samples, whose answers may come late."""


class Task:
    """One kind of training. It holds no state."""

    models: "TaskModel"
    """What the task means to transformers and PEFT: see `models.task_models`."""
    words: str | None = None
    """The stream of token files that holds what the model is to say, or to read where it says nothing; None: it is not
    words."""

    @property
    def auto_class(self) -> str:
        """The class of transformers that loads such a model from a folder."""
        return self.models.auto_class

    @property
    def peft_type(self) -> str | None:
        """PEFT's name of the task; None where it has none."""
        return self.models.peft_type

    @property
    def head(self) -> tuple[str, ...]:
        """Names of the layers on top that are new to a pretrained model."""
        return self.models.head

    def tokenize(
        self, artifacts: "Artifacts", dataset: "Manifest", processor: Any, by: str, declared: "Train", report: "Report"
    ) -> "Manifest":
        """The train and validation splits as an artifact that later runs reuse.

        `processor` is a tokenizer, or what reads pictures, `by` the hash that names it. InputError when the train split
        holds nothing to learn."""
        raise NotImplementedError

    def open(
        self, artifacts: "Artifacts", tokens: "Manifest", length: int, processor: Any
    ) -> "AbstractContextManager[tuple[Source, Source]]":
        """(train, validation) units of at most `length` positions, read from disk as they are needed."""
        raise NotImplementedError

    def objective(self, model: Any, tokens: "Manifest", declared: "Train") -> "Objective":
        """The loss to minimise, and the task's metrics."""
        raise NotImplementedError

    def new_processor(self, declared: "Train") -> Any:
        """What reads the input of a model from scratch; None: a tokenizer is trained on the dataset."""
        return None

    def measure(self, model: Any, units: "Source") -> "Source":
        """The units with their size as the model's configuration defines it."""
        return units

    def varied(self, units: "Source", declared: "Train") -> "Source":
        """The training units as they are seen, a little different every time where the declaration asks for that."""
        return units

    def with_reference_logprobs(self, strategy: "Strategy", units: "Source", positions: int) -> "Source":
        """The units with their log-probabilities under the untrained model, where the task compares with those.

        All ranks call it and get the same; a forward pass has at most `positions`."""
        return units

    def prompt_format(self, tokens: "Manifest") -> "PromptFormat":
        """How the samples were written, and so how the model is asked."""
        return "text"

    def configure(self, tokens: "Manifest") -> dict[str, Any]:
        """What this data asks of the model's configuration: its labels."""
        return {}

    def typical_words(
        self, artifacts: "Artifacts", tokens: "Manifest", count: int, special: "Collection[int]"
    ) -> list[int]:
        """`count` ids of the task's own text, as they follow one another in the first training samples, `special` ones
        left out: what a tuned prompt begins as. Fewer, or none, where there is no such text."""
        import numpy as np

        if self.words is None:
            return []
        dtype, names = np.dtype(tokens.details["dtype"]), {entry.name for entry in tokens.files}
        mask = f"{self.words}.scored.bin"
        with artifacts.storage.local_folder(prefix_of(tokens.id)) as folder:
            ids = np.fromfile(folder / f"{self.words}.bin", dtype, WORDS_READ)
            if mask in names:
                ids = ids[np.fromfile(folder / mask, np.uint8, len(ids)) > 0]
        return [number for number in ids.tolist() if number not in special][:count]

    def reading(self, model: Any) -> AbstractContextManager[None]:
        """A context in which the model uses its fastest layers for this task."""
        return nullcontext()

    def lengths(self, artifacts: "Artifacts", tokens: "Manifest") -> "Indices":
        """[samples] tokens of each training sample, as they count for the sequence length."""
        return lengths_of(artifacts, tokens, TRAIN)

    def cuts(self, artifacts: "Artifacts", tokens: "Manifest", length: int) -> dict[str, int]:
        """How the training samples fit `length` positions: `samples`, `longest_tokens`, `cut_samples`, `cut_tokens`."""
        return count_cuts(self.lengths(artifacts, tokens), length)
