"""The audit: a fair run is left in peace, and what is planted is found."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from segkit.evaluation.audit import audit, placement_tests, position_test, size_test
from segkit.runs.run import Run, open_run


@pytest.fixture
def run(sample_runs: list[Run], tmp_path: Path) -> Run:
    """A copy of a run of the sample that a test may change; it has no repeats beside it."""
    shutil.copytree(sample_runs[0].folder, tmp_path / sample_runs[0].id)
    return open_run(sample_runs[0].id, tmp_path)


def flags(run: Run) -> dict[str, bool]:
    return {flag.check: flag.flagged for flag in audit(run).flags}


@pytest.mark.long
def test_the_sample_is_not_flagged(run: Run) -> None:
    found = audit(run)
    assert not found.flagged
    assert {"check", "p_value", "flagged"} <= found.as_json()["flags"][0].keys()
    assert found.slots["products"].sum() == len(run.products)


def test_repeats_make_the_outcome_what_is_unstable(sample_runs: list[Run]) -> None:
    assert audit(sample_runs[0]).outcome == "stand elsewhere in most repeats"


def test_products_at_the_end_that_always_move_are_found(run: Run) -> None:
    """Moves are planted in the last ten slots of every batch; the window and the size of the excess are named."""
    found = audit(run)
    lineage = run.result("lineage")
    order = lineage["product_id"].map(_slots(run))
    lineage.loc[order >= 30, "refined_category"] = "Elsewhere"
    run.save_result("lineage", lineage)
    position = next(flag for flag in audit(run).flags if flag.check == "position")
    assert position.flagged
    assert position.p_value < 0.01
    assert "slots 30 to" in position.finding
    assert found.run.id == run.id


def _slots(run: Run) -> dict[int, int]:
    from segkit.core.batching import batches_of
    from segkit.core.catalogue.gate import first_runs

    lists = batches_of(first_runs(run.products), run.parameters.seed, run.parameters.products_per_prompt)
    return {product: slot for ids in lists for slot, product in enumerate(ids)}


@pytest.mark.parametrize(
    ("names", "check"),
    [
        (["Kettlemoor Percolators"], "brands in names"),
        (["Other Coffee Makers"], "vague names"),
        (["Moka Pots and Percolators"], "two things in one name"),
        (["Coffee Press", "Coffee Presses"], "near doubles"),
    ],
)
def test_names_that_break_a_rule_are_flagged(run: Run, names: list[str], check: str) -> None:
    taxonomies = run.result("taxonomies")
    taxonomies.loc[range(len(names)), "category_name"] = names
    run.save_result("taxonomies", taxonomies)
    assert [name for name, flagged in flags(run).items() if flagged] == [check]


def test_definitions_that_say_the_same_are_flagged(run: Run) -> None:
    taxonomies = run.result("taxonomies")
    taxonomies.loc[[0, 1], "definition"] = [
        "Pots that brew by steam on a stove",
        "Pots that brew by steam on the stove",
    ]
    run.save_result("taxonomies", taxonomies)
    assert flags(run)["overlapping definitions"]


def test_many_products_out_of_scope_are_flagged(run: Run) -> None:
    lineage = run.result("lineage")
    lineage.loc[lineage.index % 3 == 0, "refined_category"] = "OUT_OF_SCOPE"
    run.save_result("lineage", lineage)
    assert flags(run)["out of scope"]


def with_products(run: Run, products: pd.DataFrame, product_line: str = "$title") -> Run:
    """Exchange the products of a run, as if it had been made with them."""
    products.to_parquet(run.folder / "products.parquet", index=False)
    document = json.loads((run.folder / "run.json").read_text())
    document["parameters"]["product_line"] = product_line
    document["input"]["sha256"] = hashlib.sha256((run.folder / "products.parquet").read_bytes()).hexdigest()
    (run.folder / "run.json").write_text(json.dumps(document))
    return open_run(run.id, run.folder.parent)


def finding(run: Run, check: str) -> str:
    return next(flag.finding for flag in run.audit().flags if flag.check == check)


def test_prices_columns_and_titles_that_were_cut_are_counted(run: Run) -> None:
    products = run.products
    products["title"] = [f"{title} …" if i < 3 else title for i, title in enumerate(products["title"])]
    products["price_usd"] = ["12.9…" if i < 4 else "12.99" for i in range(len(products))]
    products["text"] = ["word " * 400 if i < 5 else "short" for i in range(len(products))]
    run = with_products(run, products, "$title | {text} | $price_usd")
    assert {name for name, flagged in flags(run).items() if flagged} >= {"cut titles", "cut columns", "prices"}
    assert finding(run, "cut titles").startswith("3: ")
    assert finding(run, "prices").startswith("4: 12.9…")
    assert finding(run, "cut columns") == "1: text of 5 products"


def test_many_titles_of_the_same_length_look_cut_and_short_ones_do_not(run: Run) -> None:
    products = run.products.assign(title=[f"{i:>6}" + "x" * 74 for i in range(len(run.products))])
    assert flags(with_products(run, products))["cut titles"]
    products["title"] = [f"Cup {i:06}" for i in range(len(products))]
    assert not flags(with_products(run, products))["cut titles"]


def test_two_tests_of_one_run_share_their_five_percent() -> None:
    """The p values of both are corrected: each is at least what it would be alone."""
    random = np.random.default_rng(0)
    sizes = np.array([40, 40, 20] * 6)
    slots, batches = np.concatenate([np.arange(size) for size in sizes]), np.repeat(np.arange(len(sizes)), sizes)
    outcomes = (random.random(len(slots)) < 0.2).astype(float)
    position, size = placement_tests(outcomes, slots, batches, times=200)
    assert size is not None
    alone = [position_test(outcomes, slots, batches, times=200), size_test(outcomes, batches, times=200)]
    assert all(both.p_value >= one.p_value for both, one in zip((position, size), alone, strict=True))
    assert max(both.p_value / one.p_value for both, one in zip((position, size), alone, strict=True)) == 2


def test_small_batches_that_are_worse_are_found() -> None:
    sizes = np.array([40, 20] * 8)
    slots, batches = np.concatenate([np.arange(size) for size in sizes]), np.repeat(np.arange(len(sizes)), sizes)
    outcomes = ((batches % 2 == 1) & (slots % 2 == 0)).astype(float)
    found = size_test(outcomes, batches, times=500)
    assert found is not None
    assert found.rank == pytest.approx(-1)
    assert found.p_value < 0.01


def test_hard_batches_alone_raise_no_alarm() -> None:
    """Every product of some batches is wrong: that is no matter of position."""
    slots, batches = np.tile(np.arange(40), 10), np.repeat(np.arange(10), 40)
    outcomes = (batches < 3).astype(float)
    assert position_test(outcomes, slots, batches, times=200).p_value == 1
