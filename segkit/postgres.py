"""Postgres, a copy of the runs: made from the run folders, checked against them, rebuilt from them at any time.

A run comes into the tables in one transaction, which ends by reading everything back and comparing it with the
folder. So a run is in the database whole and right, or as it was before. The tables are those of `sql/postgres`.
"""

import hashlib
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import sqlalchemy
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict
from psycopg.sql import SQL, Composed, Identifier
from psycopg.types.json import Jsonb
from psycopg.types.numeric import FloatLoader

from segkit.errors import DatabaseError, ProductsError
from segkit.run_tables import ASSIGNMENTS, SCHEMAS, Content, Row, run_content, run_row
from segkit.settings import project_folder

_CHUNK = 20_000  # rows at once as Python objects: a million rows are read, sent and compared in such pieces
_PAUSES = (0.2, 1.0, 5.0)  # seconds before a transaction is tried again that lost against another one
_LIMITS = SQL("SET LOCAL lock_timeout = '60s'; SET LOCAL statement_timeout = '15min'")
_OWN = "made and filled by segkit"  # the comment of an amazon_products that our migration made
_CONNECTION: dict[str, Any] = {  # beside what the URL says; a server that vanishes is noticed in a minute
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "client_encoding": "utf8",
    "application_name": "segkit",
}
_AGAIN = "no run folder was changed; run `segkit sync RUN` again"
_HINTS = {
    "UndefinedTable": "make the tables with `segkit db migrate`, then run `segkit sync RUN` again",
    "UndefinedColumn": "compare the table with the files in sql/postgres",
    "InsufficientPrivilege": "GRANT SELECT, INSERT, UPDATE, DELETE on the tables and USAGE on their sequences",
    "LockNotAvailable": "another sync or a report holds the tables; run `segkit sync RUN` again later",
    "QueryCanceled": "the server was too slow; run `segkit sync RUN` again later",
}
_RUN = ["id", "created_at", "status", "model_config", "processing_params"]  # the columns of segmentation_runs
_RUN += ["total_products", "processed_products", "result_summary"]
_TABLES = "amazon_products, segmentation_runs, run_products, product_taxonomies, product_segments"
_TABLES += ", refined_product_segments, llm_interaction_index"
_KEYS = {"product_taxonomies": "category_name", "llm_interaction_index": "file_path"}  # a row keeps its id by these

_Connection = psycopg.Connection[Row]


def connect(url: str) -> _Connection:
    """Connect to the server of a URL; raises DatabaseError, also for a database that is not UTF-8."""
    with mapped(url, "connecting"):
        connection = psycopg.connect(prepare_threshold=None, **_CONNECTION | _target(url))
        # Asked for, since a pooler may not tell it by itself.
        (encoding,) = connection.execute("SHOW server_encoding").fetchone() or ("",)
        connection.rollback()
    if encoding != "UTF8":
        connection.close()
        hint = "names would be lost; create the database with ENCODING 'UTF8'"
        raise DatabaseError(f"the database {named(url)} has the encoding {encoding}, not UTF8", hint)
    return connection


def _target(url: str) -> dict[str, Any]:
    """The parts of a URL; the forms of SQLAlchemy (postgresql+psycopg://) and Heroku (postgres://) will do."""
    try:
        return conninfo_to_dict(re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql://", url))
    except psycopg.Error:  # its text quotes the URL, and with it the password
        raise DatabaseError("DATABASE_URL is not a PostgreSQL URL", "postgresql://user:password@host/name") from None


def named(url: str) -> str:
    """Name a database for people: its name, host and port, never its user or password."""
    target = _target(url)
    return f"{target.get('dbname', '')} at {target.get('host', 'localhost')}:{target.get('port', 5432)}"


@contextmanager
def mapped(
    url: str, doing: str, hint: str = _AGAIN, hints: Mapping[str, str] = MappingProxyType(_HINTS)
) -> Iterator[None]:
    """Tell every foreign error as a DatabaseError with the place, and never with the password."""
    try:
        yield
    except (psycopg.Error, sqlalchemy.exc.SQLAlchemyError, pd.errors.DatabaseError) as error:
        cause = _innermost(error)
        text = _wording(cause).replace(_target(url).get("password") or "\0", "***")
        message = f"{doing} failed in the database {named(url)}: {text}"
        raise DatabaseError(message, hints.get(type(cause).__name__, hint)) from cause


def _innermost(error: BaseException) -> BaseException:
    """The psycopg error inside those of SQLAlchemy and pandas."""
    inner = getattr(error, "orig", None) or error.__cause__
    return error if isinstance(error, psycopg.Error) or inner is None else _innermost(inner)


def _wording(error: BaseException) -> str:
    diagnosis = error.diag if isinstance(error, psycopg.Error) else None
    parts = [diagnosis.message_primary, diagnosis.message_detail, diagnosis.context] if diagnosis else []
    return " · ".join(" ".join(part.split())[:300] for part in parts if part) or " ".join(str(error).split())[:500]


def migrate(url: str, folder: Path | None = None) -> list[str]:
    """Apply the SQL files of a folder (that of the project) which were not applied yet; returns their names."""
    files = sorted((folder or project_folder("sql") / "postgres").glob("*.sql"))
    with connect(url) as connection:
        return [file.name for file in files if _apply(connection, url, file)]


def _apply(connection: _Connection, url: str, file: Path) -> bool:
    """Apply one file and record it, in one transaction and after whoever else does the same."""
    text = file.read_text(encoding="utf-8")
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    with mapped(url, f"the migration {file.name}", hint=""), connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('segkit_migrations', 0))")
        applied = _applied(connection)
        if file.name not in applied:
            connection.execute(text.encode())
            connection.execute("INSERT INTO segkit_migrations VALUES (%s, %s, now())", (file.name, sha256))
    if applied.get(file.name, sha256) != sha256:
        hint = "restore the file, and put the change into a new one"
        raise DatabaseError(f"{file.name} was changed after it was applied to {named(url)}", hint)
    return file.name not in applied


def _applied(connection: _Connection) -> dict[str, str]:
    """Names and hashes of the files applied so far; makes their table where it is missing."""
    if connection.execute("SELECT to_regclass('segkit_migrations')").fetchone() == (None,):
        columns = "name text PRIMARY KEY, sha256 text NOT NULL, applied_at timestamptz NOT NULL"
        connection.execute(SQL("CREATE TABLE segkit_migrations ({})").format(SQL(columns)))
    return dict(connection.execute("SELECT name, sha256 FROM segkit_migrations").fetchall())


def sync(folder: Path, url: str, interactions: pd.DataFrame) -> dict[str, int]:
    """Load a run folder into the tables, in place of what they hold of this run; returns the rows of each table.

    One transaction: after an error or a kill the tables are as before, and the same call can be made again.
    Raises RunError for a folder that cannot be read, DatabaseError for all else.
    """
    run, content = run_row(folder), run_content(folder, interactions)
    for pause in _PAUSES:
        try:
            return _sync(folder, url, run, content)
        except DatabaseError as error:
            if not isinstance(error.__cause__, errors.SerializationFailure | errors.DeadlockDetected):
                raise
        time.sleep(pause)
    return _sync(folder, url, run, content)


def _sync(folder: Path, url: str, run: Row, content: Content) -> dict[str, int]:
    with mapped(url, f"the sync of {run[0]}"), connect(url) as connection:
        connection.execute(_LIMITS)
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"segkit {run[0]}",))
        if _compare(connection, run, content):
            _require_products(connection, folder)
            _replace(connection, run, content)
        if found := _compare(connection, run, content):
            hint = "look for triggers and rules on the tables; nothing was changed"
            raise DatabaseError(f"the tables do not hold what was sent: {'; '.join(found)}", hint)
    return {"segmentation_runs": 1} | {name: table.num_rows for name, table in content.items()}


def check(folder: Path, url: str, interactions: pd.DataFrame) -> list[str]:
    """The differences between a run folder and the tables, one line a table; none when they are equal."""
    run, content = run_row(folder), run_content(folder, interactions)
    with mapped(url, f"the check of {run[0]}"), connect(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ  # one moment for all tables
        return _compare(connection, run, content)


def _require_products(connection: _Connection, folder: Path) -> None:
    """Find products that the store lacks before anything is loaded; a store of our own gets them first."""
    own = connection.execute("SELECT obj_description('amazon_products'::regclass) = %s", (_OWN,)).fetchone() == (
        True,
    )
    texts = "title text, brand text, price_usd text, category text"
    connection.execute(SQL("CREATE TEMP TABLE segkit_products (id bigint, {}) ON COMMIT DROP").format(SQL(texts)))
    if (folder / "products.parquet").exists():
        _send_products(connection, folder / "products.parquet", with_texts=own)
    if own:
        connection.execute(
            "INSERT INTO amazon_products (id, title, brand, price_usd, category) SELECT id, title, brand,"
            r" CASE WHEN price_usd ~ '^-?\d+(\.\d+)?$' THEN price_usd::numeric END, category"
            " FROM segkit_products ORDER BY id ON CONFLICT (id) DO NOTHING"  # in order, or two syncs may deadlock
        )
    missing = connection.execute(
        "SELECT id, count(*) OVER () FROM segkit_products AS ours WHERE NOT EXISTS"
        " (SELECT FROM amazon_products AS theirs WHERE theirs.id = ours.id) ORDER BY id LIMIT 10"
    ).fetchall()
    if missing:
        ids = ", ".join(str(id_) for id_, _ in missing)
        hint = "put them into amazon_products, then run `segkit sync RUN` again"
        raise DatabaseError(f"{missing[0][1]} products of the run are not in amazon_products: {ids}", hint)


def _send_products(connection: _Connection, path: Path, *, with_texts: bool) -> None:
    with pq.ParquetFile(path) as file:
        known = ("title", "brand", "price_usd", "category") if with_texts else ()
        texts = [name for name in known if name in file.schema_arrow.names]
        batches = file.iter_batches(_CHUNK, columns=["product_id", *texts])
        rows = ((id_, *map(_text, values)) for batch in batches for id_, *values in _rows_of(batch, texts))
        _copy(connection, "segkit_products", ["id", *texts], rows)


def _rows_of(batch: pa.RecordBatch, texts: list[str]) -> Iterator[Row]:
    return zip(*(batch.column(name).to_pylist() for name in ["product_id", *texts]), strict=True)


def _text(value: Any) -> str | None:
    """A value as Postgres can hold it: it knows no NUL, which stands as U+FFFD there."""
    return None if value is None else str(value).replace("\0", "\ufffd")


def _replace(connection: _Connection, run: Row, content: Content) -> None:
    """Put a run in place of what the tables hold of it; its own row is kept, others may refer to it."""
    values = [Jsonb(value) if isinstance(value, dict) else value for value in run]
    upsert = "INSERT INTO segmentation_runs ({0}) VALUES ({1}) ON CONFLICT (id) DO UPDATE SET ({0}) = ({2})"
    marks, new = SQL(", ").join([SQL("%s")] * len(run)), SQL(", ").join(Identifier("excluded", name) for name in _RUN)
    connection.execute(SQL(upsert).format(_names(_RUN), marks, new), values)
    ids = {name: _ids(connection, name, run[0], content[name][key].to_pylist()) for name, key in _KEYS.items()}
    for name in reversed(SCHEMAS):
        connection.execute(SQL("DELETE FROM {} WHERE run_id = %s").format(Identifier(name)), (run[0],))
    for name, table in _with_ids(content, ids).items():
        _copy(connection, name, ["run_id", *table.column_names], ((run[0], *row) for row in _rows(table)))


def _ids(connection: _Connection, name: str, run_id: str, keys: list[str]) -> list[int]:
    """Ids for the rows of a serial table in the order of the run: those of the last sync as far as they fit."""
    known = {key: id_ for id_, key in _stored(connection, name, ["id", _KEYS[name]], run_id)}
    ids: list[int] = []
    for key in keys:
        if known.get(key, 0) <= (ids[-1] if ids else 0):
            break
        ids.append(known[key])
    draw = "SELECT nextval(pg_get_serial_sequence(%s, 'id')) FROM generate_series(1, %s)"
    return ids + [id_ for (id_,) in connection.execute(draw, (name, len(keys) - len(ids)))]


def _with_ids(content: Content, ids: dict[str, list[int]]) -> Content:
    """The tables with the ids of the database; null where it has fewer rows than the run."""
    taxonomies, index = content["product_taxonomies"], content["llm_interaction_index"]
    categories = _fitted(ids["product_taxonomies"], taxonomies.num_rows)
    changed = {"product_taxonomies": taxonomies.set_column(0, "id", categories)}
    for name in ASSIGNMENTS:
        places = pc.index_in(content[name]["taxonomy_id"], value_set=taxonomies["id"])
        changed[name] = content[name].set_column(1, "taxonomy_id", pc.take(categories, places))
    changed["llm_interaction_index"] = index.add_column(
        0, "id", _fitted(ids["llm_interaction_index"], index.num_rows)
    )
    return content | changed


def _fitted(ids: list[int], length: int) -> pa.Array:
    return pa.array([*ids, *[None] * (length - len(ids))][:length], pa.int64())


def _copy(connection: _Connection, name: str, columns: list[str], rows: Iterable[Row]) -> None:
    statement = SQL("COPY {} ({}) FROM STDIN").format(Identifier(name), _names(columns))
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)


def _rows(table: pa.Table) -> Iterator[Row]:
    for batch in table.to_batches(max_chunksize=_CHUNK):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _names(columns: Iterable[str]) -> Composed:
    return SQL(", ").join(map(Identifier, columns))


def _compare(connection: _Connection, run: Row, content: Content) -> list[str]:
    """Compare every row of a run with what the tables hold of it; one line for each table that differs."""
    ids = {name: [id_ for (id_,) in _stored(connection, name, ["id"], run[0])] for name in _KEYS}
    texts = [_difference("segmentation_runs", [run], _stored(connection, "segmentation_runs", _RUN, run[0], "id"))]
    for name, table in _with_ids(content, ids).items():
        texts.append(_difference(name, _rows(table), _stored(connection, name, table.column_names, run[0])))
    return [text for text in texts if text]


def _stored(
    connection: _Connection, name: str, columns: list[str], run_id: str, key: str = "run_id"
) -> Iterator[Row]:
    """Stream the rows that a table holds of a run, in the order of their first column."""
    statement = SQL("SELECT {} FROM {} WHERE {} = %s ORDER BY {}")
    names = (_names(columns), Identifier(name), Identifier(key), Identifier(columns[0]))
    with connection.cursor("segkit", binary=True) as cursor:
        cursor.itersize = _CHUNK
        yield from cursor.execute(statement.format(*names), (run_id,))


def _difference(name: str, ours: Iterable[Row], theirs: Iterable[Row]) -> str:
    """The first difference and how many there are; empty where the rows are equal."""
    pairs = (pair for pair in zip_longest(ours, theirs) if pair[0] != pair[1])
    if (first := next(pairs, None)) is None:
        return ""
    count = 1 + sum(1 for _ in pairs)
    return f"{name}: {count} rows differ; the first is {first[0]} in the run and {first[1]} in the database"


def load_products(url: str, ids: list[int]) -> pd.DataFrame:
    """The rows of amazon_products for a list of ids, in its order, with `id` as `product_id`.

    Raises ProductsError for ids that are not there, DatabaseError for all else.
    """
    with mapped(url, "loading products"), connect(url) as connection:
        connection.adapters.register_loader("numeric", FloatLoader)
        cursor = connection.execute("SELECT * FROM amazon_products WHERE id = ANY(%s)", (list(map(int, ids)),))
        frame = pd.DataFrame(cursor.fetchall(), columns=[column.name for column in cursor.description or ()])
    if "title" not in frame.columns:
        raise ProductsError("amazon_products has no column `title`", "segkit reads the columns id and title")
    if missing := sorted(set(ids) - set(frame["id"])):
        raise ProductsError(f"{len(missing)} products are not in amazon_products: {missing[:10]}", "check the ids")
    return frame.set_index("id").loc[ids].rename_axis("product_id").reset_index()


def query(url: str, sql: str) -> pd.DataFrame:
    """The answer of the database to a question in SQL, which cannot change anything."""
    pool = sqlalchemy.pool.NullPool
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: connect(url), poolclass=pool)
    options = {"postgresql_readonly": True, "no_parameters": True}  # so `LIKE '%x%'` stays as it is
    known = f"the tables are {_TABLES}; where they are missing: segkit db migrate"
    with mapped(url, "the query", hint="", hints={"UndefinedTable": known}), engine.connect() as connection:
        return pd.read_sql(sql, connection.execution_options(**options))
