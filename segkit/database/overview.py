"""An overview of the database: its server, migrations and rows, and which runs it has of the runs folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from psycopg.sql import SQL, Identifier

from segkit.database.connection import Connection, connect, server_name, translated_errors
from segkit.database.run_tables import ASSIGNMENTS, TABLES
from segkit.database.schema import applied_migrations, migration_files
from segkit.runs.run import run_ids


def database_overview(url: str, runs_dir: Path) -> dict[str, Any]:
    """Return the server, its migrations, the rows of each table, and which runs are where; raise DatabaseError."""
    with translated_errors(url, "reading the status", hint="see `segkit doctor`"), connect(url) as connection:
        done = applied_migrations(connection)
        tables = [name for name in TABLES if _exists(connection, name)]
        return {
            "database": server_name(url),
            "server": f"PostgreSQL {_value(connection, 'SHOW server_version')}",
            "migrations": {file.name: file.name in done for file in migration_files(partitioned=True)},
            "partitioned": _is_partitioned(connection),
            "rows": {name: _rows(connection, name) for name in tables},
            "runs": _runs(connection, runs_dir, exists="segmentation_runs" in tables),
        }


def _value(connection: Connection, question: str, *values: object) -> Any:
    (value,) = connection.execute(question.encode(), values).fetchone() or (None,)
    return value


def _exists(connection: Connection, name: str) -> bool:
    return _value(connection, "SELECT to_regclass(%s)", name) is not None


def _is_partitioned(connection: Connection) -> bool:
    question = (
        "SELECT count(*) FROM pg_class WHERE relkind = 'p' AND oid = ANY (SELECT to_regclass(unnest(%s::text[])))"
    )
    return bool(_value(connection, question, list(ASSIGNMENTS)) == len(ASSIGNMENTS))


def _rows(connection: Connection, name: str) -> int:
    (count,) = connection.execute(SQL("SELECT count(*) FROM {}").format(Identifier(name))).fetchone() or (0,)
    return int(count)


def _runs(connection: Connection, runs_dir: Path, *, exists: bool) -> dict[str, list[str]]:
    """Return the ids of the runs that are in both places, and in one of them only."""
    stored = {id_ for (id_,) in connection.execute("SELECT id FROM segmentation_runs")} if exists else set()
    local = set(run_ids(runs_dir))
    return {
        "in both": sorted(local & stored),
        "only in the runs folder": sorted(local - stored),
        "only in the database": sorted(stored - local),
    }
