"""HTML text with the standard library's parser: what a reader sees, without navigation, scripts and styles."""

import re
from collections import Counter
from dataclasses import dataclass
from html.parser import HTMLParser

from soldiom_ray.collect.documents.encodings import declared_text
from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions, skipped_entry

_INVISIBLE = {"script", "style", "head", "template", "noscript", "svg", "nav", "footer", "button", "select", "iframe"}
DECLARED_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?([\w.:-]+)""", re.IGNORECASE)
_BLOCKS = {
    "address", "article", "aside", "blockquote", "caption", "dd", "details", "dialog", "div", "dl", "dt", "fieldset",
    "figcaption", "figure", "form", "header", "hr", "legend", "main", "ol", "p", "pre", "section", "summary", "table",
    "tr", "ul",
}  # fmt: skip


_LONG_NUMBER = re.compile(r"&#[0-9]{10,};?")
"""A reference to no character, of more digits than Python reads as a number."""


@dataclass(frozen=True)
class Page:
    """What a page says. `skipped` counts pieces of text that no reader sees or needs by the element that they are in,
    and pictures with their alternative texts."""

    text: str
    title: str
    skipped: Counter[str]


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """The page's text; headings and list items marked as in Markdown."""
    source = declared_text(data, DECLARED_CHARSET.search(data[:4096]))
    page = read_page(source.text)
    about = {"title": page.title} if page.title else {}
    return [ParsedText(page.text, metadata=about | source.metadata | skipped_entry(page.skipped))]


def read_page(source: str) -> Page:
    """What a page's source says."""
    page = _PageParser()
    page.feed(_LONG_NUMBER.sub("&#9999999;", source) if "&#" in source else source)
    page.close()
    return Page(page.text(), " ".join(page.title.split()), page.skipped)


class _PageParser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.title = ""
        self.invisible: list[str] = []
        self.preformatted = 0
        self.in_title = False
        self.skipped: Counter[str] = Counter()

    def parse_marked_section(self, i: int, report: bool = True) -> int:
        """The end of `<![...]>`; the standard library gives up on those that it does not know."""
        try:
            return super().parse_marked_section(i, report)
        except AssertionError:
            return self.parse_bogus_comment(i)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.in_title = tag == "title" and "svg" not in self.invisible
        if tag == "body":
            self.invisible.clear()
        if tag in _INVISIBLE:
            self.invisible.append(tag)
        elif re.fullmatch(r"h[1-6]", tag):
            self.parts.append(f"\n\n{'#' * int(tag[1])} ")
        elif tag == "li":
            self.parts.append("\n- ")
        elif tag in ("td", "th"):
            self.parts.append(" | ")
        elif tag == "img":
            self.skipped["pictures"] += 1
            self.skipped["alternative_texts"] += any(name == "alt" and (text or "").strip() for name, text in attrs)
        elif tag == "br":
            self.parts.append("\n")
        elif tag in _BLOCKS:
            self.parts.append("\n" if tag == "tr" else "\n\n")
        self.preformatted += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        self.in_title = False
        if tag in self.invisible:
            del self.invisible[self.invisible.index(tag) :]
        elif tag in _BLOCKS or re.fullmatch(r"h[1-6]", tag):
            self.parts.append("\n" if tag == "tr" else "\n\n")
        self.preformatted = max(0, self.preformatted - (tag == "pre"))

    def handle_data(self, data: str) -> None:
        if self.in_title:
            self.title += data
        elif not self.invisible:
            plain = data if self.preformatted else re.sub(r"\s+", " ", data)
            last_character = self.parts[-1][-1:] if self.parts else "\n"
            self.parts.append(plain.lstrip(" ") if last_character in (" ", "\n") and not self.preformatted else plain)
        elif data.strip():
            self.skipped[self.invisible[-1]] += 1

    def text(self) -> str:
        """The text so far: no blank bullets, no blank line twice."""
        lines = [re.sub(r"^ (?=\S)", "", line).removeprefix("| ").rstrip() for line in "".join(self.parts).split("\n")]
        cleaned = "\n".join("" if line in ("-", "|") else line for line in lines)
        return re.sub(r"\n{3,}", "\n\n", cleaned).strip()
