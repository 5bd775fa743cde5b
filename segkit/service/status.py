"""How runs stand, as the seed words it, cheap enough to be asked a thousand times a second."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import orjson

from segkit.errors import RequestError, SegkitError, StorageError
from segkit.runs.discovery import adopt
from segkit.runs.events import timestamp
from segkit.runs.integrity import CHECKSUMS
from segkit.runs.mirror import STORED
from segkit.runs.ownership import is_owned, is_owned_elsewhere
from segkit.runs.run import open_run
from segkit.runs.status import Status, read_status
from segkit.service.estimates import Forecast, estimated_completion, forecast
from segkit.settings import Settings

T = TypeVar("T")
_FRESH = 0.1  # seconds that an answer is given again
_SEEN = 2.0  # seconds until S3 is asked again what another machine made of a run
_MOST = 2048  # answers and forecasts kept


@dataclass(frozen=True, slots=True)
class Standing:
    """How a run stood at a moment: the seed's status and its bytes, and whether a process works on it."""

    seen: float
    told: dict[str, Any]
    data: bytes
    alive: bool

    @property
    def state(self) -> str:
        return str(self.told["status"])


class Board:
    """Tells how the runs of a folder stand. `is_alive` says whether a run has a process, or waits for one."""

    def __init__(
        self, place: Path, settings: Settings, is_alive: Callable[[str], str], last_words: Callable[[str], str]
    ):
        self.place, self.settings = place, settings
        self._is_alive, self._last_words = is_alive, last_words
        self._standings: OrderedDict[str, Standing] = OrderedDict()
        self._forecasts: OrderedDict[str, Forecast] = OrderedDict()
        self._seen: OrderedDict[str, float] = OrderedDict()
        self._sealed: set[str] = set()
        self._planned: set[str] = set()
        self._lock, self._planner = threading.Lock(), ThreadPoolExecutor(1, "planner")

    def fresh(self, run_id: str) -> Standing | None:
        """Give what was told a moment ago, if it was."""
        standing = self._standings.get(run_id)
        return standing if standing and time.monotonic() - standing.seen < _FRESH else None

    def forget(self, run_id: str) -> None:
        self._standings.pop(run_id, None)

    def close(self) -> None:
        """Give up the plans that nobody waits for."""
        self._planner.shutdown(wait=False, cancel_futures=True)

    def standing(self, run_id: str, *, closely: bool = False) -> Standing:
        """Look at a run, `closely` at one in S3 that another machine may have gone on with.

        Raises RequestError 404 when there is none, 409 when its status cannot be understood, StorageError.
        """
        if standing := self.fresh(run_id):
            return standing
        folder = self.place / run_id
        # Whether it lives comes first: what it wrote before it died must not be taken for what it says now.
        life = self._is_alive(run_id)
        try:
            if not life:
                self._look_elsewhere(run_id, closely)
            if not (folder / "run.json").exists():
                raise RequestError(404, f"there is no run {run_id}")
            alive = bool(life) or is_owned(folder)
            status = read_status(folder)
            if status.damage:
                raise RequestError(409, f"the status of {run_id} is damaged")
            told = self._told(run_id, status, life, alive)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            raise RequestError(409, f"the status of {run_id} is damaged") from None
        standing = Standing(time.monotonic(), told, orjson.dumps(told), alive)
        _keep(self._standings, run_id, standing)
        return standing

    def _look_elsewhere(self, run_id: str, closely: bool) -> None:
        """See in S3 what became of a run that this service does not work on, also of one it never saw."""
        is_known = (self.place / run_id / "run.json").exists()
        if self.settings.storage_backend != "s3" or (
            is_known and not closely and not is_owned_elsewhere(self.place / run_id)
        ):
            return
        if time.monotonic() - self._seen.get(run_id, -_SEEN) < _SEEN:
            return
        try:
            adopt(self.place, run_id, self.settings)
        except StorageError:
            if not is_known:
                raise
        _keep(self._seen, run_id, time.monotonic())

    def state(self, run_id: str) -> str:
        """Tell the state of a run alone, or nothing where there is none; a completed one is not looked at again."""
        if run_id in self._sealed and (self.place / run_id).is_dir():
            return "completed"
        try:
            state = self.standing(run_id).state
        except (RequestError, StorageError):
            return ""
        if state == "completed":
            self._sealed.add(run_id)
        return state

    def _told(self, run_id: str, status: Status, life: str, alive: bool) -> dict[str, Any]:
        folder = self.place / run_id
        # One that lives in S3 may have its checksums there alone; it is whole there once it says what is stored.
        sealed = status.state == "completed" and any((folder / name).exists() for name in (CHECKSUMS, STORED))
        state = "running" if alive and not sealed else "completed" if sealed else "failed"
        total, processed = status.products or 0, status.processed_products
        told: dict[str, Any] = {
            "run_id": run_id,
            "status": state,
            "total_products": total,
            "processed_products": processed,
            "progress_percent": round(100 * processed / total, 1) if total else 0.0,
            "estimated_completion": self._end(run_id, state, status),
        }
        if life == "queued":
            told["queued"] = True
        if state == "failed":
            told |= self._failure(run_id, status)
        return told

    def _failure(self, run_id: str, status: Status) -> dict[str, Any]:
        """Say why a run failed: what it wrote itself, or else what its process said last, if anything."""
        if status.state == "failed":
            return {"reason": self._without_paths(status.reason or "unknown")}
        if words := self._last_words(run_id):
            return {"reason": self._without_paths(words)}
        return {"reason": "interrupted: its process ended without a word; resume it", "interrupted": True}

    def _without_paths(self, text: str) -> str:
        for place in (self.place.resolve(), self.place, self.settings.segkit_home.resolve(), Path.cwd()):
            text = text.replace(f"{place}/", "")
        return text

    def _end(self, run_id: str, state: str, status: Status) -> str | None:
        if state == "completed":
            return status.updated_at or None
        if state == "failed":
            return None
        found = self._forecast(run_id)
        return timestamp(estimated_completion(status, found, _began(self.place / run_id))) if found else None

    def _forecast(self, run_id: str) -> Forecast | None:
        """Plan a run once, one run at a time, while nobody waits for it; until then there is no estimate."""
        with self._lock:
            if run_id not in self._planned:
                self._planned.add(run_id)
                self._planner.submit(self._plan, run_id)
        return self._forecasts.get(run_id)

    def _plan(self, run_id: str) -> None:
        """Keep the forecast of a run; one whose folder is damaged has none, and will say so itself."""
        with suppress(SegkitError, OSError):
            _keep(self._forecasts, run_id, forecast(open_run(run_id, self.place), self.settings))


def _began(folder: Path) -> datetime | None:
    """Tell when the process that owns a run began, from its lock."""
    try:
        since = datetime.fromisoformat(orjson.loads((folder / "run.lock").read_bytes())["since"])
    except (OSError, ValueError, LookupError):
        return None
    return since.replace(tzinfo=since.tzinfo or UTC)


def _keep(kept: OrderedDict[str, T], name: str, value: T) -> None:
    kept[name] = value
    while len(kept) > _MOST:
        kept.popitem(last=False)
