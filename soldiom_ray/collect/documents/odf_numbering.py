"""Numbers and bullets of lists and headings in OpenDocument texts (OpenDocument 1.3 part 3, 16.30 and 19.880), written
out as text."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from soldiom_ray.collect.documents.cell_values import whole_number
from soldiom_ray.collect.documents.numbering import formatted

BULLET = "-"
LEVELS = 10
_FORMS = {"1": "decimal", "a": "lowerLetter", "A": "upperLetter", "i": "lowerRoman", "I": "upperRoman"}
_LEVEL_STYLES = ("list-level-style-number", "outline-level-style", "list-level-style-bullet", "list-level-style-image")


@dataclass(frozen=True)
class _Level:
    """How a level counts; `form` is "" where it does not."""

    form: str
    prefix: str
    suffix: str
    start: int
    shown: int


@dataclass
class _List:
    """A list that has begun: its style, and how far each level has counted."""

    style: str
    counts: list[int | None] = field(default_factory=lambda: [None] * LEVELS)


class OdfNumbering:
    """The lists and headings of a document, which have to be asked for in its order, since they count."""

    def __init__(self) -> None:
        self._styles: dict[str, dict[int, _Level | None]] = {}
        self._outline: dict[int, _Level | None] = {}
        self._headings = _List("")
        self._open: list[_List] = []
        self._last: dict[str, _List] = {}

    def read(self, styles: Any) -> None:
        """Learn the styles of lists and headings below an element."""
        for element in styles.iter("{*}list-style", "{*}outline-style"):
            levels = {}
            for child in element:
                if isinstance(child.tag, str) and child.tag.rpartition("}")[2] in _LEVEL_STYLES:
                    attributes = _attributes(child)
                    levels[_integer(attributes.get("level"), 1)] = _level(child.tag, attributes)
            if element.tag.endswith("outline-style"):
                self._outline = levels
            else:
                self._styles.setdefault(_attributes(element).get("name", ""), levels)

    def open_list(self, element: Any) -> None:
        """Enter a list, within the list that is open or on its own."""
        attributes = _attributes(element)
        if self._open:
            style = attributes.get("style-name") or self._open[-1].style
            self._open.append(_List(style, self._open[0].counts))
            return
        style = attributes.get("style-name", "")
        continued = f"#{attributes['continue-list']}" if "continue-list" in attributes else style
        is_continued = "continue-list" in attributes or attributes.get("continue-numbering") == "true"
        before = self._last.get(continued) if is_continued else None
        begun = _List(style, before.counts if before else [None] * LEVELS)
        self._last[style] = self._last[f"#{attributes.get('id', '')}"] = begun
        self._open.append(begun)

    def close_list(self) -> None:
        """Leave the list that was entered last."""
        self._open.pop()

    def item_mark(self, element: Any) -> str:
        """The mark of the next item of the open list: "-", "3.", "2.1", "b)"."""
        if not self._open:
            return BULLET
        levels, depth = self._styles.get(self._open[-1].style, {}), len(self._open)
        return _mark(levels, self._open[-1].counts, depth, _attributes(element).get("start-value")) or BULLET

    def heading_mark(self, element: Any, level: int) -> str:
        """The number of the next heading, or ""."""
        if not self._outline or _attributes(element).get("is-list-header") == "true":
            return ""
        return _mark(self._outline, self._headings.counts, level, _attributes(element).get("start-value"))


def _mark(levels: Mapping[int, _Level | None], counts: list[int | None], depth: int, start: str | None) -> str:
    level = levels.get(depth)
    if level is None or not level.form or depth > LEVELS:
        return ""
    before = counts[depth - 1]
    begin = level.start if before is None else before + 1
    counts[depth - 1] = _integer(start, begin)
    counts[depth:] = [None] * (LEVELS - depth)
    parts = []
    for number in range(max(1, depth - level.shown + 1), depth + 1):
        other = levels.get(number)
        if other is not None and other.form:
            count = counts[number - 1]
            parts.append(formatted(other.start if count is None else count, other.form))
    return f"{level.prefix}{'.'.join(parts)}{level.suffix}".strip()


def _level(tag: str, attributes: Mapping[str, str]) -> _Level | None:
    if tag.endswith(("bullet", "image")):
        return None
    return _Level(
        _FORMS.get(attributes.get("num-format", ""), ""),
        attributes.get("num-prefix", ""),
        attributes.get("num-suffix", ""),
        _integer(attributes.get("start-value"), 1),
        _integer(attributes.get("display-levels"), 1),
    )


def _attributes(element: Any) -> dict[str, str]:
    items: Iterable[tuple[str, str]] = element.items()
    return {name.rpartition("}")[2]: value for name, value in items}


def _integer(text: str | None, default: int) -> int:
    number = whole_number(text)
    return default if number is None or number > 999_999 else number
