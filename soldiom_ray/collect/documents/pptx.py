"""PowerPoint text: slide by slide, titles as headings, then texts, tables, charts, diagrams, comments and speaker
notes."""

import io
import zipfile
from typing import Any

from soldiom_ray.collect.documents import zipped
from soldiom_ray.collect.documents.equations import local_name
from soldiom_ray.collect.documents.ooxml import OfficeReader
from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions, skipped_entry
from soldiom_ray.collect.text import SkippedError

_UNREAD_PARTS = {
    "/slideLayouts/": "layouts",
    "/slideMasters/": "layouts",
    "/notesMasters/": "layouts",
    "/handoutMasters/": "layouts",
    "/diagrams/": "alternatives",
}
_FURNITURE = ("SLIDE_IMAGE", "SLIDE_NUMBER", "DATE", "HEADER", "FOOTER")
"""Placeholders of a page of notes that are no notes."""


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """The text of all slides in their order. `skipped` counts what was left out."""
    import pptx
    from lxml.etree import LxmlError  # type: ignore[import-untyped, unused-ignore]
    from pptx.exc import PythonPptxError

    zipped.check_office_file(data)
    reader = OfficeReader()
    try:
        show = pptx.Presentation(io.BytesIO(data))
        slides = [_slide(number, slide, reader) for number, slide in enumerate(show.slides, 1)]
        hidden = sum(slide._element.get("show") in ("0", "false") for slide in show.slides)
        title = str(show.core_properties.title or "").strip()
        reader.count_unread(show.part.package.iter_parts(), _UNREAD_PARTS)
    except (
        PythonPptxError,
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
        raise SkippedError("damaged", f"a PowerPoint file that does not open ({type(error).__name__})") from error
    metadata = {"slides": len(slides)} | ({"hidden_slides": hidden} if hidden else {})
    metadata |= ({"title": title} if title else {}) | skipped_entry(reader.skipped)
    return [ParsedText("\n\n".join(slide for slide in slides if slide), metadata=metadata)]


def _slide(number: int, slide: Any, reader: OfficeReader) -> str:
    reader.open_part(slide.part)
    title = slide.shapes.title
    heading = "" if title is None else " ".join(" ".join(reader.blocks(title._element, slide.part)).split())
    parts = reader.part_blocks(slide.part, None if title is None else title._element)
    parts += [f"Comment: {comment}" for comment in _comments(slide.part, reader)]
    notes = _notes(slide.notes_slide, reader) if slide.has_notes_slide else ""
    if not (heading or parts or notes):
        return ""
    return "\n\n".join([f"## {heading or f'Slide {number}'}", *parts, *([f"Notes: {notes}"] if notes else [])])


def _notes(page: Any, reader: OfficeReader) -> str:
    """The text of a page of notes, without the picture of the slide, date and number."""
    reader.open_part(page.part)
    texts: list[str] = []
    for shape in page.shapes:
        if shape.is_placeholder and getattr(shape.placeholder_format.type, "name", "") in _FURNITURE:
            reader.leave_out(shape._element, "page_furniture")
        else:
            texts += reader.blocks([shape._element], page.part)
    return "\n".join(texts)


def _comments(slide_part: Any, reader: OfficeReader) -> list[str]:
    """The comments on a slide, of PowerPoint 2007 (`p:cm/p:text`) and of 2021 (`p188:cm/p188:txBody`)."""
    texts: list[str] = []
    for relation in slide_part.rels.values():
        if not relation.is_external and relation.reltype.endswith("/comments"):
            part = relation.target_part
            root = reader.open_part(part)
            old = [" ".join(node.text.split()) for node in root.iter() if local_name(node) == "text" and node.text]
            texts += [text for text in old if text] + reader.part_blocks(part)
    return texts
