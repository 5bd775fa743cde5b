"""Plans, and the caps that keep a run within one."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest
from catalogues import catalogue
from endpoint import Endpoint

from segkit.core.prompts import load_prompts
from segkit.errors import SettingsError, StoppedError
from segkit.pipeline.parameters import choose_parameters
from segkit.pipeline.plan.estimate import plan_run
from segkit.pipeline.stages import consolidate_taxonomy, extract_taxonomy, refine_assignments
from segkit.runs.run import Run
from segkit.settings import load_settings

NewRun = Callable[..., Run]


@pytest.mark.parametrize("count", [1, 40, 41, 1000])
def test_a_plan_tells_the_exact_calls(count: int, endpoint: Endpoint) -> None:
    settings = load_settings()
    parameters = choose_parameters("Kitchen Things", settings, model="gpt-4o")
    plan = plan_run(catalogue(count), load_prompts(), parameters, settings).set_index("stage")
    batches = -(-count // 40)
    merges = {1: 0, 2: 1, 25: 3}[batches]
    assert plan["calls"].to_dict() == {
        "segmentation": batches,
        "consolidate_taxonomy": merges,
        "refine_assignments": batches,
        "all": 2 * batches + merges,
    }


def test_what_is_used_lies_within_the_plan(endpoint: Endpoint, new_run: NewRun) -> None:
    """The tokens that the server tells lie between low and high, and so does the cost."""
    run = new_run(240, products_per_prompt=40, products_per_refinement=40)
    plan = plan_run(run.products, run.prompts, run.parameters, load_settings()).set_index("stage").loc["all"]
    for stage in (extract_taxonomy, consolidate_taxonomy, refine_assignments):
        stage(run)
    assert plan["input_low"] <= run.status.total.input_tokens <= plan["input_high"]
    assert run.status.total.output_tokens <= plan["output_high"]
    assert 0 < run.status.cost_usd <= plan["cost_usd_high"]


def test_a_price_that_is_not_known_is_not_zero(endpoint: Endpoint) -> None:
    settings = load_settings()
    parameters = choose_parameters("Kitchen Things", settings, model="my-own-model")
    assert plan_run(catalogue(5), load_prompts(), parameters, settings)["cost_usd_high"].isna().all()


def test_no_more_calls_than_allowed(endpoint: Endpoint, new_run: NewRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run stops before the call that would exceed the cap, and goes on with a higher one."""
    monkeypatch.setenv("SEGKIT_MAX_CALLS", "3")
    run = new_run(60)
    with pytest.raises(StoppedError, match="budget: 3 of 3 calls are made"):
        extract_taxonomy(run)
    assert endpoint.count() == 3
    monkeypatch.setenv("SEGKIT_MAX_CALLS", "10")
    extract_taxonomy(run)
    assert endpoint.count() == 10, "three answers were kept, seven were missing"


def test_no_more_money_than_allowed(endpoint: Endpoint, new_run: NewRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in flight is reserved at its largest, so spend stays below the cap at any moment."""
    monkeypatch.setenv("SEGKIT_MAX_COST_USD", "0.05")
    run = new_run(240, max_output_tokens=1000)
    with pytest.raises(StoppedError, match="budget: "):
        extract_taxonomy(run)
    assert Decimal("0.02") < run.status.cost_usd <= Decimal("0.05")
    asked = endpoint.count()
    monkeypatch.delenv("SEGKIT_MAX_COST_USD")
    extract_taxonomy(run)
    assert endpoint.count() == 40
    assert 0 < asked < 40


def test_calls_that_were_not_paid_do_not_count(
    endpoint: Endpoint, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal gives its reservation back."""
    monkeypatch.setenv("SEGKIT_MAX_CALLS", "2")
    endpoint.queue("429", times=2)
    run = new_run(12)
    extract_taxonomy(run)
    assert endpoint.count() == 4


def test_a_cap_without_a_price_is_refused(
    endpoint: Endpoint, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a run is made; and by the stage itself, where the cap came later."""
    run = new_run(6, model="my-own-model")
    monkeypatch.setenv("SEGKIT_MAX_COST_USD", "1")
    with pytest.raises(StoppedError, match="price of my-own-model is not known"):
        extract_taxonomy(run)
    with pytest.raises(SettingsError, match="price of my-own-model is not known"):
        new_run(6, model="my-own-model")
    assert endpoint.count() == 0
