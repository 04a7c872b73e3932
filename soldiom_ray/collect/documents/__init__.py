"""Documents of users: the bytes of one file become texts. One parser per family, chosen by what the bytes are."""

from soldiom_ray.collect.documents.parsed import ParsedText
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


def parse_bytes(name: str, data: bytes) -> list[ParsedText]:
    """The texts of one file, at least one. Raises LeftOut: empty, encrypted, damaged, wrong_type, unsupported, no_text,
    undecodable. A file may take much time and memory: untrusted ones belong into `sandbox.Sandbox`."""
    from soldiom_ray.collect.documents.sniff import family_of

    family = family_of(name, data)
    if family == "pdf":
        from soldiom_ray.collect.documents.pdf import parse
    elif family == "docx":
        from soldiom_ray.collect.documents.docx import parse
    elif family == "html":
        from soldiom_ray.collect.documents.html import parse
    elif family == "table":
        from soldiom_ray.collect.documents.table import parse
    elif family == "json":
        from soldiom_ray.collect.documents.json import parse
    else:
        from soldiom_ray.collect.documents.plain import parse
    texts = [parsed for parsed in parse(name, data) if parsed.text.strip()]
    if not texts:
        raise LeftOut("empty", "no text in it")
    return texts
