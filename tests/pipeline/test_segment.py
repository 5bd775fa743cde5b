"""A run in one call, and a run that its notebooks have finished by themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from catalogues import catalogue

from segkit.analysis.report import UNMEASURED
from segkit.errors import ProductsError, RunError
from segkit.pipeline.segment import run_stages, segment
from segkit.pipeline.summary import finish_run, renew_report
from segkit.runs.integrity import differences, is_finished
from segkit.runs.run import Run, current_state
from segkit.storage.locks import owned

NewRun = Callable[..., Run]


def test_one_call_gives_a_finished_run(place: Path) -> None:
    run = segment(catalogue(12), "Kitchen Things", model="offline", runs_dir=place / "runs")
    assert is_finished(run)
    assert differences(run) == []
    assert len(run.result("ledger")) == 12
    assert run_stages(run) == run.status.summary, "a finished run is left as it is"


def test_a_report_can_be_made_again(place: Path) -> None:
    """It is one of the files with a checksum; where another file was changed, none is made anew."""
    run = segment(catalogue(12), "Kitchen Things", model="offline", runs_dir=place / "runs")
    renew_report(run)
    assert "Kitchen Things" in (run.folder / "report.html").read_text(encoding="utf-8")
    assert differences(run) == []
    (run.folder / "results" / "taxonomies.parquet").write_bytes(b"changed")
    with pytest.raises(RunError, match="taxonomies"):
        renew_report(run)
    assert len(differences(run)) == 1


def test_a_report_says_how_far_repeats_agree(place: Path) -> None:
    """The same answers from the cache again are no repeat."""
    folder, asked = place / "runs", {"model": "offline", "ask_twice": 0}
    run, _ = (segment(catalogue(12), "Kitchen Things", runs_dir=folder, **asked) for _ in range(2))
    renew_report(run)
    assert UNMEASURED in (run.folder / "report.html").read_text(encoding="utf-8")
    segment(catalogue(12), "Kitchen Things", runs_dir=folder, seed=1, **asked)
    renew_report(run)
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert UNMEASURED not in page
    assert "AMI between runs" in page
    assert "(2 runs)" in page


def test_a_report_says_what_was_asked_twice(place: Path) -> None:
    """With its range, and in words for people who know no statistics."""
    run = segment(catalogue(24), "Kitchen Things", model="offline", ask_twice=200, runs_dir=place / "runs")
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    found = run.status.document["asked_twice"]
    assert f"{found['products']} products were asked about a second time" in page
    assert f"to {round(100 * found['share_high'])} % of all products would" in page
    assert UNMEASURED not in page


def test_products_without_a_title(place: Path) -> None:
    frame = catalogue(8)
    frame.loc[2, "title"] = ""
    run = segment(frame, "Kitchen Things", model="offline", runs_dir=place / "runs")
    assert current_state(run.folder) == "completed"
    with pytest.raises(ProductsError, match="no product has a title"):
        segment(frame.assign(title="N/A"), "Kitchen Things", model="offline", runs_dir=place / "runs")


def test_the_last_stage_finishes_a_run_where_nobody_else_will(new_run: NewRun) -> None:
    """State, report and checksums; while a process works through the notebooks, that process does it."""
    from segkit.pipeline.stages import consolidate_taxonomy, extract_taxonomy, refine_assignments

    run = new_run(12, model="offline")
    for stage in (extract_taxonomy, consolidate_taxonomy, refine_assignments):
        stage(run)
        assert current_state(run.folder) == "waiting"
    with owned(run.folder / "run.lock"):
        finish_run(run)
    assert not is_finished(run)
    assert finish_run(run)["state"] == "completed"
    assert (is_finished(run), differences(run)) == (True, [])
    assert (run.folder / "report.html").stat().st_size > 10_000
