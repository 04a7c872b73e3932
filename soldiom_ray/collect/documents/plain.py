"""Plain text, Markdown, source code and notebooks."""

from soldiom_ray.collect.documents.encodings import read_text
from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions, skipped_entry
from soldiom_ray.collect.text import read_notebook


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """The file as it is; notebooks as code."""
    if name.lower().endswith(".ipynb"):
        text, left_out = read_notebook(data)
        return [ParsedText(text, metadata=skipped_entry(left_out))]
    decoded = read_text(data)
    return [ParsedText(decoded.text, metadata=decoded.metadata)]
