"""Tables that describe pictures: a CSV, JSON Lines or similar file next to images holds their labels and captions."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions
from soldiom_ray.collect.documents.sandbox import Sandbox
from soldiom_ray.collect.tasks import TaskResult
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.domains.access import Folders, read_within
from soldiom_ray.domains.file_types import FAMILIES

TABLES = (*FAMILIES["table"], *FAMILIES["json"], *FAMILIES["parquet"], ".xlsx")
READ_OUTCOME = "picture_table"
PICTURE_ROLES = ("label", "group", "license", "split")


def read_tables(
    names: Mapping[Path, str],
    columns: Mapping[str, str],
    max_bytes: int,
    result: TaskResult,
    folders: Folders = None,
) -> tuple[dict[Path, dict[str, Any]], set[Path]]:
    """(metadata by picture, tables that hold some). `names` are all files with their names. Rows whose picture does not
    exist are counted as `missing_picture`, tables as `picture_table`."""
    options = ParseOptions(columns=dict(columns), ocr=False)
    metadata: dict[Path, dict[str, Any]] = {}
    tables: set[Path] = set()
    with Sandbox() as sandbox:
        for table in sorted(image_path for image_path in names if image_path.suffix.lower() in TABLES):
            if table.stat().st_size > max_bytes:
                continue
            try:
                rows = sandbox.parse(table.name, read_within(table, folders), options)
            except (SkippedError, OSError) as error:
                if isinstance(error, SkippedError) and error.reason == "wrong_columns":
                    tables.add(table)
                    result.skip("user", names[table], names[table], error.reason, error.detail)
                continue  # other errors recur, and are counted, where all files are parsed
            picture_rows = [row for row in rows if row.metadata.get("image")]
            if picture_rows:
                tables.add(table)
                result.outcomes[READ_OUTCOME] += 1
                metadata |= dict(_pictures_of(table, picture_rows, names, result))
    return metadata, tables


def _pictures_of(
    table: Path, rows: Sequence[ParsedText], names: Mapping[Path, str], result: TaskResult
) -> Iterator[tuple[Path, dict[str, Any]]]:
    by_file_name: dict[str, Path | None] = {}
    for path in names:
        if path.is_relative_to(table.parent):
            by_file_name[path.name] = None if path.name in by_file_name else path
    for row in rows:
        image = str(row.metadata["image"])
        named_path = Path(table.parent, image)
        image_path = named_path if named_path in names else by_file_name.get(Path(image).name)
        if image_path is None:
            result.skip("user", names[table], image, "missing_picture", f"named in {names[table]}")
            continue
        picture_metadata = {name: row.metadata[name] for name in PICTURE_ROLES if name in row.metadata}
        if set(row.metadata["columns"]) & {"text", "messages", "answer", "target"}:
            picture_metadata["caption"] = row.text
        yield image_path, picture_metadata
