"""Connections to a PostgreSQL server, errors reported without the password, and queries."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qsl

import pandas as pd
import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.postgres import types
from psycopg.sql import SQL, Composed, Identifier
from psycopg.types.datetime import DateLoader, TimestampLoader, TimestamptzLoader
from pydantic import SecretStr

from segkit.analysis.frames import distinct, integers, numbers
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
_INTEGERS, _FLOATS = ("int2", "int4", "int8"), ("float4", "float8")
_TEXTS, _TIMES = ("text", "varchar", "bpchar", "name"), ("timestamp", "timestamptz")
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
_TYPES = {types[name].oid: name for name in (*_INTEGERS, *_FLOATS, *_TEXTS, *_TIMES, "numeric", "bool")}
Connection = psycopg.Connection[Row]


def connect(url: str, **options: Any) -> Connection:
    """Connect to the server of a URL; raise DatabaseError if that fails or the database is not UTF-8.

    No statement is prepared and nothing outlives a transaction, so a pooler may change the server between two
    transactions. `options` are further parameters of libpq.
    """
    with translated_errors(url, "connecting"):
        connection = psycopg.connect(prepare_threshold=None, **_CONNECTION | libpq_parameters(url) | options)
        for name, loader in _LOADERS.items():
            connection.adapters.register_loader(name, loader)
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
    target = libpq_parameters(url)
    return f"{target.get('dbname', '')} at {target.get('host', 'localhost')}:{target.get('port', 5432)}"


@contextmanager
def translated_errors(
    url: str, action: str, hint: str = _AGAIN, hints: Mapping[str, str] = MappingProxyType(_HINTS)
) -> Iterator[None]:
    """Raise every error of psycopg as a DatabaseError without the password.

    `hints` maps names of psycopg's error classes to hints; `hint` is for all others.
    """
    try:
        yield
    except psycopg.Error as error:
        password = str(libpq_parameters(url).get("password") or "")
        text = _wording(error, redactor([SecretStr(url), SecretStr(password)]))
        message = f"{action} failed in the database {server_name(url)}: {text}"
        raise DatabaseError(message, hints.get(type(error).__name__, hint)) from error


def column_list(columns: Iterable[str]) -> Composed:
    """Return columns as a list in SQL, each quoted."""
    return SQL(", ").join(map(Identifier, columns))


def query(url: str, sql: str) -> pd.DataFrame:
    """Return the rows of a query in SQL, in a transaction that cannot change anything; no value is changed.

    Integers that may be null are `Int64`, decimals as `analysis.frames.frame_of` has them, arrays are lists, and a
    column with a time beyond Python's, like `infinity`, holds texts for those. Columns of the same name are numbered
    as DuckDB does it: `id`, `id_1`, `id_2`.
    """
    hints = {"UndefinedTable": f"the tables are {', '.join(TABLES)}; where they are missing: segkit db migrate"}
    with translated_errors(url, "the query", hint="", hints=hints), connect(url) as connection:
        connection.read_only = True
        with connection.pipeline():  # whose protocol takes one statement only, so none can leave the transaction
            cursor = connection.execute(sql.encode(errors="replace"))
        if cursor.description is None:
            raise DatabaseError("the query returns no rows", "a query is one SELECT")
        frame = frame_from(cursor)
        connection.rollback()
    return frame


def frame_from(cursor: psycopg.Cursor[Row]) -> pd.DataFrame:
    """Return the rows of a cursor as a frame without changing a value."""
    columns = [(column.name, column.type_code) for column in cursor.description or ()]
    rows = cursor.fetchall()
    series = [_series(kind, [row[i] for row in rows]) for i, (_, kind) in enumerate(columns)]
    frame = pd.concat(series, axis="columns") if series else pd.DataFrame(index=range(len(rows)))
    return frame.set_axis(distinct(name for name, _ in columns), axis="columns")


def _series(kind: int, values: list[Any]) -> pd.Series:
    """Return the values of a column of PostgreSQL's type `kind` as a column of a frame."""
    name = _TYPES.get(kind, "")
    if name in _INTEGERS:
        return integers(values)
    if name == "numeric":
        return numbers(values)
    if name in _FLOATS:
        return pd.Series(values, dtype="float64")
    if name in _TEXTS:
        return pd.Series(values, dtype="str")
    if name == "bool":
        return pd.Series(values, dtype="boolean" if None in values else "bool")
    if name in _TIMES and not any(isinstance(value, str) for value in values):
        return pd.to_datetime(pd.Series(values, dtype=object), utc=name == "timestamptz")
    return pd.Series(values, dtype=object)


class _Time:
    """Loads a time of PostgreSQL, as text where it is beyond those of Python."""

    def load(self, data: Any) -> Any:
        try:
            return super().load(data)  # type: ignore[misc]
        except psycopg.DataError:
            return bytes(data).decode()


class _DateLoader(_Time, DateLoader):
    pass


class _TimestampLoader(_Time, TimestampLoader):
    pass


class _TimestamptzLoader(_Time, TimestamptzLoader):
    pass


_LOADERS: dict[str, type[Any]] = {
    "date": _DateLoader,
    "timestamp": _TimestampLoader,
    "timestamptz": _TimestamptzLoader,
}


def libpq_parameters(url: str) -> dict[str, Any]:
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
    if not set(ours) <= _KNOWN:  # not named: a ? in a password that is not encoded makes parameters of the rest
        raise DatabaseError("DATABASE_URL has a parameter that PostgreSQL does not know", _URL)
    target |= ours
    if schema != "public":
        target["options"] = f"{target.get('options', '')} -csearch_path={schema}".strip()
    return target


def _wording(error: BaseException, redact: Callable[[bytes], bytes]) -> str:
    """Shorten what a server reported; secrets are removed first, since half a password is no longer recognised."""
    diagnosis = error.diag if isinstance(error, psycopg.Error) else None
    parts = [diagnosis.message_primary, diagnosis.message_detail, diagnosis.context] if diagnosis else []
    texts = [_clean(part, redact)[:300] for part in parts if part] or [_clean(str(error), redact)[:500]]
    return " · ".join(texts)


def _clean(text: str, redact: Callable[[bytes], bytes]) -> str:
    return " ".join(redact(text.encode(errors="replace")).decode(errors="replace").split())
