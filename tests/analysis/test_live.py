"""The line that a notebook shows while a stage works."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from segkit.analysis.live import live_progress, progress_line
from segkit.runs.run import Run
from segkit.runs.status import StageFigures


def test_the_line_tells_done_planned_spent_and_left() -> None:
    figures = StageFigures(planned=25, done=10, cached=4, retries=2, cost_usd=Decimal("0.1234"))
    assert progress_line(figures, 20) == (
        "10 of 25 questions answered · 4 from the cache · 2 retries · $0.1234 · 20 s · about 30 s left"
    )
    assert progress_line(StageFigures(planned=2, done=2, unpriced=1), 3) == (
        "2 of 2 questions answered · cost unknown · 3 s"
    )


def test_nothing_is_shown_outside_of_a_notebook(new_run: Callable[..., Run]) -> None:
    with live_progress(new_run(2, model="offline"), "segmentation"):
        pass
