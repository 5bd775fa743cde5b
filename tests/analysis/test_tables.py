"""A run as tables, and the path of one product: every product is counted once, every text is escaped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest

from segkit.analysis import tables
from segkit.analysis.lineage import merge_paths, merge_steps
from segkit.analysis.logs import query
from segkit.errors import ProductsError
from segkit.pipeline.prepare import SAMPLE, prepare_run
from segkit.pipeline.stages import consolidate_taxonomy, extract_taxonomy, refine_assignments
from segkit.runs.run import Run

EVERY_TABLE = [
    "inputs", "batch_plan", "prompts_used", "environment", "batch_categories", "first_assignments", "merge_tree",
    "final_taxonomy", "segments", "moved_products", "unassigned", "examples", "summary",
]  # fmt: skip


def work(run: Run) -> Run:
    for stage in (extract_taxonomy, consolidate_taxonomy, refine_assignments):
        stage(run)
    return run


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The bundled sample, segmented by the offline model: 14 batches of 19, merged in three rounds."""
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("sample")
        patch.setenv("SEGKIT_HOME", str(place / "home"))
        sizes = {"products_per_prompt": 19, "taxonomies_per_consolidation": 3}
        return work(prepare_run(SAMPLE, runs_dir=place / "runs", model="offline", **sizes))


@pytest.mark.parametrize("name", EVERY_TABLE)
def test_every_table_can_be_shown(sample: Run, name: str) -> None:
    frame = getattr(tables, name)(sample)
    html = tables.show(frame)._repr_html_()
    assert html.count("<tr>") == 1 + min(len(frame), 100)
    assert "nan" not in html.lower().replace("nano", "")


def test_the_plan_counts_the_calls_that_were_made(sample: Run) -> None:
    calls = {name: stage.calls for name, stage in sample.status.stages.items()}
    plan = tables.batch_plan(sample)
    assert dict(zip(plan["stage"], plan["calls"], strict=True)) == calls
    assert plan["each_holds"][0] == "19 products"


def test_every_product_is_counted_once(sample: Run) -> None:
    count = len(sample.products)
    outside = (sample.result("lineage")["category"] == "OUT_OF_SCOPE").sum()
    assert tables.merge_tree(sample)["products"].sum() == count - outside
    assert merge_paths(sample)["products"].sum() == count - outside
    assert tables.segments(sample)["products"].sum() == count
    assert tables.segments(sample)["before_refinement"].sum() == count
    assert tables.batch_categories(sample)["products"].sum() == count


def test_the_merge_tree_conserves_the_categories_of_the_batches(sample: Run) -> None:
    assert tables.merge_tree(sample)["merged"].sum() == len(merge_paths(sample))
    lineage = sample.result("lineage")
    placed = lineage[lineage["batch_category"] != "OUT_OF_SCOPE"]
    ends = merge_paths(sample).set_index(["batch", "batch_category"])["category"]
    assert list(placed["category"]) == [
        ends[key] for key in zip(placed["batch"], placed["batch_category"], strict=True)
    ]


def test_examples_are_of_every_category_and_begin_with_the_surest(sample: Run) -> None:
    shown = tables.examples(sample, per_category=3)
    sizes = sample.result("lineage")["refined_category"].value_counts()
    assert shown["category"].value_counts().to_dict() == sizes.clip(upper=3).to_dict()
    assert shown.groupby("category")["confidence"].apply(lambda column: column.is_monotonic_decreasing).all()
    assert shown["product_id"].is_unique


def test_the_summary_says_that_offline_is_no_language_model(sample: Run) -> None:
    told = tables.summary(sample).set_index("fact")["value"]
    assert "no language model" in told["model"]
    assert told["products"] == str(len(sample.products))
    assert int(told["moved by refinement"]) == len(tables.moved_products(sample))


def test_unknown_usage_and_cost_are_said_to_be_unknown(sample: Run) -> None:
    spent = tables.spending(replace(sample.status.total, unmetered=2, unpriced=3, cost_usd=Decimal("0.25")))
    assert spent["cost"] == "$0.2500 (unknown for 3 calls)"
    assert spent["tokens"].endswith("(not reported for 2 calls)")


def test_the_path_of_a_product_names_every_step_and_its_log(sample: Run) -> None:
    lineage = sample.result("lineage")
    moved = lineage[(lineage["refined_by"] != "") & (lineage["category"] != "OUT_OF_SCOPE")].iloc[0]
    path = tables.product_path(sample, int(moved["product_id"]))
    assert path["step"].tolist() == ["stated", "merged", "merged", "merged", "moved by refinement"]
    assert path["where"][0] == f"batch {moved['batch']}"
    assert path["category"].iloc[[0, -2, -1]].tolist() == [
        moved["batch_category"], moved["category"], moved["refined_category"],
    ]  # fmt: skip
    assert path["cache_key"].iloc[[0, -1]].tolist() == [moved["cache_key"], moved["refined_by"]]
    for key, file in zip(path["cache_key"], path["file_path"], strict=True):
        assert key in (sample.folder.parent / file).read_text()


def test_every_product_has_a_path_that_ends_where_it_stands(new_run: Callable[..., Run]) -> None:
    run = work(new_run(14, model="offline"))
    for product, category in zip(*run.result("lineage")[["product_id", "refined_category"]].T.values, strict=True):
        assert tables.product_path(run, product)["category"].iloc[-1] == category


def test_a_product_without_a_title_is_unassigned_with_its_reason(new_run: Callable[..., Run]) -> None:
    titles = pd.array(["Red kettle", "", "Blue kettle"], dtype="str")
    run = work(new_run(pd.DataFrame({"product_id": [1, 2, 3], "title": titles}), model="offline"))
    left = tables.unassigned(run)
    assert left[["product_id", "state", "reason"]].values.tolist() == [[2, "unassigned", "no title"]]
    assert tables.product_path(run, 2)[["step", "where"]].values.tolist() == [["unassigned", "no title"]]
    assert tables.batch_categories(run)["products"].sum() == 2


def test_a_single_batch_needs_no_merge(new_run: Callable[..., Run]) -> None:
    run = work(new_run(4, model="offline"))
    assert merge_steps(run).empty
    assert tables.product_path(run, 100)["step"].tolist()[0] == "stated"
    assert tables.merge_tree(run)["products"].sum() == 4


def test_a_merge_without_a_valid_answer_is_told_as_merged_by_name(new_run: Callable[..., Run]) -> None:
    run = work(new_run(12, model="offline"))
    for log in (run.folder / "consolidate_taxonomy").glob("*.json"):
        log.write_bytes(b"")
    with pytest.warns(UserWarning, match="damaged logs are passed over"):
        steps = tables.product_path(run, 100)
    assert steps["step"].tolist()[1] == "merged by name"
    with pytest.warns(UserWarning, match="damaged logs are passed over"):
        assert len(query("FROM damaged_logs", run=run)) == 1


def test_an_unknown_product_is_refused(sample: Run) -> None:
    with pytest.raises(ProductsError, match="product 5 is not in RUN_"):
        tables.product_path(sample, 5)


def test_texts_and_column_names_are_escaped() -> None:
    frame = pd.DataFrame({"<b>name</b>": ["<script>alert(1)</script>"], "title": ["![x](http://evil.example/x.png)"]})
    html = tables.show(frame)._repr_html_()
    assert "<script" not in html
    assert "<b>" not in html
    assert "<img" not in html
    assert "&lt;script&gt;" in html


def test_values_are_written_as_people_write_them() -> None:
    frame = pd.DataFrame({"product_id": [1234567], "calls": [1234567], "cost_usd": [0.5], "share": [None]})
    html = tables.show(frame)._repr_html_()
    for text in (">1234567<", ">1,234,567<", ">0.5000<", ">–<", "cost usd"):
        assert text in html


def test_long_tables_are_cut_and_say_so() -> None:
    """What a notebook shows of a run does not grow with it."""
    html = tables.show(pd.DataFrame({"batch": [1, 1, 2], "n": [1, 2, 3]}), rows=2, once="batch")._repr_html_()
    assert "the first 2 of 3 rows" in html
    assert html.count(">1</td>") == 2
    assert "none" in tables.show(pd.DataFrame({"n": []}))._repr_html_()


def test_columns_that_differ_by_a_space_can_be_shown() -> None:
    assert tables.show(pd.DataFrame({"price_usd": [1], "price usd": [2]}))._repr_html_().count("price usd") == 2


def test_files_are_named_below_the_folder_of_the_runs(sample: Run) -> None:
    paths = tables.product_path(sample, int(sample.products["product_id"][0]))["file_path"]
    assert all((sample.folder.parent / path).is_file() for path in paths if path)
    assert all(Path(path).parts[0] == sample.id for path in paths if path)
