"""The service's own log, `events.jsonl`: who asked for what, what came of it, and which errors nobody expected."""

from __future__ import annotations

import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from segkit.runs.events import log_event
from segkit.settings import Settings
from segkit.storage.redaction import safe_text

_FRAMES = 6  # of a stack that are logged
_MOST_BYTES = 64_000_000  # of the log, until it is put aside as events.1.jsonl


class Journal:
    """Writes the events of a service. `fault` describes the last failed write; it is empty after one that worked."""

    def __init__(self, home: Path, settings: Settings) -> None:
        self.home = home
        self.fault = ""
        self._secrets = settings.secrets

    def write(self, event: str, **facts: Any) -> None:
        """Append an event; raise StoppedError when the disk fails, for what must not happen without being logged."""
        try:
            self._rotate()
            log_event(self.home, event, **facts)
        except BaseException as error:
            self.fault = type(error).__name__
            raise
        self.fault = ""

    def _rotate(self) -> None:
        log = self.home / "events.jsonl"
        if log.exists() and log.stat().st_size > _MOST_BYTES:
            log.replace(self.home / "events.1.jsonl")

    def note(self, event: str, **facts: Any) -> None:
        """Append an event, or print it on stderr when the log cannot be written; never raise."""
        try:
            self.write(event, **facts)
        except Exception as error:
            line = orjson.dumps({"event": event, **facts, "not_logged": type(error).__name__}, default=str)
            with suppress(Exception):
                print(line.decode(), file=sys.stderr, flush=True)

    def note_error(self, event: str, error: BaseException, **facts: Any) -> None:
        """Note an error with its text, without secrets, and where it was raised; never raise."""
        stack = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
        where = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in stack]
        self.note(event, **facts, error=type(error).__name__, why=safe_text(error, self._secrets), where=where)
