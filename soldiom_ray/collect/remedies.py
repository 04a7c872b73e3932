"""Why sources gave no documents, and what to do about it."""

from collections import Counter
from collections.abc import Mapping, Sequence

_CAUSES: dict[str, tuple[str, str]] = {
    "not_included": ("match none of the patterns", "widen `include`, or take patterns out of `exclude`"),
    "about_the_data": ("tell of the data beside them", "give files of data, or name these by themselves"),
    "other_kind": ("are of another kind than asked for", "name their kind in `kinds`, or name none"),
    "over_limit": ("lie beyond the limit", "raise the limit (`max_documents`, `max_repository_bytes`)"),
    "empty": ("hold no text", "give files with text in them"),
    "no_text": ("are pictures without a text layer", "turn OCR on (`ocr`), or give a better scan"),
    "no_picture": ("hold no pictures, and only pictures were asked for", "leave `pictures` out to read their texts"),
    "missing_picture": ("name pictures that are not there", "put the pictures beside the table that names them"),
    "binary": ("are no text", "give them the ending of their format (docs/collect.md)"),
    "undecodable": ("are in no encoding that is known", "save them in UTF-8"),
    "wrong_type": ("are not what their names say", "give them the ending of their format (docs/collect.md)"),
    "unsupported": ("are of formats that are not read", "save them in a format that is read (docs/collect.md)"),
    "encrypted": ("have a password", "remove the passwords"),
    "damaged": ("are damaged", "repair or replace them"),
    "too_large": ("are too large", "raise max_bytes, or split the files"),
    "too_deep": ("lie too deep within archives", "unpack the archives"),
    "archive_bomb": ("unpack to too much", "unpack the archives, and collect what is needed of them"),
    "timeout": ("took too long to read", "split the files, or save them in a simpler format"),
    "too_complex": ("are too complex to read", "split the files, or save them in a simpler format"),
    "crashed": ("stopped their parser", "save them in another format (docs/collect.md)"),
    "unsafe_xml": ("declare XML entities", "save them again with the program that they come from"),
    "unsafe_path": ("lead out of their archive", "pack the archives again without such names"),
    "link": ("are links", "give the files that they point to"),
    "leads_out": ("are links out of the folder", "copy what they point to into the folder"),
    "unreadable": ("may not be opened", "let the user that Soldiom runs as read them"),
    "lfs_pointer": ("are pointers of Git LFS", "fetch their content with `git lfs pull`"),
    "submodule": ("are other repositories", "collect those by their own names"),
    "wrong_columns": ("lack the columns that are named", "name columns that exist: --column ROLE=COLUMN"),
    "unknown_role": (
        "have speakers that nothing tells apart",
        "say who speaks: --column user=NAME --column assistant=NAME",
    ),
    "no_answer": (
        "hold no answer",
        "give data with answers; or name their column: --column answer=COLUMN",
    ),
    "bad_answer": (
        "are rejected, marked or rated as bad",
        "give answers that are worth learning",
    ),
    "nothing_taught": ("teach nothing", "give conversations with answers of the assistant"),
    "empty_turn": ("have an empty turn", "repair the conversations that are named"),
    "part_not_text": (
        "hold pictures or sound",
        "give conversations of text: what pictures and sound in them say cannot be read",
    ),
    "repository_nothing_wanted": ("hold no file that is asked for", "widen `include` or `kinds`"),
    "repository_too_large": ("are too large", "raise `max_repository_bytes`"),
    "repository_empty": ("are empty", "name other topics or languages, or fewer stars"),
    "repository_not_found": ("are gone", "name other repositories, topics or languages"),
    "repository_forbidden": ("may not be read", "give a token that may (SOLDIOM_GITHUB_TOKEN)"),
    "repository_blocked": ("are blocked for legal reasons", "name other topics or languages"),
    "gated": ("need their owners' consent", "ask for it on their pages, and set HF_TOKEN"),
    "no_card": ("have no card", "ask for their metadata or data instead (`data`, `weights`)"),
    "no_data": ("have no data files that are read", "name datasets with Parquet, JSON or CSV files"),
    "not_safetensors": ("have no weights in safetensors", "name models that have"),
    "remote_code": ("ask for code of their own", "name models that need none"),
    "wrong_hash": ("came differently from what was announced", "run it again later"),
    "wrong_records": ("hold no records where they were looked for", "correct `records` and `next`"),
    "page_loop": ("lead back to themselves", "correct `next`"),
    "not_found": ("do not exist", "correct their names"),
    "forbidden": ("may not be read", "give a key or a token that may"),
    "refused": ("were refused by the server", "correct the request; its answer is quoted"),
    "private_address": ("lie at a private address", "an administrator allows it with SOLDIOM_PRIVATE_HOSTS"),
    "redirects": ("are redirected in a circle", "give the address that they end at"),
    "unchanged": ("have not changed since", "poll for longer (`polls`)"),
}
"""Outcome -> what it says of the files, records or repositories, and the remedy."""

_NOTHING_FOUND = {
    "files": "name files, or a folder that holds some",
    "local": "name a folder or packages that hold files",
    "github": "ask for fewer stars, a longer time, or other topics and languages",
    "huggingface": "ask for fewer downloads and likes, or for other tasks and libraries",
    "database": "name a table with rows, or a query that gives some",
    "url": "correct the address and `records`",
}
_MAX_CAUSES = 3


def cause_and_remedy(summaries: Sequence[Mapping[str, object]]) -> tuple[str, str]:
    """What most often kept files, records or repositories from becoming documents, with its share; and the remedies,
    most important first. A summary has `declared` and `outcomes` of one source."""
    counts: Counter[str] = Counter()
    for summary in summaries:
        for outcome, count in dict(summary["outcomes"]).items():  # type: ignore[call-overload]
            counts[_cause(outcome)] += count
    if not counts:
        sources = dict.fromkeys(str(summary["declared"]["source"]) for summary in summaries)  # type: ignore[index]
        return "nothing was found", "; ".join(_NOTHING_FOUND[source] for source in sources)
    # What a folder holds besides is left out by intention: it is the cause only where nothing else was left out.
    causes = sorted(counts, key=lambda cause: (cause == "not_included", -counts[cause]))
    first, total = causes[0], counts.total()
    share = f"all {total}" if counts[first] == total and total > 1 else f"{counts[first]} of {total}"
    phrase = _CAUSES[first][0] if first in _CAUSES else f"ended as {first}"
    remedies = dict.fromkeys(_CAUSES[cause][1] for cause in causes if cause in _CAUSES)
    return f"{share} {phrase}", "; ".join(list(remedies)[:_MAX_CAUSES]) or "see what is said of each"


def _cause(outcome: str) -> str:
    for prefix in ("record_", "member_"):
        outcome = outcome.removeprefix(prefix)
    general = outcome.removeprefix("repository_")
    return outcome if outcome in _CAUSES or general not in _CAUSES else general
