"""Parsers of users' files: the bytes of one file become texts. One parser per family, chosen by the bytes."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cache
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
    "outlook": "outlook",
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
"""Family of `sniff.family_of` -> module of this package whose `parse(name, data, options)` reads it."""
_TEXTLESS = ("image", "audio", "video")
"""Families whose files are documents even without words, as long as there is metadata."""
_OF_RECORDS = ("table", "json", "parquet", "sqlite", "sql")
_WITH_PICTURES = ("image", "arrays", "archive", "parquet")
"""Families that can hold pictures."""


def parse_bytes(name: str, data: bytes, options: ParseOptions | None = None) -> list[ParsedText]:
    """The texts of one file, at least one. Raises SkippedError: empty, encrypted, damaged, wrong_type, unsupported,
    no_text, undecodable, no_picture. A file may take much time and memory: parse untrusted ones through
    `sandbox.Sandbox`."""
    from soldiom_ray.collect.documents.sniff import family_of

    family, options = family_of(name, data), options or ParseOptions()
    if options.pictures and family not in _WITH_PICTURES:
        raise SkippedError("no_picture", f"of the family {family}; only pictures were asked for")
    with _uncollected() if family in _OF_RECORDS else nullcontext():
        texts = [
            parsed if parsed.text.isascii() else _without_lone_surrogates(parsed)
            for parsed in _parser(family)(name, data, options)
            if parsed.text.strip() or parsed.image or (family in _TEXTLESS and parsed.metadata)
        ]
    if not texts:
        raise SkippedError("empty", "no text in it")
    return texts


@cache
def _parser(family: str) -> Callable[[str, bytes, ParseOptions], list[ParsedText]]:
    """The `parse` of the module that reads a family."""
    module = import_module(f"soldiom_ray.collect.documents.{_MODULES[family]}")
    return module.parse  # type: ignore[no-any-return]


@contextmanager
def _uncollected() -> Iterator[None]:
    """No search for circles of references meanwhile: records have none, and looking for them among millions of objects
    takes a third of the time of reading short ones."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            # They count all objects as old ones; else enabling looks through them at once, an eighth of the time.
            gc.freeze()
            gc.unfreeze()
            gc.enable()


def _without_lone_surrogates(parsed: ParsedText) -> ParsedText:
    """The text with halves of surrogate pairs, which JSON and old office files may hold and UTF-8 cannot, turned into
    replacement characters and counted in the metadata as `lone_surrogates`."""
    try:
        parsed.text.encode()
    except UnicodeEncodeError:
        text = parsed.text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        surrogates = sum("\ud800" <= character <= "\udfff" for character in parsed.text)
        return replace(parsed, text=text, metadata=parsed.metadata | {"lone_surrogates": surrogates})
    return parsed
