"""OpenDocument text and presentations: headings, paragraphs, lists and tables in the order of the body, as a reader
sees them whose changes are accepted."""

import posixpath
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from soldiom_ray.collect.documents import zipped
from soldiom_ray.collect.documents.cell_values import whole_number
from soldiom_ray.collect.documents.odf_numbering import OdfNumbering
from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions, skipped_entry
from soldiom_ray.collect.text import SkippedError

_NAMESPACE = re.compile(r"\{urn:oasis:names:tc:opendocument:xmlns:([\w-]+):1\.0\}(.*)")
_LEFT_OUT = {
    "text:tracked-changes": "deletions",
    "text:bibliography-configuration": "declarations",
    "text:note-citation": "note_numbers",
    "svg-compatible:title": "alternative_texts",
    "svg-compatible:desc": "alternative_texts",
}
_THINGS = {"drawing:image": "pictures", "drawing:object-ole": "embedded_files", "drawing:plugin": "embedded_files"}
_PARAGRAPH = re.compile(rb":(?:p|h)[ >]")
_ROOT = re.compile(rb"<office:document-styles\b[^>]*>")
_LIST_STYLE = re.compile(rb"<text:(list-style|outline-style)\b[^>]*>.*?</text:\1>", re.DOTALL)
_NUMBERED = re.compile(rb'style:num-format="[^"]')
_PAGE_TEXTS = ("header", "header-left", "header-first", "footer", "footer-left", "footer-first")
MAX_REPEATED_BLANKS = 80
MAX_DEPTH = 200
MAX_OBJECTS = 1000


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """The text of the body, then comments; title, author, headers and footers as metadata. `skipped` counts what was
    left out."""
    zipped.check_office_file(data)
    with zipped.open_zip(data) as archive:
        names = archive.namelist()
        if "META-INF/manifest.xml" in names and b"encryption-data" in zipped.read_member(
            archive, "META-INF/manifest.xml"
        ):
            raise SkippedError("encrypted", "an OpenDocument file with a password")
        if "content.xml" not in names:
            raise SkippedError("damaged", "an OpenDocument file without its content")
        styles = zipped.read_member(archive, "styles.xml") if "styles.xml" in names else b""
        reader = _Reader(archive)
        if numbered := _numbered_styles(styles):
            reader.numbering.read(zipped.parse_xml(numbered))
        blocks = reader.part("content.xml")
        blocks += [f"[comment {number}] {text}" for number, text in enumerate(reader.comments, 1)]
        metadata = _metadata(_tree(archive, "meta.xml"))
        if _PARAGRAPH.search(styles.partition(b"master-page")[2]):
            metadata |= reader.page_texts(zipped.parse_xml(styles))
        reader.count_unread(names)
    return [ParsedText("\n\n".join(blocks), metadata=metadata | skipped_entry(reader.skipped))]


def _numbered_styles(styles: bytes) -> bytes:
    """The styles of lists and headings that have numbers, as a document of their own; b"" where there are none. A tree
    of all styles takes as long to make as most texts."""
    root = _ROOT.search(styles)
    numbered = [each[0] for each in _LIST_STYLE.finditer(styles) if _NUMBERED.search(each[0])] if root else []
    return b"".join([root[0], *numbered, b"</office:document-styles>"]) if root and numbered else b""


def _tree(archive: zipfile.ZipFile, name: str) -> Any:
    """The tree of a part; an empty list where there is none."""
    return zipped.parse_xml(zipped.read_member(archive, name)) if name in archive.namelist() else []


def _metadata(meta: Any) -> dict[str, Any]:
    metadata = {}
    for element in meta.iter() if len(meta) else ():
        if isinstance(element.tag, str) and element.tag.startswith("{http://purl.org/dc/elements/1.1/}"):
            name = {"title": "title", "creator": "author"}.get(element.tag.rpartition("}")[2])
            if name and (element.text or "").strip():
                metadata[name] = element.text.strip()
    return metadata


class _Reader:
    """Reads the parts of one file. `skipped` counts, by reason, the pieces of text that were met and left out, and
    things without text."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.skipped: Counter[str] = Counter()
        self.comments: list[str] = []
        self.numbering = OdfNumbering()
        self._archive = archive
        self._read = {"content.xml", "styles.xml", "meta.xml", "settings.xml"}

    def part(self, name: str) -> list[str]:
        """The texts of the body of a part: of the file itself, or of a chart or an equation in it."""
        root = _tree(self._archive, name)
        blocks: list[str] = []
        if "math" in str(root.tag):
            annotation = next((child.text for child in root.iter("{*}annotation") if child.text), "")
            text = " ".join(annotation.split()) or "".join("".join(root.itertext()).split())
            return [text] if text else []
        for child in root:
            if _tag(child) == "office:body":
                self._blocks(child, blocks, 0)
            else:
                if _tag(child) == "office:automatic-styles":
                    self.numbering.read(child)
                self._leave_out(child, "styles")
        return blocks

    def page_texts(self, styles: Any) -> dict[str, Any]:
        """Headers and footers of pages; the texts of the pages on which slides are laid out are counted."""
        texts: dict[str, list[str]] = {"headers": [], "footers": []}
        masters = [page for page in styles.iter() if _tag(page) == "style:master-page"]
        for child in (child for page in masters for child in page):
            kind = _tag(child).removeprefix("style:")
            if kind in _PAGE_TEXTS:
                blocks: list[str] = []
                self._blocks(child, blocks, 0)
                texts["headers" if kind.startswith("header") else "footers"] += ["\n".join(blocks)] if blocks else []
            else:
                self._leave_out(child, "layouts")
        return {position: list(dict.fromkeys(found)) for position, found in texts.items() if found}

    def count_unread(self, names: list[str]) -> None:
        """Count the texts of objects that nothing shows."""
        for name in names:
            if name not in self._read and name.endswith("/content.xml"):
                self._leave_out(_tree(self._archive, name), "other_parts")

    def _leave_out(self, element: Any, reason: str) -> None:
        self.skipped[reason] += sum(bool(text.strip()) for text in element.itertext())

    def _blocks(self, element: Any, blocks: list[str], depth: int) -> None:
        """Append the texts of everything below an element, outermost block by block."""
        if depth > MAX_DEPTH:
            raise SkippedError("damaged", "nested too deeply")
        for child in element:
            self._block(child, blocks, depth)
        for text in (element.text, *(child.tail for child in element)):
            if text and text.strip():
                self.skipped["declarations"] += 1

    def _block(self, element: Any, blocks: list[str], depth: int) -> None:
        tag = _tag(element)
        inner: list[str] = []
        if tag == "text:h":
            written = next((value for name, value in element.items() if name.endswith("outline-level")), None)
            level = 1 if (number := whole_number(written)) is None else number
            mark = self.numbering.heading_mark(element, level)
            text = self._text(element)
            blocks.extend([" ".join(filter(None, ("#" * min(level, 6), mark, text)))] if text else [])
        elif tag == "text:p":
            blocks.extend([text] if (text := self._text(element)) else [])
        elif tag == "text:list":
            self.numbering.open_list(element)
            self._blocks(element, blocks, depth + 1)
            self.numbering.close_list()
        elif tag == "text:list-item":
            self._item(element, blocks, depth)
        elif tag == "table:table":
            blocks.extend([table] if (table := "\n".join(self._rows(element, depth + 1))) else [])
        elif tag == "presentation:notes":
            self._blocks(element, inner, depth + 1)
            blocks.extend([f"Notes: {text}"] if (text := "\n".join(inner)) else [])
        elif not self._set_aside(element, tag, blocks):
            self._blocks(element, blocks, depth + 1)

    def _item(self, element: Any, blocks: list[str], depth: int) -> None:
        """The texts of a list's item, its mark before the first that is no item of a list in it."""
        mark = "" if _starts_with_list(element) else self.numbering.item_mark(element)
        first = len(blocks)
        self._blocks(element, blocks, depth + 1)
        if mark and len(blocks) > first:
            blocks[first] = f"{mark} {blocks[first]}"

    def _set_aside(self, element: Any, tag: str, boxes: list[str]) -> bool:
        """Whether an element is no text of its place: it is counted, a comment, or an object, whose texts go to
        `boxes`."""
        if tag == "office:annotation":
            paragraphs = [self._text(child) for child in element if _tag(child) in ("text:p", "text:list")]
            self.comments += [text] if (text := " ".join(" ".join(paragraphs).split())) else []
            for child in element:
                if _tag(child) not in ("text:p", "text:list"):
                    self._leave_out(child, "authors_of_comments")
        elif tag == "drawing:object":
            boxes.extend(self._object(element))
        elif tag in _THINGS:
            address = next((value for key, value in element.items() if key.endswith("}href")), "")
            self.skipped[_THINGS[tag]] += "ObjectReplacements/" not in address
            self._leave_out(element, "alternative_texts")
        elif tag in _LEFT_OUT or not tag:
            if isinstance(element.tag, str):
                self._leave_out(element, _LEFT_OUT.get(tag, "other_elements"))
        else:
            return False
        return True

    def _object(self, element: Any) -> list[str]:
        """The texts of a chart or an equation, which lie in a part of their own."""
        address = next((value for key, value in element.items() if key.endswith("}href")), "")
        name = posixpath.normpath(posixpath.join(address, "content.xml"))
        if name in self._read or name not in self._archive.namelist() or len(self._read) > MAX_OBJECTS:
            return []
        self._read.add(name)
        return self.part(name)

    def _rows(self, table: Any, depth: int) -> Iterator[str]:
        if depth > MAX_DEPTH:
            raise SkippedError("damaged", "nested too deeply")
        for row in table:
            tag = _tag(row)
            if tag == "table:table-row":
                cells = [self._cell(cell, depth) for cell in row if _tag(cell) == "table:table-cell"]
                for cell in row:
                    if _tag(cell) != "table:table-cell":
                        self._leave_out(cell, "hidden")
                if any(cells):
                    yield " | ".join(cells)
            elif tag.startswith("table:table-"):
                yield from self._rows(row, depth + 1)
            else:
                self._leave_out(row, "declarations")

    def _cell(self, cell: Any, depth: int) -> str:
        texts = []
        for child in cell:
            if _tag(child) == "table:table":
                rows = "; ".join(self._rows(child, depth + 1))
                texts += [f"({rows})"] if rows else []
            elif _tag(child) in ("text:p", "text:h"):
                texts.append(self._text(child))
            else:
                blocks: list[str] = []
                self._block(child, blocks, depth + 1)
                texts += blocks
        return " ".join(" ".join(texts).split())

    def _text(self, element: Any) -> str:
        """The text of one paragraph, with notes in brackets where they are referenced."""
        return "".join(self._pieces(element, 0)).strip()

    def _pieces(self, element: Any, depth: int) -> list[str]:
        if depth > MAX_DEPTH:
            raise SkippedError("damaged", "nested too deeply")
        pieces = [element.text or ""]
        for child in element:
            tag = _tag(child)
            boxes: list[str] = []
            if tag == "text:s":
                count = whole_number(next((value for name, value in child.items() if name.endswith("}c")), None))
                pieces.append(" " * min(1 if count is None else count, MAX_REPEATED_BLANKS))
            elif tag == "text:tab":
                pieces.append("\t")
            elif tag == "text:line-break":
                pieces.append("\n")
            elif tag == "text:note-body":
                pieces.append(f" [{self._text(child)}]")
            elif tag == "text:ruby-text":
                pieces.append(f"({self._text(child)})")
            elif tag == "table:table":
                pieces.append("\n".join(["", *self._rows(child, depth + 1), ""]))
            elif self._set_aside(child, tag, boxes):
                pieces += [f" {' '.join(boxes)} "] if boxes else []
            else:
                pieces.extend(self._pieces(child, depth + 1))
                pieces.append("\n" if tag in ("text:p", "text:h") else "")
            pieces.append(child.tail or "")
        return pieces


def _starts_with_list(item: Any) -> bool:
    """Whether an item holds nothing but the list in it, as deeper levels are written."""
    return len(item) > 0 and _tag(item[0]) == "text:list"


def _tag(element: Any) -> str:
    """A tag as "text:p"; "" for comments and elements of other namespaces."""
    return _short(element.tag) if isinstance(element.tag, str) else ""


@lru_cache(maxsize=4096)
def _short(name: str) -> str:
    match = _NAMESPACE.fullmatch(name)
    return f"{match[1]}:{match[2]}" if match else ""
