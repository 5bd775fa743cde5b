"""Is what the service needs there? The database is prepared in the background, and all is checked when asked for."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

from segkit.database.schema import migrate
from segkit.database.sync import database_url, read_postgres
from segkit.errors import DatabaseError
from segkit.runs.mirror import probe
from segkit.service.journal import Journal
from segkit.service.tokens import TokenStore
from segkit.settings import Settings

_CHECKED = 5.0  # seconds for which the checks are not repeated
_FRESH = 1.0  # seconds for which a failure answers those who waited for the same attempt


class DatabaseReadiness:
    """Creates the tables once. A server that is slow, hangs or is away delays only those who need it."""

    def __init__(self, settings: Settings, journal: Journal) -> None:
        self._settings, self._journal = settings, journal
        self._turn, self._is_ready = threading.Lock(), False
        self._failure: DatabaseError | None = None
        self._failed_at = 0.0

    def begin(self) -> None:
        """Prepare the database in a thread, which is abandoned when the service stops."""
        threading.Thread(target=self._try, name="database", daemon=True).start()

    def prepare(self) -> None:
        """Create the tables that are missing, or wait for the thread that does; raises DatabaseError."""
        with self._turn:
            if self._is_ready:
                return
            if self._failure and time.monotonic() - self._failed_at < _FRESH:
                raise self._failure
            try:
                migrate(database_url(self._settings))
                self._is_ready = True
            except DatabaseError as error:
                self._failure, self._failed_at = error, time.monotonic()
                raise

    def _try(self) -> None:
        try:
            self.prepare()
        except Exception as error:  # a thread that nobody waits for: what it raises would be lost
            self._journal.note_error("database_failed", error)


class Readiness:
    """Checks what a run needs: the database, the disk, S3, the log and the file of tokens."""

    def __init__(self, settings: Settings, tokens: TokenStore, journal: Journal, folders: Sequence[Path]) -> None:
        self._tokens, self._journal, self._folders = tokens, journal, folders
        is_s3 = settings.storage_backend == "s3"
        self._checks = {
            "database": _Check(lambda: read_postgres("SELECT 1", settings)),
            "disk": _Check(self._write),
            "storage": _Check(lambda: probe(settings) if is_s3 else None),
        }

    async def checks(self, seconds: float) -> dict[str, bool]:
        """Report for each thing whether it is in order; what does not answer within some seconds is not."""
        answers = {name: check.answer() for name, check in self._checks.items()}
        await asyncio.wait([asyncio.wrap_future(answer) for answer in answers.values()], timeout=seconds)
        found = {name: answer.done() and answer.result() for name, answer in answers.items()}
        return found | {"log": not self._journal.fault, "tokens": not self._tokens.fault}

    def _write(self) -> None:
        for folder in self._folders:
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(bytes(4096))


class _Check:
    """A check in a thread of its own, one at a time: however often it is asked for, it hangs in one thread only."""

    def __init__(self, check: Callable[[], object]) -> None:
        self._check, self._turn = check, threading.Lock()
        self._answer: Future[bool] | None = None
        self._begun = 0.0

    def answer(self) -> Future[bool]:
        """Return the answer of the check, which is made again unless that was done a moment ago."""
        with self._turn:
            if self._answer and not (self._answer.done() and time.monotonic() - self._begun > _CHECKED):
                return self._answer
            self._answer, self._begun = Future(), time.monotonic()
            threading.Thread(target=self._run, args=(self._answer,), name="check", daemon=True).start()
            return self._answer

    def _run(self, answer: Future[bool]) -> None:
        answer.set_result(_works(self._check))


def _works(check: Callable[[], object]) -> bool:
    try:
        check()
    except Exception:  # whatever it is: no run can be started then
        return False
    return True
