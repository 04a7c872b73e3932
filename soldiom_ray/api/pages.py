"""Lists of what artifacts hold, bounded in bytes: a document may be as large as the file that it was made of."""

import json
from collections.abc import Iterable
from typing import Any

from soldiom_ray.db.pages import PAGE_BYTES

SHOWN_CHARACTERS = 20_000


def preview_items(items: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items with long texts cut short ("… (12345 characters)"), as many as fit into a page, but at least one."""
    page: list[dict[str, Any]] = []
    size = 0
    for item in items:
        shown = _shortened(item)
        size += len(json.dumps(shown, default=str))
        if page and size > PAGE_BYTES:
            break
        page.append(shown)
    return page


def _shortened(value: Any) -> Any:
    """The value with texts of at most SHOWN_CHARACTERS. Pictures (`data:` URLs) are whole: a part shows nothing."""
    if isinstance(value, str) and len(value) > SHOWN_CHARACTERS and not value.startswith("data:image/"):
        return f"{value[:SHOWN_CHARACTERS]}… ({len(value)} characters)"
    if isinstance(value, dict):
        return {name: _shortened(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_shortened(member) for member in value]
    return value
