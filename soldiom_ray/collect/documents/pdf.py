"""PDF text through pdfium; pages without a text layer are read from their picture (`ocr`).

pdfium's functions are called directly: the wrapper's objects, two per page, take 10 to 60 % of a page's time.
"""

import ctypes
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from soldiom_ray.collect.documents.ocr import MAX_OCR_PAGES
from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions, skipped_entry
from soldiom_ray.collect.text import SkippedError

MAX_PAGES = 10_000
"""Further pages are counted in `skipped_pages`. At 1 to 5 ms a page this many take 10 to 50 s."""
MAX_PAGES_WITH_STARTS = 2_000
MAX_BOOKMARKS = 500
OCR_DOTS_PER_INCH = 200
MAX_PICTURE_SIDE = 4_000
"""Pixels, whatever size a page declares; A4 at 200 dpi is 2,339 high."""
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
    """Results, page by page."""

    texts: list[str] = field(default_factory=list)
    failed: int = 0
    pictures: int = 0
    """Pages that show something but hold no text."""
    ocr_page_numbers: list[int] = field(default_factory=list)
    """Numbers, from 1, of the pages that OCR read."""
    confidences: list[float] = field(default_factory=list)
    skipped: int = 0
    form_fields: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """One text: all pages, a blank line between them, filled-in form fields as `name: value` and comments after their
    page.

    `metadata`: pages; page_starts (the offset in the text at which each page starts; a page without text starts where
    the next does), title, author, subject, keywords, created, bookmarks, form, form_fields, attached_files, bad_pages,
    skipped_pages, ocr_pages (numbers from 1), ocr_confidence, ocr_skipped_pages; entries that are zero or empty are
    omitted. `skipped` counts values of hidden form fields, letters off the page, and attached files.
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
    if pages.failed:
        return SkippedError(
            "damaged", f"{pages.failed} of {len(pages.texts)} pages do not open, the others hold no text"
        )
    if not pages.texts:
        return SkippedError("damaged", "a PDF without pages")
    if not pages.pictures:
        return SkippedError("empty", f"nothing on {len(pages.texts)} pages")
    if not ocr:
        return SkippedError(
            "no_text", f"{pages.pictures} pages are pictures without a text layer, and OCR is off (ocr)"
        )
    return SkippedError(
        "no_text",
        f"{pages.pictures} pages are pictures, and OCR found no words on {len(pages.ocr_page_numbers)} of them",
    )


def _read_pages(document: Any, form: Any, count: int, ocr: bool) -> _Pages:
    import pypdfium2.raw as pdfium

    pages, text_layer = _Pages(), _TextLayer()
    for number in range(count):
        page = pdfium.FPDF_LoadPage(document, number)
        if not page:
            pages.failed += 1
            pages.texts.append("")
            continue
        try:
            text = text_layer.on(page)
            if len(text) <= STAMP_CHARACTERS and _is_picture(page, bool(text)):
                pages.pictures += 1
                text = _ocr_text(pages, page, number, text) if ocr else text
            if pdfium.FPDFPage_GetAnnotCount(page) > 0:
                fields, comments = _annotations(form[0] if form else None, page, pages.left_out)
                pages.form_fields += len(fields)
                text = "\n".join([text, *fields, *comments]).strip()
        finally:
            pdfium.FPDF_ClosePage(page)
        pages.texts.append(text)
    pages.left_out["letters_off_the_page"] = text_layer.letters_off_the_page
    return pages


def _ocr_text(pages: _Pages, page: Any, number: int, text: str) -> str:
    from soldiom_ray.collect.documents import ocr

    if len(pages.ocr_page_numbers) == MAX_OCR_PAGES:
        pages.skipped += 1
        return text
    result = ocr.read_words(_render(page))
    pages.ocr_page_numbers.append(number + 1)
    if result.text:
        pages.confidences.append(result.confidence)
    return result.text if len(result.text) > len(text) else text


def _joined(texts: list[str]) -> tuple[str, list[int]]:
    """All pages as one text, and the offset at which each starts."""
    parts, starts, length = [], [], 0
    for text in texts:
        starts.append(length)
        if text:
            parts.append(text)
            length += len(text) + 2
    joined = "\n\n".join(parts)
    return joined, [min(start, len(joined)) for start in starts]


class _TextLayer:
    """Reads the text layers of pages, one page after the other, through one buffer."""

    def __init__(self) -> None:
        self.capacity = 1 << 16
        self.buffer = (ctypes.c_ushort * self.capacity)()
        self.letters_off_the_page = 0

    def on(self, page: Any) -> str:
        """The visible text of a page: text outside the page's box is omitted."""
        import pypdfium2.raw as pdfium

        layer = pdfium.FPDFText_LoadPage(page)
        if not layer:
            return ""
        try:
            box = pdfium.FS_RECTF()
            pdfium.FPDF_GetPageBoundingBox(page, box)
            edges = (box.left, box.top, box.right, box.bottom)
            # The text in one call; FPDFText_GetText would be two, and loses letters outside the basic plane.
            units = pdfium.FPDFText_GetBoundedText(layer, *edges, self.buffer, self.capacity)
            if units >= self.capacity:
                self.capacity = pdfium.FPDFText_GetBoundedText(layer, *edges, None, 0) + 1
                self.buffer = (ctypes.c_ushort * self.capacity)()
                units = pdfium.FPDFText_GetBoundedText(layer, *edges, self.buffer, self.capacity)
            self.letters_off_the_page += max(0, pdfium.FPDFText_CountChars(layer) - units)
            text = ctypes.string_at(self.buffer, 2 * max(0, units)).decode("utf-16-le", errors="ignore")
            text = _CONTROL.sub("", _HYPHEN.sub("", text).replace("\r\n", "\n").replace("\r", "\n")).strip()
            return _with_lam_alef(layer, text) if _LAM_ALEF.search(text) else text
        finally:
            pdfium.FPDFText_ClosePage(layer)


def _with_lam_alef(layer: Any, text: str) -> str:
    """The text with Arabic's lam-alef ligatures in order. pdfium reverses right-to-left runs letter by letter and so
    swaps the two letters of that glyph; two letters at the same position are such a pair."""
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
    """Whether a page with little or no text shows a picture. On a page with a stamp, one image must fill it."""
    import pypdfium2.raw as pdfium

    count = pdfium.FPDFPage_CountObjects(page)
    if not stamped:
        return bool(count > 0)
    area = pdfium.FPDF_GetPageWidthF(page) * pdfium.FPDF_GetPageHeightF(page)
    for index in range(min(count, 1_000)):
        page_object = pdfium.FPDFPage_GetObject(page, index)
        if pdfium.FPDFPageObj_GetType(page_object) == pdfium.FPDF_PAGEOBJ_IMAGE:
            left, bottom, right, top = (ctypes.c_float() for _ in range(4))
            pdfium.FPDFPageObj_GetBounds(page_object, left, bottom, right, top)
            if (right.value - left.value) * (top.value - bottom.value) > area / 2:
                return True
    return False


def _render(page: Any) -> Any:
    """The page drawn on white: uint8 [height, width, 3], blue, green, red."""
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
    """(pdfium's form handle, its settings, which must live as long). No script of the file is run."""
    import pypdfium2.raw as pdfium

    settings = pdfium.FPDF_FORMFILLINFO(version=2)
    form = pdfium.FPDFDOC_InitFormFillEnvironment(document, settings)
    return (form, settings) if form else None


def _annotations(form: Any, page: Any, left_out: Counter[str]) -> tuple[list[str], list[str]]:
    """`name: value` for each field of a page that is filled in, except passwords; and what readers wrote on it."""
    import pypdfium2.raw as pdfium

    values: dict[str, str] = {}
    comments: list[str] = []
    for index in range(pdfium.FPDFPage_GetAnnotCount(page)):
        annotation = pdfium.FPDFPage_GetAnnot(page, index)
        if not annotation:
            continue
        kind = pdfium.FPDFAnnot_GetSubtype(annotation)
        if kind == pdfium.FPDF_ANNOT_WIDGET and form:
            name, value, hidden = _field(form, annotation)
            left_out["hidden_fields"] += hidden
            values |= {name: value} if value and not hidden else {}
        elif kind not in (pdfium.FPDF_ANNOT_WIDGET, pdfium.FPDF_ANNOT_LINK, pdfium.FPDF_ANNOT_POPUP):
            contents = _read_utf16(pdfium.FPDFAnnot_GetStringValue, annotation, b"Contents").replace("\r", "\n")
            prefix = "" if kind == pdfium.FPDF_ANNOT_FREETEXT else "Comment: "
            comments += [f"{prefix}{text}"] if (text := _CONTROL.sub("", contents).strip()) else []
        pdfium.FPDFPage_CloseAnnot(annotation)
    return [f"{name}: {value}" if name else value for name, value in values.items()], comments


def _field(form: Any, annotation: Any) -> tuple[str, str, bool]:
    """Name and value of a form field, "" where it is not filled in, and whether nobody sees it."""
    import pypdfium2.raw as pdfium

    field_type = pdfium.FPDFAnnot_GetFormFieldType(form, annotation)
    value = _read_utf16(pdfium.FPDFAnnot_GetFormFieldValue, form, annotation).replace("\r", "\n").strip()
    is_button = field_type in (pdfium.FPDF_FORMFIELD_CHECKBOX, pdfium.FPDF_FORMFIELD_RADIOBUTTON)
    if is_button and value == "Off":
        value = ""
    flags = pdfium.FPDFAnnot_GetFormFieldFlags(form, annotation) & (_PASSWORD_FLAG | _PUSH_BUTTON_FLAG)
    name = _read_utf16(pdfium.FPDFAnnot_GetFormFieldName, form, annotation) if value else ""
    return name, value, bool(value and flags and not is_button)


def _metadata(document: Any, count: int, pages: _Pages) -> dict[str, Any]:
    import pypdfium2.raw as pdfium

    form_type = pdfium.FPDF_GetFormType(document)
    confidence = [round(sum(pages.confidences) / len(pages.confidences), 3)] if pages.confidences else []
    values: dict[str, Any] = {
        "bad_pages": pages.failed,
        "skipped_pages": max(0, count - MAX_PAGES),
        "ocr_pages": pages.ocr_page_numbers,
        "ocr_confidence": confidence and confidence[0],
        "ocr_skipped_pages": pages.skipped,
        "form": {_NO_FORM: "", **dict.fromkeys(_XFA_FORMS, "xfa")}.get(form_type, "acroform"),
        "form_fields": pages.form_fields,
        "attached_files": max(0, pdfium.FPDFDoc_GetAttachmentCount(document)),
        "bookmarks": _bookmarks(document),
    }
    for key in ("Title", "Author", "Subject", "Keywords"):
        values[key.lower()] = _CONTROL.sub("", _read_utf16(pdfium.FPDF_GetMetaText, document, key.encode())).strip()
    values["created"] = _date(_read_utf16(pdfium.FPDF_GetMetaText, document, b"CreationDate"))
    pages.left_out["embedded_files"] = values["attached_files"]
    return {"pages": count} | {key: value for key, value in values.items() if value} | skipped_entry(pages.left_out)


def _bookmarks(document: Any) -> list[dict[str, Any]]:
    """The outline, depth first: title, level from 1, page from 1 where it is known. An outline may run in a circle."""
    import pypdfium2.raw as pdfium

    bookmarks: list[dict[str, Any]] = []
    visited: set[int] = set()
    pending = [(pdfium.FPDFBookmark_GetFirstChild(document, None), 1)]
    while pending and len(bookmarks) < MAX_BOOKMARKS:
        mark, level = pending.pop()
        address = ctypes.cast(mark, ctypes.c_void_p).value if mark else None
        if address is None or address in visited:
            continue
        visited.add(address)
        title = _CONTROL.sub("", _read_utf16(pdfium.FPDFBookmark_GetTitle, mark)).strip()
        target = pdfium.FPDFBookmark_GetDest(document, mark)
        page = pdfium.FPDFDest_GetDestPageIndex(document, target) if target else -1
        bookmarks.append({"title": title, "level": level} | ({"page": page + 1} if page >= 0 else {}))
        pending.append((pdfium.FPDFBookmark_GetNextSibling(document, mark), level))
        pending.append((pdfium.FPDFBookmark_GetFirstChild(document, mark), level + 1))
    return bookmarks


def _read_utf16(read: Any, *arguments: Any) -> str:
    """The string of a pdfium function that writes zero-terminated UTF-16 into a buffer and returns its size in
    bytes."""
    size = read(*arguments, None, 0)
    buffer = (ctypes.c_ushort * (size // 2 + 1))()
    read(*arguments, buffer, size)
    return ctypes.string_at(buffer, max(0, size - 2)).decode("utf-16-le", errors="ignore")


def _date(value: str) -> str:
    """ "D:20240131120000+01'00'" as "2024-01-31"."""
    match = re.match(r"(?:D:)?(\d{4})(\d\d)?(\d\d)?", value)
    return "-".join(part for part in match.groups() if part) if match else ""
