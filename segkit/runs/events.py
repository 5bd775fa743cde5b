"""The structured log of a run: one JSON object a line in `events.jsonl`, only ever appended."""

from __future__ import annotations

import errno
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from segkit.storage.disk import disk_error


def log_event(folder: Path, event: str, **facts: Any) -> None:
    """Append one event with the time and the pid; a line is written in one piece, so writers never mix.

    Raises StoppedError when the disk fails: a run that cannot tell what it does must not go on.
    """
    line = {"time": timestamp(), "event": event, "pid": os.getpid(), **facts}
    try:
        _append(folder / "events.jsonl", orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE))
    except OSError as error:
        raise disk_error(folder, error) from None


def append_events(folder: Path, lines: bytes) -> None:
    """Append the events that another machine has written."""
    try:
        _append(folder / "events.jsonl", lines)
    except OSError as error:
        raise disk_error(folder, error) from None


def _append(path: Path, line: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        if os.write(descriptor, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.close(descriptor)


def read_events(folder: Path) -> list[dict[str, Any]]:
    """Read the events of a run, oldest first; a last line cut by a crash is passed over."""
    path = folder / "events.jsonl"
    lines = path.read_bytes().splitlines() if path.exists() else []
    events = []
    for line in lines:
        try:
            events.append(orjson.loads(line))
        except orjson.JSONDecodeError:
            continue
    return events


def timestamp(moment: datetime | None = None) -> str:
    """Write a moment (now, if none is given) as UTC, like 2025-06-18T12:03:05Z."""
    return (moment or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")
