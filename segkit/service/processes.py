"""The processes of runs: how one is started, whether it lives, and what it printed last.

SEGKIT_HOME/service/processes/
  RUN_….lock  held by the process of a run as long as it lives, whatever becomes of the service
  RUN_….log   what that process printed; not in the run's folder, which is sealed before the process ends
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

from segkit.service.records import Record
from segkit.storage.locks import is_held

_LAST_BYTES = 4000  # of a log that are searched for the last error


class Processes:
    """Starts `segkit resume` for runs. The processes outlive the service; a new service finds them by their locks."""

    def __init__(self, folder: Path, runs_dir: Path) -> None:
        self._folder, self._runs_dir = folder, runs_dir
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def is_alive(self, run_id: str) -> bool:
        """Report whether the process of a run lives."""
        return is_held(self._lock(run_id))

    def was_started(self, run_id: str) -> bool:
        """Report whether a process was started for a run, since it was queued last."""
        return self._lock(run_id).exists()

    def forget(self, run_id: str) -> None:
        """Let a run be started again."""
        self._lock(run_id).unlink(missing_ok=True)

    def exit_code(self, run_id: str) -> int | None:
        """Return the exit code of a process that ended, once; None if another service started it."""
        child = self._children.get(run_id)
        if child is None or child.poll() is None:
            return None
        return self._children.pop(run_id).returncode

    def last_error(self, run_id: str) -> str:
        """Return the last error that the process of a run printed; empty if there is none."""
        try:
            printed = self._log(run_id).read_bytes()[-_LAST_BYTES:].decode(errors="replace")
        except OSError:
            return ""
        lines = [line for line in printed.splitlines() if line.startswith("error: ")]
        return lines[-1].removeprefix("error: ") if lines else ""

    def start(self, record: Record) -> int:
        """Start the process of a run in a session of its own and return its pid.

        The process inherits the open lock file, so the lock lives as long as the process. Raises OSError.
        """
        command = [sys.executable, "-m", "segkit", "resume", record.run_id, "--runs-dir", str(self._runs_dir)]
        lock = os.open(self._lock(record.run_id), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with open(self._log(record.run_id), "wb", opener=_private) as log:
                child = subprocess.Popen(
                    [*command, *_limits(record)], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    start_new_session=True, pass_fds=[lock],
                )  # fmt: skip
        finally:
            os.close(lock)
        self._children[record.run_id] = child
        return child.pid

    def _lock(self, run_id: str) -> Path:
        return self._folder / f"{run_id}.lock"

    def _log(self, run_id: str) -> Path:
        return self._folder / f"{run_id}.log"


def _limits(record: Record) -> list[str]:
    options = {
        "--max-cost-usd": None if record.budget is None else f"{record.budget:f}",  # never 1E-7
        "--max-calls": record.max_calls,
        "--max-unassigned": record.max_unassigned,
    }
    return [word for name, value in options.items() if value is not None for word in (name, str(value))]


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
