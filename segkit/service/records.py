"""What the service must not forget: whose a run is, which key asked for it, what it may cost, how far it is."""

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

_NANO = 10**9  # money is counted in billionths of a dollar, so that sums are exact
# A run is its owner's for good; who resumed it last pays for what it costs from then on, and what others paid before
# stands in `payments`.
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
    payer           TEXT NOT NULL DEFAULT '',
    paid_before     INTEGER NOT NULL DEFAULT 0,
    UNIQUE (owner, idempotency_key)
);
CREATE TABLE IF NOT EXISTS payments (
    run_id TEXT NOT NULL,
    payer  TEXT NOT NULL,
    spent  INTEGER NOT NULL,
    PRIMARY KEY (run_id, payer)
);
"""
_LATER = {"payer": "TEXT NOT NULL DEFAULT ''", "paid_before": "INTEGER NOT NULL DEFAULT 0"}  # than the first tables


@dataclass(frozen=True, slots=True)
class Record:
    """One run of the service. `phase` is `making`, `queued`, `started` or `ended`; money is in dollars.

    `spent` is what the run cost in all, `paid_before` how much of that it had cost when its `payer` took it over.
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
    payer: str = ""  # its owner, if nobody else is told
    paid_before: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Caps:
    """What a start must fit into: runs at work and waiting in all and of its payer, and dollars of its payer."""

    active: int
    active_of_payer: int
    total_usd: Decimal | None


#: What an open or ended run takes of its payer's money, in billionths; one that works may have been resumed with less
#: than it had spent already.
_TAKEN = "max(0, CASE phase WHEN 'ended' THEN spent ELSE max(spent, coalesce(budget, 0)) END - paid_before)"
_SETTLE = """
INSERT INTO payments SELECT run_id, payer, max(0, spent - paid_before) FROM runs WHERE run_id = ? AND payer <> ?
ON CONFLICT (run_id, payer) DO UPDATE SET spent = payments.spent + excluded.spent
"""
_MONEY = ("budget", "spent", "paid_before")
_COLUMNS = ", ".join(field.name for field in fields(Record))


class Records:
    """The table of the service's runs, in SQLite; safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._make_tables()

    def _make_tables(self) -> None:
        self._connection.executescript(_TABLES)
        known = {row[1] for row in self._connection.execute("PRAGMA table_info(runs)")}
        for name in set(_LATER) - known:
            self._connection.execute(f"ALTER TABLE runs ADD COLUMN {name} {_LATER[name]}")
        self._connection.execute("UPDATE runs SET payer = owner WHERE payer = ''")

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def reserve(self, wanted: Record, caps: Caps) -> tuple[Record, bool]:
        """Write down a run that is about to be made, or give the one that its key made before.

        Raises RequestError when the key came with another body (409), the queue is full (429) or the payer's money
        does not reach (402).
        """
        with self._transaction() as connection:
            if wanted.idempotency_key and (before := self._by_key(wanted.owner, wanted.idempotency_key)):
                if before.body_sha256 != wanted.body_sha256:
                    raise RequestError(409, "this Idempotency-Key was used with another body", "take a new key")
                return before, False
            self._check(wanted, caps)
            marks = ", ".join("?" * len(fields(Record)))
            connection.execute(f"INSERT INTO runs ({_COLUMNS}) VALUES ({marks})", _row(wanted))  # noqa: S608
        return wanted, True

    def requeue(self, wanted: Record, caps: Caps) -> None:
        """Put a run that ended back into the queue, at its end; raises RequestError as `reserve` does."""
        with self._transaction() as connection:
            self._check(wanted, caps)
            connection.execute(_SETTLE, (wanted.run_id, wanted.payer or wanted.owner))
            connection.execute("DELETE FROM runs WHERE run_id = ?", (wanted.run_id,))
            marks = ", ".join("?" * len(fields(Record)))
            connection.execute(f"INSERT INTO runs ({_COLUMNS}) VALUES ({marks})", _row(wanted))  # noqa: S608

    def forget(self, run_id: str) -> None:
        """Take back a reservation: nothing was made of it."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM runs WHERE run_id = ? AND phase = 'making'", (run_id,))

    def move(self, run_id: str, phase: str) -> None:
        with self._transaction() as connection:
            connection.execute("UPDATE runs SET phase = ? WHERE run_id = ?", (phase, run_id))

    def end(self, run_id: str, spent: Decimal) -> None:
        """Note that no process works on a run any more, and what it has cost."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE runs SET phase = 'ended', spent = ? WHERE run_id = ?", (int(spent * _NANO), run_id)
            )

    def limit_calls(self, run_id: str, most: int) -> None:
        """Limit the calls of a run instead of its money, where no price is known."""
        with self._transaction() as connection:
            connection.execute("UPDATE runs SET budget = NULL, max_calls = ? WHERE run_id = ?", (most, run_id))

    def cancel(self, run_id: str) -> None:
        with self._transaction() as connection:
            connection.execute("UPDATE runs SET cancelled = 1 WHERE run_id = ?", (run_id,))

    def get(self, run_id: str) -> Record | None:
        return next(iter(self._select("WHERE run_id = ?", run_id)), None)

    def in_phase(self, phase: str) -> list[Record]:
        """List the runs of a phase in the order of their turns."""
        return self._select("WHERE phase = ? ORDER BY turn", phase)

    def owners(self) -> dict[str, str]:
        """Give the owner of every run."""
        with self._lock:
            return dict(self._connection.execute("SELECT run_id, owner FROM runs").fetchall())

    def by_key(self, owner: str, key: str) -> Record | None:
        """Find the run that an idempotency key made."""
        with self._lock:
            return self._by_key(owner, key)

    def _by_key(self, owner: str, key: str) -> Record | None:
        told = self._connection.execute(
            f"SELECT {_COLUMNS} FROM runs WHERE owner = ? AND idempotency_key = ?",  # noqa: S608
            (owner, key),
        ).fetchone()
        return _record(told) if told else None

    def _check(self, wanted: Record, caps: Caps) -> None:
        payer = wanted.payer or wanted.owner
        active = "SELECT count(*), count(*) FILTER (WHERE payer = ?) FROM runs WHERE phase <> 'ended'"
        at_work, of_payer = self._connection.execute(active, (payer,)).fetchone()
        if at_work >= caps.active:
            raise RequestError(429, f"the queue is full: {at_work} runs are at work or wait", retry_after="30")
        if of_payer >= caps.active_of_payer:
            what = f"{of_payer} runs of this token are at work or wait, {caps.active_of_payer} are allowed"
            raise RequestError(429, what, retry_after="30")
        if caps.total_usd is not None and wanted.budget:
            taken = self._taken(payer, wanted.run_id)
            most = max(Decimal(0), max(wanted.budget, wanted.spent) - wanted.paid_before)
            if taken + most > caps.total_usd:
                what = f"${taken:.2f} of ${caps.total_usd} are spent or set aside, this run may take ${most}"
                raise RequestError(402, what, "ask for less with max_cost_usd")

    def _taken(self, payer: str, but: str) -> Decimal:
        """Sum up the dollars a token has spent or set aside, without what it pays for one run right now."""
        money = (
            f"SELECT (SELECT coalesce(sum({_TAKEN}), 0) FROM runs WHERE run_id <> ? AND payer = ?)"  # noqa: S608
            " + (SELECT coalesce(sum(spent), 0) FROM payments WHERE payer = ?)"
        )
        return Decimal(self._connection.execute(money, (but, payer, payer)).fetchone()[0]) / _NANO

    def _select(self, where: str, *values: str) -> list[Record]:
        with self._lock:
            told = self._connection.execute(f"SELECT {_COLUMNS} FROM runs {where}", values).fetchall()  # noqa: S608
        return [_record(row) for row in told]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException as error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):
                    raise RequestError(
                        503, "the disk cannot be written", "try again later", retry_after="30"
                    ) from None
                raise


def _row(record: Record) -> tuple[object, ...]:
    told = {field.name: getattr(record, field.name) for field in fields(Record)}
    money = {name: None if told[name] is None else int(told[name] * _NANO) for name in _MONEY}
    late = {"created_at": record.created_at or timestamp(), "payer": record.payer or record.owner}
    return tuple({**told, **money, **late}.values())


def _record(row: tuple[object, ...]) -> Record:
    told = dict(zip((field.name for field in fields(Record)), row, strict=True))
    money = {name: None if told[name] is None else Decimal(str(told[name])) / _NANO for name in _MONEY}
    return Record(**{**told, **money, "cancelled": bool(told["cancelled"])})  # type: ignore[arg-type]
