"""Runs over catalogues that repeat lines: asked once, told per product, and planned as asked."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest
from endpoint import Endpoint

from segkit.analysis.tables import inputs, product_path
from segkit.core.batching import planned_calls
from segkit.evaluation.explain.explanation import explain
from segkit.pipeline.extend import extend_run
from segkit.pipeline.replay import replay
from segkit.pipeline.segment import run_stages
from segkit.runs.integrity import differences
from segkit.runs.run import Run

KINDS = ("kettle", "toaster", "ladle", "whisk")


def repeating(count: int, first: int = 100) -> pd.DataFrame:
    """Products of which every third has the title of the one before."""
    titles = [f"Solid number {i - (i % 3 == 2)} {KINDS[i // 3 % 4]}" for i in range(count)]
    return pd.DataFrame({"product_id": range(first, first + count), "title": titles})


@pytest.fixture
def asked(new_run: Callable[..., Run], endpoint: Endpoint) -> Run:
    run = new_run(repeating(60), products_per_prompt=5, products_per_refinement=5, ask_twice=20)
    run_stages(run)
    return run


def test_equal_lines_are_asked_about_once_and_every_product_has_its_rows(asked: Run, endpoint: Endpoint) -> None:
    """Sixty products with forty lines: the calls are those of forty, as planned, and the rows those of sixty."""
    calls = planned_calls(asked.products, asked.parameters)
    assert calls == {"segmentation": 8, "consolidate_taxonomy": 1, "refine_assignments": 8 + 2}
    stages = ("extract_taxonomy", "consolidate_taxonomy", "refine_assignments")
    assert [endpoint.count(stage) for stage in stages] == list(calls.values())
    ledger, lineage = asked.result("ledger"), asked.result("lineage").set_index("product_id")
    assert len(ledger) == len(lineage) == 60
    assert (ledger["state"] == "assigned").all()
    same = lineage.groupby(asked.products.set_index("product_id")["title"])
    assert (same[["refined_category", "cache_key", "batch"]].nunique() == 1).all(axis=None)
    assert not differences(asked)
    assert inputs(asked).set_index("fact").loc["with the line of another", "value"] == "20"


def test_explain_names_the_product_that_was_asked_about(asked: Run) -> None:
    steps = product_path(asked, 102)
    assert steps.iloc[0]["step"] == "the same line as"
    assert steps.iloc[0]["where"] == "product 101"
    pd.testing.assert_frame_equal(steps.iloc[1:].reset_index(drop=True), product_path(asked, 101), check_dtype=False)


def test_an_explanation_shows_the_lines_of_the_product_that_was_asked_about(asked: Run) -> None:
    found = explain(asked, 102)
    assert found.lines[0] == "It has the same line as product 101, which was asked about for both."
    stated = found.steps[found.steps["step"] == "stated"].iloc[0]
    assert "Solid number 1 kettle" in stated["prompt_line"]
    assert stated["answer_line"]


def test_such_a_run_replays_and_grows(asked: Run, endpoint: Endpoint) -> None:
    """Products added under smaller ids, with lines that the run has: nothing but a new line is asked about."""
    assert replay(asked).identical
    endpoint.reset()
    known = asked.products["title"].head(4).tolist()
    more = extend_run(asked, pd.DataFrame({"product_id": range(1, 6), "title": [*known, "A whisk of its own"]}))
    run_stages(more)
    assert endpoint.count("extract_taxonomy") == 1
    lineage = more.result("lineage").set_index("product_id")
    assert lineage.loc[1, "cache_key"] == lineage.loc[100, "cache_key"]
    assert (more.result("ledger")["state"] == "assigned").all()


def test_each_product_can_be_asked_about_by_itself(new_run: Callable[..., Run], endpoint: Endpoint) -> None:
    run = new_run(repeating(30), products_per_prompt=5, products_per_refinement=5, ask_duplicates=True)
    run_stages(run)
    assert planned_calls(run.products, run.parameters)["segmentation"] == endpoint.count("extract_taxonomy") == 6
    assert "with the line of another" not in inputs(run).iloc[:, 0].tolist()
