"""Adding products to a finished run: what was paid for is not asked again."""

from __future__ import annotations

import re
from collections.abc import Callable

import pandas as pd
import pytest
from catalogues import catalogue
from endpoint import Endpoint
from hypothesis import given
from hypothesis import strategies as st

from segkit.analysis.tables import batch_plan
from segkit.cli.options import RunOptions
from segkit.cli.plan import choose_way
from segkit.core.batching import batches_of, consolidation_rounds, planned_calls
from segkit.core.catalogue.load import load_catalogue
from segkit.errors import ProductsError, RunError
from segkit.pipeline.extend import extend_run
from segkit.pipeline.stages import consolidate_taxonomy, extract_taxonomy, refine_assignments
from segkit.pipeline.taxonomy.stage import assign_products
from segkit.pipeline.taxonomy.start import assign_run
from segkit.runs.run import Run, list_runs
from segkit.runs.taxonomy import Taxonomy
from segkit.settings import load_settings

STAGES = ("extract_taxonomy", "consolidate_taxonomy", "refine_assignments")


def worked(run: Run) -> Run:
    for stage in (extract_taxonomy, consolidate_taxonomy, refine_assignments):
        stage(run)
    return run


def added(count: int, start: int = 5000) -> pd.DataFrame:
    frame = catalogue(count).assign(product_id=range(start, start + count))
    return frame.assign(title=f"From {start}: " + frame["title"])


@pytest.fixture
def finished(new_run: Callable[..., Run], endpoint: Endpoint) -> Run:
    """30 batches of four products, merged five at a time."""
    return finished_run(new_run, endpoint, 120)


def finished_run(new_run: Callable[..., Run], endpoint: Endpoint, products: int) -> Run:
    sizes = {"products_per_prompt": 4, "products_per_refinement": 4, "taxonomies_per_consolidation": 5}
    run = worked(new_run(products, **sizes))
    endpoint.reset()
    return run


def test_ten_products_more_cost_their_own_batches(new_run: Callable[..., Run], endpoint: Endpoint) -> None:
    """Issue: ten products added to a run of 300 batches; only the batches that changed are asked."""
    finished = finished_run(new_run, endpoint, 1200)
    more = extend_run(finished, added(10))
    worked(more)
    same_taxonomy = finished.result("taxonomy").equals(more.result("taxonomy"))
    assert endpoint.count("extract_taxonomy") == 3
    assert endpoint.count("consolidate_taxonomy") == 2, "the three new taxonomies become one, which meets the rest"
    assert same_taxonomy
    assert endpoint.count("refine_assignments") == 3
    ledger = more.result("ledger")
    assert len(ledger) == 1210
    assert (ledger["state"] == "assigned").all()


def test_what_an_extended_run_plans_is_what_it_asks_without_a_cache(
    finished: Run, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGKIT_CACHE", "false")
    more = extend_run(finished, added(10))
    worked(more)
    assert [endpoint.count(stage) for stage in STAGES] == list(planned_calls(more.products, more.parameters).values())


def test_a_changed_title_changes_its_batch_only(finished: Run, endpoint: Endpoint) -> None:
    changed = finished.products.head(1).assign(title="Solid number 0 kettle, now in blue")
    worked(extend_run(finished, changed))
    assert endpoint.count("extract_taxonomy") == 1


def test_a_run_that_was_extended_can_be_extended(finished: Run, endpoint: Endpoint) -> None:
    once = worked(extend_run(finished, added(4)))
    endpoint.reset()
    twice = worked(extend_run(once, added(4, start=6000)))
    assert endpoint.count("extract_taxonomy") == 1
    assert twice.parameters.extends == once.id
    listed = list_runs(twice.folder.parent).set_index("id")["input"]
    assert listed[[finished.id, twice.id]].tolist() == ["(a frame)", f"(a frame), extends {once.id}"]
    assert len(twice.result("ledger")) == 128


def test_both_ways_to_extend_are_planned_before_one_is_taken(
    finished: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten more of 120: either way asks about them alone; nothing of the plans is left, and nothing was asked."""
    ways = choose_way(
        finished, load_catalogue(added(10)), None, RunOptions(as_json=True), yes=True, settings=load_settings()
    )
    keep, anew = capsys.readouterr().err.splitlines()
    assert ways is False
    assert re.match(r"keep the categories and assign \(--keep-taxonomy\): 1 questions?, 1 calls? to make", keep)
    assert re.match(r"extract the categories anew \(--new-taxonomy\): \d+ questions, 3\d answered already, at", anew)
    assert len(list(finished.folder.parent.glob("RUN_*"))) == 1


def test_a_run_without_a_taxonomy_of_its_own_is_assigned_to_not_extended(finished: Run) -> None:
    more = assign_run(finished, added(10))
    assign_products(more)
    with pytest.raises(RunError, match="none of its own") as raised:
        extend_run(more, added(4, start=6000))
    assert raised.value.hint == f"segkit assign PRODUCTS --taxonomy {more.id}"
    new = load_catalogue(added(4, start=6000))
    assert choose_way(more, new, None, RunOptions(as_json=True), yes=True, settings=load_settings()) is True


def test_what_cannot_be_extended_is_told(new_run: Callable[..., Run], endpoint: Endpoint) -> None:
    run = new_run(8)
    with pytest.raises(RunError, match="is not finished"):
        extend_run(run, added(1))
    worked(run)
    with pytest.raises(ProductsError, match="holds these very products already"):
        extend_run(run, run.products.head(3))
    with pytest.raises(ProductsError, match="no column 'title'"):
        extend_run(run, pd.DataFrame({"product_id": [1]}))


@given(st.lists(st.integers(0, 400), max_size=5), st.integers(2, 25))
def test_rounds_bring_all_first_runs_together(counts: list[int], most: int) -> None:
    """Each round uses every taxonomy once; the last one leaves one."""
    left = sum(counts)
    for sizes in consolidation_rounds(counts, most):
        assert sum(sizes) == left
        assert max(sizes) <= most
        left = len(sizes)
    assert left <= 1 or not sum(counts)


@given(st.sets(st.integers(0, 10_000), min_size=1), st.sets(st.integers(20_000, 30_000)), st.integers(1, 50))
def test_batches_stay_when_products_are_added(before: set[int], more: set[int], most: int) -> None:
    old = batches_of(dict.fromkeys(before, "RUN_1"), 7, most)
    both = batches_of({**dict.fromkeys(more, "RUN_2"), **dict.fromkeys(before, "RUN_1")}, 7, most)
    assert both[: len(old)] == old
    assert old == batches_of(dict.fromkeys(before, ""), 7, most)
    assert sorted(product for batch in both for product in batch) == sorted(before | more)


def test_the_plan_of_an_extended_run_tells_its_batches(finished: Run) -> None:
    """Those of the run before keep their size, the added ones have their own."""
    plan = batch_plan(extend_run(finished, added(3))).set_index("stage")
    assert plan.loc["segmentation", ["calls", "each_holds"]].tolist() == [31, "3 or 4 products"]


@pytest.mark.long
def test_keys_last_through_twelve_deliveries_and_both_ways_to_extend(
    new_run: Callable[..., Run], endpoint: Endpoint
) -> None:
    """Six extensions that extract anew, then six that keep the categories, with edits: no key is ever used again."""
    run = worked(new_run(kinds(["kettle", "toaster", "ladle", "whisk"], 40, 1), products_per_prompt=10))
    deliveries = [kinds(["blender"], 4, 100), kinds(["kettle"], 4, 200), kinds(["grater", "sieve"], 4, 300)]
    deliveries += [kinds(["peeler", "toaster"], 12, 1000 + 100 * number) for number in range(9)]
    whisks = run.products[run.products["title"].str.contains("whisk")]
    deliveries[3] = whisks.assign(title=whisks["title"].str.replace("whisk", "colander"))  # other products by now
    keys, retired = keys_of(run), set[str]()
    edits: dict[int, Callable[[Taxonomy], Taxonomy]] = {
        6: lambda taxonomy: taxonomy.merge(keys["Ladles"], into=keys["Kettles"]),
        8: lambda taxonomy: taxonomy.delete(keys["Toasters"]),
        9: lambda taxonomy: taxonomy.accept(proposal_of(taxonomy)),  # the toasters that came in meanwhile
        10: lambda taxonomy: taxonomy.rename(keys["Kettles"], "Tea Kettles"),
    }
    gone = {3: {"Whisks"}, 6: {"Ladles"}, 8: {"Toasters"}, 10: {"Kettles"}}
    for number, new in enumerate(deliveries):
        if number < 6:
            run = worked(extend_run(run, new))
        else:
            run = assign_run(edits.get(number, lambda taxonomy: taxonomy)(run.taxonomy()), new)
            assign_products(run)
        before, keys, register = keys, keys_of(run), run.taxonomy().base.set_index("key")
        assert set(before.values()) | retired <= set(register.index), "the register forgets none"
        retired |= set(register.index[register["state"] == "retired"])
        assert not retired & set(keys.values()), "a retired key came back"
        assert before.keys() - keys.keys() == gone.get(number, set())
        stayed = before.keys() & keys.keys()
        assert {name: keys[name] for name in stayed} == {name: before[name] for name in stayed}
        assert run.result("taxonomies")[["id", "key"]].nunique().tolist() == [len(run.result("taxonomies"))] * 2
    assert (keys["Tea Kettles"], keys["Toasters"] in retired) == ("C-1", False)
    assert {"Blenders", "Graters", "Sieves", "Colanders", "Peelers", "Toasters"} <= keys.keys()


def kinds(names: list[str], count: int, start: int) -> pd.DataFrame:
    titles = [f"Solid number {start + i} {names[i % len(names)]}" for i in range(count)]
    return pd.DataFrame({"product_id": range(start, start + count), "title": titles})


def proposal_of(taxonomy: Taxonomy) -> str:
    return str(taxonomy.base.query("state == 'proposed' and category_name == 'Toasters'")["key"].item())


def keys_of(run: Run) -> dict[str, str]:
    taxonomy = run.taxonomy().base
    living = taxonomy[taxonomy["state"] == "active"]
    return dict(zip(living["category_name"], living["key"], strict=True))
