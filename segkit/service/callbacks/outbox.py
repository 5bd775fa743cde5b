"""What has to be reported, on disk: a callback is kept until it was delivered or given up."""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path

_TABLES = """
CREATE TABLE IF NOT EXISTS callbacks (
    id       TEXT PRIMARY KEY,
    run_id   TEXT NOT NULL,
    owner    TEXT NOT NULL,
    body     BLOB,
    attempts INTEGER NOT NULL DEFAULT 0,
    due_at   REAL NOT NULL
);
"""


@dataclass(frozen=True, slots=True)
class Callback:
    """One end of a run that is to be reported. `body` is written at the first attempt, and stays what it is."""

    id: str
    run_id: str
    owner: str
    body: bytes | None
    attempts: int


class Outbox:
    """The table of callbacks, in SQLite beside that of the runs; safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)
        self._connection.executescript(_TABLES)

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def add(self, run_id: str, owner: str, end: str) -> None:
        """Put an end of a run into the box; the same end, which `end` names, is there once."""
        key = f"msg_{hashlib.sha256(f'{run_id} {end}'.encode()).hexdigest()[:24]}"
        self._change(
            "INSERT OR IGNORE INTO callbacks (id, run_id, owner, due_at) VALUES (?, ?, ?, 0)", key, run_id, owner
        )

    def due(self, now: float, longest: float) -> list[Callback]:
        """List the oldest callback of each owner that is due.

        One that is due later than the longest pause from now was put off before the clock went back: it is due too.
        """
        sql = (
            "SELECT id, run_id, owner, body, attempts FROM callbacks WHERE rowid IN (SELECT min(rowid) FROM callbacks"
            " WHERE due_at <= ?1 OR due_at > ?1 + ?2 GROUP BY owner) ORDER BY rowid"
        )
        with self._lock:
            return [Callback(*row) for row in self._connection.execute(sql, (now, longest))]

    def count(self) -> int:
        with self._lock:
            return int(self._connection.execute("SELECT count(*) FROM callbacks").fetchone()[0])

    def write(self, callback: Callback, body: bytes) -> None:
        """Keep the body of a callback, so that each attempt sends the same."""
        self._change("UPDATE callbacks SET body = ? WHERE id = ?", body, callback.id)

    def put_off(self, callback: Callback, due_at: float) -> None:
        sql = "UPDATE callbacks SET attempts = attempts + 1, due_at = ? WHERE id = ?"
        self._change(sql, due_at, callback.id)

    def remove(self, callback: Callback) -> None:
        self._change("DELETE FROM callbacks WHERE id = ?", callback.id)

    def _change(self, sql: str, *values: object) -> None:
        with self._lock:
            self._connection.execute(sql, values)
