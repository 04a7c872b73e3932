"""What the training asks of a task."""

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from soldiom_ray.train.data import lengths_of
from soldiom_ray.train.ragged import cut
from soldiom_ray.train.splits import TRAIN

if TYPE_CHECKING:
    from soldiom_ray.artifacts import Artifacts, Report
    from soldiom_ray.domains.schema import Train
    from soldiom_ray.models.loss import Objective
    from soldiom_ray.models.task_models import TaskModel
    from soldiom_ray.records import Manifest
    from soldiom_ray.train.blocks import Indices, Source
    from soldiom_ray.train.strategies import Strategy


class Task:
    """One kind of training. It holds no state."""

    kind: "TaskModel"
    """Its models: see `models.task_models`."""

    @property
    def auto_class(self) -> str:
        """The class of transformers that loads such a model from a folder."""
        return self.kind.auto_class

    @property
    def peft_type(self) -> str | None:
        """PEFT's name of the task, None where it has none."""
        return self.kind.peft_type

    @property
    def head(self) -> tuple[str, ...]:
        """Names of the layers on top that are new to a pretrained model."""
        return self.kind.head

    def tokenize(
        self, artifacts: "Artifacts", dataset: "Manifest", processor: Any, by: str, declared: "Train", report: "Report"
    ) -> "Manifest":
        """The train and validation splits as an artifact that later runs reuse; `by` names the processor (a tokenizer,
        or what reads pictures). InputError when the train split holds nothing to learn."""
        raise NotImplementedError

    def open(
        self, artifacts: "Artifacts", tokens: "Manifest", length: int, processor: Any
    ) -> "AbstractContextManager[tuple[Source, Source]]":
        """(train, validation) units of at most `length` positions, read from disk as they are needed."""
        raise NotImplementedError

    def objective(self, model: Any, tokens: "Manifest", declared: "Train") -> "Objective":
        """What is learnt."""
        raise NotImplementedError

    def new_processor(self, declared: "Train") -> Any:
        """What reads the input of a model from scratch, where that is no tokenizer learnt from the dataset."""
        return None

    def measure(self, model: Any, units: "Source") -> "Source":
        """The units with what only the model tells of their size."""
        return units

    def with_reference_logprobs(self, strategy: "Strategy", units: "Source", positions: int) -> "Source":
        """The units with what the untrained model says of them, where the task compares with it. All ranks call it;
        at most `positions` are in one forward pass."""
        return units

    def configure(self, tokens: "Manifest") -> dict[str, Any]:
        """What the model's configuration must hold for this data: its labels."""
        return {}

    def reading(self, model: Any, length: int) -> AbstractContextManager[None]:
        """A context in which the model reads units of this task in the fastest way."""
        return nullcontext()

    def lengths(self, artifacts: "Artifacts", tokens: "Manifest") -> "Indices":
        """Tokens of each training sample, as they count for the sequence length."""
        return lengths_of(artifacts, tokens, TRAIN)

    def cuts(self, artifacts: "Artifacts", tokens: "Manifest", length: int) -> dict[str, int]:
        """How the training samples fit `length` positions: `samples`, `longest_tokens`, `cut_samples`, `cut_tokens`."""
        return cut(self.lengths(artifacts, tokens), length)
