"""Plain text, Markdown, source code, notebooks."""

from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions, read_text
from soldiom_ray.collect.text import notebook_text


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """The file as it stands."""
    if name.lower().endswith(".ipynb"):
        return [ParsedText(notebook_text(data))]
    text, encoding = read_text(data)
    return [ParsedText(text, metadata={} if encoding == "utf-8" else {"encoding": encoding})]
