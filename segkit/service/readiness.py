"""The database of the service: looked at in a thread, and by each start until it is there; no other waits for it."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path

from segkit.database.schema import migrate
from segkit.database.sync import database_url
from segkit.errors import DatabaseError
from segkit.runs.events import log_event
from segkit.settings import Settings
from segkit.storage.redaction import safe_text

_FRESH = 1.0  # seconds that a failure is told to whoever waited for it


class LateDatabase:
    """Makes the tables once. A server that is slow, hangs or is not there delays those alone who need it."""

    def __init__(self, settings: Settings, home: Path) -> None:
        self._settings, self._home = settings, home
        self._turn, self._is_ready = threading.Lock(), False
        self._failed: DatabaseError | None = None
        self._failed_at = 0.0

    def begin(self) -> None:
        """Look at the database in a thread, which is given up when the service stops."""
        threading.Thread(target=self._try, name="database", daemon=True).start()

    def prepare(self) -> None:
        """Make the tables where they are missing, or wait for whoever is at it; raises DatabaseError."""
        with self._turn:
            if self._is_ready:
                return
            if self._failed and time.monotonic() - self._failed_at < _FRESH:
                raise self._failed
            try:
                migrate(database_url(self._settings))
                self._is_ready = True
            except DatabaseError as error:
                self._failed, self._failed_at = error, time.monotonic()
                raise

    def _try(self) -> None:
        try:
            self.prepare()
        except DatabaseError as error:
            why = safe_text(error, self._settings.secrets)
            with suppress(Exception):  # a full disk is told by whatever else writes there
                log_event(self._home, "database_failed", why=why)
