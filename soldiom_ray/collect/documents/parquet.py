"""Parquet and Arrow, batch by batch: each row is a record, as in JSON Lines."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from soldiom_ray.collect.documents.columns import choose_columns
from soldiom_ray.collect.documents.features import Features, features_of, media_columns, named_value
from soldiom_ray.collect.documents.parsed import MAX_UNPACKED_BYTES, ParsedText, ParseOptions
from soldiom_ray.collect.documents.progress import beat
from soldiom_ray.collect.documents.records import record_labels
from soldiom_ray.collect.documents.rows import Table, cell_value, table_texts
from soldiom_ray.collect.text import SkippedError

MAX_ROWS = 5_000_000
ROWS_PER_BATCH = 1000
_ARROW_FILE, _ARROW_STREAM = b"ARROW1", b"\xff\xff\xff\xff"


@dataclass
class _Rows:
    names: list[str]
    features: Features
    rows: list[list[Any]]


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """The rows of the file, with the names of classes where `datasets` wrote them; with `pictures` the pictures in
    them. Other binary values are represented by their length, columns of pictures and sound by a note."""
    import pyarrow as pa

    try:
        read = (_read_arrow if data.startswith((_ARROW_FILE, _ARROW_STREAM)) else _read_parquet)(data, options.pictures)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        kind = "an Arrow" if data.startswith((_ARROW_FILE, _ARROW_STREAM)) else "a Parquet"
        raise SkippedError("damaged", f"{kind} file that does not open ({type(error).__name__})") from error
    if not read.rows:
        raise SkippedError("empty", "a Parquet file without rows")
    media = media_columns(read.features)
    if options.pictures:
        return list(_pictures(read, media, options))
    kept = [number for number, column in enumerate(read.names) if column not in media]
    rows = [[row[number] for number in kept] for row in read.rows] if media else read.rows
    texts = table_texts(Table("", [read.names[number] for number in kept], rows), options.columns, {})
    return _with_notes(texts, read, media)


def _read_parquet(data: bytes, raw: bool) -> _Rows:
    import pyarrow.parquet as pq

    if data[-4:] not in (b"PAR1", b"PARE"):
        raise SkippedError("damaged", "a Parquet file that is cut off: its end mark is missing")
    if data[-4:] == b"PARE":
        raise SkippedError("encrypted", "a Parquet file with an encrypted footer")
    file = pq.ParquetFile(io.BytesIO(data))
    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    unpacked = sum(group.total_byte_size for group in groups)
    if unpacked > MAX_UNPACKED_BYTES or file.metadata.num_rows > MAX_ROWS:
        raise SkippedError("too_large", f"unpacks to {file.metadata.num_rows} rows in {unpacked} bytes")
    batches = file.iter_batches(batch_size=ROWS_PER_BATCH, use_threads=False)
    return _rows(file.schema_arrow, batches, raw)


def _read_arrow(data: bytes, raw: bool) -> _Rows:
    """Arrow's file and stream form; `datasets` writes streams."""
    import pyarrow.ipc as ipc

    if data.startswith(_ARROW_STREAM):
        stream = ipc.open_stream(data)
        return _rows(stream.schema, stream, raw)
    file = ipc.open_file(data)
    return _rows(file.schema, (file.get_batch(number) for number in range(file.num_record_batches)), raw)


def _rows(schema: Any, batches: Iterator[Any], raw: bool) -> _Rows:
    """The rows; `raw` leaves binary values as they are."""
    features, names = features_of(schema), list(schema.names)
    rows: list[list[Any]] = []
    for batch in batches:
        for row in batch.to_pylist():
            if features:
                row = {name: named_value(value, features.get(name)) for name, value in row.items()}
            rows.append(list(row.values()) if raw else [cell_value(value) for value in row.values()])
        if len(rows) > MAX_ROWS:
            raise SkippedError("too_large", f"more than {MAX_ROWS} rows")
    return _Rows(names, features, rows)


def _with_notes(texts: Sequence[ParsedText], read: _Rows, media: dict[str, str]) -> list[ParsedText]:
    """The texts, the first with a note on what columns of pictures and sound held."""
    counts = {
        f"{kind} in column {name}": sum(row[read.names.index(name)] is not None for row in read.rows)
        for name, kind in media.items()
    }
    if not texts or not counts:
        return list(texts)
    reading = dict(texts[0].metadata.get("reading") or {})
    reading["notes"] = dict(reading.get("notes") or {}) | counts
    return [replace(texts[0], metadata=texts[0].metadata | {"reading": reading}), *texts[1:]]


def _pictures(read: _Rows, media: dict[str, str], options: ParseOptions) -> Iterator[ParsedText]:
    """A picture per row and column of pictures, with the row's label and caption. Raises SkippedError: no_picture."""
    from soldiom_ray.collect.documents import image

    columns = [name for name, kind in media.items() if kind == "pictures"]
    if not columns:
        raise SkippedError("no_picture", "no column of it is declared to hold pictures")
    others = [name for name in read.names if name not in media]
    chosen = choose_columns(others, {role: name for role, name in options.columns.items() if role != "image"})
    for number, row in enumerate(read.rows, 1):
        record = dict(zip(read.names, row, strict=True))
        about = record_labels(record, chosen)
        for name in columns:
            stored = record[name]
            if isinstance(stored, dict) and stored.get("bytes"):
                (picture,) = image.parse(name, stored["bytes"], options)
                yield replace(picture, part=f"picture {number} of {name}", metadata=picture.metadata | about)
        if not number % ROWS_PER_BATCH:
            beat()
