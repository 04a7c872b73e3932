"""EPUB books: the chapters in the order of the spine, read as pages."""

import posixpath
import re
import zipfile
from typing import Any
from urllib.parse import unquote

from soldiom_ray.collect.documents import zipped
from soldiom_ray.collect.documents.encodings import declared_text
from soldiom_ray.collect.documents.html import page_text
from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions
from soldiom_ray.collect.text import SkippedError

_DECLARED = re.compile(rb"""\A\s*<\?xml[^>]{0,100}encoding\s*=\s*["']([\w.:-]+)""")
_FONT_ENCRYPTION = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """The book's text, chapters apart by a blank line; title, author and language as metadata. Chapters that do not
    open are counted in `bad_chapters`."""
    zipped.check_office_file(data)
    with zipped.open_zip(data) as archive:
        names = set(archive.namelist())
        _refuse_protected(archive, names)
        container = zipped.parse_xml(_member(archive, names, "META-INF/container.xml"))
        package_path = next((e.get("full-path", "") for e in container.iter("{*}rootfile")), "")
        package = zipped.parse_xml(_member(archive, names, package_path))
        chapters, failed = _chapters(archive, names, package, posixpath.dirname(package_path))
    if failed and not chapters:
        raise SkippedError("damaged", f"none of its {failed} chapters opens")
    metadata: dict[str, Any] = {"chapters": len(chapters)} | ({"bad_chapters": failed} if failed else {})
    for field, element in (("title", "title"), ("author", "creator"), ("language", "language")):
        value = next((e.text for e in package.iter(f"{{http://purl.org/dc/elements/1.1/}}{element}") if e.text), "")
        metadata |= {field: " ".join(value.split())} if value.strip() else {}
    return [ParsedText("\n\n".join(chapter for chapter in chapters if chapter), metadata=metadata)]


def _chapters(archive: zipfile.ZipFile, names: set[str], package: Any, folder: str) -> tuple[list[str], int]:
    items = {item.get("id"): item for item in package.iter("{*}item")}
    texts, failed = [], 0
    seen: set[str] = set()
    for reference in package.iter("{*}itemref"):
        item = items.get(reference.get("idref"))
        if item is None:
            failed += 1
            continue
        path = posixpath.normpath(posixpath.join(folder, unquote(item.get("href", ""))))
        if path in seen or "html" not in (item.get("media-type") or "html"):
            continue
        seen.add(path)
        try:
            source = _member(archive, names, path)
            texts.append(page_text(declared_text(source, _DECLARED.search(source[:200])).text)[0])
        except SkippedError as skipped:
            if skipped.reason == "encrypted":
                raise
            failed += skipped.reason != "empty"
    return texts, failed


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
