"""Causal language models: texts and conversations as one stream of tokens, cut into blocks without padding."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from soldiom_ray.artifacts import Artifacts, Report
from soldiom_ray.domains.schema import Train
from soldiom_ray.models.chat import encode_samples
from soldiom_ray.models.loss import CausalLoss, Objective, virtual_tokens
from soldiom_ray.models.task_models import TASK_MODELS
from soldiom_ray.models.template_check import is_expressible
from soldiom_ray.records import Manifest, PromptFormat
from soldiom_ray.train.blocks import Blocks, Rows, Source
from soldiom_ray.train.data import StreamWriter, nothing_to_learn, sample_counter, samples
from soldiom_ray.train.splits import TRAIN, VALIDATION
from soldiom_ray.train.tasks.task import Task

TOKENS_VERSION = 2


class CausalTask(Task):
    """The next token of texts; of conversations, the assistant's tokens alone. Samples longer than a sequence go on in
    the next one, apart from their beginning; nothing of them is lost."""

    models = TASK_MODELS["causal_lm"]
    words = TRAIN

    def tokenize(
        self, artifacts: Artifacts, dataset: Manifest, processor: Any, by: str, declared: Train, report: Report
    ) -> Manifest:
        return tokenize(artifacts, dataset, processor, by, report, declared.template_gaps)

    def open(
        self, artifacts: Artifacts, tokens: Manifest, length: int, processor: Any
    ) -> AbstractContextManager[tuple[Source, Source]]:
        return open_tokens(artifacts, tokens, length)

    def objective(self, model: Any, tokens: Manifest, declared: Train) -> Objective:
        return CausalLoss(model)

    def measure(self, model: Any, units: Source) -> Source:
        """A tuned prompt stands before every sample, as it does where the model is asked: within a block of several it
        would stand before the first alone (loss 1.07 after 4,000 tokens of short instructions, in blocks 1.13)."""
        return Rows.of(units) if isinstance(units, Blocks) and virtual_tokens(model) else units

    def prompt_format(self, tokens: Manifest) -> PromptFormat:
        """Conversations have a loss mask; a dataset that also holds plain texts is asked as a conversation."""
        return "chat" if any(entry.name == f"{TRAIN}.scored.bin" for entry in tokens.files) else "text"

    def reading(self, model: Any) -> AbstractContextManager[None]:
        from soldiom_ray.models.layers import causal_blocks

        return causal_blocks(model)


def tokenize(
    artifacts: Artifacts, dataset: Manifest, tokenizer: Any, by: str, report: Report, template_gaps: str = "fold"
) -> Manifest:
    """The token streams of a dataset's train and validation splits.

    For each split `<split>.bin` holds ids, `<split>.lengths.bin` the samples' tokens (uint32), and where there are
    conversations `<split>.scored.bin` a byte per id: 1 for what counts for the loss. Raises InputError when the train
    split is empty."""
    made_from = {"code": TOKENS_VERSION, "dataset": dataset.id, "tokenizer": by} | left_out_key(template_gaps)
    draft = artifacts.draft("tokens", made_from, parents=[dataset.id])
    if finished := draft.finished():
        return finished
    counts: dict[str, int] = {}
    count_samples = sample_counter(dataset, report)
    for split in (TRAIN, VALIDATION):
        with StreamWriter(draft, split, len(tokenizer)) as streams:
            chosen = samples(artifacts, dataset, split)
            if template_gaps == "leave_out":
                chosen = (sample for sample in chosen if not sample[1] or is_expressible(tokenizer, sample[1]))
            for sample in encode_samples(tokenizer, chosen):
                streams.add(sample.ids, sample.loss_mask)
                count_samples()
        counts[split] = sum(streams.lengths)
        if split == TRAIN and counts[TRAIN] < 2:
            raise nothing_to_learn(dataset, "text")
    return draft.commit(counts=counts, details={"dtype": streams.dtype})


def left_out_key(template_gaps: str) -> dict[str, str]:
    """What says in a tokens artifact's id that samples are left out; nothing where none are, as ever."""
    return {} if template_gaps == "fold" else {"template_gaps": template_gaps}


@contextmanager
def open_tokens(artifacts: Artifacts, tokens: Manifest, length: int) -> Iterator[tuple[Blocks, Blocks]]:
    """(train, validation) blocks, read from disk as they are needed."""
    import numpy as np

    dtype = np.dtype(tokens.details["dtype"])
    with artifacts.storage.local_folder(f"tokens/{tokens.id}") as folder:

        def blocks(split: str) -> Blocks:
            path, mask = folder / f"{split}.bin", folder / f"{split}.scored.bin"
            stream = np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.empty(0, dtype=dtype)
            lengths = np.fromfile(folder / f"{split}.lengths.bin", np.uint32).astype(np.int64)
            return Blocks(stream, length, np.memmap(mask, np.uint8, mode="r") if mask.is_file() else None, lengths)

        yield blocks(TRAIN), blocks(VALIDATION)
