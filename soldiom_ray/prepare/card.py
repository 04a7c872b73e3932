"""The dataset's card in Markdown: where its texts come from, what was left out and why."""

from collections.abc import Mapping, Sequence
from typing import Any

from soldiom_ray.domains.schema import Prepare

LENGTHS_PICTURE, COUNTS_PICTURE = "lengths.png", "counts.png"
BAR_CHARACTERS = 40
MAX_GROUP_ROWS = 40


def dataset_card(
    name: str,
    parents: Sequence[str],
    counts: Mapping[str, int],
    details: Mapping[str, Any],
    lengths: Mapping[str, Sequence[int]],
    declared: Prepare,
) -> str:
    """The card as Markdown. `lengths` are the characters of the samples, per split."""
    blocks = [
        f"# Dataset `{name}`",
        f"Made from {', '.join(f'`{parent}`' for parent in parents)}: {_kept(counts)} were kept,"
        f" {sum(details['characters'].values()):,} characters.",
        *_functions(declared),
        *_splits(counts, details),
        *_pictures(counts),
        *_label_counts(details),
        *_dropped(details, declared),
        "## Redacted",
        _table(("type", "places"), details["redactions"].items())
        if details["redactions"]
        else "Nothing was looked for.",
        "What matches no known pattern is not found: this is no proof that nothing private is left.",
        *_policy(details, declared),
        "## Languages and kinds",
        _table(("language", "samples"), details["languages"].items()),
        f"Languages of prose were not detected: {problem}."
        if (problem := details.get("languages_not_detected"))
        else "",
        _table(("kind", "samples"), details["kinds"].items()),
        *_sources(details),
        "## Length of samples",
        "Characters; of pictures, bytes." if counts.get("pictures") else "",
        f"```\n{histogram([length for of_split in lengths.values() for length in of_split])}\n```",
        f"![Characters per sample]({LENGTHS_PICTURE})",
        f"![Samples by licence, kind and language, and what was left out]({COUNTS_PICTURE})",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _kept(counts: Mapping[str, int]) -> str:
    if "functions" in counts:
        return f"{counts['kept']:,} of {counts['functions']:,} functions in {counts['documents']:,} documents"
    return f"{counts['kept']:,} of {counts['documents']:,} documents"


def _functions(declared: Prepare) -> list[str]:
    if declared.pairs is None:
        return []
    return [
        "A sample is a conversation about one Python function: the user's turn asks for a one-line docstring and shows"
        " the function without its own, the assistant's turn is the first sentence of what the author wrote."
    ]


def _splits(counts: Mapping[str, int], details: Mapping[str, Any]) -> list[str]:
    characters, split, sides = details["characters"], details["split"], details["sides"]
    columns = ["groups", *(["labels"] if details["labels"] else [])]
    rows = [(name, counts[name], characters[name], *(sides[name][key] for key in columns)) for name in characters]
    return [
        "## Splits",
        _table(("split", "samples", "characters", *columns), rows),
        f"Test is held out by {split['test_by']}, validation by {split['validation_by']}, seed {split['seed']}.",
        *(f"- {note}" for note in split["notes"]),
        *(f"- **Warning**: {warning}" for warning in details["warnings"]),
    ]


def _dropped(details: Mapping[str, Any], declared: Prepare) -> list[str]:
    return [
        "## Left out",
        _table(("reason", "functions or documents" if declared.pairs else "documents"), details["drops"].items())
        if details["drops"]
        else "Nothing was left out.",
        f"Filters: {', '.join(declared.filters) or 'none'}. Near copies: Jaccard similarity of word 5-grams of at least"
        f" {declared.near_duplicate_threshold}. Every document left out stands in `dropped/` with the value that"
        " decided.",
    ]


def _policy(details: Mapping[str, Any], declared: Prepare) -> list[str]:
    return [
        "## Licences",
        _table(("licence (SPDX)", "samples", "asks"), _license_rows(details["licenses"])),
        f"Policy: use `{declared.license.use}`,"
        f" unknown licences {'allowed' if declared.license.allow_unknown else 'refused'}{_lists(declared)}.",
    ]


def _sources(details: Mapping[str, Any]) -> list[str]:
    groups = list(details["groups"].items())
    rows = [
        (group, entry["version"], entry["license"], entry["split"], entry["samples"])
        for group, entry in groups[:MAX_GROUP_ROWS]
    ]
    more = f"... and {len(groups) - MAX_GROUP_ROWS} more, in `manifest.json`." if len(groups) > MAX_GROUP_ROWS else ""
    return ["## Sources", _table(("group", "version", "licence", "split", "samples"), rows), more]


def _pictures(counts: Mapping[str, int]) -> list[str]:
    if not counts.get("pictures"):
        return []
    return [
        f"{counts['pictures']:,} samples are pictures (PNG or JPEG) in the column `image`; their `text` is a caption or"
        " empty, and filters for texts were not asked of them. What a picture shows was not looked at: faces and names"
        " in it are not redacted."
    ]


def _label_counts(details: Mapping[str, Any]) -> list[str]:
    labels, splits = details["labels"], tuple(details["characters"])
    if not labels:
        return []
    rows = [(label, *(counts.get(split, 0) for split in splits)) for label, counts in labels.items()]
    more = f"... and more: {len(labels)} are counted in `manifest.json`." if len(labels) > MAX_GROUP_ROWS else ""
    return ["## Labels", _table(("label", *splits), rows[:MAX_GROUP_ROWS]), *([more] if more else [])]


def histogram(lengths: Sequence[int]) -> str:
    """Bars of text: samples per class of length in characters, each class twice as wide as the one before."""
    classes: dict[int, int] = {}
    for length in lengths:
        classes[length.bit_length()] = classes.get(length.bit_length(), 0) + 1
    most = max(classes.values(), default=1)
    return "\n".join(
        f"{1 << max(0, bits - 1):>9,} - {(1 << bits) - 1:>9,} {classes.get(bits, 0):>8,} "
        + "#" * -(-BAR_CHARACTERS * classes.get(bits, 0) // most)
        for bits in range(min(classes, default=0), max(classes, default=-1) + 1)
    )


def _lists(declared: Prepare) -> str:
    """The licenses that the policy names singly."""
    named = {what: getattr(declared.license, what) for what in ("allow", "deny", "ask")}
    return "".join(f"; {what}: {', '.join(names)}" for what, names in named.items() if names)


def _license_rows(licenses: Mapping[str, int]) -> list[tuple[str, int, str]]:
    from soldiom_ray.licenses import obligations

    return [(name, count, obligations("" if name == "unknown" else name)) for name, count in licenses.items()]


def _table(head: Sequence[str], rows: Any) -> str:
    cells = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(value) for value in row)} |" for row in cells)


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "\\|").replace("\n", " ")
