"""PDF text through pdfium. Scans without a text layer are told apart (`no_text`); reading them is OCR's work."""

from typing import Any

from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions
from soldiom_ray.collect.text import LeftOut


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """The text of all pages, a blank line between pages."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if "assword" in str(error) or "security" in str(error).lower():
            raise LeftOut("encrypted", "a PDF with a password") from error
        raise LeftOut("damaged", "a PDF that does not open") from error
    pages, bad = [], 0
    try:
        for number in range(len(document)):
            try:
                pages.append(_page_text(document, number))
            except pypdfium2.PdfiumError:
                bad += 1
    finally:
        document.close()
    text = "\n\n".join(page for page in pages if page.strip())
    if not text.strip():
        raise LeftOut(
            "damaged" if bad else "no_text", f"{bad} pages do not open" if bad else "only images: it needs OCR"
        )
    return [ParsedText(text, metadata={"pages": len(pages) + bad} | ({"bad_pages": bad} if bad else {}))]


def _page_text(document: Any, number: int) -> str:
    page = document[number]
    words = page.get_textpage()
    text = str(words.get_text_bounded())
    words.close()
    page.close()
    # pdfium marks a hyphen at a line's end with U+FFFE (or U+0002): the word goes on in the next line.
    for mark in ("￾\r\n", "￾\n", "\x02\r\n", "\x02\n", "￾", "\x02"):
        text = text.replace(mark, "")
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()
