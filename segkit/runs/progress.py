"""What a stage has done so far, as `status.json` reports it to whoever watches."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from segkit.core.models import Usage
from segkit.runs.status import StageFigures, read_status, total, update_status


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
        self._written: StageFigures | None = None

    def add_logged(self, facts: Mapping[str, Any]) -> None:
        """Count an interaction that is already on disk, from its metadata."""
        self.counts.retries += facts["attempt"] > 1
        if "cached_from" in facts:
            saved = facts.get("saved_usd")
            self.counts.add_reuse(None if saved is None else Decimal(saved))
        elif facts["money"] != "not_paid":
            cost = facts.get("cost_usd")
            self.counts.add_call(Usage(**facts.get("usage", {})), None if cost is None else Decimal(cost))

    def spent(self) -> tuple[int, Decimal]:
        """Return the calls and the dollars that all stages of the run have taken so far."""
        spent = total({**read_status(self._folder).stages, self._stage: self.counts}.values())
        return spent.calls, spent.cost_usd

    def write(self) -> None:
        """Write the counts if they changed."""
        self.counts.seconds = round(self._seconds_before + time.monotonic() - self._began, 3)
        if replace(self.counts, seconds=0) != self._written:
            update_status(
                self._folder, stage=self._stage, stages={**read_status(self._folder).stages, self._stage: self.counts}
            )
            self._written = replace(self.counts, seconds=0)
