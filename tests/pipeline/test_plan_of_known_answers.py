"""A plan knows what is answered already: it counts the calls that are made, cold, warm and half-warm."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest
from catalogues import catalogue
from endpoint import Endpoint

from segkit.core.models import STAGES
from segkit.core.prompts import load_prompts
from segkit.errors import StoppedError
from segkit.pipeline.experiments.repeats import make_repeats
from segkit.pipeline.extend import extend_run
from segkit.pipeline.plan.durations import measured_durations
from segkit.pipeline.plan.estimate import plan_of, plan_run, readable_plan, sentence
from segkit.pipeline.plan.known import known_before
from segkit.pipeline.segment import run_stages
from segkit.pipeline.stages import consolidate_taxonomy, extract_taxonomy
from segkit.pipeline.taxonomy.start import accept_proposals, assign_run
from segkit.runs.interactions import begin, keep_raw, scan
from segkit.runs.run import Run
from segkit.settings import load_settings

NewRun = Callable[..., Run]
SIZES = {"products_per_prompt": 5, "products_per_refinement": 8, "taxonomies_per_consolidation": 3}


def planned(run: Run) -> dict[str, int]:
    plan = plan_of(run, load_settings())
    return {stage: int(calls) for stage, calls in zip(plan["stage"], plan["calls"], strict=True) if calls}


def made(run: Run, endpoint: Endpoint) -> dict[str, int]:
    """Work on a run, and count by stage what the server was asked."""
    endpoint.reset(configuration=False)
    run_stages(run)
    calls = {STAGES[stage]: count for stage in STAGES if (count := endpoint.count(stage))}
    return {**calls, "all": endpoint.count()} if calls else {}


@pytest.mark.parametrize(
    ("products", "given"),
    [
        (1, {}),
        (23, SIZES),
        (61, {**SIZES, "ask_twice": 12}),
        (17, {"products_per_prompt": 1, "products_per_refinement": 3, "taxonomies_per_consolidation": 2}),
        (9, {"response_format": "text", "temperature": "none", "max_output_tokens": 900}),
    ],
)
def test_cold_and_warm(products: int, given: dict[str, object], endpoint: Endpoint, new_run: NewRun) -> None:
    """Every call is counted before the first run, and none before an equal one, with what its answers cost."""
    first = new_run(products, **given)
    cold = planned(first)
    assert cold == made(first, endpoint)
    again = new_run(products, **given)
    total = plan_of(again, load_settings()).iloc[-1]
    assert (total["answered"], total["calls"], total["cost_usd_high"]) == (cold["all"], 0, 0)
    assert total["saved_usd"] == first.status.cost_usd > 0
    assert "nothing is sent" in sentence(total)
    assert made(again, endpoint) == {}
    assert again.status.total.saved_usd == first.status.cost_usd
    assert again.status.summary["saved_usd"] == str(first.status.cost_usd)


def test_equal_questions_are_one_call(endpoint: Endpoint, new_run: NewRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache answers the second of two equal questions, also within a run; without it, both are asked."""
    same = pd.DataFrame({"product_id": range(8), "title": ["Copper kettle", "Steel ladle"] * 4})
    given = {**SIZES, "products_per_prompt": 1}
    run = new_run(same, **given)
    assert planned(run) == made(run, endpoint)
    monkeypatch.setenv("SEGKIT_CACHE", "false")
    run = new_run(same, seed=1, **given)
    expected = planned(run)
    assert expected["segmentation"] >= 2
    assert expected == made(run, endpoint)


def test_half_warm_by_another_size(endpoint: Endpoint, new_run: NewRun) -> None:
    """Other refinement batches: the first two stages are known, and the prompts of the last are, without answers."""
    run_stages(new_run(40, **SIZES))
    run = new_run(40, **{**SIZES, "products_per_refinement": 11})
    plan = plan_of(run, load_settings()).set_index("stage")
    assert plan["calls"].to_dict() == {
        "segmentation": 0, "consolidate_taxonomy": 0, "refine_assignments": 4, "all": 4
    }  # fmt: skip
    assert not plan["estimated"].any()
    assert planned(run) == made(run, endpoint)


def test_half_warm_by_more_products(endpoint: Endpoint, new_run: NewRun) -> None:
    """An extended run finds its old batches and their merges; only what depends on new answers is estimated."""
    finished = new_run(60, **SIZES)
    run_stages(finished)
    more = catalogue(7).assign(product_id=range(5000, 5007))
    run = extend_run(finished, more.assign(title="New: " + more["title"]))
    plan = plan_of(run, load_settings()).set_index("stage")
    calls = made(run, endpoint)
    assert plan.loc["segmentation", "calls"] == calls["segmentation"] == 2
    assert plan.loc["consolidate_taxonomy", "calls"] == calls["consolidate_taxonomy"] == 2
    assert plan.loc["consolidate_taxonomy", "answered"] == 7, "the merges of the first run"
    assert plan.loc["refine_assignments", "estimated"]
    assert plan.loc["refine_assignments", "calls"] >= calls["refine_assignments"]
    assert "at most" in readable_plan(plan.reset_index())["calls"].iloc[-1]


def test_an_assignment_and_its_proposals(endpoint: Endpoint, new_run: NewRun) -> None:
    """Once the answers are there, the extraction of what fits nowhere is counted too."""
    finished = new_run(40, **SIZES)
    run_stages(finished)
    blenders = pd.DataFrame({"product_id": range(900, 912), "title": [f"Quick blender {i}" for i in range(12)]})
    run = assign_run(finished, blenders, products_per_assignment=5)
    first = plan_of(run, load_settings()).set_index("stage")
    calls = made(run, endpoint)
    assert first.loc["assign_products", "calls"] == calls["assign_products"] == 3
    again = assign_run(finished, blenders, products_per_assignment=5, products_per_prompt=6)
    expected = planned(again)
    assert expected == made(again, endpoint)
    assert expected["segmentation"] == 2
    accepted = accept_proposals(run)
    assert planned(accepted) == made(accepted, endpoint)


def test_what_is_asked_anew_on_purpose(endpoint: Endpoint, new_run: NewRun) -> None:
    """A repeat does not count the answers of the run it repeats."""
    first = new_run(23, **SIZES)
    run_stages(first)
    repeat = make_repeats(first, 2, load_settings(), fresh=True)[1]
    expected = planned(repeat)
    assert expected == made(repeat, endpoint) != {}


@pytest.mark.parametrize("stops_after", [1, 3, 6])
def test_a_run_that_goes_on(
    stops_after: int, endpoint: Endpoint, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the logs of the run answer is not counted, valid or not: a corrected, a cut and a filtered question."""
    endpoint.queue("drop_id", stage="extract_taxonomy", times=2)
    endpoint.queue("context_length", stage="extract_taxonomy", contains="number 17 ")
    endpoint.queue("400_content_filter", stage="extract_taxonomy", contains="number 30 ", times=8)
    monkeypatch.setenv("SEGKIT_CACHE", "false")
    monkeypatch.setenv("SEGKIT_CONCURRENCY", "2")
    monkeypatch.setenv("SEGKIT_MAX_CALLS", str(stops_after))
    run = new_run(33, max_unassigned=3, **SIZES)
    with pytest.raises(StoppedError):
        extract_taxonomy(run)
    monkeypatch.delenv("SEGKIT_MAX_CALLS")
    endpoint.reset()
    before = [log.file for log in scan(run.folder / "segmentation")[0]]
    expected = plan_of(run, load_settings()).set_index("stage")["calls"]
    extract_taxonomy(run)
    assert endpoint.count("extract_taxonomy") == expected["segmentation"]
    consolidate_taxonomy(run)
    assert set(before) <= {log.file for log in scan(run.folder / "segmentation")[0]}


def test_answers_that_a_killed_process_has_left_are_no_calls(
    endpoint: Endpoint, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three requests in flight when it died, two had answers on disk: one call, and nothing is written."""
    monkeypatch.setenv("SEGKIT_CACHE", "false")
    run = new_run(15, **SIZES)
    extract_taxonomy(run)
    folder = run.stage_folder("extract_taxonomy")
    for number, log in enumerate(scan(folder)[0]):
        head = {name: log.log[name] for name in ("context", "prompt", "request")}
        intent = begin(folder, log.metadata["batch_id"], 1, head)
        if number:
            keep_raw(intent, 200, log.body)
        log.path.unlink()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert planned(run)["segmentation"] == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    endpoint.reset()
    extract_taxonomy(run)
    assert endpoint.count() == 1


def test_a_plan_changes_nothing(endpoint: Endpoint, new_run: NewRun) -> None:
    run = new_run(23, **SIZES)
    run_stages(new_run(23, **SIZES))
    before = {path: path.read_bytes() for path in run.folder.parent.rglob("*") if path.is_file()}
    planned(run)
    assert {path: path.read_bytes() for path in run.folder.parent.rglob("*") if path.is_file()} == before


def test_before_a_run_is_made(endpoint: Endpoint, new_run: NewRun, place: Path) -> None:
    """A plan without a run finds the same answers."""
    run = new_run(23, **SIZES)
    run_stages(run)
    with known_before(run.parameters, load_settings()) as known:
        total = plan_run(run.products, load_prompts(), run.parameters, load_settings(), look_up=known.look_up).iloc[
            -1
        ]
    assert (total["calls"], total["saved_usd"]) == (0, run.status.cost_usd)
    assert not list(Path("/tmp").glob("segkit-plan-*/events.jsonl"))


def test_a_damaged_answer_is_asked_again(endpoint: Endpoint, new_run: NewRun, place: Path) -> None:
    run_stages(new_run(23, **SIZES))
    entry = next((place / "home" / "cache").rglob("*.json"))
    entry.unlink()  # a second name of the log
    entry.write_text("{")
    run = new_run(23, **SIZES)
    assert planned(run)["all"] >= 1


def test_what_a_cached_run_would_have_cost_adds_up(endpoint: Endpoint, new_run: NewRun) -> None:
    """Also over two generations: an answer that came from the cache names what was paid first."""
    first = new_run(12)
    run_stages(first)
    second = new_run(12)
    extract_taxonomy(second)
    extract_taxonomy(second)  # once more, from its own logs
    stage = second.status.stages["segmentation"]
    assert stage.saved_usd == first.status.stages["segmentation"].cost_usd > 0
    assert (stage.saved_unpriced, stage.cost_usd) == (0, Decimal(0))


def test_the_time_comes_from_the_logs_of_this_model_and_endpoint(endpoint: Endpoint, new_run: NewRun) -> None:
    """Measured where there are logs, of a finished run or a begun one; assumed for another model, and said which."""
    settings = load_settings()
    endpoint.configure(latency=0.3)
    first = new_run(12)
    assert plan_of(first, settings).iloc[-1]["measured_calls"] == 0
    extract_taxonomy(first)
    more = new_run(30, seed=3)
    begun = plan_of(more, settings).set_index("stage")
    assert (begun.loc["segmentation", "measured_calls"], begun.loc["refine_assignments", "measured_calls"]) == (2, 0)
    assert 0.3 <= begun.loc["segmentation", "seconds_low"] <= begun.loc["segmentation", "seconds_high"] < 2
    run_stages(first)
    found = measured_durations(more.parameters, more.folder.parent, settings)
    assert (found.calls, found.runs) == (first.status.calls, (first.id,))
    assert str(found) == f"time: measured, {found.calls} calls of {first.id} with this model at this endpoint"
    other = new_run(30, model="gpt-4o-mini")
    assert plan_of(other, settings).iloc[-1]["measured_calls"] == 0
    assert "assumed" in str(measured_durations(other.parameters, other.folder.parent, settings))


def test_a_cached_run_measures_nothing(endpoint: Endpoint, new_run: NewRun) -> None:
    """Answers from the cache take no time, and would promise a time that no model keeps."""
    first = new_run(12)
    run_stages(first)
    again = new_run(12)
    run_stages(again)
    found = measured_durations(again.parameters, again.folder.parent, load_settings())
    assert (found.runs, found.calls) == ((first.id,), first.status.calls)
