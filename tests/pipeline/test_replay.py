"""A run replays from its folder alone; what does not follow from its logs is named."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from catalogues import catalogue
from endpoint import Endpoint

from segkit.errors import RunError, SettingsError
from segkit.pipeline.experiments.repeats import make_repeats
from segkit.pipeline.replay import replay
from segkit.pipeline.segment import segment
from segkit.pipeline.stages import consolidate_taxonomy, extract_taxonomy, refine_assignments
from segkit.pipeline.taxonomy.stage import assign_products
from segkit.pipeline.taxonomy.start import assign_run
from segkit.runs.run import Run
from segkit.settings import load_settings

NewRun = Callable[..., Run]


@pytest.fixture
def run(endpoint: Endpoint, new_run: NewRun) -> Run:
    """A run that was answered over HTTP, with one answer that was wrong at first."""
    endpoint.queue("drop_id", stage="extract_taxonomy")
    made = new_run(24)
    for stage in (extract_taxonomy, consolidate_taxonomy, refine_assignments):
        stage(made)
    return made


def test_a_run_is_made_again_without_asking(run: Run, endpoint: Endpoint) -> None:
    """Retries and all, from the folder alone: nothing reaches the endpoint, and the run is left as it is."""
    asked, before = endpoint.count(), sorted(path.stat().st_mtime_ns for path in run.folder.rglob("*"))
    outcome = replay(run)
    assert outcome.identical
    assert str(outcome) == f"identical: {outcome.tables} tables, {asked} answers"
    assert endpoint.count() == asked
    assert sorted(path.stat().st_mtime_ns for path in run.folder.rglob("*")) == before


def test_a_result_that_does_not_follow_from_the_logs_is_named_with_its_log(run: Run) -> None:
    lineage = run.result("lineage")
    product = int(lineage.loc[3, "product_id"])
    lineage.loc[3, "confidence"] = 0.123
    run.save_result("lineage", lineage)
    outcome = replay(run)
    assert not outcome.identical
    assert f"results/lineage.parquet, product {product}: confidence is 0.123" in outcome.difference
    assert outcome.log.startswith("segmentation/")
    assert (run.folder / outcome.log).exists()


def test_a_lost_log_ends_the_replay_before_anything_is_asked(run: Run, endpoint: Endpoint) -> None:
    asked = endpoint.count()
    next((run.folder / "refine_assignments").glob("*.json")).unlink()
    outcome = replay(run)
    assert "refine_assignments has a question that no log answers" in outcome.difference
    assert endpoint.count() == asked


def test_a_changed_log_is_named(run: Run) -> None:
    logs = (run.folder / "segmentation").glob("*.json")
    path = next(path for path in logs if b"Kettles" in path.read_bytes())
    path.write_bytes(path.read_bytes().replace(b"Kettles", b"Cettles"))
    outcome = replay(run)
    assert not outcome.identical
    assert outcome.log == f"segmentation/{path.name}"


def test_a_column_that_a_later_release_adds_is_no_difference(run: Run) -> None:
    lineage = run.result("lineage")
    run.save_result("lineage", lineage.drop(columns=lineage.columns[-1]))
    assert replay(run).identical


def test_a_run_without_results_is_not_replayed(new_run: NewRun) -> None:
    with pytest.raises(RunError, match="segkit resume"):
        replay(new_run(3, model="offline"))


def test_the_process_of_a_replay_can_open_no_connection() -> None:
    """Tried in a process of its own, since an audit hook cannot be taken back."""
    import subprocess
    import sys

    with socket.create_server(("127.0.0.1", 0)) as server:
        code = (
            "import sys, socket; from segkit.pipeline.replay import _stay_offline; sys.addaudithook(_stay_offline)\n"
            f"socket.create_connection(('127.0.0.1', {server.getsockname()[1]}))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "PermissionError: a replay opens no connection" in done.stderr


def test_frames_are_compared_by_value(run: Run) -> None:
    """A table with the same rows in another order is another table."""
    table = run.result("segments")
    run.save_result("segments", pd.concat([table.iloc[1:], table.iloc[:1]], ignore_index=True))
    assert "results/segments.parquet" in replay(run).difference


def test_a_run_with_a_given_taxonomy_replays_too(run: Run, endpoint: Endpoint) -> None:
    """Its one stage is another; and it cannot be repeated, since its taxonomy is that of another run."""
    new = pd.DataFrame({"product_id": [1, 2], "title": ["Small number 1 kettle", "Small number 2 whisk"]})
    more = assign_run(run, new)
    assign_products(more)
    asked = endpoint.count()
    assert replay(more).identical
    assert endpoint.count() == asked
    with pytest.raises(SettingsError, match="taxonomy of another run"):
        make_repeats(more, 2, load_settings())


def test_a_lost_log_of_a_finished_run_is_named(place: Path) -> None:
    run = segment(catalogue(12), "Kitchen Things", model="offline", runs_dir=place / "runs")
    log = next(run.stage_folder("extract_taxonomy").glob("*.json*"))
    log.unlink()
    outcome = replay(run)
    assert (outcome.identical, outcome.difference) == (False, "a log is missing")
    assert outcome.log == log.relative_to(run.folder).as_posix()
