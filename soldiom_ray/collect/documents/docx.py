"""DOCX text: paragraphs and tables in the order of the body, headings and lists marked as in Markdown; then notes and
comments."""

import io
import re
import zipfile
from typing import Any

from soldiom_ray.collect.documents import zipped
from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions
from soldiom_ray.collect.text import SkippedError

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_NOTE_PARTS = (("footnote", "footnotes"), ("endnote", "endnotes"), ("comment", "comments"))
"""(XML element, package part) of the notes that are stored outside the body."""


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """The body's text, then footnotes, endnotes and comments; headers and footers of pages go into the metadata,
    because they repeat on every page."""
    import docx
    from docx.opc.exceptions import OpcError
    from lxml.etree import LxmlError  # type: ignore[import-untyped, unused-ignore]

    zipped.check_office_file(data)
    try:
        document = docx.Document(io.BytesIO(data))
        parts = [part for block in document.iter_inner_content() if (part := _block(block))]
        metadata = _metadata(document)
        notes = _notes(document)
    except (
        OpcError,
        LxmlError,
        zipfile.BadZipFile,
        KeyError,
        ValueError,
        AttributeError,
        TypeError,
        IndexError,
        OSError,
        RuntimeError,
    ) as error:
        raise SkippedError("damaged", f"a DOCX file that does not open ({type(error).__name__})") from error
    return [ParsedText("\n\n".join(parts + notes), metadata=metadata)]


def _metadata(document: Any) -> dict[str, Any]:
    """Title, author, and the texts of the pages' headers and footers."""
    metadata: dict[str, Any] = {}
    for name in ("title", "author"):
        if value := str(getattr(document.core_properties, name, "") or "").strip():
            metadata[name] = value
    for position in ("header", "footer"):
        texts = [
            text
            for section in document.sections
            if (text := "\n".join(p.text for p in getattr(section, position).paragraphs).strip())
        ]
        if texts:
            metadata[f"{position}s"] = list(dict.fromkeys(texts))
    return metadata


def _notes(document: Any) -> list[str]:
    texts = []
    for element, part_name in _NOTE_PARTS:
        for relation in document.part.rels.values():
            if relation.is_external or not relation.reltype.endswith(f"/{part_name}"):
                continue
            for note in zipped.parse_xml(relation.target_part.blob).iter(f"{_W}{element}"):
                text = " ".join("".join(node.text or "" for node in note.iter(f"{_W}t")).split())
                if text:
                    texts.append(f"[{element} {note.get(f'{_W}id')}] {text}")
    return texts


def _block(block: Any) -> str:
    if hasattr(block, "rows"):
        return _table(block)
    text = str(block.text).strip()
    if not text:
        return ""
    style = str(getattr(block.style, "name", "") or "")
    heading = re.fullmatch(r"Heading (\d)", style)
    if heading or style == "Title":
        return f"{'#' * int(heading[1]) if heading else '#'} {text}"
    return f"- {text}" if style.startswith("List") else text


def _table(table: Any) -> str:
    lines = []
    for row in table.rows:
        cells, before = [], None
        for cell in row.cells:
            if cell._tc is not before:  # a merged cell comes once per column it spans
                cells.append(" ".join(str(cell.text).split()))
            before = cell._tc
        if any(cells):
            lines.append(" | ".join(cells))
    return "\n".join(lines)
