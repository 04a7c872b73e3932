"""RTF text (RTF 1.9.1): the words of the body, with notes and comments in brackets where they are referenced."""

import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from soldiom_ray.collect.documents.encodings import code_page
from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions, skipped_entry
from soldiom_ray.collect.text import SkippedError

_PIECE = re.compile(
    rb"\\([a-zA-Z]{1,32})(-?\d{1,10})? ?|\\'([0-9a-fA-F]{2})|\\([^a-zA-Z'])|([{}])|[\r\n]+|([^\\{}\r\n]+)"
)
_BINARY = re.compile(rb"\\bin(\d{1,10}) ?")
_TECHNICAL = frozenset((
    "fonttbl", "colortbl", "stylesheet", "themedata", "colorschememapping", "latentstyles", "datastore", "listtable",
    "listoverridetable", "rsidtbl", "generator", "filetbl", "xmlnstbl", "pgptbl", "mmathPr", "revtbl", "nonshppict",
    "sn", "sv", "bkmkstart", "bkmkend", "htmltag", "mhtmltag", "pnseclvl", "atnid", "atnauthor", "atntime", "atndate",
    "atnref", "atnparent", "atrfstart", "atrfend", "objclass", "objname", "objdata", "blipuid", "datafield", "defchp",
    "defpap", "ftnsep", "ftnsepc", "aftnsep", "aftnsepc", "panose", "falt", "listname", "wgrffmtfilter", "ud",
))  # fmt: skip
"""Groups that hold no text of the document."""
_REASONS = {
    "fldinst": "field_codes", "shprslt": "alternatives", "xe": "index_entries", "tc": "index_entries",
    "info": "properties", "moMath": "equations",
}  # fmt: skip
"""Groups whose text is left out -> the reason that it is counted under."""
_THINGS = {"pict": "pictures", "object": "embedded_files"}
_SHOWN = frozenset(("shpinst", "shptxt", "shppict", "do", "dptxbxtext", "annotation", "footnote"))
"""Groups that are read though they are marked as ones that a reader may not know."""
_BRACKETS = {"footnote": " [", "annotation": " [comment: "}
_PAGE_TEXTS = {
    word: "headers" if word.startswith("header") else "footers"
    for word in ("header", "headerl", "headerr", "headerf", "footer", "footerl", "footerr", "footerf")
}
_SIGNS = {
    "par": "\n\n", "line": "\n", "tab": "\t", "cell": " | ", "row": "\n", "sect": "\n\n", "page": "\n\n",
    "emdash": "—", "endash": "–", "lquote": "‘", "rquote": "’", "ldblquote": "“", "rdblquote": "”", "bullet": "•",
    "nestcell": " | ", "nestrow": "\n", "emspace": " ", "enspace": " ", "qmspace": " ",
}  # fmt: skip
_CODE_PAGES = {"mac": 10000, "pc": 437, "pca": 850}
_CHARSETS = {
    77: 10000, 128: 932, 129: 949, 130: 1361, 134: 936, 136: 950, 161: 1253, 162: 1254, 163: 1258, 177: 1255,
    178: 1256, 186: 1257, 204: 1251, 222: 874, 238: 1250, 255: 437,
}  # fmt: skip
"""Character set of a font -> code page."""
MAX_GROUPS = 10_000


@dataclass(slots=True)
class _State:
    """Of one group. `target` takes its text; where that is None the text is counted under `reason`, if there is one.
    `marked` is the reason why text is left out by its format; `end` closes the group."""

    target: list[str] | None
    codec: str
    reason: str = ""
    marked: str = ""
    end: str = ""
    fallback_characters: int = 1
    is_font_table: bool = False
    is_object: bool = False


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """The body's text; title, author, headers and footers as metadata. `skipped` counts what was left out, by groups.
    Raises SkippedError: damaged (groups that do not close), undecodable."""
    if data.rstrip(b"\0\r\n ")[-1:] != b"}":
        raise SkippedError("damaged", "an RTF file that is cut off")
    reader = _Reader(_without_binary(data))
    text = reader.text()
    metadata: dict[str, Any] = {name: _tidy(parts) for name, parts in reader.about.items()}
    for position, texts in reader.page_texts.items():
        metadata[position] = list(dict.fromkeys(shown for parts in texts if (shown := _tidy(parts))))
    present = {name: value for name, value in metadata.items() if value}
    return [ParsedText(text, metadata=present | skipped_entry(reader.skipped))]


def _without_binary(data: bytes) -> bytes:
    r"""The file without the bytes that follow \bin, which may be braces."""
    parts, start = [], 0
    while match := _BINARY.search(data, start):
        parts.append(data[start : match.start()])
        start = match.end() + int(match[1])
    return b"".join([*parts, data[start:]])


def _tidy(parts: list[str]) -> str:
    """The text of pieces: halves of surrogate pairs joined, no blank line twice."""
    text = "".join(parts)
    if not text.isascii():
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+\n", "\n", text)).strip()


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.about: dict[str, list[str]] = {"title": [], "author": []}
        self.page_texts: dict[str, list[list[str]]] = {"headers": [], "footers": []}
        self.skipped: Counter[str] = Counter()
        self.parts: list[str] = []
        self.raw = bytearray()
        self.codec = "cp1252"
        self.font, self.first_font = 0, 0
        self.font_codecs: dict[int, str] = {}
        self.stack: list[_State] = []
        self.state = _State(self.parts, self.codec)
        self.skip = 0

    def text(self) -> str:
        starred = False
        for match in _PIECE.finditer(self.data):
            word, number, code, sign, brace, plain = match.groups()
            if brace:
                self._brace(brace)
                starred = False
            elif word:
                starred = self._word(word.decode(), int(number) if number else None, starred)
            elif sign == b"*":
                starred = True
            elif sign is not None:
                self._add({b"~": "\xa0", b"_": "-"}.get(sign, sign.decode("latin-1") if sign in b"\\{}" else ""))
            elif code or plain:
                text_bytes = bytes.fromhex(code.decode()) if code else plain
                if self.skip:
                    text_bytes, self.skip = text_bytes[self.skip :], max(0, self.skip - len(text_bytes))
                if self.state.target is not None and not self.state.marked:
                    self.raw += text_bytes
                elif text_bytes.strip():
                    self._leave_out()
        self._flush()
        return _tidy(self.parts)

    def _brace(self, brace: bytes) -> None:
        self._flush()
        self.skip = 0
        if brace == b"{":
            if len(self.stack) > MAX_GROUPS:
                raise SkippedError("damaged", "nested too deeply")
            self.stack.append(self.state)
            self.state = replace(self.state, end="")
        elif self.stack:
            self._add(self.state.end)
            self.state = self.stack.pop()

    def _word(self, word: str, number: int | None, starred: bool) -> bool:
        if word in _SIGNS:
            self._add(_SIGNS[word])
        elif word == "f" and number is not None:
            self._flush()
            self.font = number
            self.state.codec = self.font_codecs.get(number, self.codec)
        elif word == "u" and number is not None:
            self._add(chr(number % 0x10000))
            if self.state.target is None or self.state.marked:
                self._leave_out()
            self.skip = self.state.fallback_characters
        elif word == "uc" and number is not None:
            self.state.fallback_characters = min(max(number, 0), 8)
        elif word in ("deleted", "v"):
            self._flush()
            self.state.marked = "" if number == 0 else "deletions" if word == "deleted" else "hidden"
        elif word == "plain":
            self._flush()
            self.state.marked, self.state.codec = "", self.font_codecs.get(self.first_font, self.codec)
        elif self.state.is_font_table and word == "fcharset" and number in _CHARSETS:
            self.font_codecs[self.font] = code_page(_CHARSETS[number])
        elif (page := number if word == "ansicpg" else _CODE_PAGES.get(word)) is not None:
            self.codec = self.state.codec = code_page(page)
        elif word == "deff" and number is not None:
            self.first_font = number
        else:
            self._destination(word, starred)
        return False

    def _destination(self, word: str, starred: bool) -> None:
        """What a group is for decides where its text goes."""
        state = self.state
        if word == "result" and state.is_object:
            state.target, state.is_object = self.parts, False
        elif word in self.about and state.reason == "properties":
            state.target = self.about[word]
        elif state.target is None:
            return
        elif word in _BRACKETS:
            self._add(_BRACKETS[word])
            state.end = "]"
        elif word in _PAGE_TEXTS:
            state.target = []
            self.page_texts[_PAGE_TEXTS[word]].append(state.target)
        elif word in _THINGS:
            self.skipped[_THINGS[word]] += 1
            state.target, state.reason, state.is_object = None, "", word == "object"
        elif word in _REASONS or word in _TECHNICAL or (starred and word not in _SHOWN):
            default = "" if word in _TECHNICAL else "other_groups"
            state.target, state.reason, state.is_font_table = None, _REASONS.get(word, default), word == "fonttbl"

    def _add(self, text: str) -> None:
        if text and self.state.target is not None and not self.state.marked:
            self._flush()
            self.state.target.append(text)

    def _leave_out(self) -> None:
        """Count the text of this group, once."""
        if reason := self.state.marked or self.state.reason:
            self.skipped[reason] += 1
            if not self.state.marked:
                self.state.reason = ""

    def _flush(self) -> None:
        if not self.raw or self.state.target is None:
            return
        for codec in dict.fromkeys((self.state.codec, self.codec)):
            try:
                self.state.target.append(self.raw.decode(codec))
            except (UnicodeDecodeError, LookupError):
                continue
            self.raw.clear()
            return
        raise SkippedError("undecodable", f"characters that are not of the code page {self.state.codec}")
