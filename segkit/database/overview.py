"""What a database holds, beside what is in the folder of the runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from psycopg.sql import SQL, Identifier

from segkit.database.connection import Connection, applied, connect, mapped, migration_files, named
from segkit.database.run_tables import ASSIGNMENTS, SCHEMAS
from segkit.runs.run import run_ids

TABLES = ("amazon_products", "segmentation_runs", *SCHEMAS)


def database_status(url: str, runs_dir: Path) -> dict[str, Any]:
    """The server, its migrations, the rows of each table, and which runs are where; raises DatabaseError."""
    with mapped(url, "asking for the status", hint="see `segkit doctor`"), connect(url) as connection:
        done = applied(connection)
        tables = [name for name in TABLES if _exists(connection, name)]
        return {
            "database": named(url),
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
    """The ids of runs that are in both, and in one of both only."""
    there = {id_ for (id_,) in connection.execute("SELECT id FROM segmentation_runs")} if exists else set()
    here = set(run_ids(runs_dir))
    return {
        "in both": sorted(here & there),
        "only in the runs folder": sorted(here - there),
        "only in the database": sorted(there - here),
    }
