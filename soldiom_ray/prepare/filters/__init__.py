"""Filters by name. A filter looks at one document and returns the value that refuses it, or None.

`basic` and `language` are this project's own; `prose` and `code` follow the rules of published corpora, each with its
source. What a filter sees of a document is a `FilterText`.
"""

from collections.abc import Callable, Sequence

from soldiom_ray.prepare.filters import basic, code, language, prose
from soldiom_ray.prepare.filters.filter_text import FilterText

Filter = Callable[[FilterText], str | None]

FILTERS: dict[str, Filter] = {
    "min_words": basic.min_words,
    "line_length": basic.line_length,
    "alphabetic": basic.alphabetic,
    "generated": basic.generated,
    "language": language.not_english,
    "gopher_quality": prose.gopher_quality,
    "gopher_repetition": prose.gopher_repetition,
    "c4": prose.c4,
    "fineweb": prose.fineweb,
    "alphanumeric": code.alphanumeric,
    "encoded_data": code.encoded_data,
    "comments": code.comments,
    "data_size": code.data_size,
    "xml": code.xml,
    "html": code.html,
}

COMPARING = ("near_duplicate",)
"""Filters that compare documents with one another; the pipeline applies these. The schema's names are both together."""


def first_refusal(document: FilterText, names: Sequence[str]) -> tuple[str, str] | None:
    """The first of the named filters that refuses the document, and the value that decided."""
    for name in names:
        if name in FILTERS and (value := FILTERS[name](document)) is not None:
            return name, value
    return None
