"""Texts of the markup that Word and PowerPoint share (ECMA-376 part 1): paragraphs, tables, text boxes, equations,
charts and diagrams, and the counts of what is left out. Elements are told apart by their local names: `w:p` and `a:p`
are both paragraphs."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from soldiom_ray.collect.documents import zipped
from soldiom_ray.collect.documents.cell_values import whole_number
from soldiom_ray.collect.documents.equations import equation_text, local_name
from soldiom_ray.collect.documents.nested import Members
from soldiom_ray.collect.documents.parsed import ParseOptions
from soldiom_ray.collect.documents.symbol_fonts import symbol

_DELETED = frozenset(("del", "moveFrom"))
_WEB_TEXTS = ("{*}font", "{*}div", "{*}span")
"""Elements of HTML that hold the text of a box, as Excel and old versions of Word write it."""
_TEXTS = ("{*}t", "{*}delText", "{*}instrText", "{*}delInstrText", *_WEB_TEXTS)
"""Elements that hold the pieces of text of Word and PowerPoint."""
_CACHED = ("{*}v", "{*}pt")
"""Elements that hold the values that a chart was drawn from."""
_SHOWN = ("{*}chart", "{*}relIds", "{*}textpath")
"""Elements that show texts which are not below them."""
_PROPERTIES = frozenset(
    (
        *("pPr", "rPr", "tblPr", "tblGrid", "tblPrEx", "trPr", "tcPr", "sdtPr", "sdtEndPr", "sectPr", "endParaRPr"),
        *("bodyPr", "lstStyle", "spPr", "style"),
    )
)
_SIGNS = {"tab": "\t", "ptab": "\t", "cr": "\n", "noBreakHyphen": "-"}
_PAGE_BREAKS = ("page", "column")
_COUNTED = {"pic": "pictures", "imagedata": "pictures"}
"""Elements without text of their own -> the entry that counts them."""
_UNSHOWN = {"instrText": "field_codes", "delText": "deletions", "delInstrText": "deletions"}
"""Elements with text that a reader does not see -> the entry that counts them."""
_RELATIONS = {"chart": "}id", "relIds": "}dm", "altChunk": "}id"}
"""Elements that show another part -> the end of the attribute that names it."""
_SERIES = {
    "tx": "name",
    "cat": "labels",
    "xVal": "labels",
    "val": "numbers",
    "yVal": "numbers",
    "bubbleSize": "others",
    "extLst": "others",
}
"""Children of a chart's series -> what they hold."""
_OFF = ("0", "false", "off")


class OfficeReader:
    """Reads the parts of one file. `skipped` counts, by reason, the pieces of text (`w:t`, `m:t`, `a:t`, field codes,
    a chart's values) and the things without text (pictures, ...) that were met and left out; `parts_read` has the names
    of parts."""

    described = "cNvPr"
    """The element that holds the description of a picture or shape."""

    def __init__(self) -> None:
        self.skipped: Counter[str] = Counter()
        self.parts_read: set[str] = set()
        self._pieces = 0
        """Of the parts that were opened, less those that were read or counted."""

    def open_part(self, part: Any) -> Any:
        """The tree of a part, its pieces of text noted as ones to be read or counted."""
        root = part_root(part)
        if str(part.partname) not in self.parts_read:
            self.parts_read.add(str(part.partname))
            self._pieces += _filled(root, *_TEXTS, *(_CACHED if "/chart" in str(part.partname) else ()))
        return root

    def part_blocks(self, part: Any, ignored: Any = None) -> list[str]:
        """The texts of a whole part, block by block, without the element `ignored`."""
        return self.blocks(self.open_part(part), part, ignored)

    def count_unread(self, parts: Any, reasons: dict[str, str]) -> None:
        """Count the texts of parts that were not read, under the reason whose key is in the part's name, else as
        `other_parts`; files in the file; and what stands where nothing is looked for, as `other_texts`."""
        if self._pieces > 0:
            self.skipped["other_texts"] += self._pieces
        for part in parts:
            name = str(part.partname)
            if "/embeddings/" in name:
                self.skipped["embedded_files"] += 1
            elif name not in self.parts_read and str(part.content_type).endswith("xml") and "/customXml/" not in name:
                reason = next((reason for key, reason in reasons.items() if key in name), "other_parts")
                self.leave_out(part_root(part), reason)

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
        if count := _filled(element, *_TEXTS):
            self.skipped[reason] += count
            self._pieces -= count

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
                self._pieces -= bool(pieces[-1].strip())
            elif name == "r" and self.is_hidden(child):
                self.leave_out(child, "hidden")
            elif name in _UNSHOWN:
                self.leave_out(child, _UNSHOWN[name])
            elif name == "sym":
                pieces.append(sign := symbol(child))
                self.skipped["symbols"] += not sign
            elif name == "ffData":
                pieces.append(_form_field(child))
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

    def is_hidden(self, run: Any) -> bool:
        """Whether a run is formatted as hidden text."""
        return _property_value(run, "rPr", "vanish") not in (None, *_OFF)

    def _equation(self, element: Any) -> str:
        for node in list(element.iter("{*}del", "{*}moveFrom", "{*}AlternateContent")):
            is_choice = local_name(node) == "AlternateContent"
            if element not in node.iterancestors():
                continue  # removed with what it stood in
            chosen = self._alternative(node) if is_choice else None
            for child in list(node):
                if not is_choice:
                    self.leave_out(child, "deletions")
                if child is not chosen:
                    node.remove(child)
        self._pieces -= _filled(element, "{*}t", "{*}delText")
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
        elif name == "textbox" and (words := [node for node in element.iter(*_WEB_TEXTS) if _own_text(node).strip()]):
            self._pieces -= len(words)
            return [" ".join(_own_text(node).strip() for node in words)]
        elif name == self.described:
            self.skipped["alternative_texts"] += bool((element.get("descr") or "").strip())
        elif name in _RELATIONS and (target := _related(element, part, _RELATIONS[name])) is not None:
            if name == "altChunk":
                return self._imported(target)
            root = self.open_part(target)
            text = self._chart(root, target) if name == "chart" else "\n".join(self.blocks(root, target))
            return [text] if text else []
        return []

    def _imported(self, part: Any) -> list[str]:
        """The texts of another file that a document shows as its own."""
        members = Members()
        members.add(str(part.partname).rpartition("/")[2], part.blob, ParseOptions(ocr=False))
        self.skipped["embedded_files"] += not members.texts
        return [member.text.strip() for member in members.texts]

    def _chart(self, chart: Any, part: Any) -> str:
        """A chart's titles and labels, then a line per series: its name, and what was drawn last."""
        lines = self.blocks(chart, part)
        titles = [text for title in chart.iter("{*}title") for text in self._cached(title)]
        lines += [title for title in titles if title not in lines]
        for series in chart.iter("{*}ser", "{*}series"):
            lines.append(self._series(series, chart))
        return "\n".join(filter(None, lines))

    def _series(self, series: Any, chart: Any) -> str:
        values: dict[str, list[str]] = {}
        for child in series:
            if local_name(child) in _SERIES:
                values.setdefault(_SERIES[local_name(child)], []).extend(self._cached(child))
        for data in chart.iter("{*}data"):  # a chart of Office 2016 keeps its values apart, under a number
            if any(local_name(child) == "dataId" and child.get("val") == data.get("id") for child in series):
                for dimension in data:
                    kind = "labels" if local_name(dimension) == "strDim" else "numbers"
                    values.setdefault(kind, []).extend(self._cached(dimension))
        categories, numbers = values.get("labels", []), values.get("numbers", [])
        labels = categories if len(categories) == len(numbers) else [""] * len(numbers)
        pairs = [f"{label}: {number}" if label else number for label, number in zip(labels, numbers, strict=True)]
        extra = categories if labels is not categories else []
        return " | ".join(filter(None, [" ".join(values.get("name", [])), *extra, *pairs, *values.get("others", [])]))

    def _cached(self, element: Any) -> list[str]:
        """The values that a series of a chart holds (`c:pt/c:v`, `c:v`, `cx:pt`)."""
        texts = [text for node in element.iter(*_CACHED) if (text := (node.text or "").strip())]
        self._pieces -= len(texts)
        return texts


def part_root(part: Any) -> Any:
    """The XML tree of a part, as the package's reader holds it or read now. Raises SkippedError: damaged."""
    element = getattr(part, "_element", None)
    return element if element is not None else zipped.parse_xml(part.blob)


def has_deleted_mark(paragraph: Any) -> bool:
    """Whether the end of a paragraph was deleted, so that it continues in the next one."""
    properties = next((child for child in paragraph if local_name(child) == "pPr"), None)
    return properties is not None and any(_has_property(properties, "rPr", name) for name in _DELETED)


def _filled(element: Any, *names: str) -> int:
    """How many elements of these names below an element, itself included, are not blank."""
    return sum(1 for node in element.iter(*names) if _own_text(node).strip())


def _own_text(node: Any) -> str:
    return (node.text or "") if not len(node) else "".join(node.xpath("text()"))


def _has_text(element: Any) -> bool:
    """Whether an alternative shows any text, be it that of a chart."""
    return any(local_name(node) != "t" or _own_text(node).strip() for node in element.iter("{*}t", *_SHOWN))


def _related(element: Any, part: Any, ending: str) -> Any:
    """The part that an element refers to by an attribute of this ending; None for none."""
    relation = next((value for key, value in element.items() if key.endswith(ending)), "")
    return part.rels[relation].target_part if relation in part.rels and not part.rels[relation].is_external else None


def _form_field(data: Any) -> str:
    """What a form field shows that no text says: the entry that was chosen of a list, whether a box is checked."""
    for field in data:
        settings = {local_name(child): value_of(child) for child in field}
        if local_name(field) == "ddList":
            entries = [value_of(child) for child in field if local_name(child) == "listEntry"]
            place = whole_number(settings.get("result") or settings.get("default") or "0")
            return entries[place] if place is not None and place < len(entries) else ""
        if local_name(field) == "checkBox":
            checked = settings.get("checked", settings.get("default", "0"))
            return "☐" if checked in _OFF else "☒"
    return ""


def _has_property(element: Any, properties: str, name: str) -> bool:
    return _property_value(element, properties, name) is not None


def _number(element: Any, properties: str, name: str, default: int) -> int:
    value = whole_number(_property_value(element, properties, name))
    return default if value is None else min(value, 1000)


def value_of(setting: Any) -> str:
    """The `val` of a setting, "" where it has none."""
    return next((value for key, value in setting.items() if key.endswith("}val")), "")


def _property_value(element: Any, properties: str, name: str) -> str | None:
    """The `val` of a property, "" where it has none; None where the element lacks the property."""
    for child in element:
        if local_name(child) == properties:
            for setting in child:
                if local_name(setting) == name:
                    return value_of(setting)
    return None
