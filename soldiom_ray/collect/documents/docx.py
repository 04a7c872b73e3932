"""DOCX text: paragraphs and tables in the order of the body, headings and lists marked as in Markdown."""

import io
import re
import zipfile
from typing import Any

from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions
from soldiom_ray.collect.text import LeftOut


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """The body's text; headers and footers of pages are left out."""
    import docx
    from docx.opc.exceptions import OpcError
    from lxml.etree import LxmlError  # type: ignore[import-untyped, unused-ignore]

    try:
        document = docx.Document(io.BytesIO(data))
        parts = [part for block in document.iter_inner_content() if (part := _block(block))]
    except (
        OpcError,
        LxmlError,
        zipfile.BadZipFile,
        KeyError,
        ValueError,
        AttributeError,
        OSError,
        RuntimeError,
    ) as error:
        raise LeftOut("damaged", f"a DOCX file that does not open ({type(error).__name__})") from error
    title = str(document.core_properties.title or "")
    return [ParsedText("\n\n".join(parts), metadata={"title": title} if title else {})]


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
