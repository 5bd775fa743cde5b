"""Files on the local disk: a name holds the old content or the new one, never a part."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from itertools import count
from pathlib import Path

from segkit.errors import DiskError


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` under a temporary name in the same folder, sync it, and rename it to `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_numbers = count(1)
_turn = threading.Lock()
_synced: dict[Path, int] = {}


def sync_folder_together(folder: Path) -> None:
    """Do the same where many threads write names: who waited for the sync of another may need none of its own."""
    mine = next(_numbers)
    with _turn:
        if _synced.get(folder, 0) > mine:  # it began after this name was there
            return
        begun = next(_numbers)
        sync_folder(folder)
        _synced[folder] = begun


def disk_error(run: Path, error: OSError, kept: str = "all answers are kept") -> DiskError:
    """Word a failure of the disk under a run folder: the path, the reason, the room that is left, what was kept."""
    path = error.filename if isinstance(error.filename, str) else run
    reason = f"{error.strerror or error}{_room(run)}"
    return DiskError(f"the disk fails at {path}: {reason}; {kept}", f"mend it, then: segkit resume {run.name}")


def _room(folder: Path) -> str:
    with contextlib.suppress(OSError):
        return f" ({shutil.disk_usage(folder).free / 1e6:.1f} MB free)"
    return ""
