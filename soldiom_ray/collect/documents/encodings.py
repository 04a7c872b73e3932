"""Decodes users' text files: by a byte order mark, as UTF-8, or by a guess; never with replacement characters."""

import codecs
import re
from dataclasses import dataclass, field
from typing import Any

from soldiom_ray.collect.text import SkippedError, decode
from soldiom_ray.domains.signatures import utf16_encoding

_CANDIDATES = (
    "cp932", "gb18030", "big5", "euc_jp", "euc_kr", "koi8_r", "cp1251", "cp1256", "cp1255", "cp1253", "cp1250",
    "cp1254", "cp866", "cp874", "iso8859_2", "iso8859_5", "iso8859_6",
)  # fmt: skip
_NAMES = {
    "cp932": "shift_jis", "euc_jp": "euc-jp", "euc_kr": "euc-kr", "koi8_r": "koi8-r", "iso8859_2": "iso-8859-2",
    "iso8859_5": "iso-8859-5", "iso8859_6": "iso-8859-6", "iso2022_jp": "iso-2022-jp", "cp866": "ibm866",
} | {f"cp{n}": f"windows-{n}" for n in (874, 1250, 1251, 1252, 1253, 1254, 1255, 1256)}  # fmt: skip
_CODE_PAGES = {
    1200: "utf-16-le", 10000: "mac_roman", 20127: "ascii", 20866: "koi8_r", 21866: "koi8_u", 50220: "iso2022_jp",
    50221: "iso2022_jp", 50222: "iso2022_jp", 51932: "euc_jp", 51949: "euc_kr", 54936: "gb18030", 65001: "utf-8",
}  # fmt: skip
_CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_HIGH_RUN = re.compile(rb"[\x80-\xff]+")
SAMPLE_BYTES = 1 << 20
WIDE_SAMPLE_BYTES = 1 << 16
MAX_NUL_SHARE = 0.001
LINES_BY_CHANCE = 50
"""In a text of another encoding at most one of this many lines is valid UTF-8 by chance; if there are more, the file
mixes encodings."""
_ODD_IN_WESTERN = "ýþðÝÞÐ¹³¿¾¼£¥ªº¶»×÷ˆ‰Ÿ"
"""What letters of Polish, Czech and Turkish look like when they are read as Windows-1252."""


@dataclass(frozen=True, slots=True)
class DecodedText:
    """A file's text, its encoding, and `metadata` about the decoding (empty for plain UTF-8)."""

    text: str
    encoding: str = "utf-8"
    metadata: dict[str, Any] = field(default_factory=dict)


def read_text(data: bytes) -> DecodedText:
    """The text of a user's file. A few NUL bytes are removed and counted. Raises SkippedError: empty, binary,
    undecodable."""
    by_mark = _decode_by_mark(data)
    if by_mark is not None:
        return by_mark
    metadata: dict[str, Any] = {}
    if nuls := data.count(0):
        utf16 = _decode_utf16(data)
        if utf16 is not None:
            return utf16
        if nuls > max(1, len(data) * MAX_NUL_SHARE):
            raise SkippedError("binary", f"{nuls} of its {len(data)} bytes are NUL")
        data, metadata = data.replace(b"\0", b""), {"nul_bytes": nuls}
    try:
        is_iso2022_jp = b"\x1b$B" in data and _decodes(data, "iso2022_jp")
        encoding = "iso2022_jp" if is_iso2022_jp else "utf-8"
        text = data.decode(encoding)
        metadata |= {"encoding": _NAMES[encoding]} if is_iso2022_jp else {}
    except UnicodeDecodeError:
        text, encoding = _decode_guessed(data)
        metadata |= {"encoding": encoding}
    if not text.strip():
        raise SkippedError("empty", "nothing but blanks")
    return DecodedText(text, encoding, metadata)


def declared_text(data: bytes, declared: re.Match[bytes] | None) -> DecodedText:
    """As `read_text`, for files that may declare their encoding (group 1 of the match); the declaration is followed
    where the data decode by it."""
    name = declared[1].decode("ascii", "replace").lower() if declared else "utf-8"
    if (
        name in ("utf-8", "utf8")
        or name.startswith(("utf-16", "utf-32", "ucs"))
        or _decode_by_mark(data)
        or b"\0" in data
    ):
        return read_text(data)
    try:
        codec = codecs.lookup("cp1252" if name in ("iso-8859-1", "latin1", "latin-1", "us-ascii", "ascii") else name)
    except LookupError:
        return read_text(data)
    if not codec._is_text_encoding or not _decodes(data, codec.name):
        return read_text(data)
    if data.isascii() and codec.name not in ("iso2022_jp", "utf-7"):
        return read_text(data)
    return DecodedText(data.decode(codec.name), name, {"encoding": name})


def code_page(number: int) -> str:
    """A Python codec's name for a code page of Windows; the codec may not exist."""
    if 28591 <= number <= 28606:
        return f"iso8859_{number - 28590}"
    return _CODE_PAGES.get(number, f"cp{number}")


def _decode_by_mark(data: bytes) -> DecodedText | None:
    for bom, encoding in (
        (b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"),
        (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"),
    ):  # fmt: skip
        if data.startswith(bom):
            try:
                return DecodedText(decode(data), encoding, {} if encoding == "utf-8" else {"encoding": encoding})
            except SkippedError:
                if encoding != "utf-8":
                    raise
    return None


def _decode_utf16(data: bytes) -> DecodedText | None:
    """The text as UTF-16 without a byte order mark; None when the data are not that."""
    encoding = None if len(data) % 2 else utf16_encoding(data[:WIDE_SAMPLE_BYTES])
    if encoding is None or not _decodes(data, encoding):
        return None
    text = data.decode(encoding)
    if not text.strip():
        raise SkippedError("empty", "nothing but blanks")
    return DecodedText(text, encoding, {"encoding": encoding})


def _decode_guessed(data: bytes) -> tuple[str, str]:
    """(text, encoding) of a file that is not UTF-8 as a whole; lines that are valid UTF-8 are decoded as such."""
    lines = data.split(b"\n")
    utf8_lines, not_utf8 = 0, []
    for line in lines:
        try:
            line.decode("utf-8")
            utf8_lines += not line.isascii()
        except UnicodeDecodeError:
            not_utf8.append(line)
    if utf8_lines * LINES_BY_CHANCE <= len(not_utf8):
        encoding = _guess(data)
        return _decode_strictly(data, encoding), _NAMES.get(encoding, encoding)
    encoding = _guess(b"\n".join(not_utf8))
    decoded = []
    for line in lines:
        try:
            decoded.append(line.decode("utf-8"))
        except UnicodeDecodeError:
            decoded.append(_decode_strictly(line, encoding))
    return "\n".join(decoded), f"mixed utf-8 and {_NAMES.get(encoding, encoding)}"


def _guess(data: bytes) -> str:
    """A Python codec for bytes that are not UTF-8. Raises SkippedError: undecodable."""
    if _CONTROLS.search(data):
        raise SkippedError("undecodable", "holds control characters and is not UTF-8")
    if _is_western(data) and _decodes(data, "cp1252"):
        return "cp1252"
    import charset_normalizer

    sample = data[:SAMPLE_BYTES].rpartition(b"\n")[0] or data[:SAMPLE_BYTES]
    matches = charset_normalizer.from_bytes(sample, cp_isolation=list(_CANDIDATES), enable_fallback=False)
    for match in matches:
        if _decodes(data, match.encoding):
            return str(match.encoding)
    for encoding in ("cp1250", "cp1252") if _odd_letters(data[:SAMPLE_BYTES]) else ("cp1252",):
        if _decodes(data, encoding):
            return encoding
    raise SkippedError("undecodable", "not UTF-8, and no other encoding gives a text")


def _is_western(data: bytes) -> bool:
    """Whether bytes above ASCII stand alone between ASCII letters, as accents in a Western European text do. In other
    scripts they come in runs; in other Latin alphabets some of them are no letters in Windows-1252."""
    sample = data[:SAMPLE_BYTES]
    runs = _HIGH_RUN.findall(sample)
    high = sum(map(len, runs))
    letters = len(re.findall(rb"[A-Za-z]", sample))
    if high > 1.5 * len(runs) or high > 0.5 * max(letters, 1):
        return False
    return _odd_letters(sample) <= 0.05 * high


def _odd_letters(sample: bytes) -> int:
    """How many bytes within words would be no Western letter."""
    inside = re.findall(rb"(?<=[A-Za-z])[\x80-\xff](?=[A-Za-z])", sample)
    return sum((byte.decode("cp1252", "ignore") or "¹") in _ODD_IN_WESTERN for byte in inside)


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        return False
    return True


def _decode_strictly(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise SkippedError("undecodable", f"byte {error.start} is neither UTF-8 nor {encoding}") from error
