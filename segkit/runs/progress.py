"""What a stage has done so far and what is in flight, as `status.json` reports it to whoever watches."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from segkit.core.models import Usage
from segkit.core.text import one_line
from segkit.runs.status import Activity, StageFigures, read_status, total, update_status

_LONGEST_REASON = 160
_BETWEEN_TOKENS = 1.0  # seconds between two writes of which only the tokens differ


@dataclass(slots=True)
class Flight:
    """A request that is under way: its name, when it was sent, and the tokens that have come of its answer."""

    label: str
    since: float
    tokens: int = 0

    def add(self, tokens: int) -> None:
        """Count tokens of a streamed answer."""
        self.tokens += tokens


class Progress:
    """Keeps the counts of one stage and writes them to `status.json`, a few times a second at most."""

    def __init__(self, folder: Path, stage: str, planned: int, done: int = 0) -> None:
        self._folder, self._stage = folder, stage
        before = read_status(folder).stages.get(stage, StageFigures())
        self.counts = StageFigures(planned=planned, done=done)
        if done:  # a further round of the same stage
            self.counts.failed, self.counts.problems = before.failed, before.problems
        self._seconds_before = before.seconds
        self._began = time.monotonic()
        self._written: tuple[StageFigures, Activity] | None = None
        self._written_at = 0.0
        self._flights: dict[int, Flight] = {}
        self._retry = ""
        self._width = 0

    def add_logged(self, facts: Mapping[str, Any]) -> None:
        """Count an interaction that is already on disk, from its metadata."""
        self.counts.retries += facts["attempt"] > 1
        if "cached_from" in facts:
            saved = facts.get("saved_usd")
            self.counts.add_reuse(None if saved is None else Decimal(saved))
        elif facts["money"] != "not_paid":
            cost = facts.get("cost_usd")
            self.counts.add_call(Usage(**facts.get("usage", {})), None if cost is None else Decimal(cost))

    @contextmanager
    def flight(self, label: str) -> Iterator[Flight]:
        """Count a request as under way while the block waits for its answer."""
        flight = Flight(label, time.time())
        self._flights[id(flight)] = flight
        try:
            yield flight
        finally:
            del self._flights[id(flight)]

    def retry(self, why: str) -> None:
        """Count a retry, and keep its reason for whoever watches."""
        self.counts.retries += 1
        self._retry = one_line(why, _LONGEST_REASON)

    def found_width(self, places: int) -> None:
        """Note how many questions the endpoint answers at once; 0 is as many as it is asked."""
        self._width = places

    def spent(self) -> tuple[int, Decimal]:
        """Return the calls and the dollars that all stages of the run have taken so far."""
        spent = total({**read_status(self._folder).stages, self._stage: self.counts}.values())
        return spent.calls, spent.cost_usd

    def write(self, *, ended: bool = False) -> None:
        """Write the counts and what is in flight, if they changed; `ended` says that nothing is any more."""
        now = time.monotonic()
        self.counts.seconds = round(self._seconds_before + now - self._began, 3)
        activity = Activity() if ended else self._activity()
        state = replace(self.counts, seconds=0), activity
        if self._written and now - self._written_at < _BETWEEN_TOKENS and not ended:
            activity = replace(activity, tokens=self._written[1].tokens)
            state = state[0], activity
        if state != self._written:
            stages = {**read_status(self._folder).stages, self._stage: self.counts}
            update_status(self._folder, stage=self._stage, stages=stages, activity=activity.as_json())
            self._written, self._written_at = state, now

    def _activity(self) -> Activity:
        flights = list(self._flights.values())
        oldest = min(flights, key=lambda flight: flight.since, default=None)
        return Activity(
            in_flight=len(flights),
            answering=sum(flight.tokens > 0 for flight in flights),
            oldest=oldest.label if oldest else "",
            since=oldest.since if oldest else 0.0,
            tokens=sum(flight.tokens for flight in flights),
            retry=self._retry,
            width=self._width,
        )
