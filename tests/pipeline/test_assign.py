"""Assigning: new products go into the categories of a finished run, and its own rows stay as they are."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest
from endpoint import Endpoint
from endpoint_answers import NONE_FITS, correct_answer, read_question

from segkit.analysis import tables
from segkit.core.batching import planned_calls
from segkit.errors import ProductsError, RunError
from segkit.llm.transports.base import Response
from segkit.pipeline.stages import consolidate_taxonomy, extract_taxonomy, refine_assignments
from segkit.pipeline.summary import decide_state
from segkit.pipeline.taxonomy.report import assign_report
from segkit.pipeline.taxonomy.stage import assign_products
from segkit.pipeline.taxonomy.start import accept_proposals, assign_run
from segkit.runs.run import Run

NewRun = Callable[..., Run]
KINDS = ("kettle", "toaster", "ladle", "whisk")


def titles(kinds: Sequence[str], count: int, start: int) -> pd.DataFrame:
    names = [f"Solid number {start + i} {kinds[i % len(kinds)]}" for i in range(count)]
    return pd.DataFrame({"product_id": range(start, start + count), "title": names})


@pytest.fixture
def finished(endpoint: Endpoint, new_run: NewRun) -> Run:
    """A finished run of two hundred products of four kinds."""
    run = new_run(200, products_per_prompt=40)
    for stage in (extract_taxonomy, consolidate_taxonomy, refine_assignments):
        stage(run)
    assert decide_state(run)["state"] == "completed"
    return run


def worked(run: Run) -> Run:
    assign_products(run)
    assert decide_state(run)["state"] == "completed", run.status.reason
    return run


def rows_of(run: Run, ids: pd.Series) -> dict[str, bytes]:
    """The rows of some products in the results of a run, byte for byte."""
    found = {}
    for name in ("segments", "refined_segments", "ledger", "lineage"):
        table = run.result(name)
        found[name] = table[table["product_id"].isin(ids)].reset_index(drop=True).to_parquet()
    return found


def test_new_products_of_a_kind_not_seen_become_one_proposal(finished: Run, endpoint: Endpoint) -> None:
    """A tenth more products, half of a new kind: one proposal, old rows equal, calls for the new ones alone."""
    before, asked = rows_of(finished, finished.products["product_id"]), endpoint.count()
    run = worked(assign_run(finished, pd.concat([titles(KINDS, 10, 1000), titles(["blender"], 10, 2000)])))
    report = assign_report(run)
    assert (report["products"], report["assigned"], report["none_fits"], report["out_of_scope"]) == (20, 10, 10, 0)
    assert [(each["category_name"], each["products"]) for each in report["proposed"]] == [("Blenders", 10)]
    assert report["old_rows_unchanged"] is True
    assert rows_of(run, finished.products["product_id"]) == before
    assert endpoint.count() - asked == report["calls"] == 2, "one to assign, one about what fits nowhere"
    ledger = run.result("ledger").set_index("product_id")
    assert set(ledger.loc[2000:2009, "reason"]) == {"NONE_FITS: it would go into C-5, which is proposed"}
    assert set(ledger.loc[1000:1009, "state"]) == {"assigned"}


def test_the_plan_counts_the_calls_that_are_made(finished: Run, endpoint: Endpoint) -> None:
    asked = endpoint.count("assign_products")
    run = assign_run(finished, titles(KINDS, 45, 1000), products_per_assignment=20)
    plan = tables.batch_plan(run)
    assert plan[["stage", "calls"]].values.tolist() == [["assign_products", 3]]
    worked(run)
    assert endpoint.count("assign_products") - asked == run.status.calls == 3
    left = titles(["blender"], 90, 5000)
    more = worked(assign_run(finished, left))
    about = planned_calls(left, finished.parameters)
    found = {name: stage.calls for name, stage in more.status.stages.items()}
    assert found == {
        "assign_products": 3,
        "segmentation": about["segmentation"],
        "consolidate_taxonomy": about["consolidate_taxonomy"],
    }


def test_what_an_earlier_run_has_placed_is_not_asked_again(finished: Run, endpoint: Endpoint) -> None:
    """A whole catalogue may be given: products known by their id keep their rows."""
    with pytest.raises(ProductsError, match="has placed all of these products"):
        assign_run(finished, finished.products)
    both = pd.concat([finished.products, titles(KINDS, 4, 1000)])
    run = worked(assign_run(finished, both))
    assert assign_report(run)["products"] == 4
    assert run.status.calls == 1
    assert len(run.result("ledger")) == 204


def test_too_few_of_a_kind_are_no_category(finished: Run, endpoint: Endpoint) -> None:
    asked = endpoint.count("extract_taxonomy")
    run = worked(assign_run(finished, titles(["blender"], 4, 2000)))
    assert assign_report(run)["proposed"] == []
    assert endpoint.count("extract_taxonomy") == asked, "four can be no proposal, so nothing is asked about them"
    assert set(run.result("ledger")["reason"]) == {"", "NONE_FITS: too few of its kind for a category"}
    some = worked(assign_run(finished, titles(["blender"], 4, 2000), smallest_proposal=4))
    assert [each["category_name"] for each in assign_report(some)["proposed"]] == ["Blenders"]


def test_products_that_fit_nowhere_gather_over_deliveries(finished: Run) -> None:
    """Three a month are too few each time, and enough together; a proposal keeps its key from month to month."""
    first = worked(assign_run(finished, titles(["blender"], 3, 2000)))
    second = worked(assign_run(first, titles(["blender"], 3, 2100)))
    third = worked(assign_run(second, titles(KINDS, 8, 2200)))
    assert assign_report(first)["proposed"] == []
    proposal = {"key": "C-5", "category_name": "Blenders", "products": 6}
    assert assign_report(second)["proposed"] == assign_report(third)["proposed"] == [proposal]


@pytest.mark.long
def test_a_year_of_deliveries_half_of_new_kinds(finished: Run, endpoint: Endpoint) -> None:
    """A tenth more each month, half of a kind not seen: one proposal a month, accepted; calls for the new ones alone.

    Old rows stay, byte for byte, and no key is ever given to another category.
    """
    kinds = [
        "blender",
        "grater",
        "sieve",
        "peeler",
        "mortar",
        "zester",
        "whetstone",
        "trivet",
        "colander",
        "steamer",
        "roaster",
        "spatula",
    ]
    run, names = finished, dict(finished.result("taxonomies").set_index("key")["category_name"])
    for month, kind in enumerate(kinds):
        placed = run.result("segments")["product_id"]
        before, asked = rows_of(run, placed), endpoint.count()
        new = pd.concat([titles(KINDS, 10, 1000 + 100 * month), titles([kind], 10, 5000 + 100 * month)])
        run = worked(assign_run(run, new))
        report = assign_report(run)
        assert endpoint.count() - asked == report["calls"] == 2
        assert (report["products"], report["assigned"], report["none_fits"]) == (20, 10, 10)
        assert [each["products"] for each in report["proposed"]] == [10]
        assert report["old_rows_unchanged"] is True
        assert rows_of(run, placed) == before
        asked = endpoint.count()
        run = worked(accept_proposals(run))
        assert endpoint.count() == asked
        assert rows_of(run, placed) == before
        for key, name in run.result("categories")[["key", "category_name"]].itertuples(index=False):
            assert names.setdefault(key, name) == name
    assert len(run.result("taxonomies")) == len(KINDS) + 12
    assert len(run.products) == 200 + 12 * 20


class Fallible:
    """The test server's right answers, in this process; a share of them is wrong, as a model's are."""

    def __init__(self, seed: int, planted: str) -> None:
        self._order, self._planted = random.Random(seed), planted

    async def send(self, body: bytes, heard: Callable[[int], None], *, fresh: bool = False) -> Response:
        question = read_question(json.loads(body))
        answer = correct_answer(question)
        if question.stage == "assign_products":
            choices = [line for line in question.lines if line.startswith("S_")]
            for local_id, placed in answer["assignments"].items():
                is_planted = self._planted in question.title(local_id)
                if self._order.random() < (0.1 if is_planted else 0.05):
                    placed["category"] = self._order.choice(choices) if is_planted else NONE_FITS
        message = {"role": "assistant", "content": json.dumps(answer)}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        reply = {"id": "1", "object": "chat.completion", "created": 1, "model": question.model, "usage": usage}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        return Response(
            200, {"content-type": "application/json"}, json.dumps({**reply, "choices": [choice]}).encode()
        )

    async def close(self) -> None: ...


@pytest.mark.long
def test_a_planted_kind_is_found_in_nearly_every_delivery(finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred deliveries of sixty products, ten of a kind not seen: found as one category, with few false ones.

    One in twenty of the known products is said to fit nowhere, one in ten of the others is forced into a category.
    """
    monkeypatch.setenv("SEGKIT_CACHE", "false")
    found, false_ones = 0, 0
    for seed in range(100):
        fallible = Fallible(seed, "blender")
        monkeypatch.setattr("segkit.llm.ask.open_transport", lambda *_, fallible=fallible: fallible)
        new = pd.concat([titles(KINDS, 50, 1000), titles(["blender"], 10, 2000)])
        run = assign_run(finished, new, seed=seed)
        assign_products(run)
        proposed = assign_report(run)["proposed"]
        right = [each for each in proposed if each["category_name"] == "Blenders"]
        found += len(right) == 1
        false_ones += len(proposed) - len(right)
        shutil.rmtree(run.folder)
    assert found >= 95
    assert false_ones <= 5


@pytest.mark.long
def test_a_year_of_deliveries_changes_no_old_row(finished: Run) -> None:
    """Each month some products of known kinds; of each run every row of the run before is found again."""
    run = finished
    for month in range(12):
        placed = run.result("segments")["product_id"]
        before = rows_of(run, placed)
        run = worked(assign_run(run, titles(KINDS, 10, 1000 + 100 * month)))
        assert rows_of(run, placed) == before
        assert assign_report(run)["old_rows_unchanged"] is True
        assert run.result("taxonomies")["key"].tolist() == ["C-1", "C-2", "C-3", "C-4"]
    assert run.status.calls == 1
    assert len(run.products) == 320


def test_an_accepted_proposal_is_a_category(finished: Run, endpoint: Endpoint) -> None:
    """Its products are not asked about again, old rows stay, and the next delivery goes into it."""
    run = worked(assign_run(finished, titles(["blender"], 9, 2000)))
    before, asked = rows_of(run, finished.products["product_id"]), endpoint.count()
    accepted = worked(accept_proposals(run))
    assert endpoint.count() == asked
    assert rows_of(accepted, finished.products["product_id"]) == before
    taxonomies = accepted.result("taxonomies").set_index("key")
    assert taxonomies.loc["C-5", ["category_name", "product_count"]].tolist() == ["Blenders", 9]
    later = worked(assign_run(accepted, titles(["blender"], 3, 4000)))
    assert assign_report(later)["assigned"] == 3
    assert later.result("taxonomies").set_index("key").loc["C-5", "product_count"] == 12


def test_only_a_proposal_can_be_accepted(finished: Run) -> None:
    run = worked(assign_run(finished, titles(["blender"], 9, 2000)))
    with pytest.raises(RunError, match=r"proposes no C-1"):
        accept_proposals(run, ["C-1"])
    with pytest.raises(RunError, match="proposes no category"):
        accept_proposals(finished)


def test_a_product_out_of_scope_is_one(finished: Run) -> None:
    run = worked(assign_run(finished, titles(["unrelated thing"], 2, 3000)))
    assert assign_report(run)["out_of_scope"] == 2
    taxonomies = run.result("taxonomies").set_index("category_name")
    assert taxonomies.loc["OUT_OF_SCOPE", "product_count"] == 2


def test_a_run_that_is_not_finished_has_no_taxonomy(endpoint: Endpoint, new_run: NewRun) -> None:
    run = new_run(4)
    with pytest.raises(RunError, match="not finished"):
        assign_run(run, titles(KINDS, 4, 1000))


def test_it_resumes_from_its_logs(finished: Run, endpoint: Endpoint) -> None:
    run = worked(assign_run(finished, titles([*KINDS, "blender"], 40, 1000)))
    before = {name: run.result(name) for name in ("ledger", "taxonomies", "categories", "segments")}
    asked = endpoint.count()
    for path in run.folder.glob("results/*"):
        path.unlink()
    worked(run)
    assert endpoint.count() == asked
    for name, table in before.items():
        pd.testing.assert_frame_equal(run.result(name), table)


def test_one_fault_is_mended(finished: Run, endpoint: Endpoint) -> None:
    """An id that is left out, invented or put into no category of the prompt is asked for again, and no other."""
    for fault in ("drop_id", "invent_id", "unknown_category", "not_json"):
        endpoint.queue(fault, stage="assign_products")
    run = worked(assign_run(finished, titles(KINDS, 8, 1000), products_per_assignment=2))
    assert assign_report(run)["assigned"] == 8
    assert run.status.total.retries >= 3
    spoiled = {entry["fault"] for entry in endpoint.ledger() if entry.get("fault")}
    assert spoiled == {"drop_id", "invent_id", "unknown_category", "not_json"}
    assert endpoint.in_flight() == 0


def test_the_offline_model_assigns(new_run: NewRun, place: Path) -> None:
    run = new_run(40, model="offline")
    for stage in (extract_taxonomy, consolidate_taxonomy, refine_assignments):
        stage(run)
    more = worked(assign_run(run, titles(KINDS, 8, 1000)))
    report = assign_report(more)
    assert report["assigned"] >= 6
    assert report["old_rows_unchanged"] is True
