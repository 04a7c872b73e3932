"""Documents of users: the bytes of one file become texts. One parser per family, chosen by what the bytes are."""

from importlib import import_module

from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions
from soldiom_ray.collect.text import LeftOut

SUPPORTED = {
    ".txt": "text/plain",
    ".md": "text/markdown",
    ".rst": "text/x-rst",
    ".csv": "text/csv",
    ".tsv": "text/tab-separated-values",
    ".json": "application/json",
    ".jsonl": "application/x-ndjson",
    ".ndjson": "application/x-ndjson",
    ".pdf": "application/pdf",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".html": "text/html",
    ".htm": "text/html",
    ".ipynb": "application/x-ipynb+json",
}
"""File name endings with their media types. Source code and configuration of any kind is read as plain text too."""


_MODULES = {"pdf": "pdf", "docx": "docx", "html": "html", "table": "table", "json": "json", "text": "plain"}
"""Which module of this package parses a family that `sniff.family_of` tells. Each has one `parse(name, data,
options)`."""


def parse_bytes(name: str, data: bytes, options: ParseOptions | None = None) -> list[ParsedText]:
    """The texts of one file, at least one. Raises LeftOut: empty, encrypted, damaged, wrong_type, unsupported, no_text,
    undecodable. A file may take much time and memory: untrusted ones belong into `sandbox.Sandbox`."""
    from soldiom_ray.collect.documents.sniff import family_of

    module = import_module(f"soldiom_ray.collect.documents.{_MODULES[family_of(name, data)]}")
    texts = [parsed for parsed in module.parse(name, data, options or ParseOptions()) if parsed.text.strip()]
    if not texts:
        raise LeftOut("empty", "no text in it")
    return texts
