"""Is what the service needs there? The database is prepared in the background, and all is checked when asked for."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from segkit.database.schema import migrate
from segkit.database.sync import database_url, read_postgres
from segkit.errors import DatabaseError, StorageError
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
        self._settings, self._tokens, self._journal, self._folders = settings, tokens, journal, folders
        self._turn = threading.Lock()
        self._checked_at, self._checks = float("-inf"), dict[str, bool]()

    def checks(self) -> dict[str, bool]:
        """Report for each thing whether it is in order; what was checked a moment ago is not checked again."""
        with self._turn:
            if time.monotonic() - self._checked_at > _CHECKED:
                self._checks = {
                    "database": _works(lambda: read_postgres("SELECT 1", self._settings)),
                    "disk": _works(self._write),
                    "storage": self._settings.storage_backend != "s3" or _works(lambda: probe(self._settings)),
                }
                self._checked_at = time.monotonic()
            return {**self._checks, "log": not self._journal.fault, "tokens": not self._tokens.fault}

    def _write(self) -> None:
        for folder in self._folders:
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(bytes(4096))


def _works(check: Callable[[], object]) -> bool:
    try:
        check()
    except (DatabaseError, StorageError, OSError):
        return False
    return True
