"""The labels that a sample carries."""

import json


def labels_of(metadata: str) -> list[str]:
    """The labels of one sample, from its metadata (JSON): none, one, or several."""
    label = json.loads(metadata or "{}").get("label")
    if label is None or label == "":
        return []
    return [str(one) for one in label] if isinstance(label, list) else [str(label)]
