"""PDF text through pdfium; pages without a text layer are read from their picture (`ocr`).

pdfium's functions are called directly: the wrapper's objects, one per page and text page, cost 10 to 60 % of a page.
"""

import ctypes
import re
from dataclasses import dataclass, field
from typing import Any

from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions
from soldiom_ray.collect.text import SkippedError

MAX_PAGES = 10_000
"""Further pages are counted in `skipped_pages`. At 1 to 5 ms a page this many take 10 to 50 s."""
MAX_OCR_PAGES = 50
"""Further pages without a text layer are counted in `ocr_skipped_pages`: a page takes 2 to 5 s of one core."""
MAX_PAGES_WITH_STARTS = 2_000
MAX_BOOKMARKS = 500
OCR_DOTS_PER_INCH = 200
MAX_PICTURE_SIDE = 4_000
"""Pixels, whatever size a page says it has; A4 at 200 dpi is 2,339 high."""
STAMP_CHARACTERS = 80
"""A page whose picture fills it and whose text layer is no longer than this (a Bates number, a scanner's name) is a
scan with a stamp: it is read from its picture."""

_HYPHEN = re.compile("[\ufffe\x02](?:\r?\n)?")
"""pdfium's mark of a hyphen at a line's end: the word goes on in the next line."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ufffe\uffff]")
_LAM_ALEF = re.compile("([اأإآ])ل")
_ERR_PASSWORD, _ERR_SECURITY = 4, 5
_NO_FORM, _XFA_FORMS = 0, (2, 3)
_PASSWORD_FLAG, _PUSH_BUTTON_FLAG = 1 << 13, 1 << 16  # PDF 32000-1, tables 228 and 226


@dataclass
class _Pages:
    """What was found page by page."""

    texts: list[str] = field(default_factory=list)
    bad: int = 0
    pictures: int = 0
    """Pages that show something but hold no text."""
    read: list[int] = field(default_factory=list)
    """Numbers, from 1, of the pages that OCR read."""
    confidences: list[float] = field(default_factory=list)
    skipped: int = 0
    form_fields: int = 0


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """One text: all pages, a blank line between them, filled-in form fields as `name: value` after their page.

    `metadata`: pages; page_starts (the offset in the text at which each page starts; a page without text starts where
    the next does), title, author, subject, keywords, created, bookmarks, form, form_fields, attached_files, bad_pages,
    skipped_pages, ocr_pages (numbers from 1), ocr_confidence, ocr_skipped_pages, each where there is something to tell.
    """
    import pypdfium2  # noqa: F401  (starts the library)
    import pypdfium2.raw as pdfium

    document = pdfium.FPDF_LoadMemDocument64(data, len(data), None)
    if not document:
        raise _refusal(pdfium.FPDF_GetLastError(), len(data))
    form = _form(document) if pdfium.FPDF_GetFormType(document) != _NO_FORM else None
    try:
        count = pdfium.FPDF_GetPageCount(document)
        pages = _read_pages(document, form, min(count, MAX_PAGES), options.ocr)
        text, starts = _joined(pages.texts)
        if not text:
            raise _without_text(pages, options.ocr)
        metadata = _metadata(document, count, pages)
    finally:
        if form:
            pdfium.FPDFDOC_ExitFormFillEnvironment(form[0])
        pdfium.FPDF_CloseDocument(document)
    if 1 < len(starts) <= MAX_PAGES_WITH_STARTS:
        metadata["page_starts"] = starts
    return [ParsedText(text, metadata=metadata)]


def _refusal(code: int, size: int) -> SkippedError:
    if code in (_ERR_PASSWORD, _ERR_SECURITY):
        return SkippedError("encrypted", "a PDF with a password")
    return SkippedError("damaged", f"a PDF of {size} bytes that does not open (pdfium's error {code})")


def _without_text(pages: _Pages, ocr: bool) -> SkippedError:
    if pages.bad:
        return SkippedError("damaged", f"{pages.bad} of {len(pages.texts)} pages do not open, the others hold no text")
    if not pages.texts:
        return SkippedError("damaged", "a PDF without pages")
    if not pages.pictures:
        return SkippedError("empty", f"nothing on {len(pages.texts)} pages")
    if not ocr:
        return SkippedError(
            "no_text", f"{pages.pictures} pages are pictures without a text layer, and OCR is off (ocr)"
        )
    return SkippedError(
        "no_text", f"{pages.pictures} pages are pictures, and OCR found no words on {len(pages.read)} of them"
    )


def _read_pages(document: Any, form: Any, count: int, ocr: bool) -> _Pages:
    import pypdfium2.raw as pdfium

    pages, words = _Pages(), _Words()
    for number in range(count):
        page = pdfium.FPDF_LoadPage(document, number)
        if not page:
            pages.bad += 1
            pages.texts.append("")
            continue
        try:
            text = words.on(page)
            if len(text) <= STAMP_CHARACTERS and _is_picture(page, bool(text)):
                pages.pictures += 1
                text = _by_ocr(pages, page, number, text) if ocr else text
            if form and (fields := _fields(form[0], page)):
                pages.form_fields += len(fields)
                text = "\n".join([text, *fields]).strip()
        finally:
            pdfium.FPDF_ClosePage(page)
        pages.texts.append(text)
    return pages


def _by_ocr(pages: _Pages, page: Any, number: int, text: str) -> str:
    from soldiom_ray.collect.documents import ocr

    if len(pages.read) == MAX_OCR_PAGES:
        pages.skipped += 1
        return text
    reading = ocr.read(_picture(page))
    pages.read.append(number + 1)
    if reading.text:
        pages.confidences.append(reading.confidence)
    return reading.text if len(reading.text) > len(text) else text


def _joined(texts: list[str]) -> tuple[str, list[int]]:
    """All pages as one text, and where each starts."""
    parts, starts, length = [], [], 0
    for text in texts:
        starts.append(length)
        if text:
            parts.append(text)
            length += len(text) + 2
    joined = "\n\n".join(parts)
    return joined, [min(start, len(joined)) for start in starts]


class _Words:
    """The text layer of one page after the other, through one buffer."""

    def __init__(self) -> None:
        self.room = 1 << 16
        self.buffer = (ctypes.c_ushort * self.room)()

    def on(self, page: Any) -> str:
        """What a reader sees of the text layer: text outside the page's box is left out."""
        import pypdfium2.raw as pdfium

        layer = pdfium.FPDFText_LoadPage(page)
        if not layer:
            return ""
        try:
            box = pdfium.FS_RECTF()
            pdfium.FPDF_GetPageBoundingBox(page, box)
            edges = (box.left, box.top, box.right, box.bottom)
            # The text in one call; FPDFText_GetText would be two, and loses letters outside the basic plane.
            units = pdfium.FPDFText_GetBoundedText(layer, *edges, self.buffer, self.room)
            if units >= self.room:
                self.room = pdfium.FPDFText_GetBoundedText(layer, *edges, None, 0) + 1
                self.buffer = (ctypes.c_ushort * self.room)()
                units = pdfium.FPDFText_GetBoundedText(layer, *edges, self.buffer, self.room)
            text = ctypes.string_at(self.buffer, 2 * max(0, units)).decode("utf-16-le", errors="ignore")
            text = _CONTROL.sub("", _HYPHEN.sub("", text).replace("\r\n", "\n").replace("\r", "\n")).strip()
            return _with_lam_alef(layer, text) if _LAM_ALEF.search(text) else text
        finally:
            pdfium.FPDFText_ClosePage(layer)


def _with_lam_alef(layer: Any, text: str) -> str:
    """Arabic's ligature lam-alef is one glyph. pdfium turns right-to-left runs round letter by letter and leaves the
    two letters of the glyph the wrong way round; two letters in the same place are such a pair."""
    import pypdfium2.raw as pdfium

    letters = "".join(
        chr(pdfium.FPDFText_GetUnicode(layer, index)) for index in range(pdfium.FPDFText_CountChars(layer))
    )
    origins = [(ctypes.c_double(), ctypes.c_double()) for _ in range(2)]
    turned = []
    for pair in _LAM_ALEF.finditer(letters):
        for offset, (x, y) in enumerate(origins):
            pdfium.FPDFText_GetCharOrigin(layer, pair.start() + offset, x, y)
        turned.append(origins[0][0].value == origins[1][0].value and origins[0][1].value == origins[1][1].value)
    if len(turned) != len(_LAM_ALEF.findall(text)):  # letters outside the page's box are not in the text
        return text
    flags = iter(turned)
    return _LAM_ALEF.sub(lambda pair: f"ل{pair[1]}" if next(flags) else pair[0], text)


def _is_picture(page: Any, stamped: bool) -> bool:
    """Whether a page with little or no text shows something else. One with a stamp must be filled by one image."""
    import pypdfium2.raw as pdfium

    count = pdfium.FPDFPage_CountObjects(page)
    if not stamped:
        return bool(count > 0)
    area = pdfium.FPDF_GetPageWidthF(page) * pdfium.FPDF_GetPageHeightF(page)
    for index in range(min(count, 1_000)):
        thing = pdfium.FPDFPage_GetObject(page, index)
        if pdfium.FPDFPageObj_GetType(thing) == pdfium.FPDF_PAGEOBJ_IMAGE:
            left, bottom, right, top = (ctypes.c_float() for _ in range(4))
            pdfium.FPDFPageObj_GetBounds(thing, left, bottom, right, top)
            if (right.value - left.value) * (top.value - bottom.value) > area / 2:
                return True
    return False


def _picture(page: Any) -> Any:
    """The page drawn on white: an array of rows, columns and the bytes blue, green, red."""
    import numpy
    import pypdfium2.raw as pdfium

    points = max(pdfium.FPDF_GetPageWidthF(page), pdfium.FPDF_GetPageHeightF(page), 1.0)
    scale = min(OCR_DOTS_PER_INCH / 72, MAX_PICTURE_SIDE / points)
    width = max(1, min(MAX_PICTURE_SIDE, round(pdfium.FPDF_GetPageWidthF(page) * scale)))
    height = max(1, min(MAX_PICTURE_SIDE, round(pdfium.FPDF_GetPageHeightF(page) * scale)))
    bitmap = pdfium.FPDFBitmap_CreateEx(width, height, pdfium.FPDFBitmap_BGR, None, 0)
    if not bitmap:
        raise MemoryError
    try:
        pdfium.FPDFBitmap_FillRect(bitmap, 0, 0, width, height, 0xFFFFFFFF)
        pdfium.FPDF_RenderPageBitmap(bitmap, page, 0, 0, width, height, 0, pdfium.FPDF_ANNOT)
        stride = pdfium.FPDFBitmap_GetStride(bitmap)
        rows = numpy.frombuffer(ctypes.string_at(pdfium.FPDFBitmap_GetBuffer(bitmap), stride * height), numpy.uint8)
        return rows.reshape(height, stride)[:, : 3 * width].reshape(height, width, 3)
    finally:
        pdfium.FPDFBitmap_Destroy(bitmap)


def _form(document: Any) -> Any:
    """pdfium's view of the form, and the settings that must live as long; no script of the file is run by it."""
    import pypdfium2.raw as pdfium

    settings = pdfium.FPDF_FORMFILLINFO(version=2)
    form = pdfium.FPDFDOC_InitFormFillEnvironment(document, settings)
    return (form, settings) if form else None


def _fields(form: Any, page: Any) -> list[str]:
    """`name: value` of the fields of a page that are filled in. Passwords stay where they are."""
    import pypdfium2.raw as pdfium

    told: dict[str, str] = {}
    for index in range(pdfium.FPDFPage_GetAnnotCount(page)):
        note = pdfium.FPDFPage_GetAnnot(page, index)
        if not note:
            continue
        if pdfium.FPDFAnnot_GetSubtype(note) == pdfium.FPDF_ANNOT_WIDGET:
            hidden = pdfium.FPDFAnnot_GetFormFieldFlags(form, note) & (_PASSWORD_FLAG | _PUSH_BUTTON_FLAG)
            field_type = pdfium.FPDFAnnot_GetFormFieldType(form, note)
            value = _wide(pdfium.FPDFAnnot_GetFormFieldValue, form, note).replace("\r", "\n").strip()
            buttons = (pdfium.FPDF_FORMFIELD_CHECKBOX, pdfium.FPDF_FORMFIELD_RADIOBUTTON)
            off = field_type in buttons and value == "Off"
            if value and not off and not (hidden and field_type not in buttons):
                told[_wide(pdfium.FPDFAnnot_GetFormFieldName, form, note)] = value
        pdfium.FPDFPage_CloseAnnot(note)
    return [f"{name}: {value}" if name else value for name, value in told.items()]


def _metadata(document: Any, count: int, pages: _Pages) -> dict[str, Any]:
    import pypdfium2.raw as pdfium

    form_type = pdfium.FPDF_GetFormType(document)
    sure = [round(sum(pages.confidences) / len(pages.confidences), 3)] if pages.confidences else []
    told: dict[str, Any] = {
        "bad_pages": pages.bad,
        "skipped_pages": max(0, count - MAX_PAGES),
        "ocr_pages": pages.read,
        "ocr_confidence": sure and sure[0],
        "ocr_skipped_pages": pages.skipped,
        "form": {_NO_FORM: "", **dict.fromkeys(_XFA_FORMS, "xfa")}.get(form_type, "acroform"),
        "form_fields": pages.form_fields,
        "attached_files": max(0, pdfium.FPDFDoc_GetAttachmentCount(document)),
        "bookmarks": _bookmarks(document),
    }
    for key in ("Title", "Author", "Subject", "Keywords"):
        told[key.lower()] = _CONTROL.sub("", _wide(pdfium.FPDF_GetMetaText, document, key.encode())).strip()
    told["created"] = _date(_wide(pdfium.FPDF_GetMetaText, document, b"CreationDate"))
    return {"pages": count} | {key: value for key, value in told.items() if value}


def _bookmarks(document: Any) -> list[dict[str, Any]]:
    """The outline, depth first: title, level from 1, page from 1 where it is known. An outline may run in a circle."""
    import pypdfium2.raw as pdfium

    found: list[dict[str, Any]] = []
    seen: set[int] = set()
    waiting = [(pdfium.FPDFBookmark_GetFirstChild(document, None), 1)]
    while waiting and len(found) < MAX_BOOKMARKS:
        mark, level = waiting.pop()
        place = ctypes.cast(mark, ctypes.c_void_p).value if mark else None
        if place is None or place in seen:
            continue
        seen.add(place)
        title = _CONTROL.sub("", _wide(pdfium.FPDFBookmark_GetTitle, mark)).strip()
        target = pdfium.FPDFBookmark_GetDest(document, mark)
        page = pdfium.FPDFDest_GetDestPageIndex(document, target) if target else -1
        found.append({"title": title, "level": level} | ({"page": page + 1} if page >= 0 else {}))
        waiting.append((pdfium.FPDFBookmark_GetNextSibling(document, mark), level))
        waiting.append((pdfium.FPDFBookmark_GetFirstChild(document, mark), level + 1))
    return found


def _wide(ask: Any, *things: Any) -> str:
    """The answer of a pdfium function that writes UTF-16 with a final zero into a buffer and tells its bytes."""
    size = ask(*things, None, 0)
    room = (ctypes.c_ushort * (size // 2 + 1))()
    ask(*things, room, size)
    return ctypes.string_at(room, max(0, size - 2)).decode("utf-16-le", errors="ignore")


def _date(value: str) -> str:
    """ "D:20240131120000+01'00'" as "2024-01-31"."""
    found = re.match(r"(?:D:)?(\d{4})(\d\d)?(\d\d)?", value)
    return "-".join(part for part in found.groups() if part) if found else ""
