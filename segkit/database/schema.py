"""The tables in Postgres: the migrations that make them, and the check that they can hold a run."""

from __future__ import annotations

import hashlib
from pathlib import Path

from segkit.database.connection import Connection, connect, server_name, translated_errors
from segkit.database.run_tables import SCHEMAS, Row
from segkit.errors import DatabaseError
from segkit.settings import project_folder

_MIGRATIONS = (
    "CREATE TABLE IF NOT EXISTS segkit_migrations"
    " (name text PRIMARY KEY, sha256 text NOT NULL, applied_at timestamptz NOT NULL)"
)
_NUMBERS = {"product_id": "bigint", "taxonomy_id": "bigint", "confidence": "double precision"}
_RUN = "created_at status model_config processing_params total_products processed_products result_summary"
_COLUMNS = {
    "amazon_products": ["id"],
    "product_keys": ["product_id", "source_id"],
    "segmentation_runs": ["id", *_RUN.split()],
} | {name: ["run_id", *columns] for name, columns in SCHEMAS.items()}
_ATTRIBUTES = """
SELECT relname, attname, format_type(atttypid, NULL),
       attnotnull AND NOT atthasdef AND attidentity = '' AND attgenerated = '' AS is_required
FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
WHERE attrelid = ANY (SELECT to_regclass(name) FROM unnest(%s::text[]) AS name) AND attnum > 0 AND NOT attisdropped
"""
_LACKING = """
WITH wanted AS (
    SELECT name, kind, number, has_table_privilege(name, kind) AS granted
    FROM unnest(%(tables)s::text[]) AS name,
         unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) WITH ORDINALITY AS kinds (kind, number)
    UNION ALL SELECT 'amazon_products', 'SELECT', 1, has_table_privilege('amazon_products', 'SELECT')
    UNION ALL SELECT 'SEQUENCE ' || name, 'USAGE', 1, has_sequence_privilege(name, 'USAGE')
    FROM unnest(%(serial)s::text[]) AS parent, pg_get_serial_sequence(parent, 'id') AS name
)
SELECT name, string_agg(kind, ', ' ORDER BY number), quote_ident(current_user) FROM wanted
WHERE NOT granted GROUP BY name ORDER BY name
"""


def migrate(url: str, folder: Path | None = None, *, partitioned: bool = False) -> list[str]:
    """Apply the SQL files of a folder (the project's) that were not applied yet, and return their names.

    With `partitioned`, the files in its folder `optional` too.
    """
    with connect(url) as connection:
        return [file.name for file in migration_files(folder, partitioned) if _apply(connection, url, file)]


def migration_files(folder: Path | None = None, partitioned: bool = False) -> list[Path]:
    """Return the SQL files of a folder in order, then those in its folder `optional` if they are wanted."""
    files = folder or project_folder("sql") / "postgres"
    return sorted(files.glob("*.sql")) + (sorted(files.glob("optional/*.sql")) if partitioned else [])


def applied_migrations(connection: Connection) -> dict[str, str]:
    """Return the names and SHA-256 hashes of the files applied so far."""
    if connection.execute("SELECT to_regclass('segkit_migrations')").fetchone() == (None,):
        return {}
    return dict(connection.execute("SELECT name, sha256 FROM segkit_migrations").fetchall())


def require_tables(connection: Connection) -> None:
    """Raise DatabaseError, with the statement that helps, if a table cannot hold what segkit writes."""
    found: dict[str, dict[str, Row]] = {name: {} for name in _COLUMNS}
    for table, column, kind, is_required in connection.execute(_ATTRIBUTES, (list(_COLUMNS),)):
        found[table][column] = (kind, is_required)
    for table, columns in found.items():
        _require_columns(table, columns)
    _require_rights(connection)


def _apply(connection: Connection, url: str, file: Path) -> bool:
    """Apply one file and record it in one transaction; other processes that migrate wait for a lock."""
    text = file.read_text(encoding="utf-8")
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    with translated_errors(url, f"the migration {file.name}", hint=""), connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('segkit_migrations', 0))")
        applied = applied_migrations(connection)
        if file.name not in applied:
            connection.execute(_MIGRATIONS)
            connection.execute(text.encode())
            connection.execute("INSERT INTO segkit_migrations VALUES (%s, %s, now())", (file.name, sha256))
    if applied.get(file.name, sha256) != sha256:
        hint = "restore the file, and put the change into a new one"
        raise DatabaseError(f"{file.name} was changed after it was applied to {server_name(url)}", hint)
    return file.name not in applied


def _require_columns(table: str, found: dict[str, Row]) -> None:
    if not found:
        raise DatabaseError(f"the table {table} does not exist", "make the tables with `segkit db migrate`")
    for column in _COLUMNS[table]:
        if column not in found:
            hint = "compare the table with the files in sql/postgres"
            raise DatabaseError(f"the table {table} has no column {column}", hint)
    if table == "amazon_products":  # the user's, which segkit only reads, or one that segkit made
        return
    for column, (kind, is_required) in found.items():
        if is_required and column not in {*_COLUMNS[table], "id"}:
            hint = f"ALTER TABLE {table} ALTER COLUMN {column} DROP NOT NULL"
            raise DatabaseError(f"the column {column} of {table} is NOT NULL, and segkit has no value for it", hint)
        wanted = _NUMBERS.get(column, kind)
        if kind != wanted:
            hint = f"ALTER TABLE {table} ALTER COLUMN {column} TYPE {wanted}"
            raise DatabaseError(f"the column {column} of {table} is {kind}, not {wanted}", hint)


def _require_rights(connection: Connection) -> None:
    tables = [name for name in _COLUMNS if name != "amazon_products"]
    question = {"tables": tables, "serial": ["product_taxonomies", "llm_interaction_index"]}
    lacking = connection.execute(_LACKING, question).fetchall()
    if lacking:
        names = ", ".join(name for name, _, _ in lacking)
        grants = "; ".join(f"GRANT {rights} ON {name} TO {role}" for name, rights, role in lacking)
        raise DatabaseError(f"the role {lacking[0][2]} lacks rights on {names}", grants)
