"""Documents of users: the bytes of one file become texts. One parser per family, chosen by what the bytes are."""

from dataclasses import replace
from importlib import import_module

from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.domains.file_types import SUPPORTED

__all__ = ["SUPPORTED", "parse_bytes"]

_MODULES = {
    "text": "plain",
    "html": "html",
    "rtf": "rtf",
    "pdf": "pdf",
    "docx": "docx",
    "pptx": "pptx",
    "opendocument": "opendocument",
    "epub": "epub",
    "email": "email",
    "workbook": "workbook",
    "table": "table",
    "json": "json",
    "parquet": "parquet",
    "sqlite": "sqlite",
    "sql": "sql",
    "image": "image",
    "arrays": "arrays",
    "audio": "media",
    "video": "media",
    "archive": "archive",
}
"""Which module of this package parses a family that `sniff.family_of` tells. Each has one `parse(name, data,
options)`."""
_WORDLESS = ("image", "audio", "video")
"""Families in which a file without words is a document all the same, when something is known of it."""
_PICTURED = ("image", "arrays", "archive")
"""Families that hold pictures."""


def parse_bytes(name: str, data: bytes, options: ParseOptions | None = None) -> list[ParsedText]:
    """The texts of one file, at least one. Raises SkippedError: empty, encrypted, damaged, wrong_type, unsupported,
    no_text, undecodable, no_picture. A file may take much time and memory: untrusted ones belong into
    `sandbox.Sandbox`."""
    from soldiom_ray.collect.documents.sniff import family_of

    family, options = family_of(name, data), options or ParseOptions()
    if options.pictures and family not in _PICTURED:
        raise SkippedError("no_picture", f"of the family {family}; only pictures were asked for")
    module = import_module(f"soldiom_ray.collect.documents.{_MODULES[family]}")
    texts = [
        _storable(parsed)
        for parsed in module.parse(name, data, options)
        if parsed.text.strip() or parsed.image or (family in _WORDLESS and parsed.metadata)
    ]
    if not texts:
        raise SkippedError("empty", "no text in it")
    return texts


def _storable(parsed: ParsedText) -> ParsedText:
    """Halves of surrogate pairs (JSON and old office files hold them) are no text that can be written: they become the
    replacement sign, and are counted in `lone_surrogates`."""
    try:
        parsed.text.encode()
    except UnicodeEncodeError:
        text = parsed.text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        lone = sum("\ud800" <= character <= "\udfff" for character in parsed.text)
        return replace(parsed, text=text, metadata=parsed.metadata | {"lone_surrogates": lone})
    return parsed
