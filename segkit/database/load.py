"""Load a run into Postgres from its folder; a load can be repeated.

A load is one transaction, which ends by comparing the tables with the folder: texts row by row, numbers by counts and
sums. So after it the run is there whole and right, or as it was before. Assignments are sent sorted by product, so
that indexes grow at their end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pyarrow as pa
from psycopg import IsolationLevel, errors
from psycopg.sql import SQL, Identifier
from psycopg.types.json import Jsonb

from segkit.database.binary_format import binary_rows, holds_numbers
from segkit.database.compare import (
    RUN,
    Figures,
    Marker,
    differences,
    held,
    make_marker,
    rows_of,
    skipped_products,
    stored_rows,
    stored_run,
    with_ids,
    write_marker,
)
from segkit.database.connection import Connection, column_list, connect, translated_errors
from segkit.database.products import present_products, require_products
from segkit.database.run_tables import Content, Row, digests, run_content, run_row, without_products
from segkit.database.schema import require_tables
from segkit.errors import DatabaseError

_PAUSES = (0.2, 1.0, 5.0)  # seconds before a transaction is tried again that lost against another one
_PATIENCE = SQL("SET LOCAL lock_timeout = '15min'; SET LOCAL statement_timeout = '15min'")  # with another sync
_LIMITS = SQL("SET LOCAL lock_timeout = '60s'")
_MANY = 10_000  # rows that change the statistics of a table
_IDENTITIES = {  # a row keeps its id by these columns
    "product_taxonomies": ["category_key", "category_name"],
    "llm_interaction_index": ["file_path"],
}


def load_run(folder: Path, url: str, interactions: pd.DataFrame, *, skip: bool = False) -> dict[str, int]:
    """Load a run folder into the tables, in place of what they hold of this run; returns the rows of each table.

    One transaction: after an error or a kill the tables are as before, and the same call can be made again. If
    nothing changed since the last load, nothing is locked or written. With `skip`, products that `amazon_products`
    lacks are left out and listed in the marker; the first load after they were added has them too.
    Raises RunError for a folder that cannot be read, DatabaseError for all else.
    """
    run = run_row(folder)
    with ThreadPoolExecutor(1) as pool:  # the server counts while we read
        reading = pool.submit(_stored_state, url, run[0])
        content = run_content(folder, interactions)
        wanted_digests = digests(content)
    stored, marker, figures, has_arrivals = reading.result()
    skipped = skipped_products(marker) if skip and not has_arrivals else []
    wanted = without_products(content, skipped)
    if skipped:
        wanted_digests = digests(wanted)
    if stored != run or marker != make_marker(wanted_digests, figures, skipped):
        wanted = _retried(lambda: _load_and_mark(folder, url, run, content, skip=skip))
    return {"segmentation_runs": 1} | {name: table.num_rows for name, table in wanted.items()}


def _stored_state(url: str, run_id: str) -> tuple[Row | None, Marker, dict[str, Figures], bool]:
    """Return the row, marker and figures of a run, and whether products that were left out have been added since."""
    with translated_errors(url, f"the sync of {run_id}"), connect(url) as connection:
        connection.isolation_level = IsolationLevel.REPEATABLE_READ  # one moment for all tables
        connection.execute(_LIMITS)
        require_tables(connection)
        stored, marker = stored_run(connection, run_id)
        arrivals = present_products(connection, skipped_products(marker))
        found = (stored, marker, held(connection, run_id), bool(arrivals))
        connection.rollback()
    return found


def _retried(work: Callable[[], Content]) -> Content:
    """Do some work, again if its transaction lost against another one."""
    for pause in _PAUSES:
        try:
            return work()
        except DatabaseError as error:
            if not isinstance(error.__cause__, errors.SerializationFailure | errors.DeadlockDetected):
                raise
        time.sleep(pause)
    return work()


def _load_and_mark(folder: Path, url: str, run: Row, content: Content, *, skip: bool) -> Content:
    """Load a run and write its marker; return what was loaded."""
    with translated_errors(url, f"the sync of {run[0]}"), connect(url) as connection:
        lock_run(connection, run[0])
        skipped = require_products(connection, folder, skip=skip)
        wanted = without_products(content, skipped)
        _load(connection, run, wanted)
        write_marker(connection, run[0], make_marker(digests(wanted), held(connection, run[0]), skipped))
        connection.commit()
        _analyse(connection, wanted)
    return wanted


def _analyse(connection: Connection, content: Content) -> None:
    """Update the planner's statistics after many new rows; the server's own daemon would take a minute or more."""
    for name in (name for name, table in content.items() if table.num_rows >= _MANY):
        with suppress(errors.LockNotAvailable), connection.transaction():
            connection.execute("SET LOCAL lock_timeout = '1s'")  # somebody else is at it
            connection.execute(SQL("ANALYZE {}").format(Identifier(name)))


def lock_run(connection: Connection, run_id: str) -> None:
    """Wait, for a bounded time, until no other transaction writes this run."""
    connection.execute(_PATIENCE)
    connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (lock_name(run_id),))
    connection.execute(_LIMITS)


def lock_name(run_id: str) -> str:
    """Return the name of the advisory lock that a transaction takes to write a run."""
    return f"segkit {run_id}"


def _load(connection: Connection, run: Row, content: Content) -> None:
    """Write a run unless the tables hold it already, and compare what they hold then."""
    stored, _ = stored_run(connection, run[0])
    if stored is None or differences(connection, run, content, every_row=False):
        _write_run(connection, run)
        replace_rows(connection, run[0], content)
        require_equal(differences(connection, run, content, every_row=False))


def require_equal(found: list[str]) -> None:
    """Raise DatabaseError if differences were found."""
    if found:
        hint = "look for triggers and rules on the tables; nothing was changed"
        raise DatabaseError(f"the tables do not hold what was sent: {'; '.join(found)}", hint)


def _write_run(connection: Connection, run: Row) -> None:
    """Write the row of a run; an existing one is updated, since other tables refer to it."""
    values = [Jsonb(value) if isinstance(value, dict) else value for value in run]
    upsert = "INSERT INTO segmentation_runs ({0}) VALUES ({1}) ON CONFLICT (id) DO UPDATE SET ({0}) = ({2})"
    marks, new = SQL(", ").join([SQL("%s")] * len(run)), SQL(", ").join(Identifier("excluded", name) for name in RUN)
    connection.execute(SQL(upsert).format(column_list(RUN), marks, new), values)


def replace_rows(connection: Connection, run_id: str, content: Content) -> None:
    """Replace what the other tables hold of a run."""
    tables = {name: content[name].select(columns) for name, columns in _IDENTITIES.items() if name in content}
    ids = {name: _ids(connection, name, run_id, list(rows_of(table))) for name, table in tables.items()}
    for name in reversed(content):  # those that refer to others first
        connection.execute(SQL("DELETE FROM {} WHERE run_id = %s").format(Identifier(name)), (run_id,))
    for name, table in with_ids(content, ids).items():
        _copy(connection, name, run_id, table)


def _ids(connection: Connection, name: str, run_id: str, rows: list[Row]) -> list[int]:
    """Return ids for the rows of a serial table in the order of the run, those of the last load if they fit.

    A category that was loaded before categories had keys is known by its name.
    """
    found = stored_rows(connection, name, ["id", *_IDENTITIES[name]], run_id)
    stored = {tuple(texts): id_ for id_, *texts in found}
    ids: list[int] = []
    for row in rows:
        known = stored.get(row) or stored.get((None, *row[1:]), 0)
        if known <= (ids[-1] if ids else 0):
            break
        ids.append(known)
    draw = "SELECT nextval(pg_get_serial_sequence(%s, 'id')) FROM generate_series(1, %s)"
    return ids + [id_ for (id_,) in connection.execute(draw, (name, len(rows) - len(ids)))]


def _copy(connection: Connection, name: str, run_id: str, table: pa.Table) -> None:
    """Send rows: numbers as bytes made column by column, texts through the driver's row writer."""
    numbers = holds_numbers(table)
    statement = SQL("COPY {} ({}) FROM STDIN{}").format(
        Identifier(name), column_list(["run_id", *table.column_names]), SQL(" (FORMAT binary)" if numbers else "")
    )
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        if numbers:
            for rows in binary_rows(table, run_id):
                copy.write(rows)
        else:
            for row in rows_of(table):
                copy.write_row((run_id, *row))
