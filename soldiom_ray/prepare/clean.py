"""Text is normalized: encoding damage, Unicode form, newlines, control characters, trailing space."""

import re
import unicodedata

INVISIBLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x9f\ufeff\u200b\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Control characters, zero-width space, byte-order mark, and the bidirectional overrides that make source code read
differently from what it does (CVE-2021-42574). Joiners stay: Persian and emoji need them."""

ASCII_CONTROLS = bytes(set(range(32)) - {9, 10} | {127})
ASCII = bytes(range(128))
BLANK_LINES = re.compile(r"\n{4,}")


def clean(text: str) -> str:
    """The text in NFC with `\\n` newlines, nothing invisible, no trailing space, at most two blank lines in a row, and
    one newline at its end."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.isascii():
        text = _repair(text)
        if not unicodedata.is_normalized("NFC", text):
            text = unicodedata.normalize("NFC", text)
    if _has_invisible(text):
        text = INVISIBLE.sub(_newline_or_nothing, text)
    if " \n" in text or "\t\n" in text or text.endswith((" ", "\t")):
        text = "\n".join([line.rstrip(" \t") for line in text.split("\n")])
    if "\n\n\n\n" in text:
        text = BLANK_LINES.sub("\n\n\n", text)
    text = text.strip("\n")
    return f"{text}\n" if text else ""


def _has_invisible(text: str) -> bool:
    data = text.encode("utf-8", "replace")
    if len(data.translate(None, ASCII_CONTROLS)) < len(data):
        return True
    return not text.isascii() and INVISIBLE.search(data.translate(None, ASCII).decode()) is not None


def _newline_or_nothing(match: re.Match[str]) -> str:
    return "\n" if match[0] in "\x0b\x0c\x85\u2028\u2029" else ""


def _repair(text: str) -> str:
    """Undo wrong decoding (`Ã©` for `é`) line by line, and only in lines that look damaged: ftfy on whole files of code
    is some hundred times slower, and one bad line would not be repaired for the good ones around it."""
    from ftfy import fix_encoding
    from ftfy.badness import is_bad

    lines = text.split("\n")
    if not is_bad("\n".join([line for line in lines if not line.isascii()])):
        return text
    return "\n".join([line if line.isascii() or not is_bad(line) else fix_encoding(line) for line in lines])
