"""The queue of runs: whose turn it is, which run has ended and what it has cost."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from decimal import Decimal
from pathlib import Path

from segkit.errors import RequestError, SegkitError
from segkit.runs.ownership import is_owned, is_owned_elsewhere
from segkit.runs.status import Status, read_status, update_status
from segkit.service.callbacks.outbox import Outbox
from segkit.service.journal import Journal
from segkit.service.processes import Processes
from segkit.service.records import Record, Records
from segkit.service.starts.admission import Caps
from segkit.service.tokens import TokenStore

_MOST_USD = 10**9  # no run costs more, and more would not fit into the table


class Jobs:
    """The queue of runs and their processes; `tick` looks after them, several times a second.

    All that it must remember is on disk, so a service that was killed goes on where it stopped. A run whose process
    died is never started again without a request: the lost answers may have cost money.
    """

    def __init__(
        self,
        records: Records,
        processes: Processes,
        tokens: TokenStore,
        runs_dir: Path,
        journal: Journal,
        outbox: Outbox,
        at_once: int,
    ) -> None:
        self.records, self.processes, self.runs_dir, self._outbox = records, processes, runs_dir, outbox
        self._tokens, self._journal, self._at_once = tokens, journal, at_once
        self._waiting: set[str] = set()
        self._turn = threading.Lock()
        self._recover()

    def _recover(self) -> None:
        """Sort out what a killed service left: a run whose folder is complete is queued, any other is forgotten."""
        for record in self.records.in_phase("making"):
            if (self.runs_dir / record.run_id / "run.json").exists():
                self.records.move(record.run_id, "queued")
            else:
                self.records.forget(record.run_id)
        self._waiting = {record.run_id for record in self.records.in_phase("queued")}

    def add(self, run_id: str) -> None:
        """Put a new run into the queue."""
        self._waiting.add(run_id)
        self.records.move(run_id, "queued")

    def requeue(self, record: Record, caps: Caps) -> None:
        """Put a run that ended into the queue again; raises RequestError as `Records.requeue` does."""
        with self._turn:
            self.records.requeue(record, caps)
            self.processes.forget(record.run_id)
            self._waiting.add(record.run_id)

    def is_waiting(self, run_id: str) -> bool:
        return run_id in self._waiting

    def is_active(self, run_id: str) -> bool:
        """Report whether a run waits for its turn or has a process."""
        return self.is_waiting(run_id) or self.processes.is_alive(run_id)

    def cancel(self, run_id: str) -> None:
        """Stop a run in an orderly way: a waiting one never begins, a working one keeps the answers in flight.

        Raises RequestError 409 for a run that another machine works on.
        """
        if not self.is_active(run_id) and is_owned_elsewhere(self.runs_dir / run_id):
            raise RequestError("owned-elsewhere", f"another machine works on {run_id}", "cancel it there")
        with self._turn:
            self.records.cancel(run_id)
            if self.is_waiting(run_id):
                self._end_unbegun(run_id, "cancelled before it began")
            else:
                self._ask_to_stop(run_id)

    def tick(self) -> None:
        """Look after all runs: record which ended, stop the cancelled ones, begin those whose turn it is.

        Where its owner's token was withdrawn, or has expired, a waiting run never begins and a working one stops.
        """
        with self._turn:
            working = [record for record in self.records.in_phase("started") if self._is_working(record)]
            waiting = [record for record in self.records.in_phase("queued") if not self._was_withdrawn(record)]
            for record in fair_order(waiting, working)[: max(0, self._at_once - len(working))]:
                self._begin(record)

    def _was_withdrawn(self, record: Record) -> bool:
        if not self._tokens.is_withdrawn(record.owner):
            return False
        self.records.cancel(record.run_id)
        self._end_unbegun(record.run_id, "cancelled before it began: its token was withdrawn")
        return True

    def _is_working(self, record: Record) -> bool:
        """Report whether a run that was started still works; where it does not, record its end."""
        run_id = record.run_id
        code = self.processes.exit_code(run_id)
        if self.is_active(run_id) or is_owned(self.runs_dir / run_id):
            if not record.cancelled and self._tokens.is_withdrawn(record.owner):
                self.records.cancel(run_id)
                self._journal.note("run_cancelled", run_id=run_id, owner=record.owner, why="its token was withdrawn")
            elif record.cancelled:  # a run removes the file when it begins, so once is not enough
                self._ask_to_stop(run_id)
            return True
        status = read_status(self.runs_dir / run_id)
        self._end(record, status)
        facts = {"state": status.state, "reason": status.reason, "exit_code": code}
        self._journal.note("run_ended", run_id=run_id, owner=record.owner, **facts)
        return False

    def _end(self, record: Record, status: Status) -> None:
        """Record that a run ended; the callback comes first, so that no end goes unreported, and each once."""
        token = self._tokens.named(record.owner)
        if token and token.callback_url:
            self._outbox.add(record.run_id, record.owner, f"{record.created_at} {status.change} {status.updated_at}")
        self.records.end(record.run_id, spent(record, status))

    def _ask_to_stop(self, run_id: str) -> None:
        with suppress(OSError):
            (self.runs_dir / run_id / "stop").touch()

    def _begin(self, record: Record) -> None:
        """Start the process of a run; where one was started before a crash of the service, only record it."""
        run_id, folder = record.run_id, self.runs_dir / record.run_id
        if not folder.is_dir():
            self._end_unbegun(run_id, "its folder is gone")
            return
        if not self.processes.was_started(run_id) and not is_owned(folder):
            try:
                pid = self.processes.start(record)
            except OSError as error:
                self._end_unbegun(run_id, f"its process could not be started: {error.strerror}")
                return
            self._journal.note("run_process_started", run_id=run_id, child=pid)
        self.records.move(run_id, "started")
        self._waiting.discard(run_id)

    def _end_unbegun(self, run_id: str, reason: str) -> None:
        with suppress(SegkitError, OSError):
            update_status(self.runs_dir / run_id, state="failed", reason=reason, error="")
        record = self.records.get(run_id)
        status = read_status(self.runs_dir / run_id)
        if record:
            self._end(record, status)
        self._waiting.discard(run_id)
        self._journal.note("run_ended", run_id=run_id, state="failed", reason=reason)


def fair_order(waiting: Sequence[Record], working: Sequence[Record]) -> list[Record]:
    """Order waiting runs so that owners take turns: who has the fewest runs at work is next, then the older run."""
    runs_of = Counter(record.owner for record in working)
    turns = []
    for position, record in enumerate(waiting):
        runs_of[record.owner] += 1
        turns.append((runs_of[record.owner], position))
    return [waiting[position] for _, position in sorted(turns)]


def spent(record: Record, status: Status) -> Decimal:
    """Return the dollars a run has cost; its whole budget where its status does not say that for sure."""
    most = max(record.budget or Decimal(0), record.spent)
    if status.damage or status.cost_usd >= _MOST_USD:
        return most
    unknown = status.products is None or status.state == "running" or status.unpriced  # killed, with calls in flight
    return most if unknown and record.budget is not None else status.cost_usd


def known_cost(status: Status) -> Decimal:
    """Return the dollars a run has cost for sure: never more than it did."""
    return Decimal(0) if status.damage or status.cost_usd >= _MOST_USD else status.cost_usd
