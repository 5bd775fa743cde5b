"""Tables of numbers for PostgreSQL: the bytes of its binary COPY, and sums to compare what it holds with ours.

In a binary COPY a row is a count of fields, then for each field its length in bytes and its value, all big-endian; a
null field has the length -1 and no value: https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from psycopg.sql import SQL, Identifier

from segkit.database.connection import Connection

#: For each category id: the number of rows, the sum of their product ids and the weighted sum of their confidences.
Sums = dict[int | None, tuple[int, int, int]]

_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # no flags, no extension
_END = b"\xff\xff"
_ROWS = 50_000  # at once: a few MB
_TYPES = {pa.int64(): ">i8", pa.float64(): ">f8"}
_PRIME = 999_983  # a confidence is weighted by its product id modulo this, so that two exchanged ones are noticed
_MILLION = 1e6  # confidences are compared in millionths
_NO_CONFIDENCE = -1.0  # what a null confidence counts as
_MILLIONTHS = SQL("round(least(greatest(coalesce(confidence, -1), -1e6), 1e6) * 1e6)::bigint")
_SUMS = SQL("""
SELECT {category}, count(*), sum(product_id)::text, sum((product_id %% {prime} + {prime}) * {millionths})::text
FROM {table} WHERE run_id = %s GROUP BY 1
""")


def holds_numbers(table: pa.Table) -> bool:
    """Return whether a table has only columns that `binary_rows` can write."""
    return all(kind in _TYPES for kind in table.schema.types)


def binary_rows(table: pa.Table, text: str = "") -> Iterator[bytes]:
    """Return a table of int64 and float64 columns as a binary COPY, in pieces; `text` comes first in every row."""
    yield _HEADER
    for batch in table.to_batches(max_chunksize=_ROWS):
        yield _encoded(batch, text.encode())
    yield _END


def stored_sums(connection: Connection, name: str, columns: list[str], run_id: str) -> Sums:
    """Return the sums of the rows that a table of numbers in the database holds of a run."""
    confidence = _MILLIONTHS if "confidence" in columns else SQL("0")
    category = SQL("taxonomy_id") if "taxonomy_id" in columns else SQL("NULL::bigint")
    question = _SUMS.format(category=category, prime=_PRIME, millionths=confidence, table=Identifier(name))
    rows = connection.execute(question, (run_id,))
    return {id_: (count, int(ids) % 2**64, int(weighted) % 2**64) for id_, count, ids, weighted in rows}


def table_sums(table: pa.Table) -> Sums:
    """Return the sums of a table of numbers as `run_tables` makes it."""
    ids = table["product_id"].to_numpy()
    none = np.iinfo(np.int64).min
    has_category = "taxonomy_id" in table.column_names
    categories = table["taxonomy_id"].fill_null(none).to_numpy() if has_category else np.full(len(ids), none)
    return {
        None if category == none else int(category): (len(rows), _total(ids[rows]), _total(weighted[rows]))
        for weighted in [_weighted(table, ids)]
        for category, rows in _groups(categories)
    }


def _weighted(table: pa.Table, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    if "confidence" not in table.column_names:
        return np.zeros(len(ids), np.int64)
    confidence = np.clip(table["confidence"].fill_null(_NO_CONFIDENCE).to_numpy(), -_MILLION, _MILLION)
    weighted: NDArray[np.int64] = (np.fmod(ids, _PRIME) + _PRIME) * np.rint(confidence * _MILLION).astype(np.int64)
    return weighted


def _groups(categories: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Return each category with the places of its rows."""
    order = np.argsort(categories, kind="stable")
    names, starts = np.unique(categories[order], return_index=True)
    return zip(names.tolist(), np.split(order, starts[1:]), strict=bool(len(names)))


def _total(values: NDArray[np.int64]) -> int:
    """Add up modulo 2^64, where the database adds up without a limit."""
    return int(values.view(np.uint64).sum())


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
