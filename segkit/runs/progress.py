"""What a stage has done so far, as `status.json` tells it to whoever watches."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from segkit.core.models import STAGES, Usage
from segkit.runs.run import read_status, update_status


@dataclass
class Counts:
    """Figures of one stage. Tokens and cost speak of paid calls; what a server did not tell makes them unknown."""

    planned: int = 0
    done: int = 0
    calls: int = 0
    cached: int = 0
    retries: int = 0
    failed: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    unknown_usage: int = 0
    unknown_cost: int = 0
    cost_usd: Decimal = Decimal(0)
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def add_call(self, usage: Usage, cost: Decimal | None) -> None:
        """Count one call that was paid, or may have been."""
        self.calls += 1
        self.input_tokens += usage.input or 0
        self.cached_tokens += usage.cached or 0
        self.output_tokens += usage.output or 0
        self.unknown_usage += usage.input is None or usage.output is None
        self.unknown_cost += cost is None
        self.cost_usd += cost or 0


class Progress:
    """Keeps the counts of one stage and writes them to `status.json`, a few times a second at most."""

    def __init__(self, folder: Path, stage: str, planned: int, done: int = 0) -> None:
        self._folder, self._stage = folder, stage
        before = (read_status(folder).get("stages") or {}).get(stage, {})
        self.counts = Counts(planned=planned, done=done)
        if done:  # a further round of the same stage
            self.counts.failed, self.counts.problems = before["failed"], before["problems"]
        self._seconds_before = float(before.get("seconds", 0))
        self._began = time.monotonic()
        self._written: dict[str, Any] = {}

    def add_logged(self, facts: Mapping[str, Any]) -> None:
        """Count an interaction that is already on disk, from its metadata."""
        self.counts.retries += facts["attempt"] > 1
        if "cached_from" in facts:
            self.counts.cached += 1
        elif facts["money"] != "not_paid":
            cost = facts.get("cost_usd")
            self.counts.add_call(Usage(**facts.get("usage", {})), None if cost is None else Decimal(cost))

    def spent(self) -> tuple[int, Decimal]:
        """Give the calls and the dollars that all stages of the run have taken so far."""
        others = [
            stage for name, stage in (read_status(self._folder).get("stages") or {}).items() if name != self._stage
        ]
        calls = self.counts.calls + sum(stage["calls"] for stage in others)
        return calls, self.counts.cost_usd + sum((Decimal(stage["cost_usd"]) for stage in others), Decimal(0))

    def write(self) -> None:
        """Write the counts if they changed."""
        self.counts.seconds = round(self._seconds_before + time.monotonic() - self._began, 3)
        told = asdict(self.counts)
        if {**told, "seconds": 0} != {**self._written, "seconds": 0}:
            stages = {**read_status(self._folder).get("stages", {}), self._stage: told}
            update_status(self._folder, stage=self._stage, stages=stages)
            self._written = told


def processed_products(status: Mapping[str, Any]) -> int:
    """Tell how many products of a run are worked off, from its `status.json`, also while it works.

    A product is placed by extraction and judged again by refinement: it counts half after each, where its question
    was answered.
    """
    if status.get("summary"):
        return int(status["processed"])
    stages = status.get("stages") or {}
    twice = [stages.get(STAGES[name], {}) for name in ("extract_taxonomy", "refine_assignments")]
    shares = [
        min(1.0, max(0, stage["done"] - stage.get("failed", 0)) / stage["planned"])
        for stage in twice
        if stage.get("planned")
    ]
    return int(status.get("products", 0) * sum(shares) / 2)
