"""Plain text, Markdown, source code and notebooks."""

from soldiom_ray.collect.documents.encodings import read_text
from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions
from soldiom_ray.collect.text import notebook_text


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """The file as it is; notebooks as code."""
    if name.lower().endswith(".ipynb"):
        return [ParsedText(notebook_text(data))]
    decoded = read_text(data)
    return [ParsedText(decoded.text, metadata=decoded.metadata)]
