"""RTF text: the words of the body without styles, pictures and other groups that no reader sees (RTF 1.9.1)."""

import re
from dataclasses import dataclass

from soldiom_ray.collect.documents.encodings import code_page
from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions
from soldiom_ray.collect.text import SkippedError

_PIECE = re.compile(
    rb"\\([a-zA-Z]{1,32})(-?\d{1,10})? ?|\\'([0-9a-fA-F]{2})|\\([^a-zA-Z'])|([{}])|[\r\n]+|([^\\{}\r\n]+)"
)
_INVISIBLE = {
    "fonttbl", "colortbl", "stylesheet", "info", "pict", "object", "themedata", "colorschememapping", "latentstyles",
    "datastore", "listtable", "listoverridetable", "rsidtbl", "generator", "filetbl", "fldinst", "xmlnstbl", "header",
    "footer", "headerl", "headerr", "footerl", "footerr", "pgptbl", "mmathPr", "revtbl",
}  # fmt: skip
_SIGNS = {
    "par": "\n\n", "line": "\n", "tab": "\t", "cell": " | ", "row": "\n", "sect": "\n\n", "page": "\n\n",
    "emdash": "—", "endash": "–", "lquote": "‘", "rquote": "’", "ldblquote": "“", "rdblquote": "”", "bullet": "•",
}  # fmt: skip
MAX_GROUPS = 10_000


@dataclass
class _State:
    invisible: bool = False
    fallback_characters: int = 1


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """The body's text. Raises SkippedError: damaged (groups that do not close), undecodable."""
    if data.rstrip(b"\0\r\n ")[-1:] != b"}":
        raise SkippedError("damaged", "an RTF file that is cut off")
    text = re.sub(r"[ \t]+\n", "\n", _Reader(data).text())
    return [ParsedText(re.sub(r"\n{3,}", "\n\n", text).strip())]


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.parts: list[str] = []
        self.raw = bytearray()
        self.codec = "cp1252"
        self.stack: list[_State] = []
        self.state = _State()
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
            elif code and not self.state.invisible:
                if self.skip:
                    self.skip -= 1
                else:
                    self.raw += bytes.fromhex(code.decode())
            elif plain and not self.state.invisible:
                text_bytes, self.skip = plain[self.skip :], max(0, self.skip - len(plain))
                self.raw += text_bytes
        self._flush()
        return "".join(self.parts)

    def _brace(self, brace: bytes) -> None:
        self._flush()
        self.skip = 0
        if brace == b"{":
            if len(self.stack) > MAX_GROUPS:
                raise SkippedError("damaged", "nested too deeply")
            self.stack.append(self.state)
            self.state = _State(self.state.invisible, self.state.fallback_characters)
        elif self.stack:
            self.state = self.stack.pop()

    def _word(self, word: str, number: int | None, starred: bool) -> bool:
        if starred or word in _INVISIBLE:
            self.state.invisible = True
        elif word == "ansicpg" and number is not None:
            self.codec = code_page(number)
        elif word == "uc" and number is not None:
            self.state.fallback_characters = min(max(number, 0), 8)
        elif word == "u" and number is not None:
            if not self.state.invisible:
                self._flush()
                self.parts.append(chr(number % 0x10000))
            self.skip = self.state.fallback_characters
        elif word == "bin" or word not in _SIGNS:
            return False
        else:
            self._add(_SIGNS[word])
        return False

    def _add(self, text: str) -> None:
        if not self.state.invisible:
            self._flush()
            self.parts.append(text)

    def _flush(self) -> None:
        if self.raw:
            try:
                self.parts.append(self.raw.decode(self.codec))
            except (UnicodeDecodeError, LookupError) as error:
                raise SkippedError("undecodable", f"characters that are not of the code page {self.codec}") from error
            self.raw.clear()
