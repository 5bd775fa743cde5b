"""The status of runs for the API, cached so that frequent polling is cheap."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeVar

from segkit.errors import RequestError, StorageError
from segkit.runs.discovery import register_run
from segkit.runs.events import timestamp
from segkit.runs.integrity import CHECKSUMS
from segkit.runs.mirror import STORED
from segkit.runs.ownership import is_owned, is_owned_elsewhere
from segkit.runs.status import Status, read_status
from segkit.service.estimates import Forecasts
from segkit.service.jobs import Jobs, known_cost
from segkit.service.records import Record
from segkit.service.tokens import Token
from segkit.settings import Settings

T = TypeVar("T")
#: Why a run may have failed, in words for clients, with what they can do over REST.
FAILURES = {
    "cancelled": "The run was cancelled; POST …/resume continues it.",
    "budget": "The budget of the run is used up; POST …/resume with a larger max_cost_usd continues it.",
    "unassigned": "More products are unassigned than allowed; POST …/resume with a larger max_unassigned accepts it.",
    "model_refused": "The model's endpoint refuses the requests; ask the operator, then POST …/resume.",
    "endpoint": "The model's endpoint keeps failing; POST …/resume tries again.",
    "database": "The results could not be written to the database; POST …/resume tries again, at no cost.",
    "storage": "The disk or S3 fails; POST …/resume tries again later.",
    "stopped": "The run was stopped; POST …/resume continues it.",
    "interrupted": "The process of the run ended without an error message; POST …/resume continues it.",
    "internal": "The run failed for a reason that only the operator can see; ask the operator, then POST …/resume.",
}
_KINDS = {  # by the error that ended a run
    "BudgetError": "budget",
    "Unassigned": "unassigned",
    "RefusedError": "model_refused",
    "EndpointError": "endpoint",
    "DatabaseError": "database",
    "ProductsError": "database",
    "StorageError": "storage",
    "DiskError": "storage",
    "StoppedError": "stopped",
}
_PHASES = {  # of a working run, by the number of its notebook
    "": "preparing",
    "00": "preparing",
    "10": "extracting",
    "20": "consolidating",
    "30": "refining",
    "35": "assigning",
    "40": "reviewing",
    "50": "syncing",
}
_ALMOST = 99.0  # percent of a run that still works, however many products are done
_FRESH = 0.1  # seconds for which a status is returned again
_REFRESH_S3 = 2.0  # seconds until S3 is asked again what another machine did with a run
_KEPT = 2048  # runs in memory


@dataclass(frozen=True, slots=True)
class CachedStatus:
    """The status of a run, as the API returns it, and the monotonic time at which it was read."""

    read_at: float
    document: dict[str, Any]

    def shown_to(self, token: Token) -> dict[str, Any]:
        """Return the status for a token: what a failed run said itself is for those that see all runs."""
        if token.all_runs and self.document.get("detail"):
            return self.document
        return {name: value for name, value in self.document.items() if name != "detail"}

    @property
    def run_id(self) -> str:
        return str(self.document["run_id"])

    @property
    def state(self) -> str:
        return str(self.document["status"])

    @property
    def products(self) -> int:
        return int(self.document["total_products"])


class StatusCache:
    """Reads the status of the runs in a folder, of those in S3 too."""

    def __init__(self, jobs: Jobs, settings: Settings, forecasts: Forecasts) -> None:
        self._jobs, self._runs_dir, self._settings, self._forecasts = jobs, jobs.runs_dir, settings, forecasts
        self._kept: OrderedDict[str, CachedStatus] = OrderedDict()
        self._asked_s3: OrderedDict[str, float] = OrderedDict()
        self._completed: set[str] = set()

    def fresh(self, run_id: str) -> CachedStatus | None:
        """Return a status that was read a moment ago, if there is one."""
        status = self._kept.get(run_id)
        return status if status and time.monotonic() - status.read_at < _FRESH else None

    def forget(self, run_id: str) -> None:
        self._kept.pop(run_id, None)

    def read(self, run_id: str, *, ask_s3: bool = False) -> CachedStatus:
        """Read the status of a run; `ask_s3` also looks whether another machine has gone on with it.

        Raises RequestError 404 when there is no such run, 409 when its status is damaged, and StorageError.
        """
        if fresh := self.fresh(run_id):
            return fresh
        # Whether it is active comes first: what a run wrote before it died must not be taken for what it is doing.
        is_active = self._jobs.is_active(run_id)
        try:
            if not is_active:
                self._refresh_from_s3(run_id, ask_s3)
            if not (self._runs_dir / run_id / "run.json").exists():
                raise RequestError("no-such-run", f"there is no run {run_id}")
            is_active = is_active or is_owned(self._runs_dir / run_id)
            status = read_status(self._runs_dir / run_id)
            if status.damage:
                raise RequestError("run-damaged", f"the status of {run_id} is damaged")
            document = self._document(run_id, status, is_active)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            raise RequestError("run-damaged", f"the status of {run_id} is damaged") from None
        current = CachedStatus(time.monotonic(), document)
        _keep(self._kept, run_id, current)
        return current

    def ended(self, run_id: str) -> dict[str, Any] | None:
        """Read the status of a run anew, as its owner sees it; None if it works again, or is gone."""
        self.forget(run_id)
        try:
            current = self.read(run_id)
        except (RequestError, StorageError):
            return None
        shown = {name: value for name, value in current.document.items() if name != "detail"}
        return None if current.state == "running" else shown

    def state(self, run_id: str) -> str:
        """Return the state of a run, or nothing if it cannot be read; a completed run is read once."""
        if run_id in self._completed and (self._runs_dir / run_id).is_dir():
            return "completed"
        try:
            state = self.read(run_id).state
        except (RequestError, StorageError):
            return ""
        if state == "completed":
            self._completed.add(run_id)
        return state

    def _refresh_from_s3(self, run_id: str, ask_s3: bool) -> None:
        """Look in S3 for a run that this service does not work on, also for one it has never seen."""
        is_here = (self._runs_dir / run_id / "run.json").exists()
        wanted = ask_s3 or not is_here or is_owned_elsewhere(self._runs_dir / run_id)
        if self._settings.storage_backend != "s3" or not wanted:
            return
        if time.monotonic() - self._asked_s3.get(run_id, -_REFRESH_S3) < _REFRESH_S3:
            return
        try:
            register_run(self._runs_dir, run_id, self._settings)
        except StorageError:
            if not is_here:
                raise
        _keep(self._asked_s3, run_id, time.monotonic())

    def _document(self, run_id: str, status: Status, is_active: bool) -> dict[str, Any]:
        folder = self._runs_dir / run_id
        # A run that lives in S3 may have its checksums only there; it is complete once it lists what is stored.
        record = self._jobs.records.get(run_id)
        was_cancelled = record is not None and record.cancelled
        is_sealed = status.state == "completed" and any((folder / name).exists() for name in (CHECKSUMS, STORED))
        state = "running" if is_active and not is_sealed else "completed" if is_sealed else "failed"
        total = status.products or 0
        processed = total if state == "completed" else min(total, status.processed_products)
        percent = round(100 * processed / total, 1) if total else 0.0
        document: dict[str, Any] = {
            "run_id": run_id,
            "status": state,
            "total_products": total,
            "processed_products": processed,
            "progress_percent": percent if state == "completed" else min(_ALMOST, percent),
            "estimated_completion": self._completion(run_id, state, status),
        }
        if self._jobs.is_waiting(run_id):
            document["queued"] = True
        elif state == "running":
            document["phase"] = _PHASES.get(status.notebook[:2], "preparing")
            if was_cancelled:
                document["stopping"] = True
        document |= _money(status, record)
        if state == "failed":
            failure = self._failure(run_id, status, was_cancelled)
            document |= failure
            document["status"] = "cancelled" if failure["failure"] == "cancelled" else state
        return document

    def _completion(self, run_id: str, state: str, status: Status) -> str | None:
        if state != "running":
            return (status.updated_at or None) if state == "completed" else None
        completion = self._forecasts.completion(run_id, status)
        return timestamp(completion) if completion else None

    def _failure(self, run_id: str, status: Status, was_cancelled: bool) -> dict[str, Any]:
        """Describe why a run failed: the kind and a sentence for clients, and what the run said for operators."""
        if status.state == "failed":
            kind, detail = _KINDS.get(status.error, "internal"), status.reason
        else:
            detail = self._jobs.processes.last_error(run_id)
            kind = "internal" if detail else "interrupted"
        if was_cancelled and kind in ("stopped", "internal"):
            kind = "cancelled"
        failure = {"failure": kind, "reason": FAILURES[kind], "detail": detail}
        return failure | ({"interrupted": True} if kind == "interrupted" else {})


def _money(status: Status, record: Record | None) -> dict[str, float]:
    """Return what a run has cost, and what is left of its budget; nothing for one without calls and budget."""
    cost, budget = known_cost(status), record.budget if record else None
    if budget is None:
        return {"cost_usd": float(cost)} if cost else {}
    left = max(Decimal(0), budget - max(cost, record.spent if record else Decimal(0)))
    return {"cost_usd": float(cost), "budget_usd": float(budget), "budget_left_usd": float(left)}


def _keep(kept: OrderedDict[str, T], name: str, value: T) -> None:
    kept[name] = value
    while len(kept) > _KEPT:
        kept.popitem(last=False)
