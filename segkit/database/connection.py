"""The door to a PostgreSQL server: connections, errors told without a password, migrations, queries.

How a run comes into the tables stands in `loading`, how both are compared in `comparing`. The tables are those of
`sql/postgres`.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import psycopg
import sqlalchemy
from psycopg.conninfo import conninfo_to_dict
from psycopg.sql import SQL, Composed, Identifier
from psycopg.types.numeric import FloatLoader
from pydantic import SecretStr

from segkit.database.run_tables import Row
from segkit.errors import DatabaseError, ProductsError
from segkit.settings import project_folder
from segkit.storage.redaction import redactor

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
    "DiskFull": f"make room on the disk of the server; {_AGAIN}",
    "ReadOnlySqlTransaction": "this is a replica, or a database that was set read-only: let DATABASE_URL lead to the"
    f" primary, such as with ?target_session_attrs=read-write; {_AGAIN}",
    "QueryCanceled": "the server was too slow; run `segkit sync RUN` again later",
}
_MIGRATIONS = (
    "CREATE TABLE IF NOT EXISTS segkit_migrations"
    " (name text PRIMARY KEY, sha256 text NOT NULL, applied_at timestamptz NOT NULL)"
)
_TABLES = "amazon_products, segmentation_runs, run_products, product_taxonomies, product_segments"
_TABLES += ", refined_product_segments, llm_interaction_index"
Connection = psycopg.Connection[Row]


def connect(url: str, **options: Any) -> Connection:
    """Connect to the server of a URL; raises DatabaseError, also for a database that is not UTF-8.

    Nothing is prepared and nothing outlives a transaction, so a pooler between us and the server may change the
    server between two of them. `options` are further parameters of libpq.
    """
    with mapped(url, "connecting"):
        connection = psycopg.connect(prepare_threshold=None, **_CONNECTION | _target(url) | options)
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
        text = _wording(cause, redactor([SecretStr(url), SecretStr(str(_target(url).get("password") or ""))]))
        message = f"{doing} failed in the database {named(url)}: {text}"
        raise DatabaseError(message, hints.get(type(cause).__name__, hint)) from cause


def _innermost(error: BaseException) -> BaseException:
    """The psycopg error inside those of SQLAlchemy and pandas."""
    inner = getattr(error, "orig", None) or error.__cause__
    return error if isinstance(error, psycopg.Error) or inner is None else _innermost(inner)


def _wording(error: BaseException, redact: Callable[[bytes], bytes]) -> str:
    """Shorten what a server said; its secrets go first, since half a password is no longer recognised."""
    diagnosis = error.diag if isinstance(error, psycopg.Error) else None
    parts = [diagnosis.message_primary, diagnosis.message_detail, diagnosis.context] if diagnosis else []
    told = [_clean(part, redact)[:300] for part in parts if part] or [_clean(str(error), redact)[:500]]
    return " · ".join(told)


def _clean(text: str, redact: Callable[[bytes], bytes]) -> str:
    return " ".join(redact(text.encode(errors="replace")).decode(errors="replace").split())


def migrate(url: str, folder: Path | None = None, *, partitioned: bool = False) -> list[str]:
    """Apply the SQL files of a folder (that of the project) which were not applied yet; returns their names.

    With `partitioned`, those in its folder `optional` too.
    """
    with connect(url) as connection:
        return [file.name for file in migration_files(folder, partitioned) if _apply(connection, url, file)]


def migration_files(folder: Path | None = None, partitioned: bool = False) -> list[Path]:
    """The SQL files of a folder in their order, then those in its folder `optional` where they are wanted."""
    place = folder or project_folder("sql") / "postgres"
    return sorted(place.glob("*.sql")) + (sorted(place.glob("optional/*.sql")) if partitioned else [])


def _apply(connection: Connection, url: str, file: Path) -> bool:
    """Apply one file and record it, in one transaction and after whoever else does the same."""
    text = file.read_text(encoding="utf-8")
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    with mapped(url, f"the migration {file.name}", hint=""), connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('segkit_migrations', 0))")
        known = applied(connection)
        if file.name not in known:
            connection.execute(_MIGRATIONS)
            connection.execute(text.encode())
            connection.execute("INSERT INTO segkit_migrations VALUES (%s, %s, now())", (file.name, sha256))
    if known.get(file.name, sha256) != sha256:
        hint = "restore the file, and put the change into a new one"
        raise DatabaseError(f"{file.name} was changed after it was applied to {named(url)}", hint)
    return file.name not in known


def applied(connection: Connection) -> dict[str, str]:
    """Names and hashes of the files applied so far."""
    if connection.execute("SELECT to_regclass('segkit_migrations')").fetchone() == (None,):
        return {}
    return dict(connection.execute("SELECT name, sha256 FROM segkit_migrations").fetchall())


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


def names(columns: Iterable[str]) -> Composed:
    """Columns as a list in SQL, each quoted."""
    return SQL(", ").join(map(Identifier, columns))


def query(url: str, sql: str) -> pd.DataFrame:
    """The answer of the database to a question in SQL, which cannot change anything.

    Columns of the same name are told apart as DuckDB does it: `id`, `id_1`, `id_2`.
    """
    pool = sqlalchemy.pool.NullPool
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: connect(url), poolclass=pool)
    options = {"postgresql_readonly": True, "no_parameters": True}  # so `LIKE '%x%'` stays as it is
    known = f"the tables are {_TABLES}; where they are missing: segkit db migrate"
    with mapped(url, "the query", hint="", hints={"UndefinedTable": known}), engine.connect() as connection:
        frame = pd.read_sql(sql, connection.execution_options(**options))
    return frame.set_axis(_told_apart(frame.columns), axis="columns")


def _told_apart(columns: Iterable[str]) -> list[str]:
    told: list[str] = []
    for name in columns:
        numbered = (f"{name}_{number}" for number in count(1))
        told.append(next(free for free in chain([name], numbered) if free not in told))
    return told
