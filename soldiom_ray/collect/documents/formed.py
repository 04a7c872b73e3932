"""A record that was brought from a form of its own to columns that all records are read by."""

from collections.abc import Mapping
from typing import Any

Record = Mapping[str, Any]


class FormedRecord(dict[str, Any]):
    """`form` names what it was, `notes` count what was left out of it, `refused` is the reason and detail why it must
    not be taught."""

    def __init__(self, values: Record, form: str) -> None:
        super().__init__(values)
        self.form = form
        self.notes: list[str] = []
        self.refused: tuple[str, str] | None = None

    def without(self, *names: str) -> "FormedRecord":
        """This record without columns that went into others."""
        for name in names:
            self.pop(name, None)
        return self
