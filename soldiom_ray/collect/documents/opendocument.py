"""OpenDocument text and presentations: headings, paragraphs, lists and tables in the order of the body."""

import re
from typing import Any

from soldiom_ray.collect.documents import zipped
from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions
from soldiom_ray.collect.text import SkippedError

_NAMESPACE = re.compile(r"\{urn:oasis:names:tc:opendocument:xmlns:(\w+):1\.0\}(.*)")
_INVISIBLE = {"text:tracked-changes", "office:annotation", "text:bibliography-configuration", "presentation:notes"}
MAX_REPEATED_BLANKS = 80
MAX_DEPTH = 200


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """The text of the body; title and author as metadata."""
    zipped.check_office_file(data)
    with zipped.open_zip(data) as archive:
        names = archive.namelist()
        if "META-INF/manifest.xml" in names and b"encryption-data" in zipped.read_member(
            archive, "META-INF/manifest.xml"
        ):
            raise SkippedError("encrypted", "an OpenDocument file with a password")
        if "content.xml" not in names:
            raise SkippedError("damaged", "an OpenDocument file without its content")
        content = zipped.parse_xml(zipped.read_member(archive, "content.xml"))
        meta = zipped.parse_xml(zipped.read_member(archive, "meta.xml")) if "meta.xml" in names else None
    body = next((element for element in content.iter() if _tag(element) == "office:body"), None)
    blocks: list[str] = []
    if body is not None:
        _blocks(body, blocks, 0)
    return [ParsedText("\n\n".join(blocks), metadata=_metadata(meta))]


def _metadata(meta: Any) -> dict[str, Any]:
    metadata = {}
    for element in meta.iter() if meta is not None else ():
        if isinstance(element.tag, str) and element.tag.startswith("{http://purl.org/dc/elements/1.1/}"):
            name = {"title": "title", "creator": "author"}.get(element.tag.rpartition("}")[2])
            if name and (element.text or "").strip():
                metadata[name] = element.text.strip()
    return metadata


def _blocks(element: Any, blocks: list[str], depth: int) -> None:
    """Append the texts of everything below an element, outermost block by block."""
    if depth > MAX_DEPTH:
        raise SkippedError("damaged", "nested too deeply")
    for child in element:
        tag = _tag(child)
        if tag in _INVISIBLE or not tag:
            continue
        if tag == "text:h":
            level = next((int(v) for k, v in child.items() if k.endswith("outline-level") and v.isdigit()), 1)
            blocks.extend([f"{'#' * min(level, 6)} {text}"] if (text := _text(child)) else [])
        elif tag == "text:p":
            blocks.extend([text] if (text := _text(child)) else [])
        elif tag == "text:list-item":
            inner: list[str] = []
            _blocks(child, inner, depth + 1)
            blocks.extend(text if text.startswith("- ") else f"- {text}" for text in inner)
        elif tag == "table:table":
            blocks.extend([table] if (table := _table(child)) else [])
        else:
            _blocks(child, blocks, depth + 1)


def _table(table: Any) -> str:
    lines = []
    for row in table.iter():
        if _tag(row) == "table:table-row":
            cells = [" ".join(_text(cell).split()) for cell in row if _tag(cell) == "table:table-cell"]
            if any(cells):
                lines.append(" | ".join(cells))
    return "\n".join(lines)


def _text(element: Any) -> str:
    """The text of one paragraph or cell, with notes in brackets where they are referenced."""
    return "".join(_pieces(element, 0)).strip()


def _pieces(element: Any, depth: int) -> list[str]:
    if depth > MAX_DEPTH:
        raise SkippedError("damaged", "nested too deeply")
    pieces = [element.text or ""]
    for child in element:
        tag = _tag(child)
        if tag == "text:s":
            count = next((v for k, v in child.items() if k.endswith("}c") and v.isdigit()), "1")
            pieces.append(" " * min(int(count), MAX_REPEATED_BLANKS))
        elif tag == "text:tab":
            pieces.append("\t")
        elif tag == "text:line-break":
            pieces.append("\n")
        elif tag == "text:note":
            body = [part for part in child if _tag(part) == "text:note-body"]
            pieces.append("".join(f" [{_text(part)}]" for part in body))
        elif tag and tag not in _INVISIBLE:
            pieces.extend(_pieces(child, depth + 1))
            pieces.append("\n" if tag in ("text:p", "text:h") else "")
        pieces.append(child.tail or "")
    return pieces


def _tag(element: Any) -> str:
    """A tag as "text:p"; "" for comments and elements of other namespaces."""
    match = _NAMESPACE.fullmatch(element.tag) if isinstance(element.tag, str) else None
    return f"{match[1]}:{match[2]}" if match else ""
