"""What a plan found out about a model, kept in the home, so that planning it again needs no traced step.

An entry belongs to one configuration, one way to train it, and this version of the code and of its libraries."""

import contextlib
import hashlib
import json
import tempfile
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from soldiom_ray.models.planning.shape import Shape

ENTRIES = 1000
"""Of about 200 bytes each; the oldest are dropped."""
LIBRARIES = ("torch", "transformers", "peft")
NO_MEMORY = {
    "base_model", "epochs", "max_tokens", "batch_tokens", "learning_rate", "warmup_ratio", "weight_decay",
    "gradient_clip", "validations", "validation_tokens", "patience", "checkpoint_seconds", "workers", "min_workers",
    "strategy", "offload", "activation_checkpointing", "precision", "seed",
}  # fmt: skip
"""Settings of a training on which neither its sizes nor the memory of one forward and backward pass depends."""


class PlanCache:
    """Entries by what they were found out from; only in this process where `home` is None."""

    def __init__(self, home: Path | None = None) -> None:
        self.path = home / "run" / "plans.json" if home else None
        self._entries: dict[str, Any] | None = None

    @property
    def entries(self) -> dict[str, Any]:
        """Read once; empty where the file is missing or damaged."""
        if self._entries is None:
            self._entries = {}
            if self.path is not None:
                with contextlib.suppress(OSError, ValueError):
                    self._entries = dict(json.loads(self.path.read_text()))
        return self._entries

    def put(self, key: str, value: Any) -> None:
        """Keep an entry. Of two processes that write at once one may lose its own, which costs a trace."""
        self.entries[key] = value
        while len(self.entries) > ENTRIES:
            del self.entries[next(iter(self.entries))]
        if self.path is None:
            return
        with contextlib.suppress(OSError):  # a home that cannot be written is slower, not an error
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self.path.parent, prefix=".plans-", delete=False) as file:
                json.dump(self.entries, file)
            Path(file.name).rename(self.path)


def entry_key(shape: "Shape", *what: object) -> str:
    """The key of something that was found out about a model in training."""
    config = shape.config.to_dict()
    config.pop("_name_or_path", None)
    declared = shape.declared.model_dump(mode="json", exclude=NO_MEMORY)
    parts = [code_version(), config, declared, shape.bfloat16, shape.device, *what]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


@cache
def code_version() -> str:
    """Of the modules that build a model and its step, and of their libraries."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return " ".join([digest.hexdigest()[:16], *(version(name) for name in LIBRARIES)])
