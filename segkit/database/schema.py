"""Whether the tables of a database can hold a run, found before anything is sent: columns, types, rights."""

from __future__ import annotations

from segkit.database.connection import Connection
from segkit.database.run_tables import SCHEMAS, Row
from segkit.errors import DatabaseError

_NUMBERS = {"product_id": "bigint", "taxonomy_id": "bigint", "confidence": "double precision"}
_RUN = "created_at status model_config processing_params total_products processed_products result_summary"
_COLUMNS = {"amazon_products": ["id"], "segmentation_runs": ["id", *_RUN.split()]} | {
    name: ["run_id", *columns] for name, columns in SCHEMAS.items()
}
_ATTRIBUTES = """
SELECT relname, attname, format_type(atttypid, NULL),
       attnotnull AND NOT atthasdef AND attidentity = '' AND attgenerated = '' AS is_asked_for
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


def require_tables(connection: Connection) -> None:
    """Raise DatabaseError, with the statement that helps, where a table cannot hold what segkit writes."""
    found: dict[str, dict[str, Row]] = {name: {} for name in _COLUMNS}
    for table, column, kind, is_asked_for in connection.execute(_ATTRIBUTES, (list(_COLUMNS),)):
        found[table][column] = (kind, is_asked_for)
    for table, columns in found.items():
        _require_columns(table, columns)
    _require_rights(connection)


def _require_columns(table: str, found: dict[str, Row]) -> None:
    if not found:
        raise DatabaseError(f"the table {table} does not exist", "make the tables with `segkit db migrate`")
    for column in _COLUMNS[table]:
        if column not in found:
            hint = "compare the table with the files in sql/postgres"
            raise DatabaseError(f"the table {table} has no column {column}", hint)
    if table == "amazon_products":  # its owner's; segkit only reads it, or made it
        return
    for column, (kind, is_asked_for) in found.items():
        if is_asked_for and column not in {*_COLUMNS[table], "id"}:
            hint = f"ALTER TABLE {table} ALTER COLUMN {column} DROP NOT NULL"
            raise DatabaseError(f"the column {column} of {table} wants a value that segkit does not have", hint)
        wanted = _NUMBERS.get(column, kind)
        if kind != wanted:
            hint = f"ALTER TABLE {table} ALTER COLUMN {column} TYPE {wanted}"
            raise DatabaseError(f"the column {column} of {table} is {kind}, not {wanted}", hint)


def _require_rights(connection: Connection) -> None:
    tables = [name for name in _COLUMNS if name != "amazon_products"]
    question = {"tables": tables, "serial": ["product_taxonomies", "llm_interaction_index"]}
    lacking = connection.execute(_LACKING, question).fetchall()
    if lacking:
        told = ", ".join(name for name, _, _ in lacking)
        grants = "; ".join(f"GRANT {rights} ON {name} TO {role}" for name, rights, role in lacking)
        raise DatabaseError(f"the role {lacking[0][2]} lacks rights on {told}", grants)
