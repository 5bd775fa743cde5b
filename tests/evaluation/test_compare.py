"""Comparing runs: what differs is named, what does not differ is not, and noise is told from a difference."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from endpoint import Endpoint
from page import Page
from sklearn.metrics import adjusted_mutual_info_score

from segkit import compare
from segkit.pipeline.stages import consolidate_taxonomy, extract_taxonomy, refine_assignments
from segkit.runs.run import Run
from segkit.settings import project_folder

FIELDS = {"ami", "noise_floor", "p_value", "moved", "stable_movers", "calls", "cost_usd"}


def worked(run: Run) -> Run:
    for stage in (extract_taxonomy, consolidate_taxonomy, refine_assignments):
        stage(run)
    return run


def test_a_run_against_itself_differs_in_nothing(sample_runs: list[Run]) -> None:
    comparison = compare(sample_runs[0], sample_runs[0])
    assert comparison.ami == 1
    assert comparison.moved.empty
    assert comparison.parameters.empty
    assert comparison.prompts == {}
    assert comparison.p_value is None
    assert "nothing differs" in str(comparison)


def test_repeats_are_found_and_make_the_noise_floor(sample_runs: list[Run]) -> None:
    comparison = compare(sample_runs[0], sample_runs[4])
    assert comparison.noise_floor is not None
    assert (comparison.noise_floor.count, comparison.noise_floor_second.count) == (4, 4)
    assert comparison.parameters["parameter"].tolist() == ["products_per_prompt"]
    assert 1 / 35 <= comparison.p_value <= 1
    assert comparison.as_json().keys() >= FIELDS | {"noise_floor_low", "noise_floor_high"}


def test_the_agreement_is_that_of_scikit_learn(sample_runs: list[Run]) -> None:
    lineages = [run.result("lineage").sort_values("product_id")["refined_category"] for run in sample_runs[:2]]
    assert compare(*sample_runs[:2]).ami == pytest.approx(adjusted_mutual_info_score(*lineages))


def test_runs_with_the_same_settings_are_never_called_different(sample_runs: list[Run]) -> None:
    comparison = compare(sample_runs[0], sample_runs[1])
    assert comparison.p_value is None
    assert comparison.same_settings
    assert "noise" in str(comparison)


def test_stable_movers_stand_first_with_their_logs(sample_runs: list[Run]) -> None:
    moved = compare(sample_runs[0], sample_runs[4]).moved
    assert moved["stable"].is_monotonic_decreasing
    assert moved["file_first"].str.endswith(".json").all()
    assert moved["title"].notna().all()


def test_labels_show_which_run_is_better_with_an_interval(sample_runs: list[Run]) -> None:
    comparison = compare(sample_runs[0], sample_runs[4], label_column="segment_label")
    difference = comparison.label_difference
    assert difference.low < difference.value < difference.high
    assert difference.count == 8
    assert "label_difference_low" in comparison.as_json()


def test_a_model_that_groups_by_a_known_attribute_moves_nothing(
    endpoint: Endpoint, new_run: Callable[..., Run]
) -> None:
    """Another prompt changes no answer of it; what differs is named, word for word, and nothing is asked."""
    first = worked(new_run(24))
    shutil.copytree(project_folder("prompts"), "prompts")
    for path in Path("prompts").glob("*_v0.txt"):
        text = path.read_text(encoding="utf-8")
        changed = f"Be brief.\n{text}" if path.name.startswith("extract") else text
        path.with_name(path.name.replace("_v0", "_v1")).write_text(changed, encoding="utf-8")
    second = worked(new_run(24, prompts="v1"))
    asked = endpoint.count()
    comparison = compare(first, second)
    assert comparison.ami == pytest.approx(1)
    assert comparison.moved.empty
    assert list(comparison.prompts) == ["extract_taxonomy"]
    assert "+Be brief." in comparison.prompts["extract_taxonomy"].splitlines()
    page = comparison.write_html("compare.html").read_text(encoding="utf-8")
    assert "<ins>Be brief.\n</ins>" in page
    assert endpoint.count() == asked


def test_the_page_needs_nothing_else_and_escapes_what_shops_write(sample_runs: list[Run], tmp_path: Path) -> None:
    page = compare(sample_runs[0], sample_runs[4]).write_html(tmp_path / "compare.html").read_text(encoding="utf-8")
    assert "http://" not in page
    assert "https://" not in page
    assert "<script" not in page
    assert page.count("<img") == 1
    assert Page(page).barriers == []
    assert "Who moved, stable movers first" in page


def test_runs_with_one_taxonomy_are_compared_by_batches(endpoint: Endpoint, new_run: Callable[..., Run]) -> None:
    """Only the refinement differs, and moves a known share of products: the unit is the batch, not the run."""
    first = worked(new_run(60, products_per_prompt=10))
    labels = first.assignments[["product_id", "category"]].rename(columns={"category": "label"})
    endpoint.rule("mistakes", share=0.3, stage="refine_assignments")
    second = worked(new_run(60, products_per_prompt=10, temperature="1"))
    comparison = compare(first, second, labels=labels)
    difference = comparison.label_difference
    assert difference is not None
    assert (difference.unit, difference.count) == ("batches", 6)
    wrong = len(comparison.moved) / 60
    assert difference.low < -wrong < difference.high
    assert difference.value == pytest.approx(-wrong, abs=0.01)
    assert "share of right products" in str(comparison)
