"""A taxonomy that is extracted from a random sample, into which all products are put then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from catalogues import catalogue, unmeasured
from endpoint import Endpoint

from segkit.analysis import tables
from segkit.analysis.report import report_page
from segkit.core.batching import planned_calls
from segkit.errors import SettingsError, StoppedError
from segkit.pipeline.extend import extend_run
from segkit.pipeline.plan.estimate import plan_of, plan_run, readable_plan
from segkit.pipeline.prepare import prepare_run
from segkit.pipeline.replay import replay
from segkit.pipeline.segment import run_stages
from segkit.pipeline.taxonomy.report import assign_report
from segkit.pipeline.taxonomy.start import assign_run
from segkit.runs.run import Run, open_run
from segkit.settings import load_settings

NewRun = Callable[..., Run]
STAGES = ("extract_taxonomy", "consolidate_taxonomy", "refine_assignments", "assign_products")
RESULTS = ("readings", "batch_assignments", "merges", "taxonomy", "lineage", "taxonomies", "segments", "ledger")


def asked(endpoint: Endpoint) -> list[int]:
    return [endpoint.count(stage) for stage in STAGES]


@pytest.fixture
def auto(endpoint: Endpoint, new_run: NewRun) -> Run:
    return new_run(600, extract_sample="auto", products_per_prompt=40)


def test_reading_stops_when_little_can_be_unseen(auto: Run, endpoint: Endpoint) -> None:
    """Four kinds: after 400 of 600 products at most 1 % can be of another; then all 600 are put into the four."""
    summary = run_stages(auto)
    assert asked(endpoint) == [10, 2, 0, 15]
    assert summary["sample"].startswith("read 400 of 600 products (10 batches): at most 0.")
    readings = auto.result("readings")
    assert readings["products"].tolist() == [200, 400]
    assert readings["categories"].tolist() == [4, 4]
    assert readings["bound"].iloc[0] > 0.01 >= readings["bound"].iloc[1]
    ledger = auto.result("ledger")
    assert ledger["state"].value_counts().to_dict() == {"assigned": 600}
    assert int(ledger["in_sample"].sum()) == 400, "these were read twice, and the ledger says so"
    assert summary["sample"] in report_page(auto)
    assert "second reading" not in report_page(auto)
    explained = tables.product_path(auto, 100)
    assert explained["step"].tolist() == ["assigned"]
    assert assign_report(auto)["assigned"] == 600


def test_the_plan_says_from_how_many_to_how_many_calls(auto: Run, endpoint: Endpoint) -> None:
    plan = plan_of(auto, load_settings()).set_index("stage")
    assert plan["calls_low"].to_dict() == {
        "segmentation": 10, "consolidate_taxonomy": 2, "assign_products": 15, "all": 27
    }  # fmt: skip
    assert plan.loc["all", "calls"] == sum(planned_calls(auto.products, auto.parameters).values()) == 33
    assert readable_plan(plan.reset_index())["calls"].tolist() == ["10 to 15", "2 to 3", "15", "27 to 33"]
    assert run_stages(auto)["calls"] == endpoint.count() == 27


def test_the_plan_of_a_sample_that_is_answered_has_no_range(auto: Run, endpoint: Endpoint) -> None:
    run_stages(auto)
    again = prepare_run(
        auto.products, "Kitchen Things", model="gpt-4o", extract_sample="auto", products_per_prompt=40
    )
    plan = plan_of(again, load_settings())
    assert plan.set_index("stage")["answered"].to_dict() == {
        "segmentation": 10, "consolidate_taxonomy": 2, "assign_products": 15, "all": 27
    }  # fmt: skip
    assert readable_plan(plan)["calls"].tolist() == ["0", "0", "0", "0"]
    assert run_stages(again)["calls"] == 0


def test_where_every_product_is_of_its_own_kind_all_are_read(new_run: NewRun, endpoint: Endpoint) -> None:
    """Fifty kinds of one product each: the sample never is enough, and the calls are the most of the plan."""
    words = [a + b for a in ("kettle", "toaster", "ladle", "whisk", "grater") for b in "abcdefghij"]
    frame = pd.DataFrame({"product_id": range(1, 51), "title": [f"Solid {word}" for word in words]})
    run = new_run(frame, extract_sample="auto", products_per_prompt=5, products_per_assignment=25)
    planned = plan_of(run, load_settings()).set_index("stage").loc["all", "calls"]
    summary = run_stages(run)
    assert summary["sample"] == "read all 50 products (10 batches)"
    assert summary["calls"] == endpoint.count() == planned
    assert run.result("readings")["bound"].iloc[-1] == 0


@pytest.mark.parametrize(("sample", "batches"), [(90, 3), (120, 3), (130, 4), (5000, 15)])
def test_a_sample_of_so_many_takes_the_planned_calls(
    new_run: NewRun, endpoint: Endpoint, sample: int, batches: int
) -> None:
    run = new_run(600, extract_sample=str(sample), products_per_prompt=40, products_per_assignment=100)
    plan = plan_run(run.products, run.prompts, run.parameters, load_settings()).set_index("stage")
    assert (plan["calls"] == plan["calls_low"]).all()
    assert run_stages(run)["calls"] == endpoint.count() == plan.loc["all", "calls"] == batches + 1 + 6
    assert int(run.result("ledger")["in_sample"].sum()) == min(sample, 600)
    assert tables.batch_plan(run)["calls"].tolist() == [batches, 1, 6]


def test_the_seed_draws_the_sample(new_run: NewRun, endpoint: Endpoint) -> None:
    read = []
    for seed in (0, 0, 1):
        run = new_run(200, extract_sample="40", products_per_prompt=40, seed=seed)
        run_stages(run)
        ledger = run.result("ledger")
        read.append(ledger.loc[ledger["in_sample"], "product_id"].tolist())
    assert read[0] == read[1] != read[2]


def test_a_product_of_a_kind_that_was_not_met_is_unassigned(new_run: NewRun, endpoint: Endpoint) -> None:
    frame = catalogue(200)
    run = new_run(frame, extract_sample="40", products_per_prompt=40)
    run_stages(run)
    unread = run.result("ledger").query("not in_sample")["product_id"].iloc[0]
    frame.loc[frame["product_id"] == unread, "title"] = "Solid blender"
    again = new_run(frame, extract_sample="40", products_per_prompt=40)
    summary = run_stages(again)
    row = again.result("ledger").set_index("product_id").loc[unread]
    assert row[["state", "reason"]].tolist() == ["unassigned", "NONE_FITS: of a kind that the sample did not meet"]
    assert (summary["state"], summary["unassigned"]) == ("completed", 1)


def test_products_without_a_title_are_in_no_sample(new_run: NewRun, endpoint: Endpoint) -> None:
    frame = catalogue(60)
    frame.loc[:4, "title"] = ""
    run = new_run(frame, extract_sample="auto", products_per_prompt=40, max_unassigned=5)
    assert run_stages(run)["sample"] == "read all 55 products (2 batches)"
    assert run.result("ledger")["reason"].value_counts()["no title"] == 5


def test_a_run_that_is_stopped_anywhere_pays_nothing_twice(
    auto: Run, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may make one call more each time: after as many lives as calls it has made each call once."""
    monkeypatch.setenv("SEGKIT_CONCURRENCY", "1")
    monkeypatch.setenv("SEGKIT_CACHE", "false")
    for most in (1, 5, 6, 8, 11, 12, 13, 20, 26):
        monkeypatch.setenv("SEGKIT_MAX_CALLS", str(most))
        with pytest.raises(StoppedError):
            run_stages(auto)
        assert endpoint.count() == most
    monkeypatch.setenv("SEGKIT_MAX_CALLS", "27")
    assert run_stages(auto)["calls"] == endpoint.count() == 27


@pytest.mark.parametrize(
    "after", [7, pytest.param(12, marks=pytest.mark.long), pytest.param(20, marks=pytest.mark.long)]
)
def test_a_run_that_is_killed_asks_again_what_was_in_flight_alone(auto: Run, endpoint: Endpoint, after: int) -> None:
    """SIGKILL while requests are in flight; the next process ends with the results of a run nobody disturbed."""
    endpoint.configure(latency=0.1)
    code = "import sys; from segkit.runs.run import open_run; from segkit.pipeline.segment import run_stages\n"
    code += "run_stages(open_run(sys.argv[1]))"
    environment = unmeasured(SEGKIT_CONCURRENCY="2", SEGKIT_CACHE="false")
    process = subprocess.Popen([sys.executable, "-c", code, str(auto.folder)], env=environment)
    endpoint.wait(after)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    endpoint.configure(latency=0)
    made = endpoint.count()
    run_stages(open_run(str(auto.folder)))
    assert 27 <= endpoint.count() <= 27 + 2
    assert made < endpoint.count()
    undisturbed = second_run(auto)
    for name in RESULTS:
        pd.testing.assert_frame_equal(
            auto.result(name).drop(columns="cache_key", errors="ignore"),
            undisturbed.result(name).drop(columns="cache_key", errors="ignore"),
        )


def second_run(run: Run) -> Run:
    """A second run of the same products and parameters."""
    p = run.parameters
    again = prepare_run(
        run.products, p.category, model=p.model, extract_sample=p.extract_sample,
        products_per_prompt=p.products_per_prompt, products_per_refinement=p.products_per_refinement,
    )  # fmt: skip
    run_stages(again)
    return again


@pytest.mark.long
def test_it_is_replayed_from_its_logs(new_run: NewRun, place: Path) -> None:
    run = new_run(250, model="offline", extract_sample="auto", products_per_prompt=10)
    run_stages(run)
    made_again = replay(run)
    assert made_again.identical, made_again


def test_an_extended_run_draws_its_sample_from_all_products(new_run: NewRun, endpoint: Endpoint) -> None:
    run = new_run(100, extract_sample="40", products_per_prompt=40)
    run_stages(run)
    more = extend_run(run, catalogue(100).assign(product_id=range(1000, 1100)))
    run_stages(more)
    read = more.result("ledger").query("in_sample")["product_id"]
    assert 0 < (read >= 1000).sum() < 40


@pytest.mark.parametrize("wrong", ["0", "-3", "some", "1.5"])
def test_what_is_no_sample_is_refused(new_run: NewRun, wrong: str) -> None:
    with pytest.raises(SettingsError, match="extract_sample is"):
        new_run(8, extract_sample=wrong)


def test_the_unit_of_a_sample_is_the_product(new_run: NewRun, endpoint: Endpoint) -> None:
    """A sample bounds a share of products, so equal lines are drawn one by one, and assigned as one at the end."""
    products = catalogue(40)
    same = pd.concat([products.assign(product_id=products["product_id"] + 1000 * copy) for copy in range(5)])
    run = prepare_run(same, "Kitchen Things", extract_sample="120", products_per_prompt=40)
    assert [planned_calls(run.products, run.parameters)[stage] for stage in ("segmentation", "assign_products")] == [
        3,
        1,
    ]
    summary = run_stages(run)
    assert asked(endpoint) == [3, 1, 0, 1]
    assert summary["sample"].startswith("read 120 of 200 products (3 batches)")
    assert run.result("ledger")["state"].value_counts().to_dict() == {"assigned": 200}


def test_products_are_put_into_the_taxonomy_of_a_sample(endpoint: Endpoint, new_run: NewRun) -> None:
    """A run that found its categories in a sample is one to build on: the next one extracts nothing."""
    run = new_run(80, products_per_prompt=8, extract_sample="40")
    run_stages(run)
    more = assign_run(run, catalogue(20).assign(product_id=range(9000, 9020)))
    run_stages(more)
    assert set(more.result("ledger")["state"]) == {"assigned"}
    assert more.status.calls == 1
