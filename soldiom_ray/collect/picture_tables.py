"""Tables that name pictures: a CSV, JSON Lines or the like beside a folder's images says their labels and captions."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions
from soldiom_ray.collect.documents.sandbox import Sandbox
from soldiom_ray.collect.tasks import TaskResult
from soldiom_ray.collect.text import SkippedError

TABLES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".xlsx")
READ = "picture_table"
TOLD = ("label", "group", "license", "split")


def read_tables(
    places: Mapping[Path, str], columns: Mapping[str, str], max_bytes: int, result: TaskResult
) -> tuple[dict[Path, dict[str, Any]], set[Path]]:
    """What tables tell of pictures, by the pictures' paths, and the tables that told something. `places` are all files
    with their names. Rows whose picture is not there are counted as `missing_picture`, tables as `picture_table`."""
    options = ParseOptions(columns=dict(columns), ocr=False)
    told: dict[Path, dict[str, Any]] = {}
    tables: set[Path] = set()
    with Sandbox() as sandbox:
        for table in sorted(place for place in places if place.suffix.lower() in TABLES):
            if table.stat().st_size > max_bytes:
                continue
            try:
                rows = sandbox.parse(table.name, table.read_bytes(), options)
            except (SkippedError, OSError) as error:
                if isinstance(error, SkippedError) and error.reason == "wrong_columns":
                    tables.add(table)
                    result.skip("user", places[table], places[table], error.reason, error.detail)
                continue  # any other is met again, and counted, where all files are parsed
            named = [row for row in rows if row.metadata.get("image")]
            if named:
                tables.add(table)
                result.outcomes[READ] += 1
                told |= dict(_pictures_of(table, named, places, result))
    return told, tables


def _pictures_of(
    table: Path, rows: Sequence[ParsedText], places: Mapping[Path, str], result: TaskResult
) -> Iterator[tuple[Path, dict[str, Any]]]:
    by_name: dict[str, Path | None] = {}
    for below in places:
        if below.is_relative_to(table.parent):
            by_name[below.name] = None if below.name in by_name else below
    for row in rows:
        image = str(row.metadata["image"])
        exact = Path(table.parent, image)
        place = exact if exact in places else by_name.get(Path(image).name)
        if place is None:
            result.skip("user", places[table], image, "missing_picture", f"named in {places[table]}")
            continue
        about = {name: row.metadata[name] for name in TOLD if name in row.metadata}
        if set(row.metadata["columns"]) & {"text", "messages", "answer", "target"}:
            about["caption"] = row.text
        yield place, about
