"""Plain text, Markdown, source code and notebooks."""

from soldiom_ray.collect.documents.encodings import read_text
from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions, skipped_entry
from soldiom_ray.collect.documents.record_texts import record_texts
from soldiom_ray.collect.documents.whatsapp import whatsapp_days
from soldiom_ray.collect.text import read_notebook


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """The file as it is; notebooks as code, a chat of WhatsApp as conversations."""
    if name.lower().endswith(".ipynb"):
        text, left_out = read_notebook(data)
        return [ParsedText(text, metadata=skipped_entry(left_out))]
    decoded = read_text(data)
    if name.lower().endswith(".txt") and (days := whatsapp_days(decoded.text)):
        return record_texts(days, options.columns, dict(decoded.metadata))
    return [ParsedText(decoded.text, metadata=decoded.metadata)]
