"""Runs as processes of their own: the service starts them, and they outlive it.

SEGKIT_HOME/service/
  service.lock         held by the one service of this home
  records.db           whose a run is, its key, its budget, its phase
  events.jsonl         who asked for what, and what came of it
  processes/RUN_….lock held by the process of a run as long as it lives, whatever becomes of the service
  processes/RUN_….log  what that process said; not in the run's folder, which is sealed before its last words
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from contextlib import suppress
from decimal import Decimal
from pathlib import Path

from segkit.errors import RequestError, SegkitError
from segkit.runs.events import log_event
from segkit.runs.ownership import is_owned, is_owned_elsewhere
from segkit.runs.status import Status, read_status, update_status
from segkit.service.records import Caps, Record, Records
from segkit.storage.locks import is_held

_LAST = 4000  # bytes at the end of what a process said
_MOST = 10**9  # dollars; no run costs more, and more would not fit into the table


class Jobs:
    """The queue of runs and their processes: `tick` looks after them, several times a second.

    Everything it must know is on disk, so a service that was killed goes on where it stopped. A run whose process
    died is never begun again by itself: it may have cost money.
    """

    def __init__(self, records: Records, place: Path, home: Path, most: int) -> None:
        self.records, self.place, self.home, self._most = records, place, home, most
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        (home / "processes").mkdir(mode=0o700, parents=True, exist_ok=True)
        self._waiting: set[str] = set()
        self._turn = threading.Lock()
        self._recover()

    def _recover(self) -> None:
        """Sort out what a killed service left: a run that was made is queued, one that was not never was."""
        for record in self.records.in_phase("making"):
            if (self.place / record.run_id / "run.json").exists():
                self.records.move(record.run_id, "queued")
            else:
                self.records.forget(record.run_id)
        self._waiting = {record.run_id for record in self.records.in_phase("queued")}

    def add(self, run_id: str) -> None:
        """Put a run that was made into the queue."""
        self._waiting.add(run_id)
        self.records.move(run_id, "queued")

    def requeue(self, wanted: Record, caps: Caps) -> None:
        """Put a run that ended into the queue again; raises RequestError as `Records.requeue` does."""
        with self._turn:
            self.records.requeue(wanted, caps)
            self._lock(wanted.run_id).unlink(missing_ok=True)
            self._waiting.add(wanted.run_id)

    def life(self, run_id: str) -> str:
        """Tell whether a run is `queued` or has a process (`alive`); empty where it has neither."""
        if run_id in self._waiting:
            return "queued"
        return "alive" if is_held(self._lock(run_id)) else ""

    def last_words(self, run_id: str) -> str:
        """Give the error that the process of a run ended with, if it told one."""
        try:
            said = self._log(run_id).read_bytes()[-_LAST:].decode(errors="replace")
        except OSError:
            return ""
        lines = [line for line in said.splitlines() if line.startswith("error: ")]
        return lines[-1].removeprefix("error: ") if lines else ""

    def cancel(self, run_id: str) -> None:
        """Stop a run in an orderly way: one that waits never begins, one that works keeps the answers in flight.

        Raises RequestError 409 for a run that another machine works on.
        """
        if not self.life(run_id) and is_owned_elsewhere(self.place / run_id):
            raise RequestError(409, f"another machine works on {run_id}", "stop it there")
        with self._turn:
            self.records.cancel(run_id)
            if run_id in self._waiting:
                self._end_unbegun(run_id, "cancelled before it began")
            else:
                with suppress(OSError):
                    (self.place / run_id / "stop").touch()

    def tick(self) -> None:
        """Look after all runs: note which ended, stop those that were cancelled, begin those whose turn it is."""
        with self._turn:
            working = sum([self._look_after(record) for record in self.records.in_phase("started")])
            for record in self.records.in_phase("queued")[: max(0, self._most - working)]:
                self._begin(record)

    def _look_after(self, record: Record) -> bool:
        run_id = record.run_id
        folder, child = self.place / run_id, self._children.get(run_id)
        if child and child.poll() is not None:
            del self._children[run_id]
        if self.life(run_id) or is_owned(folder):
            if record.cancelled:  # a run removes the file when it begins, so once is not enough
                with suppress(OSError):
                    (folder / "stop").touch()
            return True
        status = read_status(folder)
        self.records.end(run_id, spent(record, status))
        code = child.returncode if child else None
        told = {"state": status.state, "reason": status.reason, "exit_code": code}
        log_event(self.home, "run_ended", run_id=run_id, owner=record.owner, payer=record.payer, **told)
        return False

    def _begin(self, record: Record) -> None:
        """Start the process of a run; one that was started before a crash of the service is only noted."""
        run_id, folder = record.run_id, self.place / record.run_id
        begun = self._lock(run_id).exists()
        if not folder.is_dir():
            self._end_unbegun(run_id, "its folder is gone")
        elif begun or is_owned(folder):
            self._note_begun(run_id)
        else:
            try:
                self._children[run_id] = self._spawn(record)
            except OSError as error:
                self._end_unbegun(run_id, f"its process could not be started: {error.strerror}")
                return
            log_event(self.home, "run_process_started", run_id=run_id, child=self._children[run_id].pid)
            self._note_begun(run_id)

    def _note_begun(self, run_id: str) -> None:
        self.records.move(run_id, "started")
        self._waiting.discard(run_id)

    def _spawn(self, record: Record) -> subprocess.Popen[bytes]:
        """Start `segkit resume` in a session of its own; it inherits the lock, which so lives as long as it does."""
        budget = None if record.budget is None else f"{record.budget:f}"  # never 1E-7
        caps = {
            "--max-cost-usd": budget,
            "--max-calls": record.max_calls,
            "--max-unassigned": record.max_unassigned,
        }
        told = [word for name, value in caps.items() if value is not None for word in (name, str(value))]
        command = [sys.executable, "-m", "segkit", "resume", record.run_id, "--runs-dir", str(self.place), *told]
        lock = os.open(self._lock(record.run_id), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with open(self._log(record.run_id), "wb", opener=_private) as log:
                return subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    pass_fds=[lock],
                )
        finally:
            os.close(lock)

    def _end_unbegun(self, run_id: str, reason: str) -> None:
        with suppress(SegkitError, OSError):
            update_status(self.place / run_id, state="failed", reason=reason)
        record = self.records.get(run_id)
        status = read_status(self.place / run_id)
        self.records.end(run_id, spent(record, status) if record else Decimal(0))
        self._waiting.discard(run_id)
        log_event(self.home, "run_ended", run_id=run_id, state="failed", reason=reason)

    def _lock(self, run_id: str) -> Path:
        return self.home / "processes" / f"{run_id}.lock"

    def _log(self, run_id: str) -> Path:
        return self.home / "processes" / f"{run_id}.log"


def spent(record: Record, status: Status) -> Decimal:
    """Return what a run has cost; its whole budget where its status does not say that for sure."""
    most = max(record.budget or Decimal(0), record.spent)
    if status.damage or status.cost_usd >= _MOST:
        return most
    unknown = status.products is None or status.state == "running" or status.unpriced  # killed, with calls in flight
    return most if unknown and record.budget is not None else status.cost_usd


def known_cost(status: Status) -> Decimal:
    """Return what a run has cost for sure: never more than it did."""
    return Decimal(0) if status.damage or status.cost_usd >= _MOST else status.cost_usd


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
