"""Every run says how far it repeats itself: some products are asked twice, in other batches."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from endpoint import Endpoint

from segkit.analysis.tables import repeatability
from segkit.core.batching import planned_calls
from segkit.core.catalogue.load import load_products
from segkit.pipeline.plan.estimate import plan_run
from segkit.pipeline.prepare import SAMPLE
from segkit.pipeline.stages import consolidate_taxonomy, extract_taxonomy, refine_assignments
from segkit.runs.run import Run
from segkit.settings import load_settings

NewRun = Callable[..., Run]


def worked(run: Run) -> Run:
    for stage in (extract_taxonomy, consolidate_taxonomy, refine_assignments):
        stage(run)
    return run


def test_a_model_that_repeats_itself_places_nothing_differently(endpoint: Endpoint, new_run: NewRun) -> None:
    """A fifth of sixty products in two more calls, as planned; the results are those of a run without them."""
    run = worked(new_run(60, ask_twice=200))
    found = run.status.document["asked_twice"]
    assert (found["products"], found["differently"], found["share"]) == (12, 0, 0)
    assert found["share_low"] == 0 < found["share_high"] < 0.3
    calls = planned_calls(run.products, run.parameters)
    assert endpoint.count("refine_assignments") == calls["refine_assignments"] == 10 + 2
    plan = plan_run(run.products, run.prompts, run.parameters, load_settings()).set_index("stage")
    assert plan.loc["refine_assignments", "calls"] == 12
    alone = worked(new_run(60, ask_twice=0))
    assert run.result("lineage").equals(alone.result("lineage"))
    assert "0 of 12" in repeatability(run)
    assert repeatability(alone) == "not asked"


def test_products_that_are_placed_by_luck_are_counted(new_run: NewRun) -> None:
    """The offline model groups by what stands beside a product; the count is that of the table."""
    run = worked(new_run(load_products(SAMPLE), model="offline", products_per_refinement=20, ask_twice=200))
    table, found = run.result("asked_twice"), run.status.document["asked_twice"]
    assert len(table) == found["products"] == 266 // 5
    assert found["differently"] == (table["category"] != table["second_category"]).sum()
    final = run.result("lineage").set_index("product_id")["refined_category"]
    assert (final[table["product_id"]].to_numpy() == table["category"]).all()
    assert found["share_low"] <= found["share"] <= found["share_high"]


@pytest.mark.parametrize(("count", "most", "asked"), [(4, 200, 0), (30, 3, 3), (30, 200, 6)])
def test_at_most_a_fifth_is_asked_twice(
    endpoint: Endpoint, new_run: NewRun, count: int, most: int, asked: int
) -> None:
    run = worked(new_run(count, ask_twice=most))
    assert len(run.result("asked_twice")) == asked if asked else not run.has_result("asked_twice")


def test_the_same_run_asks_the_same_products_twice(endpoint: Endpoint, new_run: NewRun) -> None:
    """A resumed run pays nothing again, and another seed draws others."""
    run = worked(new_run(60, ask_twice=200))
    asked = endpoint.count()
    refine_assignments(run)
    assert endpoint.count() == asked
    other = worked(new_run(60, ask_twice=200, seed=5))
    assert set(run.result("asked_twice")["product_id"]) != set(other.result("asked_twice")["product_id"])
