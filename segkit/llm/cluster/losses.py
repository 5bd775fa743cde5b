"""Calls that were granted to a worker which is gone: spent, until a log shows what became of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from segkit.core.models import STAGES
from segkit.runs.events import log_event, read_events
from segkit.runs.interactions import DamagedError, scan
from segkit.runs.run import Run

_EVENT = "calls_lost"


@dataclass(frozen=True, slots=True)
class LostCalls:
    """How many calls may have been made without a log, and what they cost at most."""

    calls: int
    cost_usd: Decimal


NOTHING_LOST = LostCalls(0, Decimal(0))


@dataclass(frozen=True, slots=True)
class GrantedCall:
    """A call that a worker may make: the share that asks (`asked_by`), its place in the logs, its largest cost."""

    asked_by: str
    batch: int
    attempt: int
    cost_usd: str


def record_lost(run: Run, stage: str, calls: Iterable[GrantedCall]) -> None:
    """Write down which granted calls had no answer when their worker was gone."""
    rows = [[each.asked_by, each.batch, each.attempt, each.cost_usd] for each in calls]
    if rows:
        log_event(run.folder, _EVENT, stage=STAGES[stage], calls=rows)


def lost_calls(run: Run) -> LostCalls:
    """Sum up the calls of all stages that were lost and are in no log since."""
    path = run.folder / "events.jsonl"
    if not path.exists() or f'"{_EVENT}"'.encode() not in path.read_bytes():
        return NOTHING_LOST
    events = [event for event in read_events(run.folder) if event["event"] == _EVENT]
    lost = [
        GrantedCall(*row)
        for event in events
        for row in _without_log(run.folder / str(event["stage"]), event["calls"])
    ]
    return LostCalls(len(lost), sum((Decimal(call.cost_usd) for call in lost), Decimal(0)))


def _without_log(folder: Path, calls: list[list[Any]]) -> list[list[Any]]:
    """Return the calls of a stage whose share has no log of that batch and attempt."""
    logs, _ = scan(folder, {int(call[1]) for call in calls})
    logged = set()
    for log in logs:
        with suppress(DamagedError, KeyError):
            logged.add(_place(log.log))
    return [call for call in calls if tuple(call[:3]) not in logged]


def _place(log: Mapping[str, Any]) -> tuple[str, int, int]:
    facts = log["metadata"]
    return log["asked_by"], facts["batch_id"], facts["attempt"]
