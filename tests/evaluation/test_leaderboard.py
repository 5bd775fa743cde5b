"""Settings ranked: by labels or stability, with what cannot be told apart, the optimism of choosing, and prices."""

from __future__ import annotations

from pathlib import Path

import pytest
from page import Page

from segkit.errors import InputError, RunError
from segkit.evaluation.agreement import ami, placements
from segkit.evaluation.labels import labels_of
from segkit.evaluation.leaderboard import Leaderboard, leaderboard_of
from segkit.evaluation.ranking import Setting
from segkit.runs.run import Run


def settings_of(runs: list[Run]) -> list[Setting]:
    return [Setting({"products_per_prompt": 40}, runs[:4]), Setting({"products_per_prompt": 12}, runs[4:])]


@pytest.fixture(scope="module")
def board(sample_runs: list[Run]) -> Leaderboard:
    return leaderboard_of(settings_of(sample_runs), label_column="segment_label")


def test_settings_are_ranked_by_labels_and_paired_by_seed(board: Leaderboard, sample_runs: list[Run]) -> None:
    truth = labels_of(sample_runs[0], label_column="segment_label").names
    scores = [ami(placements(run), truth) for run in sample_runs]
    means = {"products_per_prompt=40": sum(scores[:4]) / 4, "products_per_prompt=12": sum(scores[4:]) / 4}
    assert board.best == max(means, key=means.__getitem__)
    assert board.table["ami"].tolist() == pytest.approx(sorted(means.values(), reverse=True))
    second = board.table.iloc[1]
    assert second["difference_low"] < second["difference"] < second["difference_high"]
    assert second["difference"] == pytest.approx(min(means.values()) - max(means.values()))
    assert board.best in board.tied


def test_a_board_is_json_for_other_programs(board: Leaderboard) -> None:
    document = board.as_json()
    assert document.keys() >= {
        "by",
        "best",
        "baseline",
        "tied",
        "optimism",
        "expected",
        "pareto",
        "settings",
        "seeds",
    }
    assert document["seeds"] == [0, 1, 2, 3]
    for row in document["settings"]:
        assert row.keys() >= {"values", "runs", "ami", "ami_low", "b_cubed_high", "difference", "to_baseline_low"}
        assert len(row["runs"]) == 4
    assert document["optimism"] >= 0
    assert document["expected"] <= document["settings"][0]["ami"]


def test_without_labels_the_most_stable_is_first(sample_runs: list[Run]) -> None:
    board = leaderboard_of(settings_of(sample_runs))
    assert (board.by, board.metrics, board.optimism) == ("stability", ("stability",), None)
    assert board.table["stability"].is_monotonic_decreasing
    with pytest.raises(InputError, match="'ami'"):
        leaderboard_of(settings_of(sample_runs), by="ami")


def test_few_repeats_tell_nothing_apart_and_say_so(sample_runs: list[Run]) -> None:
    one = [Setting(setting.values, setting.runs[:1]) for setting in settings_of(sample_runs)]
    board = leaderboard_of(one, label_column="segment_label")
    assert board.table["difference_low"].isna().all()
    assert len(board.tied) == 2
    assert "--repeats 5" in str(board)
    with pytest.raises(RunError, match="enough finished runs"):
        leaderboard_of(one)  # stability takes two runs


def test_a_setting_whose_runs_failed_stands_last(sample_runs: list[Run]) -> None:
    failed = Setting({"products_per_prompt": 3}, [], ["3 products are unassigned"])
    board = leaderboard_of([*settings_of(sample_runs), failed], label_column="segment_label")
    assert board.table["setting"].iloc[-1] == failed.label
    assert failed.label not in board.tied
    assert "3 products are unassigned" in str(board)
    with pytest.raises(RunError, match="no run of the sweep has finished"):
        leaderboard_of([failed])


def test_two_runs_are_named_for_a_closer_look(board: Leaderboard, sample_runs: list[Run]) -> None:
    assert board.compared() == (sample_runs[0].id, sample_runs[4].id)


def test_prices_count_what_the_cache_answered(board: Leaderboard, sample_runs: list[Run]) -> None:
    """The offline model is free, so that calls stand for the price: those of a run that has nothing in the cache."""
    assert board.price == "calls"
    calls = board.table.set_index("setting")["calls"]
    assert calls["products_per_prompt=40"] < calls["products_per_prompt=12"]
    totals = [run.status.total for run in sample_runs[:4]]
    assert calls["products_per_prompt=40"] == sum(each.calls + each.cached for each in totals) / 4
    front = set(board.table.loc[board.table["pareto"], "setting"])
    assert {board.best, "products_per_prompt=40"} == front


def test_the_page_needs_nothing_else(board: Leaderboard, tmp_path: Path) -> None:
    page = Page(board.write_html(tmp_path / "board.html").read_text(encoding="utf-8"))
    assert page.remote == []
    assert page.tags.count("img") == 2
    assert "How far below the best" in page.text
    assert "Holm" in board._repr_html_()
