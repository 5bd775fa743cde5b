"""Compare a run folder with the tables of Postgres: every row, or a marker of the last sync.

The marker is stored in the run's own row, in `result_summary` beside the summary, by the transaction that loaded and
compared the run. It holds a hash of the folder's tables and a checksum of the database's. While both are unchanged,
nothing has to be compared. It also lists the products that were left out because `amazon_products` lacks them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg.sql import SQL, Identifier, Literal
from psycopg.types.json import Jsonb

from segkit.core.text import quantity, shortened
from segkit.database.binary_format import binary_rows, holds_numbers, stored_sums, table_sums
from segkit.database.connection import Connection, column_list, connect, translated_errors
from segkit.database.products import key_differences, present_products
from segkit.database.run_tables import ASSIGNMENTS, SCHEMAS, Content, Row, run_content, run_row, without_products

CHUNK = 20_000  # rows at once as Python objects: a million rows are sent and compared in such pieces
RUN = ["id", "created_at", "status", "model_config", "processing_params"]  # the columns of segmentation_runs
RUN += ["total_products", "processed_products", "result_summary"]
SERIAL = ("product_taxonomies", "llm_interaction_index")  # the database gives their rows ids
_MARKER, _SKIPPED = "segkit", "skipped"  # keys of result_summary, and of the marker in it

_ROW_SUM = SQL("""
SELECT count(*), coalesce(sum(hash_record_extended(ROW(rank, {columns}), 0)), 0)::text
FROM (SELECT row_number() OVER (ORDER BY id) AS rank, {columns} FROM {table} WHERE run_id = %s) AS ranked
""")

Figures = tuple[int, str]
Marker = dict[str, Any]


def check(folder: Path, url: str, interactions: pd.DataFrame) -> list[str]:
    """Return the differences between a run folder and the tables, one line a table; none if they are equal."""
    run, content = run_row(folder), run_content(folder, interactions)
    with translated_errors(url, f"the check of {run[0]}"), connect(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ  # one moment for all tables
        _, marker = stored_run(connection, run[0])
        skipped = skipped_products(marker)
        found = differences(connection, run, without_products(content, skipped))
        if keys := key_differences(connection, folder):
            found.append(
                f"product_keys: {quantity(len(keys), 'id', 'are')} missing or of another product: {shortened(keys)}"
            )
        if arrived := present_products(connection, skipped):
            count = quantity(len(arrived), "product", "were")
            found.append(f"amazon_products: {count} left out of the last sync: {shortened(arrived)}")
        return found


def skipped(url: str, run_id: str) -> list[int]:
    """Return the products that the last sync of a run left out; none for a run that is not in the database."""
    with translated_errors(url, f"reading {run_id}"), connect(url) as connection:
        return skipped_products(stored_run(connection, run_id)[1])


def differences(connection: Connection, run: Row, content: Content, *, every_row: bool = True) -> list[str]:
    """Compare a run with what the tables hold of it; return one line for each table that differs.

    Without `every_row`, tables of numbers are compared by counts and sums.
    """
    stored, _ = stored_run(connection, run[0])
    text = _difference("segmentation_runs", [run], [stored] if stored else [])
    found = table_differences(connection, run[0], content, every_row=every_row)
    return [text for text in [text, *found] if text]


def table_differences(connection: Connection, run_id: str, content: Content, *, every_row: bool) -> list[str]:
    """Compare some of the tables that hold rows of a run, like `differences`."""
    ids = {name: _stored_ids(connection, name, run_id) for name in SERIAL if name in content}
    texts = []
    for name, table in with_ids(content, ids).items():
        same = _same_numbers if every_row else _same_sums
        if not (holds_numbers(table) and same(connection, name, table, run_id)):
            stored = stored_rows(connection, name, table.column_names, run_id)
            texts.append(_difference(name, rows_of(table), stored))
    return [text for text in texts if text]


def _same_sums(connection: Connection, name: str, table: pa.Table, run_id: str) -> bool:
    return table_sums(table) == stored_sums(connection, name, table.column_names, run_id)


def _stored_ids(connection: Connection, name: str, run_id: str) -> list[int]:
    return [id_ for (id_,) in stored_rows(connection, name, ["id"], run_id)]


def stored_run(connection: Connection, run_id: str) -> tuple[Row | None, Marker]:
    """Return the row of a run as segkit wrote it, and the marker beside its summary."""
    row = next(stored_rows(connection, "segmentation_runs", RUN, run_id, "id"), None)
    if row is None or not isinstance(row[-1], dict):
        return row, {}
    marker = row[-1].get(_MARKER)
    summary = {name: value for name, value in row[-1].items() if name != _MARKER}
    return (*row[:-1], summary), marker if isinstance(marker, dict) else {}


def skipped_products(marker: Marker) -> list[int]:
    """Return the products that the last sync left out by its marker; none if somebody has damaged the marker."""
    ids = marker.get(_SKIPPED)
    is_whole = isinstance(ids, list) and all(type(id_) is int and -(2**63) <= id_ < 2**63 for id_ in ids)
    return ids if ids and is_whole else []


def held(connection: Connection, run_id: str, tables: Iterable[str] = tuple(SCHEMAS)) -> dict[str, Figures]:
    """Return the number of rows that each table holds of a run, and one checksum over them.

    Serial ids count by their order, so that two loads of the same run have the same figures.
    """
    ranks = {id_: rank for rank, id_ in enumerate(_stored_ids(connection, "product_taxonomies", run_id), start=1)}
    return {name: _held(connection, name, run_id, ranks) for name in tables}


def make_marker(digests: dict[str, str], figures: dict[str, Figures], skipped: list[int] | None = None) -> Marker:
    """Return the marker of a run: the folder's digests, the database's figures, and the products left out."""
    marker: Marker = {name: [digest, *figures[name]] for name, digest in digests.items()}
    return marker | ({_SKIPPED: skipped} if skipped else {})


def _held(connection: Connection, name: str, run_id: str, ranks: dict[int, int]) -> Figures:
    columns = [column for column in SCHEMAS[name] if column != "id"]
    if name in SERIAL:
        question = _ROW_SUM.format(table=Identifier(name), columns=column_list(columns))
        rows, total = connection.execute(question, (run_id,)).fetchone() or (0, "0")
        return rows, total
    sums = stored_sums(connection, name, columns, run_id)
    ranked = sorted((ranks.get(id_ or 0, 0), *figures) for id_, figures in sums.items())
    return sum(count for _, count, *_ in ranked), hashlib.sha256(repr(ranked).encode()).hexdigest()


def write_marker(connection: Connection, run_id: str, value: Marker) -> None:
    """Store a marker in the row of a run whose tables were just compared."""
    statement = "UPDATE segmentation_runs SET result_summary = result_summary || %s WHERE id = %s"
    connection.execute(statement, (Jsonb({_MARKER: value}), run_id))


def with_ids(content: Content, ids: dict[str, list[int]]) -> Content:
    """Return the tables with the ids of the database; null where it has fewer rows than the run."""
    changed = dict(content)
    if (taxonomies := content.get("product_taxonomies")) is not None:
        categories = _fitted(ids["product_taxonomies"], taxonomies.num_rows)
        changed["product_taxonomies"] = taxonomies.set_column(0, "id", categories)
        for name in ASSIGNMENTS:
            positions = pc.index_in(content[name]["taxonomy_id"], value_set=taxonomies["id"])
            changed[name] = content[name].set_column(1, "taxonomy_id", pc.take(categories, positions))
    index = content["llm_interaction_index"]
    numbers = _fitted(ids["llm_interaction_index"], index.num_rows)
    return changed | {"llm_interaction_index": index.add_column(0, "id", numbers)}


def _fitted(ids: list[int], length: int) -> pa.Array:
    return pa.array([*ids, *[None] * (length - len(ids))][:length], pa.int64())


def _same_numbers(connection: Connection, name: str, table: pa.Table, run_id: str) -> bool:
    """Compare a table of numbers byte by byte: hash what we would send and what the server sends."""
    question = SQL("COPY (SELECT {} FROM {} WHERE run_id = {} ORDER BY product_id) TO STDOUT (FORMAT binary)")
    statement = question.format(column_list(table.column_names), Identifier(name), Literal(run_id))
    ours, theirs = hashlib.sha256(), hashlib.sha256()
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for row in copy:
            theirs.update(row)
    for rows in binary_rows(table):
        ours.update(rows)
    return ours.digest() == theirs.digest()


def stored_rows(
    connection: Connection, name: str, columns: list[str], run_id: str, key: str = "run_id"
) -> Iterator[Row]:
    """Stream the rows that a table holds of a run, in the order of their first column."""
    statement = SQL("SELECT {} FROM {} WHERE {} = %s ORDER BY {}")
    parts = (column_list(columns), Identifier(name), Identifier(key), Identifier(columns[0]))
    with connection.cursor("segkit", binary=True) as cursor:
        cursor.itersize = CHUNK
        yield from cursor.execute(statement.format(*parts), (run_id,))


def rows_of(table: pa.Table) -> Iterator[Row]:
    """Return the rows of a table as Python objects, made in pieces."""
    for batch in table.to_batches(max_chunksize=CHUNK):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _difference(name: str, ours: Iterable[Row], theirs: Iterable[Row]) -> str:
    """Return the first difference and the number of differences as a line; empty if the rows are equal."""
    pairs = (pair for pair in zip_longest(ours, theirs) if pair[0] != pair[1])
    if (first := next(pairs, None)) is None:
        return ""
    count = 1 + sum(1 for _ in pairs)
    rows = quantity(count, "row", "differ")
    return f"{name}: {rows}; the first is {first[0]} in the run and {first[1]} in the database"
