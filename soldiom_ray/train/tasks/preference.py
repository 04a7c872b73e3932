"""Preferences: of two answers to one prompt the chosen one shall become likelier than the rejected one (DPO)."""

import contextlib
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from soldiom_ray.artifacts import Artifacts, Report
from soldiom_ray.domains.messages import ASSISTANT
from soldiom_ray.domains.schema import Train
from soldiom_ray.models.chat import encode_chat
from soldiom_ray.models.labels import IGNORE_INDEX
from soldiom_ray.models.loss import Objective
from soldiom_ray.models.preference import PreferenceLoss
from soldiom_ray.models.task_models import TASK_MODELS
from soldiom_ray.models.template_check import is_expressible
from soldiom_ray.records import Manifest, PromptFormat
from soldiom_ray.train.blocks import Source, batches_by_rank
from soldiom_ray.train.data import StreamWriter, lengths_of, nothing_to_learn, sample_counter
from soldiom_ray.train.ragged import Ragged
from soldiom_ray.train.splits import TRAIN, VALIDATION
from soldiom_ray.train.tasks.causal import CausalTask, left_out_key

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from soldiom_ray.train.blocks import Indices
    from soldiom_ray.train.strategies import Strategy

TOKENS_VERSION = 1
PARTS = ("prompt", "chosen", "rejected")


class PreferenceTask(CausalTask):
    """Conversations whose last answer has a rejected counterpart."""

    models = TASK_MODELS["preference"]
    words = f"{TRAIN}.chosen"

    def tokenize(
        self, artifacts: Artifacts, dataset: Manifest, processor: Any, by: str, declared: Train, report: Report
    ) -> Manifest:
        """For each split the ids of the prompts, the chosen and the rejected answers: `<split>.<part>.bin` with
        `.lengths.bin`. A prompt reaches as far as both conversations have the same tokens."""
        made_from = {"code": TOKENS_VERSION, "dataset": dataset.id, "tokenizer": by, "task": declared.task}
        made_from |= left_out_key(declared.template_gaps)
        draft = artifacts.draft("tokens", made_from, parents=[dataset.id])
        if finished := draft.finished():
            return finished
        count_samples, counts = sample_counter(dataset, report), {}
        for split in (TRAIN, VALIDATION):
            with contextlib.ExitStack() as stack:
                streams = [
                    stack.enter_context(StreamWriter(draft, f"{split}.{part}", len(processor))) for part in PARTS
                ]
                for sides in _pairs(artifacts, dataset, split, processor, declared.template_gaps):
                    for stream, ids in zip(streams, sides, strict=True):
                        stream.add(ids)
                    count_samples()
            counts[split] = len(streams[0].lengths)
            if split == TRAIN and not counts[TRAIN]:
                raise nothing_to_learn(dataset, "pair of a chosen and a rejected answer")
        return draft.commit(counts=counts, details={"dtype": streams[0].dtype, "pad": int(processor.pad_token_id or 0)})

    @contextmanager
    def _open(
        self, artifacts: Artifacts, tokens: Manifest, length: int, processor: Any
    ) -> Iterator[tuple[Source, Source]]:
        dtype = tokens.details["dtype"]
        with artifacts.storage.local_folder(f"tokens/{tokens.id}") as folder:
            train, validation = (
                Comparisons(
                    Ragged.open(folder, f"{split}.prompt", dtype),
                    Ragged.open(folder, f"{split}.chosen", dtype),
                    Ragged.open(folder, f"{split}.rejected", dtype),
                    length,
                    tokens.details["pad"],
                )
                for split in (TRAIN, VALIDATION)
            )
            yield train, validation

    def prompt_format(self, tokens: Manifest) -> PromptFormat:
        return "chat"

    def open(
        self, artifacts: Artifacts, tokens: Manifest, length: int, processor: Any
    ) -> AbstractContextManager[tuple[Source, Source]]:
        return self._open(artifacts, tokens, length, processor)

    def with_reference_logprobs(self, strategy: "Strategy", units: Source, positions: int) -> Source:
        """Log-probabilities under the base model: the model itself before the first step, without its adapter. The
        strategy computes them as it computes the training's: another rounding of the weights would be a difference."""
        if not isinstance(units, Comparisons):
            raise TypeError(f"preferences are read from Comparisons, not {type(units).__name__}")
        return replace(units, reference=_reference(strategy, units, positions))

    def objective(self, model: Any, tokens: Manifest, declared: Train) -> Objective:
        return PreferenceLoss(model, declared.beta)

    def lengths(self, artifacts: Artifacts, tokens: Manifest) -> "Indices":
        """Of a pair the longer answer counts, with its prompt; what does not fit is cut from the prompt's beginning."""
        import numpy as np

        prompt, *answers = (lengths_of(artifacts, tokens, f"{TRAIN}.{part}") for part in PARTS)
        longer: Indices = prompt + np.maximum(*answers)
        return longer


def _pairs(
    artifacts: Artifacts, dataset: Manifest, split: str, tokenizer: Any, template_gaps: str
) -> Iterator[tuple["npt.NDArray[Any]", "npt.NDArray[Any]", "npt.NDArray[Any]"]]:
    """Ids of (prompt, chosen, rejected) of every sample that has a rejected answer."""
    import numpy as np

    for row in artifacts.rows(dataset, f"{split}/", ("messages", "metadata")):
        rejected = json.loads(row["metadata"] or "{}").get("rejected")
        messages = json.loads(row["messages"]) if row["messages"] else []
        if not rejected or not messages or messages[-1]["role"] != ASSISTANT:
            continue
        if template_gaps == "leave_out" and not is_expressible(tokenizer, messages):
            continue
        both = [
            encode_chat(tokenizer, [*messages[:-1], {"role": ASSISTANT, "content": answer}])
            for answer in (messages[-1]["content"], rejected)
        ]
        ends = [int(np.flatnonzero(conversation.loss_mask)[-1]) + 1 for conversation in both]
        shorter = min(ends) - 1
        same = both[0].ids[:shorter] == both[1].ids[:shorter]
        shared = shorter if same.all() else int(np.argmin(same))
        yield both[0].ids[:shared], both[0].ids[shared : ends[0]], both[1].ids[shared : ends[1]]


@dataclass(frozen=True)
class Comparisons:
    """Prompts with two answers each. A pair longer than `length` loses the beginning of its prompt, an answer longer
    than that its end. `reference` [pairs, 2] float32 are the base model's log-probabilities of (chosen, rejected)."""

    prompts: Ragged
    chosen: Ragged
    rejected: Ragged
    length: int
    pad: int
    reference: "npt.NDArray[np.float32] | None" = None

    def __len__(self) -> int:
        return len(self.prompts)

    def positions(self, indices: "Indices") -> "Indices":
        """[len(indices)]: both rows of a pair, at the length of the longer."""
        import numpy as np

        answers = np.maximum(*(side.lengths(indices, self.length) for side in (self.chosen, self.rejected)))
        whole: Indices = 2 * np.minimum(answers + self.prompts.lengths(indices, self.length), self.length)
        return whole

    def batch(self, indices: "Indices") -> tuple["npt.NDArray[Any]", ...]:
        """(ids, labels) [2 * pairs, positions] int64, all chosen rows first, and reference [2 * pairs] float32."""
        import numpy as np

        width = int(self.positions(indices).max()) // 2
        rows = np.full((2 * len(indices), width), self.pad, np.int64)
        labels = np.full((2 * len(indices), width - 1), IGNORE_INDEX, np.int64)
        for pair, index in enumerate(indices.tolist()):
            answers = [side.row(index)[: self.length - 1] for side in (self.chosen, self.rejected)]
            prompt = self.prompts.row(index)
            prompt = prompt[max(0, len(prompt) - (self.length - max(map(len, answers)))) :]
            for row, answer in zip((pair, pair + len(indices)), answers, strict=True):
                end = len(prompt) + len(answer)
                rows[row, :end] = np.concatenate([prompt, answer])
                labels[row, len(prompt) - 1 : end - 1] = answer
        reference = np.zeros(len(rows), np.float32)
        if self.reference is not None:
            reference = self.reference[indices].T.reshape(-1)
        return rows[:, :-1], labels, reference

    def label_count(self, indices: "Indices") -> int:
        """Every pair counts once."""
        return len(indices)


def _reference(strategy: "Strategy", units: Comparisons, positions: int) -> "npt.NDArray[np.float32]":
    """[pairs, 2], the same on every rank; each computes a share of the pairs."""
    import numpy as np
    import torch

    logprobs = torch.zeros(len(units), 2, device=strategy.device)
    every_pair = np.arange(len(units), dtype=np.int64)
    strategy.objective.eval()
    for share in batches_by_rank(units, every_pair, strategy.world, positions)[strategy.rank] if len(units) else ():
        # A rank without a pair reads another's: sharded weights are gathered by all ranks together.
        ids, labels, _ = (torch.from_numpy(array) for array in units.batch(share if len(share) else every_pair[:1]))
        logs = strategy.call("reference_logprobs", (ids.to(strategy.device), labels.to(strategy.device)))
        if len(share):
            logprobs[torch.from_numpy(share)] = logs.view(2, -1).T
    strategy.objective.train()
    reference: npt.NDArray[np.float32] = strategy.sum(logprobs).cpu().numpy()
    return reference
