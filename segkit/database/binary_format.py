"""Rows of numbers as the bytes of PostgreSQL's binary COPY, made from Arrow columns without a loop over rows.

A row is a count of fields, then for each field its length in bytes and its value, all big-endian; a field that is
null has the length -1 and no value: https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # no flags, no extension
_END = b"\xff\xff"
_ROWS = 50_000  # at once: a few MB
_TYPES = {pa.int64(): ">i8", pa.float64(): ">f8"}


def holds_numbers(table: pa.Table) -> bool:
    """Tell whether a table has only columns that `binary_rows` can write."""
    return all(kind in _TYPES for kind in table.schema.types)


def binary_rows(table: pa.Table, text: str = "") -> Iterator[bytes]:
    """Give a table of int64 and float64 columns as a binary COPY, in pieces; `text` comes first in every row."""
    yield _HEADER
    for batch in table.to_batches(max_chunksize=_ROWS):
        yield _encoded(batch, text.encode())
    yield _END


def _encoded(batch: pa.RecordBatch, text: bytes) -> bytes:
    rows = np.zeros(batch.num_rows, _layout(batch, text))
    rows["fields"] = batch.num_columns + bool(text)
    if text:
        rows["length"], rows["text"] = len(text), text
    for i, column in enumerate(batch.columns):
        rows[f"length {i}"] = np.where(_nulls(column), -1, 8)
        rows[f"value {i}"] = column.fill_null(0).to_numpy()
    return _without_nulls(rows, batch)


def _layout(batch: pa.RecordBatch, text: bytes) -> np.dtype[Any]:
    head = [("length", ">i4"), ("text", f"S{len(text)}")] if text else []
    columns = [
        field
        for i, kind in enumerate(batch.schema.types)
        for field in ((f"length {i}", ">i4"), (f"value {i}", _TYPES[kind]))
    ]
    return np.dtype([("fields", ">i2"), *head, *columns])


def _nulls(column: pa.Array) -> NDArray[np.bool_]:
    nulls: NDArray[np.bool_] = pc.is_null(column).to_numpy(zero_copy_only=False)
    return nulls


def _without_nulls(rows: NDArray[Any], batch: pa.RecordBatch) -> bytes:
    """Leave out the bytes of values that are null; until here all rows are equally wide."""
    if not any(column.null_count for column in batch.columns):
        return rows.tobytes()
    kept = np.ones((len(rows), rows.dtype.itemsize), bool)
    layout: Any = rows.dtype.fields
    for i, column in enumerate(batch.columns):
        start = layout[f"value {i}"][1]
        kept[_nulls(column), start : start + 8] = False
    return rows.view(np.uint8).reshape(kept.shape)[kept].tobytes()
