"""PowerPoint text: slide by slide, titles as headings, then texts, tables and speaker notes."""

import io
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any

from soldiom_ray.collect.documents import zipped
from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions
from soldiom_ray.collect.text import SkippedError


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """The text of all slides in their order."""
    import pptx
    from lxml.etree import LxmlError  # type: ignore[import-untyped, unused-ignore]
    from pptx.exc import PythonPptxError

    zipped.check_office_file(data)
    try:
        show = pptx.Presentation(io.BytesIO(data))
        slides = [_slide(number, slide) for number, slide in enumerate(show.slides, 1)]
        title = str(show.core_properties.title or "").strip()
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
    metadata = {"slides": len(slides)} | ({"title": title} if title else {})
    return [ParsedText("\n\n".join(slide for slide in slides if slide), metadata=metadata)]


def _slide(number: int, slide: Any) -> str:
    title = slide.shapes.title
    heading = " ".join(title.text_frame.text.split()) if title is not None and title.has_text_frame else ""
    parts = list(_texts(shape for shape in slide.shapes if title is None or shape.shape_id != title.shape_id))
    notes = ""
    if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
        notes = slide.notes_slide.notes_text_frame.text.strip()
    if not (heading or parts or notes):
        return ""
    return "\n\n".join([f"## {heading or f'Slide {number}'}", *parts, *([f"Notes: {notes}"] if notes else [])])


def _texts(shapes: Iterable[Any]) -> Iterator[str]:
    for shape in shapes:
        if hasattr(shape, "shapes"):  # a group
            yield from _texts(shape.shapes)
        elif getattr(shape, "has_table", False) and shape.has_table:
            rows = (" | ".join(" ".join(cell.text.split()) for cell in row.cells) for row in shape.table.rows)
            yield "\n".join(row for row in rows if row.strip(" |"))
        elif shape.has_text_frame and (text := shape.text_frame.text.replace("\v", "\n").strip()):
            yield text
