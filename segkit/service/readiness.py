"""Prepares the service's database in the background; only requests that need it wait for it."""

from __future__ import annotations

import threading
import time

from segkit.database.schema import migrate
from segkit.database.sync import database_url
from segkit.errors import DatabaseError
from segkit.service.journal import Journal
from segkit.settings import Settings

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
