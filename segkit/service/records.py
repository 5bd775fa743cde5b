"""The table of the service's runs: whose a run is, which key asked for it, what it may cost, how far it is."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from decimal import Decimal
from pathlib import Path

from segkit.errors import RequestError
from segkit.runs.events import timestamp
from segkit.runs.run import Run
from segkit.service.starts.admission import Caps, InUse, check_caps

_NANO = 10**9  # money is stored in billionths of a dollar, so that sums are exact
_TABLES = """
CREATE TABLE IF NOT EXISTS runs (
    turn            INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id          TEXT NOT NULL UNIQUE,
    owner           TEXT NOT NULL,
    idempotency_key TEXT,
    body_sha256     TEXT NOT NULL,
    phase           TEXT NOT NULL CHECK (phase IN ('making', 'queued', 'started', 'ended')),
    products        INTEGER NOT NULL,
    created_at      TEXT NOT NULL,
    budget          INTEGER,
    spent           INTEGER NOT NULL DEFAULT 0,
    max_calls       INTEGER,
    max_unassigned  INTEGER,
    cancelled       INTEGER NOT NULL DEFAULT 0,
    UNIQUE (owner, idempotency_key)
);
CREATE TABLE IF NOT EXISTS listed (
    number          INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id          TEXT NOT NULL UNIQUE,
    category        TEXT NOT NULL,
    model           TEXT NOT NULL,
    created_at      TEXT NOT NULL
);
"""


@dataclass(frozen=True, slots=True)
class Record:
    """One run of the service. `phase` is `making`, `queued`, `started` or `ended`; money is in dollars.

    A run belongs to the token named `owner`, which pays for it, whoever resumes it.
    """

    run_id: str
    owner: str
    idempotency_key: str | None
    body_sha256: str
    phase: str
    products: int
    created_at: str = ""
    budget: Decimal | None = None
    spent: Decimal = Decimal(0)
    max_calls: int | None = None
    max_unassigned: int | None = None
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Listed:
    """A run in the list of all runs, which is in the order in which the service came to know them."""

    run_id: str
    category: str
    model: str
    created_at: str


@dataclass(frozen=True, slots=True)
class Filters:
    """Which runs are listed; what is None does not matter. Times are text, as in `Listed`."""

    category: str | None = None
    model: str | None = None
    created_after: str | None = None
    created_before: str | None = None


def listed_run(run: Run) -> Listed:
    """Return the entry of a run in the list."""
    return Listed(run.id, run.parameters.category, run.parameters.model, str(run.document["created_at"]))


# What a run takes of its owner's money. A working run may have been resumed with less than it had spent already.
_TAKEN = "CASE phase WHEN 'ended' THEN spent ELSE max(spent, coalesce(budget, 0)) END"
_MONEY = ("budget", "spent")
_COLUMNS = ", ".join(field.name for field in fields(Record))
_INSERT = f"INSERT INTO runs ({_COLUMNS}) VALUES ({', '.join('?' * len(fields(Record)))})"  # noqa: S608


_LIST = """
SELECT listed.run_id, category, model, listed.created_at FROM listed LEFT JOIN runs USING (run_id)
WHERE coalesce(owner = ?1, ?1 IS NULL)
  AND (?2 IS NULL OR number < (SELECT number FROM listed WHERE run_id = ?2))
  AND (?3 IS NULL OR category = ?3) AND (?4 IS NULL OR model = ?4)
  AND (?5 IS NULL OR listed.created_at >= ?5) AND (?6 IS NULL OR listed.created_at < ?6)
ORDER BY number DESC
"""


class Records:
    """The table of the service's runs, in SQLite; safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.executescript(_TABLES)

        self._listed = {run_id for (run_id,) in self._connection.execute("SELECT run_id FROM listed")}

    def is_listed(self, run_id: str) -> bool:
        return run_id in self._listed

    def enlist(self, run: Listed) -> None:
        """Put a run at the end of the list of all runs; one that is there stays where it is."""
        with self._transaction() as connection:
            row = (run.run_id, run.category, run.model, run.created_at)
            names = "run_id, category, model, created_at"
            connection.execute(f"INSERT OR IGNORE INTO listed ({names}) VALUES (?, ?, ?, ?)", row)  # noqa: S608
        self._listed.add(run.run_id)

    def listed(self, owner: str | None, filters: Filters, before: str | None) -> list[Listed]:
        """List runs, the last one first: those of an owner, or all, and those that were listed before another one."""
        with self._lock:
            values = (owner, before, *(getattr(filters, field.name) for field in fields(filters)))
            return [Listed(*row) for row in self._connection.execute(_LIST, values)]

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def reserve(self, record: Record, caps: Caps) -> tuple[Record, bool]:
        """Record a run that is about to be made, or return the one that its key made before, and whether it is new.

        Raises RequestError when the key came with another body (409), the queue is full (429) or the owner's money
        does not suffice (402).
        """
        with self._transaction() as connection:
            if record.idempotency_key and (before := self._by_key(record.owner, record.idempotency_key)):
                if before.body_sha256 != record.body_sha256:
                    what = "this Idempotency-Key was used with another body"
                    raise RequestError("key-reused", what, "use a new key", run_id=before.run_id)
                return before, False
            self._check(record, caps)
            connection.execute(_INSERT, _row(record))
        return record, True

    def requeue(self, record: Record, caps: Caps) -> None:
        """Put a run that ended at the end of the queue; raises RequestError as `reserve` does."""
        with self._transaction() as connection:
            self._check(record, caps)
            connection.execute("DELETE FROM runs WHERE run_id = ?", (record.run_id,))
            connection.execute(_INSERT, _row(record))

    def forget(self, run_id: str) -> None:
        """Remove a reservation of which nothing was made."""
        self._change("DELETE FROM runs WHERE run_id = ? AND phase = 'making'", run_id)

    def move(self, run_id: str, phase: str) -> None:
        self._change("UPDATE runs SET phase = ? WHERE run_id = ?", phase, run_id)

    def end(self, run_id: str, spent: Decimal) -> None:
        """Record that no process works on a run any more, and the dollars it has cost."""
        self._change("UPDATE runs SET phase = 'ended', spent = ? WHERE run_id = ?", int(spent * _NANO), run_id)

    def limit_calls(self, run_id: str, most: int) -> None:
        """Limit the calls of a run instead of its money, where no price is known."""
        self._change("UPDATE runs SET budget = NULL, max_calls = ? WHERE run_id = ?", most, run_id)

    def cancel(self, run_id: str) -> None:
        self._change("UPDATE runs SET cancelled = 1 WHERE run_id = ?", run_id)

    def get(self, run_id: str) -> Record | None:
        return next(iter(self._select("WHERE run_id = ?", run_id)), None)

    def in_phase(self, phase: str) -> list[Record]:
        """List the runs of a phase, the one that has waited longest first."""
        return self._select("WHERE phase = ? ORDER BY turn", phase)

    def owners(self) -> dict[str, str]:
        """Return the owner of every run."""
        with self._lock:
            return dict(self._connection.execute("SELECT run_id, owner FROM runs").fetchall())

    def by_key(self, owner: str, key: str) -> Record | None:
        """Find the run that an idempotency key made."""
        with self._lock:
            return self._by_key(owner, key)

    def _by_key(self, owner: str, key: str) -> Record | None:
        row = self._connection.execute(
            f"SELECT {_COLUMNS} FROM runs WHERE owner = ? AND idempotency_key = ?",  # noqa: S608
            (owner, key),
        ).fetchone()
        return _record(row) if row else None

    def _check(self, record: Record, caps: Caps) -> None:
        active = "SELECT count(*), count(*) FILTER (WHERE owner = ?) FROM runs WHERE phase <> 'ended'"
        in_all, of_owner = self._connection.execute(active, (record.owner,)).fetchone()
        taken = f"SELECT coalesce(sum({_TAKEN}), 0) FROM runs WHERE run_id <> ? AND owner = ?"  # noqa: S608
        nanos = self._connection.execute(taken, (record.run_id, record.owner)).fetchone()[0]
        wanted = max(record.budget, record.spent) if record.budget else None
        check_caps(InUse(in_all, of_owner, Decimal(nanos) / _NANO), wanted, caps)

    def _select(self, where: str, *values: str) -> list[Record]:
        with self._lock:
            rows = self._connection.execute(f"SELECT {_COLUMNS} FROM runs {where}", values).fetchall()  # noqa: S608
        return [_record(row) for row in rows]

    def _change(self, sql: str, *values: object) -> None:
        with self._transaction() as connection:
            connection.execute(sql, values)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException as error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):
                    raise RequestError("disk-unavailable", "the disk cannot be written", "try again later") from None
                raise


def _row(record: Record) -> tuple[object, ...]:
    row = {field.name: getattr(record, field.name) for field in fields(Record)}
    money = {name: None if row[name] is None else int(row[name] * _NANO) for name in _MONEY}
    return tuple({**row, **money, "created_at": record.created_at or timestamp()}.values())


def _record(row: tuple[object, ...]) -> Record:
    values = dict(zip((field.name for field in fields(Record)), row, strict=True))
    money = {name: None if values[name] is None else Decimal(str(values[name])) / _NANO for name in _MONEY}
    return Record(**{**values, **money, "cancelled": bool(values["cancelled"])})  # type: ignore[arg-type]
