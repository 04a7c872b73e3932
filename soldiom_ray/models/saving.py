"""Writing a model as transformers does, without what its library imports on the way."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_replacing = threading.RLock()


def save_model(model: Any, folder: Path) -> None:
    """`model.save_pretrained(folder)` of a model that no wrapper surrounds.

    transformers would ask accelerate to unwrap the model, which imports DeepSpeed and with it MLflow and pandas where
    they are installed: 3.2 CPU seconds and 150 MB for nothing."""
    import transformers.modeling_utils

    with replaced(transformers.modeling_utils, "unwrap_model", lambda module, **_: module):
        model.save_pretrained(folder)


@contextmanager
def replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """A module's attribute is another one while this is open, in one thread at a time."""
    with _replacing:
        before = getattr(module, name)
        setattr(module, name, value)
        try:
            yield
        finally:
            setattr(module, name, before)
