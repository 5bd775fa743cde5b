"""The monitoring views: what they say of runs that ended well, badly or not, and of the service's own events."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from endpoint import Endpoint

from segkit.analysis.logs import query
from segkit.runs.events import log_event
from segkit.runs.run import Run
from segkit.runs.status import update_status


@pytest.fixture
def runs(new_run: Callable[..., Run], endpoint: Endpoint) -> list[Run]:
    """Three runs of one model and one of another; the offline ones completed in 10 and 30 s, failed, and are open."""
    made = [new_run(10, "offline"), new_run(10, "offline"), new_run(10, "offline"), new_run(4, "local-model")]
    for run, state, seconds in zip(made, ("completed", "completed", "failed"), (10, 30, 5), strict=False):
        update_status(
            run.folder, state=state, reason="" if state == "completed" else "it broke", summary={"seconds": seconds}
        )
    return made


def test_outcomes_count_runs_by_day_and_model(runs: list[Run]) -> None:
    frame = query("SELECT * EXCLUDE day FROM run_outcomes ORDER BY model")
    assert frame.astype(object).where(frame.notna(), None).to_dict("records") == [
        {"model": "local-model", "runs": 1, "completed": 0, "failed": 0, "unfinished": 1, "completion_rate": None},
        {"model": "offline", "runs": 3, "completed": 2, "failed": 1, "unfinished": 0, "completion_rate": 2 / 3},
    ]


def test_times_are_of_completed_runs(runs: list[Run]) -> None:
    (row,) = query("FROM run_times").to_dict("records")
    assert (row["model"], row["runs"], row["min_seconds"], row["p50_seconds"]) == ("offline", 2, 10, 20)
    assert row["p50_seconds_per_thousand"] == 2000


def test_events_of_runs_and_of_the_service_have_one_shape(runs: list[Run], place: Path) -> None:
    """A last line that a crash cut off, even within a character, is passed over."""
    service = place / "home" / "service"
    service.mkdir(parents=True)
    log_event(service, "run_ordered", run_id=runs[0].id, owner="ann", parameters={"category": 'Kaffee ☕, "x"'})
    log_event(runs[0].folder, "run_started")
    with (service / "events.jsonl").open("ab") as file:
        file.write(b'{"time":"2026-01-01T00:00:00Z","event":"caf\xc3')
    frame = query("SELECT source, run_id, event, owner, pid FROM events ORDER BY source")
    assert frame[["source", "run_id", "event"]].to_numpy().tolist() == [
        ["run", runs[0].id, "run_started"],
        ["service", runs[0].id, "run_ordered"],
    ]
    assert pd.isna(frame["owner"][0])
    assert frame["owner"][1] == "ann"
    told = query("SELECT fact ->> '$.parameters.category' AS told FROM events WHERE owner = 'ann'")
    assert told["told"][0] == 'Kaffee ☕, "x"'


def test_a_category_is_followed_through_runs_by_its_key(runs: list[Run]) -> None:
    """A run of before keys has none, and one without results has no categories."""
    for run, names, keys in ((runs[0], ["Pots", "Pans"], None), (runs[1], ["Moka Pots", "Pans"], ["C-3", "C-1"])):
        table = pd.DataFrame({"id": [3, 1], "category_name": names, "definition": "x", "product_count": [7, 2]})
        run.save_result("taxonomies", table if keys is None else table.assign(key=keys))
    frame = query("SELECT * FROM categories ORDER BY run_id, number")
    assert frame["run_id"].tolist() == sorted([runs[0].id, runs[1].id] * 2)
    of_run = frame[frame["run_id"] == runs[1].id]
    assert of_run[["category_key", "category_name", "product_count", "number"]].values.tolist() == [
        ["C-1", "Pans", 2, 1],
        ["C-3", "Moka Pots", 7, 3],
    ]
    assert frame.loc[frame["run_id"] == runs[0].id, "category_key"].isna().all()


def test_no_runs_give_no_rows(place: Path) -> None:
    for view in ("categories", "events", "run_states", "run_outcomes", "run_times", "token_use"):
        assert query(f"FROM {view}").empty
