"""The models that come with Soldiom: in its own package, or in a wheel that it installs. Names only; `models` reads
them."""

from pathlib import Path

BUILTIN_FOLDER = Path(__file__).parents[1] / "models" / "builtin"
MINILM = "all-MiniLM-L6-v2"
SMOLLM2 = "smollm2-135m-instruct"


TEXT_MODELS = ("builtin/tiny",)
"""Trained on plain text, though they bring a chat template for those who tune them."""


def builtin_names() -> list[str]:
    """Every one of them as recipes name it, `builtin/<name>`."""
    names = [MINILM, SMOLLM2, *(path.parent.name for path in BUILTIN_FOLDER.glob("*/config.json"))]
    return sorted(f"builtin/{name}" for name in names)
