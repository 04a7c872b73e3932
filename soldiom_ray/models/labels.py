"""The labels of a sample, and the label that no loss counts."""

import json

IGNORE_INDEX = -100
"""Label of a position that takes no part in the loss (padding, a prompt); the value that torch's losses ignore."""


def labels_of(metadata: str) -> list[str]:
    """The labels of one sample, from its metadata (JSON): none, one, or several."""
    label = json.loads(metadata or "{}").get("label")
    if label is None or label == "":
        return []
    return [str(name) for name in label] if isinstance(label, list) else [str(label)]
