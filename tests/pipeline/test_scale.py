"""The figures of docs/scale.md are those that segkit plans with, and its simulation keeps the limits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import scale_figures
from catalogues import catalogue

from segkit.core.batching import (
    asked_twice,
    batches_by_first_run,
    calls_of,
    cascade_sizes,
    consolidation_rounds,
    least_assignment_calls,
    planned_calls,
    refinement_calls,
)
from segkit.core.catalogue.entries import Entry
from segkit.core.prompts import load_prompts, prompt_keys
from segkit.llm.limits import WINDOW
from segkit.pipeline.plan.estimate import plan_run
from segkit.settings import Settings

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"


def test_the_tables_of_the_page_are_computed() -> None:
    """`python tests/benchmarks/scale.py --page` prints them."""
    assert scale_figures.page() in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("products", [1_000, 10_000, pytest.param(1_000_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("mode", ["today", "sample + assign"])
def test_the_calls_of_the_page_are_those_of_the_plan(products: int, mode: str) -> None:
    """What `segkit plan` counts; of a sample that is read until it is enough, the least."""
    parameters = scale_figures.MODES[mode]
    prompts = load_prompts(keys=prompt_keys(parameters))
    plan = plan_run(catalogue(products), prompts, parameters, Settings()).set_index("stage")
    by_stage = scale_figures.calls(products, mode)
    assert {stage: plan.loc[stage, "calls_low"] for stage in by_stage} == by_stage
    assert plan.loc["all", "calls_low"] == sum(by_stage.values())
    if mode == "today":
        assert planned_calls(catalogue(products), parameters) == by_stage


def test_a_million_products_take_the_calls_of_the_page() -> None:
    """By the functions that the plan of a million products counts with, which takes a minute."""
    entries, p = [Entry((1,), "")] * 1_000_000, scale_figures.TODAY
    batches = batches_by_first_run(entries, p.products_per_prompt)
    merges = calls_of(consolidation_rounds(batches, p.taxonomies_per_consolidation))
    assert scale_figures.calls(1_000_000, "today") == {
        "segmentation": sum(batches),
        "consolidate_taxonomy": merges,
        "refine_assignments": refinement_calls(entries, p),
    }
    assert asked_twice(1_000_000, p) == 200


@pytest.mark.parametrize("products", [10_000, 100_000])
def test_a_cascade_takes_at_least_what_its_plan_says(products: int) -> None:
    assert cascade_sizes(products)
    least = least_assignment_calls([Entry((1,), "")] * products, scale_figures.CASCADE)
    sampled = scale_figures.calls(products, "sample + assign")["assign_products"]
    assert least <= scale_figures.calls(products, "cascade")["assign_products"] < sampled


def test_a_cluster_that_nothing_limits_takes_the_time_of_its_answers() -> None:
    cluster = scale_figures.Cluster(workers=2, concurrency=8, latency=1.0, cpu=0.0)
    assert scale_figures.simulate(cluster, 320) == (pytest.approx(20), 0)
    assert scale_figures.simulate(replace(cluster, workers=4), 320) == (pytest.approx(10), 0)


def test_workers_with_shares_are_never_refused_and_those_without_are() -> None:
    """A limit a minute decides, however many ask; what a worker may send is its share of it."""
    shared = scale_figures.Cluster(workers=4, concurrency=8, latency=0.2, limit=80, share=20, cpu=0.001)
    seconds, refused = scale_figures.simulate(shared, 200)
    assert (round(seconds), refused) == (round(2 * WINDOW), 0)
    seconds, refused = scale_figures.simulate(replace(shared, share=None), 1000)
    assert refused
    assert seconds > 119  # 80 go at once, and 80 more a minute later
