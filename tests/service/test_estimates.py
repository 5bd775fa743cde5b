"""Estimates: from the plan before anything is answered, from the answers as soon as there are some."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from segkit.core.models import Parameters
from segkit.pipeline.notebooks.names import notebooks_of
from segkit.runs.run import Run
from segkit.runs.status import as_status
from segkit.service.estimates import Forecast, estimated_completion, forecast
from segkit.settings import load_settings

NOW = datetime(2025, 6, 18, 12, 0, tzinfo=UTC)
PLAN = Forecast(
    {"segmentation": (100,), "consolidate_taxonomy": (5, 1), "refine_assignments": (100,)},
    {"segmentation": 10.0, "consolidate_taxonomy": 10.0, "refine_assignments": 10.0},
    10,
    tuple(notebooks_of(Parameters(category="Things", model="offline", temperature=0.2, endpoint=""))),
)
ASSIGNING = Forecast(
    {"assign_products": (10,)},
    {"assign_products": 10.0},
    10,
    tuple(
        notebooks_of(
            Parameters(
                category="Things", model="offline", temperature=0.2, endpoint="", taxonomy="RUN_20250618T120301Z_8d24"
            )
        )
    ),
)


def left(notebook: str = "10_extract_taxonomy", **done: tuple[int, float]) -> float:
    """Give the seconds that are left after so many questions of each stage took so many seconds."""
    stages = {name: {"done": count, "planned": 100, "seconds": seconds} for name, (count, seconds) in done.items()}
    status: dict[str, Any] = {"updated_at": "2025-06-18T12:00:00Z", "stages": stages, "notebook": notebook}
    return (estimated_completion(as_status(status), PLAN, now=NOW) - NOW).total_seconds()


def test_before_the_first_answer_the_plan_speaks() -> None:
    # 10 + 2 + 10 rounds of ten questions at once, and the notebooks around them.
    assert left() == pytest.approx(220, abs=15)


def test_answers_correct_the_plan() -> None:
    """Twice as quick as planned: the stage itself is known by its answers, the ones to come are corrected halfway."""
    quick = left(segmentation=(50, 25))
    assert quick == pytest.approx(5 * 5 + 12 * 10 / 2**0.5, abs=15)
    done = {"segmentation": (100, 50.0), "consolidate_taxonomy": (6, 10.0)}
    assert left("30_refine_assignments", **done, refine_assignments=(90, 45.0)) == pytest.approx(5, abs=10)


def test_what_is_left_falls_with_every_answer() -> None:
    seconds = [left(segmentation=(count, count * 1.0)) for count in range(10, 101, 10)]
    assert seconds == sorted(seconds, reverse=True)


@pytest.mark.parametrize(("notebook", "left_over"), [("00_prepare_run", 3.5), ("35_assign_products", 2.5)])
def test_a_run_that_assigns_has_fewer_notebooks(notebook: str, left_over: float) -> None:
    """Beside its one round of ten seconds, two for each of its four notebooks that is left, one for the begun one."""
    status = {"updated_at": "2025-06-18T12:00:00Z", "stages": {}, "notebook": notebook}
    seconds = (estimated_completion(as_status(status), ASSIGNING, now=NOW) - NOW).total_seconds()
    assert seconds == pytest.approx(10 + 2 * left_over)


def test_a_run_that_is_late_is_never_told_to_be_done() -> None:
    status = {"updated_at": "2025-06-18T11:00:00Z", "stages": {}, "notebook": "50_sync_postgres"}
    assert estimated_completion(as_status(status), PLAN, now=NOW) == NOW + timedelta(seconds=1)


def test_the_forecast_counts_the_questions_of_a_run(new_run: Callable[..., Run]) -> None:
    run = new_run(30, "offline", taxonomies_per_consolidation=2)
    told = forecast(run, load_settings())
    assert told.rounds == {"segmentation": (5,), "consolidate_taxonomy": (2, 1, 1), "refine_assignments": (5,)}
    assert all(seconds > 0 for seconds in told.wave_seconds.values())
