"""Loading a run into Postgres, from its folder, as often as one likes.

It is one transaction, which ends by comparing the tables with the folder: texts row by row, numbers by their counts
and by sums of hashes that the server and we compute alike. So a run is there whole and right, or as it was
before. Assignments are sent sorted by product, so that indexes grow at their end.
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

from segkit.database import products as product_store
from segkit.database import schema as database_schema
from segkit.database.binary_format import binary_rows, holds_numbers
from segkit.database.compare import (
    RUN,
    Figures,
    Marker,
    differences,
    held,
    marker,
    rows_of,
    skipped_products,
    stored_rows,
    stored_run,
    table_differences,
    with_ids,
    write_marker,
)
from segkit.database.connection import Connection, connect, mapped, names
from segkit.database.run_tables import Content, Row, digests, index_content, run_content, run_row, without_products
from segkit.errors import DatabaseError

_PAUSES = (0.2, 1.0, 5.0)  # seconds before a transaction is tried again that lost against another one
_PATIENCE = SQL("SET LOCAL lock_timeout = '15min'; SET LOCAL statement_timeout = '15min'")  # with another sync
_LIMITS = SQL("SET LOCAL lock_timeout = '60s'")
_MANY = 10_000  # rows that change the statistics of a table
_KEYS = {"product_taxonomies": "category_name", "llm_interaction_index": "file_path"}  # a row keeps its id by these


def sync(folder: Path, url: str, interactions: pd.DataFrame, *, skip: bool = False) -> dict[str, int]:
    """Load a run folder into the tables, in place of what they hold of this run; returns the rows of each table.

    One transaction: after an error or a kill the tables are as before, and the same call can be made again. Where
    nothing changed since the last sync, nothing is locked or written. With `skip`, products that the store lacks are
    left out, and named in the marker; they are loaded by a sync after they have come.
    Raises RunError for a folder that cannot be read, DatabaseError for all else.
    """
    run = run_row(folder)
    with ThreadPoolExecutor(1) as pool:  # the server counts while we read
        looking = pool.submit(_look, url, run[0])
        content = run_content(folder, interactions)
        said = digests(content)
    stored, known, figures, has_arrivals = looking.result()
    skipped = skipped_products(known) if skip and not has_arrivals else []
    wanted = without_products(content, skipped)
    if stored != run or known != marker(digests(wanted) if skipped else said, figures, skipped):
        wanted = _patiently(lambda: _sync(folder, url, run, content, skip=skip))
    return {"segmentation_runs": 1} | {name: table.num_rows for name, table in wanted.items()}


def _look(url: str, run_id: str) -> tuple[Row | None, Marker, dict[str, Figures], bool]:
    """See that the tables can hold a run, what they hold of this one, and whether what they lack of it has come."""
    with mapped(url, f"the sync of {run_id}"), connect(url) as connection:
        connection.isolation_level = IsolationLevel.REPEATABLE_READ  # one moment for all tables
        connection.execute(_LIMITS)
        database_schema.require_tables(connection)
        stored, known = stored_run(connection, run_id)
        arrivals = product_store.present_products(connection, skipped_products(known))
        found = (stored, known, held(connection, run_id), bool(arrivals))
        connection.rollback()
    return found


def _patiently(work: Callable[[], Content]) -> Content:
    """Do some work, and do it again where its transaction lost against another one."""
    for pause in _PAUSES:
        try:
            return work()
        except DatabaseError as error:
            if not isinstance(error.__cause__, errors.SerializationFailure | errors.DeadlockDetected):
                raise
        time.sleep(pause)
    return work()


def _sync(folder: Path, url: str, run: Row, content: Content, *, skip: bool) -> Content:
    """Load a run and write its marker; gives what was loaded."""
    with mapped(url, f"the sync of {run[0]}"), connect(url) as connection:
        _begin(connection, run[0])
        skipped = product_store.require_products(connection, folder, skip=skip)
        wanted = without_products(content, skipped)
        _load(connection, run, wanted)
        write_marker(connection, run[0], marker(digests(wanted), held(connection, run[0]), skipped))
        connection.commit()
        _analyse(connection, wanted)
    return wanted


def _analyse(connection: Connection, content: Content) -> None:
    """Let the planner know of many new rows now; the server's own daemon would in a minute or more."""
    for name in (name for name, table in content.items() if table.num_rows >= _MANY):
        with suppress(errors.LockNotAvailable), connection.transaction():
            connection.execute("SET LOCAL lock_timeout = '1s'")  # somebody else is at it
            connection.execute(SQL("ANALYZE {}").format(Identifier(name)))


def _begin(connection: Connection, run_id: str) -> None:
    """Wait, for a bounded time, until nobody else writes this run."""
    connection.execute(_PATIENCE)
    connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (lock_name(run_id),))
    connection.execute(_LIMITS)


def lock_name(run_id: str) -> str:
    """The name of the advisory lock of whoever writes a run."""
    return f"segkit {run_id}"


def _load(connection: Connection, run: Row, content: Content) -> None:
    """Write a run unless the tables hold it already, and compare what they hold then."""
    stored, _ = stored_run(connection, run[0])
    if stored is None or differences(connection, run, content, every_row=False):
        _write_run(connection, run)
        _replace(connection, run[0], content)
        _require_equal(differences(connection, run, content, every_row=False))


def _require_equal(found: list[str]) -> None:
    if found:
        hint = "look for triggers and rules on the tables; nothing was changed"
        raise DatabaseError(f"the tables do not hold what was sent: {'; '.join(found)}", hint)


def _write_run(connection: Connection, run: Row) -> None:
    """Write the row of a run; one that is there is kept, others may refer to it."""
    values = [Jsonb(value) if isinstance(value, dict) else value for value in run]
    upsert = "INSERT INTO segmentation_runs ({0}) VALUES ({1}) ON CONFLICT (id) DO UPDATE SET ({0}) = ({2})"
    marks, new = SQL(", ").join([SQL("%s")] * len(run)), SQL(", ").join(Identifier("excluded", name) for name in RUN)
    connection.execute(SQL(upsert).format(names(RUN), marks, new), values)


def _replace(connection: Connection, run_id: str, content: Content) -> None:
    """Put the rows of a run in place of what the other tables hold of it."""
    keys = {name: content[name][key].to_pylist() for name, key in _KEYS.items() if name in content}
    ids = {name: _ids(connection, name, run_id, texts) for name, texts in keys.items()}
    for name in reversed(content):  # those that refer to others first
        connection.execute(SQL("DELETE FROM {} WHERE run_id = %s").format(Identifier(name)), (run_id,))
    for name, table in with_ids(content, ids).items():
        _copy(connection, name, run_id, table)


def _ids(connection: Connection, name: str, run_id: str, keys: list[str]) -> list[int]:
    """Ids for the rows of a serial table in the order of the run: those of the last sync as far as they fit."""
    known = {key: id_ for id_, key in stored_rows(connection, name, ["id", _KEYS[name]], run_id)}
    ids: list[int] = []
    for key in keys:
        if known.get(key, 0) <= (ids[-1] if ids else 0):
            break
        ids.append(known[key])
    draw = "SELECT nextval(pg_get_serial_sequence(%s, 'id')) FROM generate_series(1, %s)"
    return ids + [id_ for (id_,) in connection.execute(draw, (name, len(keys) - len(ids)))]


def _copy(connection: Connection, name: str, run_id: str, table: pa.Table) -> None:
    """Send rows: numbers as bytes made by the column, names and texts through the driver's row writer."""
    numbers = holds_numbers(table)
    statement = SQL("COPY {} ({}) FROM STDIN{}").format(
        Identifier(name), names(["run_id", *table.column_names]), SQL(" (FORMAT binary)" if numbers else "")
    )
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        if numbers:
            for rows in binary_rows(table, run_id):
                copy.write(rows)
        else:
            for row in rows_of(table):
                copy.write_row((run_id, *row))


def reindex(url: str, run_id: str, interactions: pd.DataFrame) -> int | None:
    """Rebuild what `llm_interaction_index` holds of a run, in one transaction; gives the number of rows.

    Gives None for a run that is not in the database. The other tables stay as they are. Raises DatabaseError.
    """
    content = {"llm_interaction_index": index_content(interactions)}
    with mapped(url, f"the index of {run_id}"), connect(url) as connection:
        _begin(connection, run_id)
        stored, known = stored_run(connection, run_id)
        if stored is None:
            return None
        _replace(connection, run_id, content)
        _require_equal(table_differences(connection, run_id, content, every_row=True))
        if known:
            write_marker(connection, run_id, known | marker(digests(content), held(connection, run_id, content)))
    return int(content["llm_interaction_index"].num_rows)
