"""A small training for tests: data that is quick to learn, a model with random weights, its declaration."""

from pathlib import Path

from soldiom_ray.artifacts import Artifacts, Context
from soldiom_ray.domains.schema import Train
from soldiom_ray.records import Manifest, Sample
from soldiom_ray.settings import load_settings
from soldiom_ray.storage import open_storage

STEPS = 12


def texts(count: int) -> list[str]:
    """Small functions that differ in their names and numbers: quick to learn."""
    return [
        f"def add_{i % 7}(value):\n    total = value + {i % 10}\n    return total\n\n\nprint(add_{i % 7}({i % 5}))\n"
        * 3
        for i in range(count)
    ]


def quiet(fraction: float, message: str) -> None:
    assert 0 <= fraction <= 1


def context_in(home: Path) -> Context:
    settings = load_settings({"SOLDIOM_HOME": str(home)})
    return Context(settings, Artifacts(open_storage(settings)), quiet)


def dataset_in(artifacts: Artifacts, train: int = 60, validation: int = 8) -> Manifest:
    draft = artifacts.draft("dataset", {"train": train, "validation": validation})
    for split, count in (("train", train), ("validation", validation)):
        empty = dict.fromkeys(Sample.model_fields, "")
        rows = [
            empty | {"id": f"{split}{i}", "text": text, "split": split, "source": "local", "kind": "other"}
            for i, text in enumerate(texts(count))
        ]
        draft.write_rows(f"{split}/00000.parquet", rows, Sample)
    return draft.commit(counts={"train": train, "validation": validation})


def two_layer_model(folder: Path, pieces: int = 320) -> Path:
    """A Hugging Face folder of a two-layer model with random weights and a tokenizer of its own."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from soldiom_ray.models.tokens import train_tokenizer

    tokenizer = train_tokenizer(texts(40), pieces, 64)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def declared(base: Path, **values: object) -> Train:
    return Train.model_validate(
        {
            "base_model": str(base),
            "method": "full",
            "sequence_length": 64,
            "batch_tokens": 512,
            "epochs": 100,
            "max_tokens": 512 * STEPS,
            "validations": 3,
            "validation_tokens": 512,
            "learning_rate": 0.01,
            "precision": "float32",
        }
        | values
    )
