"""Columns as Hugging Face's `datasets` declares them in the schema of Parquet and Arrow files: names of classes instead
of their numbers, and columns that hold pictures or sound."""

import json
from collections.abc import Mapping
from typing import Any

MEDIA = {"Image": "pictures", "Audio": "sound", "Video": "films"}

Features = dict[str, Any]


def features_of(schema: Any) -> Features:
    """Column -> feature, of an Arrow schema; empty where `datasets` has not written it."""
    written = (schema.metadata or {}).get(b"huggingface", b"")
    try:
        features = json.loads(written)["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return dict(features) if isinstance(features, Mapping) else {}


def media_columns(features: Features) -> dict[str, str]:
    """Column -> "pictures", "sound" or "films" of those that hold them."""
    kinds = {name: MEDIA.get(str(feature.get("_type"))) for name, feature in features.items() if _is_object(feature)}
    return {name: kind for name, kind in kinds.items() if kind}


def named_value(value: Any, feature: Any) -> Any:
    """A value with the numbers of classes in it, at any depth, replaced by their names."""
    if value is None or feature is None:
        return value
    if isinstance(feature, list):
        return [named_value(entry, feature[0]) for entry in value] if isinstance(value, list) and feature else value
    if not _is_object(feature):
        return value
    kind = feature.get("_type")
    if kind == "ClassLabel":
        names = feature.get("names") or []
        return names[value] if isinstance(value, int) and 0 <= value < len(names) else None
    if kind in ("Sequence", "List", "LargeList"):
        inner = feature.get("feature")
        if isinstance(value, list):
            return [named_value(entry, inner) for entry in value]
        # A sequence of objects is stored as an object of lists.
        return {name: named_value(column, [inner.get(name)]) for name, column in value.items()} if inner else value
    if isinstance(kind, str) or not isinstance(value, Mapping):
        return value
    return {name: named_value(entry, feature.get(name)) for name, entry in value.items()}


def _is_object(feature: Any) -> bool:
    return isinstance(feature, Mapping)
