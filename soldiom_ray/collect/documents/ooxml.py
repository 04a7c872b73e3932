"""Texts of the markup that Word and PowerPoint share (ECMA-376 part 1): paragraphs, tables, text boxes, equations,
charts and diagrams, and the counts of what is left out. Elements are told apart by their local names: `w:p` and `a:p`
are both paragraphs."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from soldiom_ray.collect.documents import zipped
from soldiom_ray.collect.documents.equations import equation_text, local_name

_DELETED = frozenset(("del", "moveFrom"))
_TEXT = frozenset(("t", "delText"))
_PROPERTIES = frozenset(
    (
        *("pPr", "rPr", "tblPr", "tblGrid", "tblPrEx", "trPr", "tcPr", "sdtPr", "sdtEndPr", "sectPr", "endParaRPr"),
        *("bodyPr", "lstStyle", "spPr", "style", "nvSpPr", "nvGrpSpPr", "grpSpPr", "instrText", "delInstrText"),
    )
)
_SIGNS = {"tab": "\t", "ptab": "\t", "cr": "\n", "noBreakHyphen": "-"}
_PAGE_BREAKS = ("page", "column")
_COUNTED = {"pic": "pictures", "imagedata": "pictures", "sym": "symbols", "altChunk": "embedded_files"}
"""Elements without text of their own -> the entry that counts them."""
_OFF = ("0", "false", "off")


class OfficeReader:
    """Reads the parts of one file. `skipped` counts, by reason, the pieces of text (`w:t`, `m:t`, `a:t`, `w:delText`)
    and the things without text (pictures, ...) that were met and left out; `parts_read` has the names of parts."""

    def __init__(self) -> None:
        self.skipped: Counter[str] = Counter()
        self.parts_read: set[str] = set()

    def part_blocks(self, part: Any, ignored: Any = None) -> list[str]:
        """The texts of a whole part, block by block, without the element `ignored`."""
        self.parts_read.add(str(part.partname))
        return self.blocks(part_root(part), part, ignored)

    def blocks(self, element: Any, part: Any, ignored: Any = None) -> list[str]:
        """The texts of what is below an element: one per paragraph, table, or shape."""
        texts: list[str] = []
        joined = ""  # a paragraph whose mark was deleted continues in the next
        for child in self._visible(element):
            name = local_name(child)
            if child is ignored:
                continue
            if name == "p":
                text, boxes = self._paragraph(child, part)
                if has_deleted_mark(child):
                    joined += text
                else:
                    texts += [marked] if (marked := self.marked(child, (joined + text).strip())) else []
                    joined = ""
                texts += boxes
            elif name == "tbl":
                texts += [table] if (table := "\n".join(self._rows(child, part))) else []
            elif name == "txBody":
                texts += [shape] if (shape := "\n".join(self.blocks(child, part))) else []
            elif name in ("r", "t", "oMath"):
                pieces: list[str] = []
                self._inline([child], part, pieces, texts)
                texts += [text] if (text := "".join(pieces).strip()) else []
            else:
                texts += self._drawn(child, name, part)
                texts += self.blocks(child, part, ignored)
        return texts + ([joined.strip()] if joined.strip() else [])

    def marked(self, paragraph: Any, text: str) -> str:
        """A paragraph's text with the marks of headings and lists."""
        return text

    def leave_out(self, element: Any, reason: str) -> None:
        """Count the pieces of text below an element, itself included, under a reason."""
        count = sum(local_name(node) in _TEXT and bool((node.text or "").strip()) for node in element.iter())
        if count:
            self.skipped[reason] += count

    def _visible(self, element: Any) -> Iterator[Any]:
        """The children that a reader of the accepted document sees, and of alternatives the first that has text."""
        for child in element:
            name = local_name(child)
            if name in _DELETED:
                self.leave_out(child, "deletions")
            elif name == "AlternateContent":
                yield from self._visible(self._alternative(child))
            elif name and name not in _PROPERTIES:
                yield child

    def _alternative(self, element: Any) -> Any:
        alternatives = [child for child in element if local_name(child) in ("Choice", "Fallback")]
        if not alternatives:
            return element[:0]
        chosen = next((child for child in alternatives if _has_text(child)), alternatives[0])
        for child in alternatives:
            if child is not chosen:
                self.leave_out(child, "alternatives")
        return chosen

    def _paragraph(self, paragraph: Any, part: Any) -> tuple[str, list[str]]:
        """A paragraph's text, and the texts of the boxes and drawings that are anchored in it."""
        pieces: list[str] = []
        boxes: list[str] = []
        self._inline(paragraph, part, pieces, boxes)
        return "".join(pieces), boxes

    def _inline(self, element: Any, part: Any, pieces: list[str], boxes: list[str]) -> None:
        for child in self._visible(element):
            name = local_name(child)
            if name == "t":
                pieces.append((child.text or "") if not len(child) else "".join(child.xpath("text()")))
            elif name == "r" and _is_hidden(child):
                self.leave_out(child, "hidden")
            elif name in _SIGNS:
                pieces.append(_SIGNS[name])
            elif name == "br":
                pieces.append("" if any(value in _PAGE_BREAKS for value in child.values()) else "\n")
            elif name in ("oMath", "oMathPara"):
                pieces.append(self._equation(child))
            elif name == "ruby":
                self._ruby(child, part, pieces, boxes)
            elif name in ("p", "tbl", "txBody", "txbxContent"):
                boxes.extend(self.blocks([child] if name != "txbxContent" else child, part))
            else:
                boxes.extend(self._drawn(child, name, part))
                self._inline(child, part, pieces, boxes)

    def _equation(self, element: Any) -> str:
        for deleted in [node for node in element.iter() if local_name(node) in _DELETED]:
            self.leave_out(deleted, "deletions")
            for child in list(deleted):
                deleted.remove(child)
        return equation_text(element)

    def _ruby(self, element: Any, part: Any, pieces: list[str], boxes: list[str]) -> None:
        """A base text with its reading in brackets."""
        for name, brackets in (("rubyBase", ("", "")), ("rt", ("(", ")"))):
            for child in element:
                if local_name(child) == name:
                    pieces.append(brackets[0])
                    self._inline(child, part, pieces, boxes)
                    pieces.append(brackets[1])

    def _rows(self, table: Any, part: Any) -> Iterator[str]:
        """A line per row. A cell merged with the one above repeats its text."""
        above: dict[int, str] = {}
        for row in self._descendants(table, "tr"):
            if _has_property(row, "trPr", "del"):
                self.leave_out(row, "deletions")
                continue
            column = _number(row, "trPr", "gridBefore", 0)
            cells = []
            for cell in self._descendants(row, "tc"):
                if _has_property(cell, "tcPr", "cellDel"):
                    self.leave_out(cell, "deletions")
                    continue
                text = self._cell(cell, part)
                if not text and _property_value(cell, "tcPr", "vMerge") in ("", "continue"):
                    text = above.get(column, "")
                cells.append(text)
                above[column] = text
                column += max(_number(cell, "tcPr", "gridSpan", 1), 1)
            if any(cells):
                yield " | ".join(cells)

    def _cell(self, cell: Any, part: Any) -> str:
        texts = []
        for child in self._visible(cell):
            if local_name(child) == "tbl":
                rows = "; ".join(self._rows(child, part))
                texts += [f"({rows})"] if rows else []
            else:
                texts += self.blocks([child], part)
        return " ".join(" ".join(texts).split())

    def _descendants(self, element: Any, name: str) -> Iterator[Any]:
        """The nearest rows or cells below an element, through content controls and the like."""
        for child in self._visible(element):
            if local_name(child) == name:
                yield child
            else:
                yield from self._descendants(child, name)

    def _drawn(self, element: Any, name: str, part: Any) -> list[str]:
        """What an element shows that is not below it: the texts of a chart or diagram, the words of WordArt."""
        if name in _COUNTED:
            self.skipped[_COUNTED[name]] += 1
        elif name == "textpath":
            return [text] if (text := (element.get("string") or "").strip()) else []
        elif name == "hyperlink" and any(key.endswith("}id") for key, _ in element.items()):
            self.skipped["link_addresses"] += 1
        elif name in ("chart", "relIds"):
            wanted = "}id" if name == "chart" else "}dm"
            relation = next((value for key, value in element.items() if key.endswith(wanted)), "")
            if relation in part.rels and not part.rels[relation].is_external:
                target = part.rels[relation].target_part
                self.parts_read.add(str(target.partname))
                root = part_root(target)
                text = self._chart(root, target) if name == "chart" else "\n".join(self.blocks(root, target))
                return [text] if text else []
        return []

    def _chart(self, chart: Any, part: Any) -> str:
        """A chart's titles and labels, then a line per series: its name, and what was drawn last."""
        titles = self.blocks(chart, part)
        lines = []
        for series in chart.iter():
            if local_name(series) == "ser":
                values = {local_name(child): _cached(child) for child in series}
                name = " ".join(values.get("tx", []))
                categories = values.get("cat") or values.get("xVal") or []
                numbers = values.get("val") or values.get("yVal") or []
                labels = categories if len(categories) == len(numbers) else [""] * len(numbers)
                pairs = [
                    f"{label}: {number}" if label else number for label, number in zip(labels, numbers, strict=True)
                ]
                extra = categories if labels is not categories else []
                lines.append(" | ".join(filter(None, [name, *extra, *pairs])))
        return "\n".join(filter(None, [*titles, *lines]))


def part_root(part: Any) -> Any:
    """The XML tree of a part, as the package's reader holds it or read now. Raises SkippedError: damaged."""
    element = getattr(part, "_element", None)
    return element if element is not None else zipped.parse_xml(part.blob)


def count_unread(reader: OfficeReader, parts: Any, reasons: dict[str, str]) -> None:
    """Count the texts of parts that were not read, under the reason whose key is in the part's name, else as
    `other_parts`; and files in the file."""
    for part in parts:
        name = str(part.partname)
        if "/embeddings/" in name:
            reader.skipped["embedded_files"] += 1
        elif name not in reader.parts_read and str(part.content_type).endswith("xml") and "/customXml/" not in name:
            reason = next((reason for key, reason in reasons.items() if key in name), "other_parts")
            reader.leave_out(part_root(part), reason)


def has_deleted_mark(paragraph: Any) -> bool:
    """Whether the end of a paragraph was deleted, so that it continues in the next one."""
    properties = next((child for child in paragraph if local_name(child) == "pPr"), None)
    return properties is not None and _has_property(properties, "rPr", "del")


def _has_text(element: Any) -> bool:
    return any(local_name(node) == "t" and (node.text or "").strip() for node in element.iter())


def _is_hidden(run: Any) -> bool:
    return _property_value(run, "rPr", "vanish") not in (None, *_OFF)


def _has_property(element: Any, properties: str, name: str) -> bool:
    return _property_value(element, properties, name) is not None


def _number(element: Any, properties: str, name: str, default: int) -> int:
    value = _property_value(element, properties, name)
    return min(int(value), 1000) if value and value.isdigit() else default


def _property_value(element: Any, properties: str, name: str) -> str | None:
    """The `val` of a property, "" where it has none; None where the element lacks the property."""
    for child in element:
        if local_name(child) == properties:
            for setting in child:
                if local_name(setting) == name:
                    return next((value for key, value in setting.items() if key.endswith("}val")), "")
    return None


def _cached(element: Any) -> list[str]:
    """The values that a series of a chart holds (`c:pt/c:v`, or `c:v`)."""
    return [node.text.strip() for node in element.iter() if local_name(node) == "v" and (node.text or "").strip()]
