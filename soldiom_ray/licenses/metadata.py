"""The licence that a Python distribution declares or carries."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from soldiom_ray.licenses.names import CLASSIFIERS, combine, from_name, normalize
from soldiom_ray.licenses.texts import from_text


class PackageMetadata(Protocol):
    """What importlib.metadata gives for a distribution."""

    def __getitem__(self, key: str) -> str: ...
    def get_all(self, name: str) -> list[Any] | None: ...


def from_metadata(metadata: PackageMetadata, texts: Sequence[str] = ()) -> str:
    """The SPDX expression of a Python distribution: its License-Expression, else its License field, classifiers and
    licence files (`texts`), or "" when none of them names one."""
    declared = normalize(_field(metadata, "License-Expression"))
    if declared:
        return declared
    field = _field(metadata, "License").strip()
    from_field = from_name(field) if len(field) <= 60 else from_text(field)
    classifiers = [
        str(line).rpartition("::")[2].strip().lower()
        for line in metadata.get_all("Classifier") or ()
        if "License ::" in line
    ]
    from_classifiers = combine(CLASSIFIERS[name] for name in classifiers if name in CLASSIFIERS)
    from_texts = next((license_ for text in texts if (license_ := from_text(text))), "")
    for license_ in (from_field, from_classifiers):
        if license_ and not (license_.startswith("LicenseRef-") and from_texts):
            return license_
    return from_texts


def _field(metadata: PackageMetadata | Mapping[str, str], name: str) -> str:
    try:
        return str(metadata[name] or "")
    except KeyError:
        return ""
