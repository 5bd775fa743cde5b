"""Old costs, told again from the raw answers in the logs."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import orjson
import pytest
from endpoint import Endpoint

from segkit.errors import RunError
from segkit.pipeline.costs import recount, save
from segkit.pipeline.segment import run_stages
from segkit.runs.events import read_events
from segkit.runs.integrity import changed_files
from segkit.runs.run import Run
from segkit.runs.status import read_status, update_status
from segkit.settings import load_settings
from segkit.storage.locks import owned


@pytest.fixture
def done(endpoint: Endpoint, new_run: Callable[..., Run]) -> Run:
    """A run with a retry and a question that may have been paid without an answer."""
    endpoint.queue("not_json")
    run = new_run(18)
    run_stages(run)
    return run


def test_nothing_changes_where_nothing_has_changed(done: Run) -> None:
    found = recount(done, load_settings())
    assert found.changed_usd == 0
    assert dict(found.after) == dict(found.before)


def test_other_prices_are_told_in_dollars_and_saved(done: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prices = place / "prices.json"
    prices.write_bytes(orjson.dumps({"gpt-4o": {"input": 1000, "output": 2000}}))
    monkeypatch.setenv("SEGKIT_PRICES", str(prices))
    found, sums = recount(done, load_settings()), done.status.total
    expected = (sums.input_tokens * Decimal(1000) + sums.output_tokens * Decimal(2000)) / 10**6
    assert Decimal(found.as_json()["recomputed_usd"]) == expected
    save(done, found)
    status = read_status(done.folder)
    assert (status.cost_usd, Decimal(status.summary["cost_usd"]), status.calls) == (expected, expected, sums.calls)
    event = read_events(done.folder)[-1]
    assert (event["event"], Decimal(event["changed_usd"])) == ("costs_recomputed", expected - sums.cost_usd)
    assert changed_files(done) == [], "logs and results are as they were"


def test_figures_that_an_older_release_read_too_low_are_mended(done: Run) -> None:
    """As if thoughts had not been counted: the status is wrong, the raw answers are not."""
    right = done.status.stages
    stages = orjson.loads((done.folder / "status.json").read_bytes())["stages"]
    for stage in stages.values():
        stage |= {"cost_usd": "0.0001", "output_tokens": 1}
    update_status(done.folder, stages=stages)
    found = recount(done, load_settings())
    assert found.changed_usd == sum(each.cost_usd for each in right.values()) - Decimal("0.0003") * (len(right) == 3)
    save(done, found)
    assert read_status(done.folder).stages == right


def test_a_cost_that_the_endpoint_stated_stays(endpoint: Endpoint, new_run: Callable[..., Run]) -> None:
    endpoint.rule("ok", headers={"x-litellm-response-cost": "0.125"})
    run = new_run(6)
    run_stages(run)
    assert run.status.cost_usd == Decimal("0.125") * run.status.calls
    assert recount(run, load_settings()).changed_usd == 0


def test_a_run_at_work_is_left_alone(done: Run) -> None:
    found = recount(done, load_settings())
    with owned(done.folder / "run.lock"), pytest.raises(RunError, match="a process works on"):
        save(done, found)
