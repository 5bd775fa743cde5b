"""A taxonomy that a person has edited: applied as it says, asking no more than needed, kept for the next run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
import pytest
from endpoint import Endpoint

from segkit.pipeline.replay import replay
from segkit.pipeline.stages import consolidate_taxonomy, extract_taxonomy, refine_assignments
from segkit.pipeline.summary import decide_state, finish_run
from segkit.pipeline.taxonomy.check import taxonomy_check
from segkit.pipeline.taxonomy.report import assign_report
from segkit.pipeline.taxonomy.stage import assign_products
from segkit.pipeline.taxonomy.start import assign_run
from segkit.runs.run import Run

NewRun = Callable[..., Run]
KINDS = ("kettle", "toaster", "ladle", "whisk")


def titles(kinds: Sequence[str], count: int, start: int) -> pd.DataFrame:
    names = [f"Solid number {start + i} {kinds[i % len(kinds)]}" for i in range(count)]
    return pd.DataFrame({"product_id": range(start, start + count), "title": names})


def worked(run: Run) -> Run:
    assign_products(run)
    assert decide_state(run)["state"] == "completed", run.status.reason
    return run


@pytest.fixture
def finished(endpoint: Endpoint, new_run: NewRun) -> Run:
    run = new_run(titles(KINDS, 80, 1), products_per_prompt=40)
    for stage in (extract_taxonomy, consolidate_taxonomy, refine_assignments):
        stage(run)
    assert decide_state(run)["state"] == "completed"
    return run


def categories(run: Run) -> dict[int, str]:
    return dict(run.result("lineage")[["product_id", "refined_category"]].itertuples(index=False, name=None))


def test_edits_are_applied_and_only_their_products_are_asked_about(finished: Run, endpoint: Endpoint) -> None:
    """One is renamed, one merged, one deleted: twenty products are asked about, and old keys stay retired."""
    keys = finished.taxonomy().frame.set_index("category_name")["key"].to_dict()
    edited = (
        finished.taxonomy()
        .rename(keys["Kettles"], "Tea Kettles")
        .merge(keys["Whisks"], into=keys["Ladles"])
        .delete(keys["Toasters"])
    )
    check = taxonomy_check(edited)
    assert [check[name] for name in ("renamed", "merged", "split", "deleted", "added")] == [1, 1, 0, 1, 0]
    before, asked = categories(finished), endpoint.count()
    run = worked(assign_run(edited))
    assert endpoint.count() - asked == check["calls"] == run.status.calls
    after = categories(run)
    toasters = {product for product, name in before.items() if name == "Toasters"}
    assert check["products_to_ask"] == len(toasters) == 20
    names = {"Kettles": "Tea Kettles", "Whisks": "Ladles"}
    assert all(after[product] == names.get(name, name) for product, name in before.items() if product not in toasters)
    reasons = run.result("ledger").set_index("product_id").loc[sorted(toasters), "reason"]
    assert set(reasons) == {f"NONE_FITS: it was in {keys['Toasters']} before the edits, and fits no category now"}
    assert assign_report(run)["drift_p_value"] is None, "no product came in"

    finish_run(run)
    assert replay(run).identical

    later = worked(assign_run(run, titles(["blender"], 10, 1000)))
    now = later.taxonomy().base.set_index("category_name")["key"].to_dict()
    assert {name: now[name] for name in ("Tea Kettles", "Ladles")} == {
        "Tea Kettles": keys["Kettles"],
        "Ladles": keys["Ladles"],
    }
    assert now["Blenders"] not in keys.values(), "a retired key is not used again"
    assert later.archived("edits")["action"].tolist() == run.archived("edits")["action"].tolist()


def test_a_split_asks_about_its_products(finished: Run, endpoint: Endpoint) -> None:
    keys = finished.taxonomy().frame.set_index("category_name")["key"].to_dict()
    edited = finished.taxonomy().split(keys["Kettles"], ["Kettle: the small ones", "Big Kettles: the big ones"])
    check = taxonomy_check(edited)
    asked = endpoint.count()
    run = worked(assign_run(edited))
    assert (check["split"], check["products_to_ask"]) == (1, 20)
    assert endpoint.count() - asked == check["calls"]
    new = run.taxonomy().base.set_index("category_name")["key"]
    assert not {new["Kettle"], new["Big Kettles"]} & set(keys.values())
    assert pd.Series(categories(run)).isin(["Kettle", "Big Kettles", "Toasters", "Ladles", "Whisks", ""]).all()
