"""Lock files: one process works on a run at a time, and the kernel drops the lock when that process dies."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from segkit.errors import RunError, WaitingError


@contextmanager
def owned(lock: Path) -> Iterator[None]:
    """Hold a lock file while the block runs; raise RunError naming the owner when another process holds it.

    The kernel drops the lock when its owner dies, so none is ever stale. What dead writers left is swept first.
    """
    with lock.open("a+", encoding="utf-8") as file:
        if not _acquired(file, seconds=2):
            raise RunError(f"{lock.parent.name} is at work in another process: {_owner(lock)}")
        _sweep(lock.parent)
        _sweep(lock.parent / "results")
        file.truncate(0)
        json.dump(_identity(), file)
        file.flush()
        try:
            try:
                yield
            except WaitingError:
                _release(file)
                raise
            _release(file)
        finally:
            # A child that was forked meanwhile has the same file open, and would hold the lock as long as it lives.
            fcntl.flock(file, fcntl.LOCK_UN)


def _release(file: IO[str]) -> None:
    """Leave no name behind: whoever held the lock has ended in good order."""
    with contextlib.suppress(OSError):
        file.truncate(0)


def is_held(lock: Path) -> bool:
    """Report whether some process holds a lock file."""
    if not lock.exists():
        return False
    with lock.open("a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _sweep(folder: Path) -> None:
    """Remove the temporary files of writers that are dead; those of a living one may be renamed any moment."""
    for path in folder.glob(".*.*.tmp"):
        if is_left_behind(path):
            path.unlink(missing_ok=True)


def is_left_behind(path: Path) -> bool:
    """Report whether the writer of a temporary file or folder, `….PID.tmp`, is dead."""
    pid = path.name.split(".")[-2]
    return pid.isascii() and pid.isdigit() and not is_alive(int(pid))


def is_alive(pid: int) -> bool:
    """Report whether a process of this machine exists, whoever owns it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _acquired(file: IO[str], seconds: float) -> bool:
    """Try for a moment: a kernel whose parent was killed needs about a second to notice and go."""
    until = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.05)
        else:
            return True


def _identity() -> dict[str, str | int]:
    started = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": started}


def _owner(lock: Path) -> str:
    try:
        owner = json.loads(lock.read_text(encoding="utf-8"))
        return f"pid {owner['pid']} on {owner['host']} since {owner['since']}"
    except (ValueError, KeyError):
        return "its owner has not written its name yet"
