"""The architectures that the installed transformers has classes for, without importing it."""

import importlib.util
import json
import runpy
from functools import cache
from pathlib import Path


def is_known_architecture(folder: Path) -> bool:
    """Whether transformers itself has the class that a folder's config.json names, so that code beside it is not
    needed."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return isinstance(config, dict) and config.get("model_type") in known_model_types()


@cache
def known_model_types() -> frozenset[str]:
    """The architectures of the installed transformers, from its table, whose module imports nothing."""
    package = importlib.util.find_spec("transformers")
    path = Path(str(package.origin)).parent / "models" / "auto" / "auto_mappings.py" if package else None
    if path is not None and path.is_file():
        return frozenset(runpy.run_path(str(path))["CONFIG_MAPPING_NAMES"])
    from transformers import CONFIG_MAPPING

    return frozenset(CONFIG_MAPPING.keys())
