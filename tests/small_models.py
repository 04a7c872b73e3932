"""Real but very small models, datasets and runs, made in seconds."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from soldiom_ray.artifacts import Artifacts, Context
from soldiom_ray.models.signing import SIGNATURE, sign_weights
from soldiom_ray.records import Manifest, Sample
from soldiom_ray.settings import Settings, load_settings
from soldiom_ray.storage import open_storage

CONTEXT = 64


def code(seed: int, lines: int = 40) -> str:
    """Text that a model can learn: small functions, different for each seed."""
    verbs, nouns = ("read", "write", "count", "sort", "merge"), ("rows", "files", "words", "keys", "items")
    parts = []
    for number in range(lines // 4):
        digest = hashlib.sha256(f"{seed}:{number}".encode()).digest()
        verb, noun = verbs[digest[0] % 5], nouns[digest[1] % 5]
        parts.append(f"def {verb}_{noun}({noun}):\n    for item in {noun}:\n        {verb}(item)\n    return {noun}\n")
    return "\n".join(parts)


def small_settings(home: Path, **variables: str) -> Settings:
    """Settings of a home of its own."""
    return load_settings({"SOLDIOM_HOME": str(home)} | variables)


def small_context(settings: Settings, reports: list[tuple[float, str]] | None = None, **values: Any) -> Context:
    """A stage's context that collects the progress that is reported to it."""

    def report(fraction: float, message: str) -> None:
        if reports is not None:
            reports.append((fraction, message))

    return Context(settings, Artifacts(open_storage(settings)), report, **values)


def small_dataset(context: Context, groups: Mapping[str, Mapping[str, int]], **columns: str) -> Manifest:
    """A dataset artifact: {split: {group: documents}}."""
    draft = context.artifacts.draft("dataset", {"groups": {k: dict(v) for k, v in groups.items()}, **columns})
    counts: dict[str, int] = {}
    for split, members in groups.items():
        rows = []
        for group, documents in members.items():
            for number in range(documents):
                text = code(len(rows) + 1000 * len(counts))
                rows.append(
                    {
                        "id": f"{split}-{group}-{number}", "text": text, "split": split, "source": "local",
                        "url": "", "path": f"{group}/{number}.py", "group": group, "version": "1.0", "commit": "",
                        "sha256": hashlib.sha256(text.encode()).hexdigest(), "license": "MIT", "kind": "other",
                        "framework": "none", "language": "en",
                    } | columns
                )  # fmt: skip
        draft.write_rows(f"{split}/00000.parquet", rows, Sample)
        counts[split] = len(rows)
    return draft.commit(counts=counts)


def small_base(folder: Path, vocabulary: int = 320) -> Path:
    """A Hugging Face folder: a two-layer Llama with random weights and a tokenizer of its own."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from soldiom_ray.models.tokens import train_tokenizer

    tokenizer = train_tokenizer((code(seed) for seed in range(20)), vocabulary, CONTEXT)
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=CONTEXT, tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def small_classifier(folder: Path) -> Path:
    """The same with a head of random weights over two labels in place of words."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    small_base(folder)
    config = LlamaConfig.from_pretrained(folder, id2label={0: "good", 1: "bad"}, label2id={"good": 0, "bad": 1})
    config.problem_type = "single_label_classification"
    config.pad_token_id = AutoTokenizer.from_pretrained(folder).pad_token_id
    LlamaForSequenceClassification(config).save_pretrained(folder)
    return folder


def tuned(base: Path, folder: Path, steps: int = 60, rate: float = 1e-2) -> Path:
    """The same model after a few steps on text like the test's; `rate` below zero makes it worse."""
    import numpy as np
    import torch

    from soldiom_ray.models.load import load_model
    from soldiom_ray.models.tokens import encode_documents, pack

    torch.manual_seed(3)
    model, tokenizer = load_model(base, dtype="float32")
    model.train()
    blocks = [b for b in pack(encode_documents(tokenizer, [code(seed) for seed in range(50, 90)]), 32) if len(b) == 32]
    optimizer = torch.optim.AdamW(model.parameters(), lr=abs(rate), maximize=rate < 0)
    for step in range(steps):
        ids = torch.tensor(np.stack([blocks[(8 * step + place) % len(blocks)] for place in range(8)]).astype("int64"))
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def small_run(context: Context, dataset: Manifest, weights: Path, base: Path | None, **details: Any) -> Manifest:
    """A run artifact with these weights; without a base it names itself, as a model from random weights does."""
    made_from = {"weights": str(weights), "base": str(base), "details": details, "declared": {"method": "full"}}
    draft = context.artifacts.draft("run", made_from, (dataset.id,))
    values: dict[str, Any] = {"base_model": str(base or draft.id), "method": "full", "sequence_length": CONTEXT}
    values |= {"steps": 60, "tokens": 15360, "seconds": 1.0} | details
    if (done := draft.finished()) is not None:
        return done
    draft.write_folder(weights, "weights")
    if (signature := sign_weights(context.settings, context.artifacts, draft.id, weights)) is not None:
        draft.write(SIGNATURE, signature)
    return draft.commit(details=values)


def rows_of(data: bytes) -> Sequence[dict[str, Any]]:
    """The rows of a Parquet file."""
    table: pa.Table = pq.read_table(io.BytesIO(data))
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows
