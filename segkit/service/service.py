"""The service whole: its folder, its lock, its parts, and the loop that looks after the runs."""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from segkit.errors import RequestError
from segkit.runs.events import log_event
from segkit.runs.run import run_ids
from segkit.service.jobs import Jobs
from segkit.service.metrics import Metrics
from segkit.service.readiness import LateDatabase
from segkit.service.records import Records
from segkit.service.status import Board, Standing
from segkit.service.submissions import Desk, may_see
from segkit.service.tokens import Token, TokenBook
from segkit.settings import Settings
from segkit.storage.locks import owned
from segkit.storage.redaction import safe_text

_TICK = 0.25  # seconds


@dataclass(frozen=True, slots=True)
class Service:
    """What the routes need."""

    settings: Settings
    place: Path
    home: Path
    book: TokenBook | None
    records: Records
    jobs: Jobs
    desk: Desk
    board: Board
    metrics: Metrics
    looking: dict[str, asyncio.Task[Standing]] = field(default_factory=dict)
    stopping: threading.Event = field(default_factory=threading.Event)  # streams end, so that the service can

    def run_ids(self, token: Token) -> list[str]:
        """List the runs a token may see, the newest first."""
        known = (
            run_ids(self.place)
            if token.all_runs
            else [i for i, name in list(self.desk.owners.items()) if name == token.name]  # others add to it meanwhile
        )
        return sorted(known, reverse=True)

    def check_sight(self, run_id: str, token: Token) -> None:
        """Raise RequestError 404 for a run that is not there, or is not this token's to see."""
        if not may_see(token, self.desk.owners.get(run_id)):
            raise RequestError(404, f"there is no run {run_id}")

    async def standing(self, run_id: str, token: Token) -> Standing:
        """Tell how a run stands; from memory while that is fresh, and never in the way of other requests."""
        self.check_sight(run_id, token)
        if standing := self.board.fresh(run_id):
            return standing
        if (looking := self.looking.get(run_id)) is None:  # many ask at once: one of them looks
            looking = asyncio.create_task(asyncio.to_thread(self.board.standing, run_id, closely=True))
            self.looking[run_id] = looking
            looking.add_done_callback(lambda _: self.looking.pop(run_id, None))
        return await asyncio.shield(looking)

    def report(self, error: BaseException, request_id: str, route: str) -> None:
        """Log an error that nobody expected, with where it was raised; nothing of it reaches a client."""
        frames = [
            f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)
        ]
        why = safe_text(error, self.settings.secrets)
        told = {"error": type(error).__name__, "why": why, "where": frames[-6:]}
        log_event(self.home, "request_failed", request_id=request_id, route=route, **told)

    async def look_after_runs(self) -> None:
        """Tick until cancelled; an error is logged once, and the next tick tries again."""
        said = ""
        while True:
            try:
                await asyncio.to_thread(self._tick)
                said = ""
            except Exception as error:  # whatever it is: were this loop to end, runs would wait for ever
                if repr(error) != said:
                    self.report(error, "", "tick")
                said = repr(error)
            await asyncio.sleep(_TICK)

    def _tick(self) -> None:
        try:
            if self.book:
                self.book.reload()
        finally:
            self.jobs.tick()


@contextmanager
def opened(settings: Settings, place: Path, book: TokenBook | None) -> Iterator[Service]:
    """Open the service of a home; raises RunError when another one works on it."""
    home, place = (settings.segkit_home / "service").resolve(), place.resolve()
    for folder in (home, place):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with owned(home / "service.lock"):
        records = Records(home / "records.db")
        jobs = Jobs(records, place, home, settings.segkit_serve_runs)
        database = LateDatabase(settings, home)
        board, desk = Board(place, settings, jobs.life, jobs.last_words), Desk(jobs, settings, database)
        try:
            database.begin()
            log_event(home, "service_started", runs_dir=str(place), tokens=bool(book))
            yield Service(settings, place, home, book, records, jobs, desk, board, Metrics(place))
        finally:
            desk.close()
            board.close()
            log_event(home, "service_stopped")
            records.close()
