"""EPUB books: the chapters in the order of the spine, read as pages."""

import contextlib
import posixpath
import re
import zipfile
from collections import Counter
from typing import Any
from urllib.parse import unquote

from soldiom_ray.collect.documents import zipped
from soldiom_ray.collect.documents.encodings import declared_text
from soldiom_ray.collect.documents.html import Page, read_page
from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions, skipped_entry
from soldiom_ray.collect.text import SkippedError

_DECLARED = re.compile(rb"""\A\s*<\?xml[^>]{0,100}encoding\s*=\s*["']([\w.:-]+)""")
_FONT_ENCRYPTION = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """The book's text, chapters apart by a blank line; title, author and language as metadata. Chapters that do not
    open are counted in `bad_chapters`, and in `skipped` the lines of pages that are not part of the book's order."""
    zipped.check_office_file(data)
    with zipped.open_zip(data) as archive:
        names = set(archive.namelist())
        _refuse_protected(archive, names)
        container = zipped.parse_xml(_member(archive, names, "META-INF/container.xml"))
        package_path = next((e.get("full-path", "") for e in container.iter("{*}rootfile")), "")
        package = zipped.parse_xml(_member(archive, names, package_path))
        pages, failed, others = _chapters(archive, names, package, posixpath.dirname(package_path))
    if failed and not pages:
        raise SkippedError("damaged", f"none of its {failed} chapters opens")
    metadata: dict[str, Any] = {"chapters": len(pages)} | ({"bad_chapters": failed} if failed else {})
    metadata |= skipped_entry(sum((page.skipped for page in pages), Counter(outside_the_spine=others)))
    for field, element in (("title", "title"), ("author", "creator"), ("language", "language")):
        value = next((e.text for e in package.iter(f"{{http://purl.org/dc/elements/1.1/}}{element}") if e.text), "")
        metadata |= {field: " ".join(value.split())} if value.strip() else {}
    return [ParsedText("\n\n".join(page.text for page in pages if page.text), metadata=metadata)]


def _chapters(archive: zipfile.ZipFile, names: set[str], package: Any, folder: str) -> tuple[list[Page], int, int]:
    """The pages in the order of the spine, how many of them do not open, and the lines of text of other pages."""
    items = {item.get("id"): item for item in package.iter("{*}item")}
    pages: dict[str, Page] = {}
    failed = others = 0
    for reference in package.iter("{*}itemref"):
        item = items.get(reference.get("idref"))
        if item is None:
            failed += 1
        elif (path := _path(item, folder)) not in pages and _is_page(item):
            try:
                pages[path] = _page(archive, names, path)
            except SkippedError as skipped:
                if skipped.reason == "encrypted":
                    raise
                failed += skipped.reason != "empty"
    for item in items.values():
        if _is_page(item) and (path := _path(item, folder)) in names and path not in pages:
            with contextlib.suppress(SkippedError):
                page = _page(archive, names, path)
                others += len(page.text.split("\n")) + page.skipped.total()
    return list(pages.values()), failed, others


def _is_page(item: Any) -> bool:
    return "html" in (item.get("media-type") or "html")


def _path(item: Any, folder: str) -> str:
    return posixpath.normpath(posixpath.join(folder, unquote(item.get("href", ""))))


def _page(archive: zipfile.ZipFile, names: set[str], path: str) -> Page:
    source = _member(archive, names, path)
    return read_page(declared_text(source, _DECLARED.search(source[:200])).text)


def _refuse_protected(archive: zipfile.ZipFile, names: set[str]) -> None:
    if "META-INF/encryption.xml" not in names:
        return
    tree = zipped.parse_xml(zipped.read_member(archive, "META-INF/encryption.xml"))
    methods = {e.get("Algorithm", "") for e in tree.iter("{*}EncryptionMethod")}
    if methods - set(_FONT_ENCRYPTION):
        raise SkippedError("encrypted", "a book with copy protection")


def _member(archive: zipfile.ZipFile, names: set[str], path: str) -> bytes:
    if path not in names:
        raise SkippedError("damaged", "a book that lacks a part it names")
    return zipped.read_member(archive, path)
