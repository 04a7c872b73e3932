"""HTML text with the standard library's parser: what a reader sees, without navigation, scripts and styles."""

import re
from html.parser import HTMLParser

from soldiom_ray.collect.documents.encodings import declared_text
from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions

_INVISIBLE = {"script", "style", "head", "template", "noscript", "svg", "nav", "footer", "button", "select", "iframe"}
DECLARED_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?([\w.:-]+)""", re.IGNORECASE)
_BLOCKS = {
    "article", "aside", "blockquote", "dd", "div", "dl", "dt", "figure", "form", "header", "hr", "main", "ol", "p",
    "pre", "section", "table", "tr", "ul",
}  # fmt: skip


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """The page's text; headings and list items marked as in Markdown."""
    page_source = declared_text(data, DECLARED_CHARSET.search(data[:4096]))
    text, title = page_text(page_source.text)
    return [ParsedText(text, metadata=({"title": title} if title else {}) | page_source.metadata)]


def page_text(source: str) -> tuple[str, str]:
    """Text and title ("" for none) of a page's source."""
    page = _Page()
    page.feed(source)
    page.close()
    return page.text(), " ".join(page.title.split())


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.title = ""
        self.invisible: list[str] = []
        self.preformatted = 0
        self.in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.in_title = tag == "title"
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

    def text(self) -> str:
        """The text so far: no blank bullets, no blank line twice."""
        lines = [re.sub(r"^ (?=\S)", "", line).removeprefix("| ").rstrip() for line in "".join(self.parts).split("\n")]
        cleaned = "\n".join("" if line in ("-", "|") else line for line in lines)
        return re.sub(r"\n{3,}", "\n\n", cleaned).strip()
