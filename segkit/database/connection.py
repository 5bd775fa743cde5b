"""Connections to a PostgreSQL server, errors reported without the password, and queries."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, count
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qsl

import pandas as pd
import psycopg
import sqlalchemy
from psycopg.conninfo import conninfo_to_dict
from psycopg.sql import SQL, Composed, Identifier
from pydantic import SecretStr

from segkit.database.run_tables import TABLES, Row
from segkit.errors import DatabaseError
from segkit.storage.redaction import redactor

_CONNECTION: dict[str, Any] = {  # beside what the URL says; a server that vanishes is noticed in a minute
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "client_encoding": "utf8",
    "application_name": "segkit",
}
_OF_PRISMA = {"pgbouncer", "connection_limit", "pool_timeout", "socket_timeout", "statement_cache_size"}
_KNOWN = {default.keyword.decode() for default in psycopg.pq.Conninfo.get_defaults()}
_URL = "it looks like postgresql://user:password@host:5432/name; encode @ : / ? # and % in the password as %40 …"
_AGAIN = "no run folder was changed; run `segkit sync RUN` again"
_HINTS = {
    "UndefinedTable": "make the tables with `segkit db migrate`, then run `segkit sync RUN` again",
    "UndefinedColumn": "compare the table with the files in sql/postgres",
    "InsufficientPrivilege": "GRANT SELECT, INSERT, UPDATE, DELETE on the tables and USAGE on their sequences",
    "LockNotAvailable": "another sync or a report holds the tables; run `segkit sync RUN` again later",
    "DiskFull": f"make room on the disk of the server; {_AGAIN}",
    "ReadOnlySqlTransaction": "this is a replica or a read-only database: DATABASE_URL must name the primary, for"
    f" example with ?target_session_attrs=read-write; {_AGAIN}",
    "QueryCanceled": "the server was too slow; run `segkit sync RUN` again later",
}
Connection = psycopg.Connection[Row]


def connect(url: str, **options: Any) -> Connection:
    """Connect to the server of a URL; raise DatabaseError if that fails or the database is not UTF-8.

    No statement is prepared and nothing outlives a transaction, so a pooler may change the server between two
    transactions. `options` are further parameters of libpq.
    """
    with translated_errors(url, "connecting"):
        connection = psycopg.connect(prepare_threshold=None, **_CONNECTION | _target(url) | options)
        # Asked for explicitly, since a pooler may not report it on connecting.
        (encoding,) = connection.execute("SHOW server_encoding").fetchone() or ("",)
        connection.rollback()
    if encoding != "UTF8":
        connection.close()
        hint = "names would be lost; create the database with ENCODING 'UTF8'"
        raise DatabaseError(f"the database {server_name(url)} has the encoding {encoding}, not UTF8", hint)
    return connection


def server_name(url: str) -> str:
    """Return the name, host and port of a database for people, never its user or password."""
    target = _target(url)
    return f"{target.get('dbname', '')} at {target.get('host', 'localhost')}:{target.get('port', 5432)}"


@contextmanager
def translated_errors(
    url: str, action: str, hint: str = _AGAIN, hints: Mapping[str, str] = MappingProxyType(_HINTS)
) -> Iterator[None]:
    """Raise every error of psycopg, SQLAlchemy or pandas as a DatabaseError without the password.

    `hints` maps names of psycopg's error classes to hints; `hint` is for all others.
    """
    try:
        yield
    except (psycopg.Error, sqlalchemy.exc.SQLAlchemyError, pd.errors.DatabaseError) as error:
        cause = _innermost(error)
        text = _wording(cause, redactor([SecretStr(url), SecretStr(str(_target(url).get("password") or ""))]))
        message = f"{action} failed in the database {server_name(url)}: {text}"
        raise DatabaseError(message, hints.get(type(cause).__name__, hint)) from cause


def column_list(columns: Iterable[str]) -> Composed:
    """Return columns as a list in SQL, each quoted."""
    return SQL(", ").join(map(Identifier, columns))


def query(url: str, sql: str) -> pd.DataFrame:
    """Return the rows of a query in SQL, in a transaction that cannot change anything.

    Columns of the same name are numbered as DuckDB does it: `id`, `id_1`, `id_2`.
    """
    pool = sqlalchemy.pool.NullPool
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: connect(url), poolclass=pool)
    options = {"postgresql_readonly": True, "no_parameters": True}  # so `LIKE '%x%'` stays as it is
    hints = {"UndefinedTable": f"the tables are {', '.join(TABLES)}; where they are missing: segkit db migrate"}
    with translated_errors(url, "the query", hint="", hints=hints), engine.connect() as connection:
        frame = pd.read_sql(sql, connection.execution_options(**options))
    return frame.set_axis(_distinct(frame.columns), axis="columns")


def _target(url: str) -> dict[str, Any]:
    """Return the parameters of libpq in a URL.

    The forms of SQLAlchemy (postgresql+psycopg://) and Heroku (postgres://) will do, and so do the parameters that
    Prisma and Supabase add for clients of their own. No message holds the URL, since the password is in it.
    """
    address, query = re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql://", url.strip()), ""
    if "://" in address:
        address, _, query = address.partition("?")
    parameters = dict(parse_qsl(query, keep_blank_values=True))
    schema = parameters.pop("schema", "public")
    ours = {name: value for name, value in parameters.items() if name not in _OF_PRISMA}
    try:
        target = conninfo_to_dict(address)
    except psycopg.Error:
        target = {}
    # An @ or a / that is not encoded would make a part of the password a host, a port or a name, which are shown.
    if not target or address.count("@") > 1 or "@" in query or re.search(r"[^\d,]", str(target.get("port", ""))):
        raise DatabaseError("DATABASE_URL is not the URL of a PostgreSQL server", _URL)
    if unknown := sorted(set(ours) - _KNOWN):
        raise DatabaseError(f"DATABASE_URL has parameters that PostgreSQL does not know: {', '.join(unknown)}", _URL)
    target |= ours
    if schema != "public":
        target["options"] = f"{target.get('options', '')} -csearch_path={schema}".strip()
    return target


def _innermost(error: BaseException) -> BaseException:
    """Return the psycopg error inside those of SQLAlchemy and pandas."""
    inner = getattr(error, "orig", None) or error.__cause__
    return error if isinstance(error, psycopg.Error) or inner is None else _innermost(inner)


def _wording(error: BaseException, redact: Callable[[bytes], bytes]) -> str:
    """Shorten what a server reported; secrets are removed first, since half a password is no longer recognised."""
    diagnosis = error.diag if isinstance(error, psycopg.Error) else None
    parts = [diagnosis.message_primary, diagnosis.message_detail, diagnosis.context] if diagnosis else []
    texts = [_clean(part, redact)[:300] for part in parts if part] or [_clean(str(error), redact)[:500]]
    return " · ".join(texts)


def _clean(text: str, redact: Callable[[bytes], bytes]) -> str:
    return " ".join(redact(text.encode(errors="replace")).decode(errors="replace").split())


def _distinct(columns: Iterable[str]) -> list[str]:
    names: list[str] = []
    for name in columns:
        numbered = (f"{name}_{number}" for number in count(1))
        names.append(next(free for free in chain([name], numbered) if free not in names))
    return names
