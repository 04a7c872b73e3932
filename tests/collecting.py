"""What the collection tests share: a context over a temporary home, and a small world behind the stand-in server."""

import inspect
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stand_in import HubRepository, Repository

from soldiom_ray.artifacts import Artifacts, Context
from soldiom_ray.records import Manifest
from soldiom_ray.settings import load_settings
from soldiom_ray.storage import open_storage

MODEL = b"import torch\nfrom torch import nn\n\n\nclass Net(nn.Module):\n    def forward(self, x):\n        return x\n"
TRAIN = b"import torch\n\n\ndef main(optimizer, loss):\n    loss.backward()\n    optimizer.step()\n"


def make_context(home: Path, messages: list[str] | None = None, **variables: str) -> Context:
    """A context whose reports go into `messages`."""
    settings = load_settings({"SOLDIOM_HOME": str(home)} | variables)
    reported = [] if messages is None else messages
    return Context(settings, Artifacts(open_storage(settings)), lambda share, message: reported.append(message))


def documents_of(context: Context, manifest: Manifest) -> list[dict[str, Any]]:
    """All documents, without the time they were collected at."""
    rows = context.artifacts.rows(manifest, "documents/")
    return [{key: value for key, value in row.items() if key != "collected_at"} for row in rows]


def github_world() -> Sequence[Repository]:
    """Repositories that pass the default filters, with real code of the standard library, and some that do not."""
    modules = (json, logging, inspect)
    code = {f"src/{module.__name__}.py": Path(str(module.__file__)).read_bytes() for module in modules}
    good = {"README.md": b"# A model\n\nIt learns.\n", "model.py": MODEL, "train.py": TRAIN, "weights.bin": b"\0" * 64}
    return (
        Repository("ada/nets", good | code, stars=9000),
        Repository("bob/deep", good, stars=5000, topics=("deep-learning", "machine-learning")),
        Repository(
            "cleo/books",
            {"a.ipynb": notebook(), "LICENSE": b"MIT License\n" + MIT},
            language="Jupyter Notebook",
            license=None,
        ),
        Repository("dan/few-stars", good, stars=1000),
        Repository("eve/asleep", good, pushed_at="2019-01-01T00:00:00Z"),
        Repository("fay/archived", good, archived=True),
        Repository("gil/rust", good, language="Rust"),
        Repository("hal/other-topic", good, topics=("games",)),
    )


def hub_world() -> Sequence[HubRepository]:
    """Models and datasets, more than one page of each."""
    card = b"---\nlicense: apache-2.0\n---\n# Tiny\n\nA small model.\n"
    models = [
        HubRepository(
            f"org/model-{number}",
            files={"README.md": card, "config.json": b"{}"},
            downloads=90_000 - number * 10_000,
            likes=101 + number,
            task="text-generation",
            library="transformers",
            tags=("license:apache-2.0",),
            card={"license": "apache-2.0"},
        )
        for number in range(8)
    ]
    return (
        *models,
        HubRepository("org/unloved", files={"README.md": card}, downloads=70_001, likes=100),
        HubRepository(
            "org/locked", files={"README.md": card}, downloads=60_001, gated="manual", card={"license": "llama3"}
        ),
        HubRepository("org/silent", files={"config.json": b"{}"}, downloads=50_001),
        HubRepository("org/data", "datasets", {"README.md": card}, tags=("task_categories:summarization",)),
    )


def notebook() -> bytes:
    """A notebook with prose, code, a magic line and an output."""
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "words"]},
        {
            "cell_type": "code",
            "source": "%matplotlib inline\nimport jax\nx = 1",
            "outputs": [{"text": "SECRET OUTPUT"}],
        },
        {"cell_type": "code", "source": ""},
    ]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}).encode()


MIT = (
    b"Permission is hereby granted, free of charge, to any person obtaining a copy of this software, to deal in it"
    b" without restriction, subject to this: The above copyright notice and this permission notice shall be included.\n"
)
