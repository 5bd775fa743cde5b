"""Runs that an earlier segkit made: they open, verify, resume and replay."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from segkit.analysis import logs, tables
from segkit.cli.main import main
from segkit.errors import SettingsError
from segkit.pipeline.notebooks.run import run_notebooks
from segkit.pipeline.replay import replay
from segkit.pipeline.stages import consolidate_taxonomy, extract_taxonomy, refine_assignments
from segkit.runs.integrity import differences, is_finished
from segkit.runs.run import Run, list_runs, open_run
from segkit.runs.status import update_status

RECORDED = Path(__file__).parents[1] / "data" / "runs"
OFFLINE, SERVER = "RUN_20261101T090000Z_0ff1", "RUN_20261101T100000Z_a51e"
RESULTS = ("taxonomies", "segments", "refined_segments", "ledger", "lineage")


@pytest.fixture(params=[OFFLINE, SERVER])
def recorded(request: pytest.FixtureRequest, place: Path) -> Run:
    """A copy of a recorded run."""
    shutil.copytree(RECORDED, place / "runs")
    return open_run(request.param, place / "runs")


def contents(run: Run) -> dict[str, bytes]:
    return {str(path.relative_to(run.folder)): path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}


def test_it_opens(recorded: Run) -> None:
    assert recorded.parameters.category == "Coffee Makers"
    assert len(recorded.products) == len(recorded.result("ledger")) == 20
    assert set(recorded.prompts) == set(recorded.document["prompts"])
    assert (recorded.status.state, recorded.status.damage) == ("completed", ())
    assert recorded.status.calls == recorded.status.summary["calls"] == len(list(recorded.folder.glob("*/*_b*.json")))
    assert list_runs(recorded.folder.parent)["id"].tolist() == [OFFLINE, SERVER]


def test_it_is_what_was_written(recorded: Run) -> None:
    assert differences(recorded) == []
    assert is_finished(recorded)


def test_it_replays(recorded: Run) -> None:
    """Also where it was made by an earlier version of the offline model, which is not asked."""
    assert replay(recorded).identical


def test_nothing_is_left_to_do_for_resume(recorded: Run) -> None:
    before = contents(recorded)
    assert run_notebooks(recorded, sync=False) == recorded.status.summary
    assert contents(recorded) == before


def test_its_logs_are_read(recorded: Run) -> None:
    calls = logs.query("SELECT count(*) AS calls FROM interactions", recorded.folder.parent, run=recorded)
    assert calls["calls"].tolist() == [recorded.status.calls]
    assert tables.summary(recorded)["value"].tolist()[0] == recorded.id


def unfinished(recorded: Run) -> Run:
    """Take its results away from a run, as if it had been stopped before it wrote them."""
    for path in [*recorded.folder.glob("results/*"), recorded.folder / "interactions.parquet"]:
        path.unlink()
    update_status(recorded.folder, state="failed", stages={}, summary={})
    return recorded


@pytest.mark.parametrize("recorded", [SERVER], indirect=True)
def test_it_replays_from_its_logs(recorded: Run) -> None:
    """Without its results, everything comes again from its own logs, and nothing is asked."""
    before = {name: recorded.result(name) for name in RESULTS}
    asked = sorted(path.name for path in recorded.folder.glob("*/*_b*"))
    for stage in (extract_taxonomy, consolidate_taxonomy, refine_assignments):
        stage(unfinished(recorded) if stage is extract_taxonomy else recorded)
    for name, table in before.items():
        pd.testing.assert_frame_equal(recorded.result(name)[table.columns], table)  # later columns may come
    assert sorted(path.name for path in recorded.folder.glob("*/*_b*")) == asked


@pytest.mark.parametrize("recorded", [OFFLINE], indirect=True)
def test_an_unfinished_run_of_another_offline_model_says_so(recorded: Run) -> None:
    """Two versions of the model must not answer in one run."""
    with pytest.raises(SettingsError, match=r"offline@32550951.*another version"):
        extract_taxonomy(unfinished(recorded))


def test_without_checksums_there_is_nothing_to_verify_by(recorded: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Its logs have checksums of their own and are checked; the exit code is 1 all the same."""
    (recorded.folder / "checksums.sha256").unlink()
    update_status(recorded.folder, seal="")
    with pytest.raises(SystemExit) as ended:
        main(["verify", recorded.id])
    assert ended.value.code == 1
    assert "not finished, nothing to compare with" in capsys.readouterr().out
