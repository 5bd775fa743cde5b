"""The whole service: its folder, its lock, its parts, and the loop that looks after the runs.

SEGKIT_HOME/service/
  service.lock   held by the one service of this home
  records.db     whose a run is, its key, its budget, its phase
  events.jsonl   who asked for what, and what came of it
  processes/     the locks and the output of the processes of runs
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from segkit.errors import RequestError, RunError, SettingsError
from segkit.runs.run import open_run, run_ids
from segkit.service.callbacks.delivery import Deliveries
from segkit.service.callbacks.outbox import Outbox
from segkit.service.estimates import Forecasts
from segkit.service.jobs import Jobs
from segkit.service.journal import Journal
from segkit.service.metrics import Metrics
from segkit.service.processes import Processes
from segkit.service.readiness import DatabaseReadiness, Readiness
from segkit.service.records import Filters, Listed, Records, listed_run
from segkit.service.starts.submissions import Submissions, may_see
from segkit.service.status import CachedStatus, StatusCache
from segkit.service.tokens import Token, TokenStore
from segkit.service.workers import Workers
from segkit.settings import Settings
from segkit.storage.locks import owned

_TICK = 0.25  # seconds
_CALLBACKS = 1.0  # seconds between two looks for callbacks that are due
_LATE = 15.0  # seconds without a good tick after which the service no longer calls itself healthy


@dataclass(slots=True)
class Service:
    """The parts of a service, for its routes."""

    settings: Settings
    runs_dir: Path
    tokens: TokenStore
    records: Records
    jobs: Jobs
    submissions: Submissions
    statuses: StatusCache
    metrics: Metrics
    readiness: Readiness
    journal: Journal
    deliveries: Deliveries
    workers: Workers
    stopping: threading.Event = field(default_factory=threading.Event)  # streams end, so that the service can
    failure: str = ""  # why the service has to end
    _ticked_at: float = field(default_factory=time.monotonic)
    _tick_fault: str = ""

    def run_ids(self, token: Token) -> list[str]:
        """List the runs a token may see, the newest first."""
        ids = (
            run_ids(self.runs_dir)
            if token.all_runs
            else [i for i, name in list(self.submissions.owners.items()) if name == token.name]  # others add to it
        )
        return sorted(ids, reverse=True)

    def listed(self, token: Token, filters: Filters, before: str | None) -> list[Listed]:
        """List the runs a token may see, the one created last first; those of the command line as they are found."""
        fresh = [run_id for run_id in reversed(self.run_ids(token)) if not self.records.is_listed(run_id)]
        for run_id in fresh:
            with suppress(RunError, LookupError, TypeError):
                self.records.enlist(listed_run(open_run(run_id, self.runs_dir, self.settings)))
        return self.records.listed(None if token.all_runs else token.name, filters, before)

    def check_visible(self, run_id: str, token: Token) -> None:
        """Raise RequestError 404 for a run that does not exist, or that this token may not see."""
        if not may_see(token, self.submissions.owners.get(run_id)):
            raise RequestError("no-such-run", f"there is no run {run_id}")

    async def status(self, run_id: str, token: Token) -> CachedStatus:
        """Return the status of a run, from memory while it is fresh, else read in a thread."""
        self.check_visible(run_id, token)
        if (current := self.statuses.fresh(run_id)) is None:
            current = await asyncio.to_thread(self.statuses.read, run_id, ask_s3=True)
        return current

    @property
    def is_alive(self) -> bool:
        """Whether the loop that looks after the runs works."""
        return time.monotonic() - self._ticked_at < _LATE

    async def look_after_runs(self) -> None:
        """Tick until cancelled; an error is noted once, and the next tick tries again."""
        while True:
            try:
                await asyncio.to_thread(self._tick)
                self._ticked_at, self._tick_fault = time.monotonic(), ""
            except Exception as error:  # whatever it is: if this loop ended, runs would wait for ever
                if repr(error) != self._tick_fault:
                    self.journal.note_error("tick_failed", error)
                self._tick_fault = repr(error)
            await asyncio.sleep(_TICK)

    async def deliver_callbacks(self) -> None:
        """Send what is due until cancelled; an error is noted once, and the next tick tries again."""
        fault = ""
        while True:
            try:
                await asyncio.to_thread(self.deliveries.tick)
                fault = ""
            except Exception as error:
                if repr(error) != fault:
                    self.journal.note_error("callbacks_failed", error)
                fault = repr(error)
            await asyncio.sleep(_CALLBACKS)

    def _tick(self) -> None:
        before = self.tokens.fault
        with suppress(SettingsError):
            self.tokens.reload()
        if self.tokens.fault not in ("", before):
            print(f"warning: {self.tokens.fault}", file=sys.stderr, flush=True)
            self.journal.note("tokens_unusable", why=self.tokens.fault)
        self.jobs.tick()


@contextmanager
def opened(settings: Settings, runs_dir: Path, tokens: TokenStore) -> Iterator[Service]:
    """Open the service of a home; raises RunError when another one works on it."""
    home, runs_dir = (settings.segkit_home / "service").resolve(), runs_dir.resolve()
    for folder in (home, runs_dir):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with owned(home / "service.lock"):
        journal, records = Journal(home, settings), Records(home / "records.db")
        outbox = Outbox(home / "records.db")
        processes = Processes(home / "processes", runs_dir)
        jobs = Jobs(records, processes, tokens, runs_dir, journal, outbox, settings.segkit_serve_runs)
        database, workers = DatabaseReadiness(settings, journal), Workers()
        forecasts = Forecasts(runs_dir, settings, workers)
        submissions = Submissions(jobs, tokens, settings, database, journal, workers)
        statuses = StatusCache(jobs, settings, forecasts)
        deliveries = Deliveries(outbox, tokens, journal, statuses.ended)
        try:
            database.begin()
            journal.note("service_started", runs_dir=str(runs_dir), tokens=tokens.path is not None)
            readiness = Readiness(settings, tokens, journal, (home, runs_dir))
            metrics = Metrics(runs_dir)
            yield Service(
                settings,
                runs_dir,
                tokens,
                records,
                jobs,
                submissions,
                statuses,
                metrics,
                readiness,
                journal,
                deliveries,
                workers,
            )
        finally:
            submissions.close()
            forecasts.close()
            workers.close()
            deliveries.close()
            outbox.close()
            journal.note("service_stopped")
            records.close()
