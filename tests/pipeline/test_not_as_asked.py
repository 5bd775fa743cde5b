"""What a run did without an answer stands in its summary: merges by name, refinements that were given up, and why."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO

from endpoint import Endpoint
from rich.console import Console

from segkit.analysis.report import report_page
from segkit.cli.launch import summary_table
from segkit.core.results import grouped_reasons
from segkit.pipeline.segment import run_stages
from segkit.runs.run import Run
from segkit.settings import load_settings

NewRun = Callable[..., Run]
INVALID = "1 × invalid (--response-format, or another model)"


def test_a_merge_by_name_and_a_refinement_that_was_given_up(endpoint: Endpoint, new_run: NewRun) -> None:
    """The run is completed, and yet not all of it is as it was asked."""
    endpoint.rule("not_json", stage="consolidate_taxonomy")
    endpoint.rule("not_json", stage="refine_assignments", contains="number 3 whisk →")
    run = new_run(12, products_per_prompt=6, products_per_refinement=6)
    summary = run_stages(run)
    told = f"1 merge by name ({INVALID}); 1 of 2 refinements left as they were ({INVALID})"
    assert (summary["state"], summary["not_as_asked"]) == ("completed", told)
    shown = StringIO()
    Console(file=shown, width=200).print(summary_table(run, summary, load_settings(), synced=False))
    assert told in shown.getvalue()
    assert told.split(" (")[0] in report_page(run)


def test_a_run_with_all_its_answers_says_nothing(endpoint: Endpoint, new_run: NewRun) -> None:
    run = new_run(6)
    summary = run_stages(run)
    assert summary["not_as_asked"] == ""
    assert "Not as asked" not in report_page(run)


def test_reasons_are_grouped_by_kind() -> None:
    """They differ by positions and ids, which belong into the ledger."""
    reasons = [f"truncated: no end at character {n}" for n in range(6)] + ["invalid: P_3 is missing", "never asked"]
    assert grouped_reasons(reasons) == (
        f"6 × truncated (--max-output-tokens N, or fewer --products-per-prompt), {INVALID}, 1 × never asked"
    )
