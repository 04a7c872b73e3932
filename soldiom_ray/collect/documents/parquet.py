"""Parquet through Arrow, batch by batch: each row is a record, as in JSON Lines."""

import io
from typing import Any

from soldiom_ray.collect.documents.parsed import MAX_UNPACKED_BYTES, ParsedText, ParseOptions
from soldiom_ray.collect.documents.rows import Table, cell_value, table_texts
from soldiom_ray.collect.text import SkippedError

MAX_ROWS = 5_000_000
ROWS_PER_BATCH = 1000


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """The rows of the file; binary values are represented by their length."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if data[-4:] not in (b"PAR1", b"PARE"):
        raise SkippedError("damaged", "a Parquet file that is cut off: its end mark is missing")
    if data[-4:] == b"PARE":
        raise SkippedError("encrypted", "a Parquet file with an encrypted footer")
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        unpacked = sum(group.total_byte_size for group in groups)
        if unpacked > MAX_UNPACKED_BYTES or file.metadata.num_rows > MAX_ROWS:
            raise SkippedError("too_large", f"unpacks to {file.metadata.num_rows} rows in {unpacked} bytes")
        columns = list(file.schema_arrow.names)
        rows: list[list[Any]] = []
        for batch in file.iter_batches(batch_size=ROWS_PER_BATCH, use_threads=False):
            rows.extend([cell_value(value) for value in row.values()] for row in batch.to_pylist())
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise SkippedError("damaged", f"a Parquet file that does not open ({type(error).__name__})") from error
    if not rows:
        raise SkippedError("empty", "a Parquet file without rows")
    return table_texts(Table("", columns, rows), options.columns, {})
