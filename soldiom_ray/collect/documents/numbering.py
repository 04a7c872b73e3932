"""Numbers and bullets of a Word document's lists (ECMA-376 part 1, 17.9), written out as text."""

import re
from collections.abc import Iterator
from typing import Any

from soldiom_ray.collect.documents.cell_values import whole_number
from soldiom_ray.collect.documents.equations import local_name

LEVELS = 9
_ROMAN = ((1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l"), (40, "xl"),
          (10, "x"), (9, "ix"), (5, "v"), (4, "iv"), (1, "i"))  # fmt: skip
_MAX_ROMAN = 3999


class Numbering:
    """The lists of a document. `mark` must be asked for each paragraph in the document's order, since it counts."""

    def __init__(self, root: Any) -> None:
        self._levels: dict[str, dict[int, dict[str, str]]] = {}
        self._lists: dict[str, str] = {}
        self._restarts: dict[str, dict[int, int]] = {}
        self._counts: dict[str, list[int | None]] = {}
        for element in root:
            if local_name(element) == "abstractNum":
                levels = {_number(level, "ilvl"): _settings(level) for level in _children(element, "lvl")}
                self._levels[_own(element, "abstractNumId")] = levels
            elif local_name(element) == "num":
                number = _own(element, "numId")
                self._lists[number] = next((_own(c, "val") for c in _children(element, "abstractNumId")), "")
                self._restarts[number] = {
                    _number(override, "ilvl"): _number(start, "val")
                    for override in _children(element, "lvlOverride")
                    for start in _children(override, "startOverride")
                }

    def mark(self, number: str, level: int) -> str:
        """The mark of the next paragraph of list `number` at a level: "-", "3.", "2.1", "b)", or ""."""
        levels = self._levels.get(self._lists.get(number, ""), {})
        settings = levels.get(level)
        if settings is None:
            return ""
        counts = self._counts.setdefault(self._lists[number], [None] * LEVELS)
        for restarted, start in self._restarts.pop(number, {}).items():
            if restarted < LEVELS:
                counts[restarted] = start - 1
        before = counts[level]
        counts[level] = _start(settings) if before is None else before + 1
        counts[level + 1 :] = [None] * (LEVELS - level - 1)
        form = settings.get("numFmt", "decimal")
        if form == "bullet":
            return "-"
        if form == "none":
            return ""

        def digits(match: re.Match[str]) -> str:
            at = int(match[1]) - 1
            other = levels.get(at, {})
            count = counts[at]
            return formatted(_start(other) if count is None else count, other.get("numFmt", "decimal"))

        return re.sub(r"%([1-9])", digits, settings.get("lvlText", f"%{level + 1}."))[:40].strip()


def _start(settings: dict[str, str]) -> int:
    start = whole_number(settings.get("start"))
    return 1 if start is None else start


def formatted(count: int, form: str) -> str:
    """A number as letters, Roman or plain digits."""
    if form in ("lowerLetter", "upperLetter") and count > 0:
        letters = chr(ord("a") + (count - 1) % 26) * min((count - 1) // 26 + 1, 10)
        return letters.upper() if form == "upperLetter" else letters
    if form in ("lowerRoman", "upperRoman") and 0 < count <= _MAX_ROMAN:
        digits = ""
        for value, sign in _ROMAN:
            digits += sign * (count // value)
            count %= value
        return digits.upper() if form == "upperRoman" else digits
    return f"{count:02d}" if form == "decimalZero" else str(count)


def _settings(level: Any) -> dict[str, str]:
    return {
        local_name(child): _own(child, "val") for child in level if local_name(child) in ("start", "numFmt", "lvlText")
    }


def _children(element: Any, name: str) -> Iterator[Any]:
    return (child for child in element if local_name(child) == name)


def _own(element: Any, name: str) -> str:
    return next((value for key, value in element.items() if key.endswith(f"}}{name}")), "")


def _number(element: Any, name: str) -> int:
    return whole_number(_own(element, name)) or 0
