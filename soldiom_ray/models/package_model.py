"""Package a run as a model that comes with Soldiom: `python -m soldiom_ray.models.package_model RUN [NAME]`, what
`make base-model` ends with. It copies the weights to `builtin/<name>` and writes the card beside them."""

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soldiom_ray.artifacts import Artifacts
from soldiom_ray.domains.builtin_models import BUILTIN_FOLDER
from soldiom_ray.errors import InputError, SoldiomError
from soldiom_ray.models.folder_check import check_folder
from soldiom_ray.models.signing import verified_weights
from soldiom_ray.records import Manifest
from soldiom_ray.settings import load_settings
from soldiom_ray.storage import open_storage

MAX_BYTES = 16_000_000
REPETITION_PENALTY = 1.2
"""Without it so small a model soon repeats a line forever."""
PROMPTS = (
    'def read_file(path):\n    """Read',
    "class Stack:\n    def __init__(self",
    "import os\nimport sys\n\n\ndef main():\n",
)


@dataclass
class Package:
    """One group of the training data."""

    name: str
    version: str
    license: str
    files: int = 0
    characters: int = 0


def package_run(
    artifacts: Artifacts, run_id: str, name: str = "tiny", licenses: Mapping[str, str] | None = None
) -> Path:
    """Replace `builtin/<name>` by the weights of a full run. `licenses` stands in for those the dataset recorded.

    InputError when the run holds an adapter or is larger than the package allows, DamagedError when its weights are not
    what was signed."""
    run = artifacts.get(run_id)
    size = sum(entry.size_bytes for entry in run.files if entry.name.startswith("weights/"))
    if run.details.get("method") != "full" or size > MAX_BYTES:
        raise InputError(
            f"The run {run_id!r} (method {run.details.get('method')}, {size:,} bytes) cannot come with the package.",
            remedy=f"package a run with `method: full` of at most {MAX_BYTES:,} bytes",
        )
    target = BUILTIN_FOLDER / name
    with verified_weights(load_settings(), artifacts, run_id) as folder:
        target.mkdir(parents=True, exist_ok=True)
        for old in target.iterdir():
            old.unlink()
        for path in folder.iterdir():
            (target / path.name).write_bytes(path.read_bytes())
    advice = target / "generation_config.json"
    advice.write_text(json.dumps(json.loads(advice.read_text()) | {"repetition_penalty": REPETITION_PENALTY}, indent=2))
    check_folder(target, f"builtin/{name}")
    dataset = artifacts.get(run.parents[0])
    packages = count_packages(artifacts.rows(dataset, "train/"), licenses or {})
    (target / "README.md").write_text(card(name, run, dataset, packages, sample_completions(target)), encoding="utf-8")
    return target


def count_packages(rows: Iterable[Mapping[str, Any]], licenses: Mapping[str, str]) -> list[Package]:
    """The packages that training samples come from, the largest first; `licenses` by name replace recorded ones."""
    packages: dict[str, Package] = {}
    for row in rows:
        group = row["group"]
        license_name = licenses.get(group, row["license"])
        package = packages.setdefault(group, Package(group, row["version"], license_name))
        package.files += 1
        package.characters += len(row["text"])
    return sorted(packages.values(), key=lambda package: -package.characters)


def sample_completions(folder: Path) -> list[tuple[str, str]]:
    """Greedy completions of a few prompts: (prompt, completion)."""
    from soldiom_ray.models.generate import Generator
    from soldiom_ray.models.load import load_model

    generator = Generator(*load_model(folder))
    answers = generator.generate(PROMPTS, max_new_tokens=60, temperature=0.0)
    return [(prompt, answer.text) for prompt, answer in zip(PROMPTS, answers, strict=True)]


def card(
    name: str, run: Manifest, dataset: Manifest, packages: list[Package], written: Iterable[tuple[str, str]]
) -> str:
    """The model card, in the hub's form."""
    details, declared = run.details, run.made_from["declared"]
    shape = ", ".join(f"{key} {value}" for key, value in (declared["architecture"] or {}).items())
    table = "\n".join(
        f"| {p.name} | {p.version} | {p.license or 'not stated'} | {p.files:,} | {p.characters:,} |" for p in packages
    )
    shown = "\n\n".join(f"```python\n{prompt}{answer}\n```" for prompt, answer in written)
    return f"""---
license: apache-2.0
language: [en]
pipeline_tag: text-generation
tags: [code, python, soldiom]
---
# builtin/{name}

A Llama of {details["parameters"]:,} parameters with its own byte-level BPE tokenizer of
{declared["vocabulary_size"]:,} pieces, tied embeddings and a context of {details["sequence_length"]}
({shape}). It comes with Soldiom so that every
stage runs without a network, and as a base for small fine-tunings. It was trained from random weights by Soldiom's own
training stage, `recipes/base-tiny.yaml`; `make base-model` makes it anew.

## Training
- {details["tokens"]:,} tokens in {details["steps"]:,} steps of {declared["batch_tokens"]:,}, AdamW, learning rate
  {declared["learning_rate"]}, warm-up and cosine, {details["precision"]}; weights stored in bfloat16.
- Loss on held-out files of the same packages: {details["best_validation_loss"]:.3f} nats per token (step
  {details["best_step"]:,}).
- {details["seconds"] / 60:.0f} minutes on CPU. Run `{run.id}`, dataset `{dataset.id}`.

## Data
Python sources of the standard library and of installed packages that are not about machine learning. Left out: tests,
generated files, exact duplicates, very long lines. {sum(p.files for p in packages):,} files,
{sum(p.characters for p in packages):,} characters, of which the training read {details["tokens"]:,} tokens.

| package | version | licence (SPDX, from its metadata) | files | characters |
|---|---|---|---|---|
{table}

## Limits
It has learnt the form of Python, not its meaning: names, indentation and common calls are plausible, programs are not
correct. It knows no facts, follows no instructions before it is tuned, and repeats itself without its penalty.
It can reproduce short passages of its training data. Do not run what it writes unread.

Greedy, with the repetition penalty of {REPETITION_PENALTY} that its generation_config.json asks for, one try each:

{shown}
"""


def main() -> None:
    """`python -m soldiom_ray.models.package_model RUN [NAME]`."""
    arguments = sys.argv[1:]
    if not 1 <= len(arguments) <= 2:
        raise SystemExit("usage: python -m soldiom_ray.models.package_model RUN [NAME]")
    try:
        print(
            package_run(
                Artifacts(open_storage(load_settings())), arguments[0], arguments[1] if arguments[1:] else "tiny"
            )
        )
    except SoldiomError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
