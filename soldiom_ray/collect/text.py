"""The text of a file's bytes, or the reason why there is none."""

import codecs
import json
import re
from typing import Any

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class SkippedError(Exception):
    """Something that makes no document: the reason it is counted under, and what decided it. It never leaves the
    stage."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def decode(data: bytes) -> str:
    """The text, in the encoding of a byte order mark or a Python coding line, else UTF-8. Raises SkippedError: empty,
    binary, undecodable."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _decoded(data, encoding)
    if b"\0" in data[:8192]:
        raise SkippedError("binary", "holds NUL bytes")
    coding = re.match(rb"(?:[^\n]*\n)?[ \t\f]*#[^\n]*?coding[:=][ \t]*([-\w.]+)", data[:512])
    return _decoded(data, coding[1].decode() if coding else "utf-8")


def _decoded(data: bytes, encoding: str) -> str:
    try:
        text = data.decode(encoding)
    except LookupError as error:
        raise SkippedError("undecodable", f"the encoding {encoding!r} is not known") from error
    except UnicodeDecodeError as error:
        raise SkippedError("undecodable", f"byte {error.start} is not {encoding}") from error
    if not text.strip():
        raise SkippedError("empty")
    return text


def read_notebook(data: bytes) -> tuple[str, dict[str, int]]:
    """Code and prose of a Jupyter notebook, in order, as a Python file: prose as comments. Shell and magic lines become
    comments too, so that the result stays Python. Then the counts of what is left out: outputs of cells, and pictures
    in their prose."""
    try:
        notebook: Any = json.loads(decode(data))
        cells = (
            notebook["cells"]
            if "cells" in notebook
            else [c for sheet in notebook["worksheets"] for c in sheet["cells"]]
        )
        parts = [part for cell in cells if (part := _cell(cell))]
        outputs = sum(len(cell.get("outputs") or ()) for cell in cells)
        pictures = sum(len(cell.get("attachments") or ()) for cell in cells)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SkippedError("damaged", "not a notebook") from error
    if not parts:
        raise SkippedError("empty", "no cell holds text")
    return "\n\n".join(parts) + "\n", {"outputs": outputs, "pictures": pictures}


def _cell(cell: dict[str, Any]) -> str:
    source = cell.get("source", cell.get("input", ""))
    text = ("".join(source) if isinstance(source, list) else str(source)).strip("\n")
    if not text.strip():
        return ""
    if cell.get("cell_type") == "code":
        return "\n".join(f"# {line}" if re.match(r"\s*[%!]", line) else line for line in text.split("\n"))
    return "\n".join(f"# {line}".rstrip() for line in text.split("\n"))
