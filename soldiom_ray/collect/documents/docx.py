"""DOCX text: paragraphs and tables in the order of the body, headings and lists marked as in Markdown; then notes and
comments."""

import io
import re
import zipfile
from typing import Any

from soldiom_ray.collect.documents import zipped
from soldiom_ray.collect.documents.cell_values import whole_number
from soldiom_ray.collect.documents.equations import local_name
from soldiom_ray.collect.documents.numbering import LEVELS, Numbering
from soldiom_ray.collect.documents.ooxml import OfficeReader, part_root
from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions, skipped_entry
from soldiom_ray.collect.text import SkippedError

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_NOTE_PARTS = (("footnote", "footnotes"), ("endnote", "endnotes"), ("comment", "comments"))
"""(XML element, package part) of the notes that are stored outside the body."""
_MAX_BASES = 20
_UNREAD_PARTS = {"/glossary/": "building_blocks", "/diagrams/": "alternatives"}


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """The body's text as if all tracked changes were accepted, then footnotes, endnotes and comments; headers and
    footers of pages go into the metadata, because they repeat on every page. `skipped` counts what was left out."""
    import docx
    from docx.opc.exceptions import OpcError
    from lxml.etree import LxmlError  # type: ignore[import-untyped, unused-ignore]

    zipped.check_office_file(data)
    try:
        document = docx.Document(io.BytesIO(data))
        reader = _WordReader(document.part)
        parts = reader.part_blocks(document.part) + _notes(document.part, reader)
        metadata = _metadata(document, reader)
        reader.count_unread(document.part.package.iter_parts(), _UNREAD_PARTS)
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
    return [ParsedText("\n\n".join(parts), metadata=metadata | skipped_entry(reader.skipped))]


class _WordReader(OfficeReader):
    """Marks headings by the names of their styles, and lists by their numbers."""

    described = "docPr"

    def __init__(self, part: Any) -> None:
        super().__init__()
        styles, lists = _root_of(part, "styles"), _root_of(part, "numbering")
        self._styles = {style.get(f"{_W}styleId", ""): style for style in styles if local_name(style) == "style"}
        self._numbering = Numbering(lists)
        self._style_facts: dict[str, tuple[str, tuple[str, int]]] = {}

    def marked(self, paragraph: Any, text: str) -> str:
        properties = paragraph.find(f"{_W}pPr")
        if properties is None:
            return text
        style = properties.find(f"{_W}pStyle")
        name, (number, level) = self._facts(style.get(f"{_W}val", "") if style is not None else "")
        own_number, own_level = _list_of(properties)
        number, level = own_number or number, level if own_level is None else own_level
        if not text:
            return ""
        mark = self._numbering.mark(number, min(level, LEVELS - 1)) if number not in ("", "0") else ""
        heading = re.fullmatch(r"heading (\d)", name)
        if heading or name == "title":
            mark = "" if mark == "-" else f" {mark}" if mark else ""
            return f"{'#' * int(heading[1]) if heading else '#'}{mark} {text}"
        mark = mark or ("-" if name.startswith("list") else "")
        return f"{mark} {text}" if mark else text

    def _facts(self, style_id: str) -> tuple[str, tuple[str, int]]:
        """A style's name in lower case, and the list and level that it or a style below it sets."""
        if style_id not in self._style_facts:
            style = self._styles.get(style_id)
            name_element = style.find(f"{_W}name") if style is not None else None
            name = name_element.get(f"{_W}val", "").lower() if name_element is not None else ""
            number, level = "", None
            for _ in range(_MAX_BASES):
                if style is None:
                    break
                if (properties := style.find(f"{_W}pPr")) is not None:
                    set_number, set_level = _list_of(properties)
                    number, level = number or set_number, set_level if level is None else level
                base = style.find(f"{_W}basedOn")
                style = self._styles.get(base.get(f"{_W}val", "")) if base is not None else None
            self._style_facts[style_id] = (name, (number, level or 0))
        return self._style_facts[style_id]


def _list_of(properties: Any) -> tuple[str, int | None]:
    """The list and the level that a paragraph's properties set, ("", None) where they set none."""
    lists = properties.find(f"{_W}numPr")
    if lists is None:
        return "", None
    number, level = lists.find(f"{_W}numId"), lists.find(f"{_W}ilvl")
    level_text = level.get(f"{_W}val", "") if level is not None else ""
    return number.get(f"{_W}val", "") if number is not None else "", whole_number(level_text)


def _metadata(document: Any, reader: OfficeReader) -> dict[str, Any]:
    """Title, author, and the texts of the pages' headers and footers."""
    metadata: dict[str, Any] = {}
    for name in ("title", "author"):
        if value := str(getattr(document.core_properties, name, "") or "").strip():
            metadata[name] = value
    for position in ("header", "footer"):
        texts = ["\n".join(reader.part_blocks(part)) for part in _all_related(document.part, position)]
        if texts := list(dict.fromkeys(text for text in texts if text)):
            metadata[f"{position}s"] = texts
    return metadata


def _notes(document_part: Any, reader: OfficeReader) -> list[str]:
    texts = []
    for element, part_name in _NOTE_PARTS:
        for part in _all_related(document_part, part_name):
            for note in reader.open_part(part).iter(f"{_W}{element}"):
                text = " ".join(" ".join(reader.blocks(note, part)).split())
                if text:
                    texts.append(f"[{element} {note.get(f'{_W}id')}] {text}")
    return texts


def _all_related(part: Any, kind: str) -> list[Any]:
    return [r.target_part for r in part.rels.values() if not r.is_external and r.reltype.endswith(f"/{kind}")]


def _root_of(part: Any, kind: str) -> Any:
    """The tree of the first related part of a kind; an empty list where there is none."""
    return next((part_root(related) for related in _all_related(part, kind)), [])
