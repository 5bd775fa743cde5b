"""What the statistics promise (coverage, false alarms, power), tried by simulation."""

from __future__ import annotations

import pytest
import simulations

pytestmark = pytest.mark.long


@pytest.mark.parametrize(("test", "batches"), [("t_test", 13), ("t_test", 25), ("sign_flip_test", 13)])
def test_comparisons_of_equal_prompts_alarm_in_five_percent(test: str, batches: int) -> None:
    """1,000 comparisons of a prompt with itself, with errors that cluster by batch."""
    assert 0.035 <= simulations.alarms(test, batches) <= 0.065


def test_a_better_prompt_is_found_with_enough_batches() -> None:
    """A true difference of about five points (0.4 on the logit scale)."""
    assert simulations.alarms("t_test", 25, effect=0.4) >= 0.35
    assert simulations.alarms("t_test", 100, effect=0.4) >= 0.9


@pytest.mark.parametrize(("rate", "icc"), [(0.12, 0.03), (0.12, 0.06), (0.3, 0.03), (0.3, 0.06)])
def test_asked_twice_intervals_hold_the_rate(rate: float, icc: float) -> None:
    assert 0.93 <= simulations.asked_twice_coverage(rate, icc) <= 0.97


def test_stability_intervals_hold_the_agreement() -> None:
    assert 0.93 <= simulations.stability_coverage(5) <= 0.97


@pytest.mark.parametrize("labelled", [200, 400])
def test_shares_hold_for_segments_with_ten_labels(labelled: int) -> None:
    """And they are a third narrower than the labels alone would allow."""
    found = simulations.share_coverage(labelled)
    assert 0.93 <= found["ten_or_more"] <= 0.97
    assert 0.93 <= found["all"] <= 0.97
    assert found["width"] < 0.67 * found["naive_width"]


@pytest.mark.parametrize("uneven", [False, True])
def test_a_fair_model_is_flagged_in_at_most_five_percent(uneven: bool) -> None:
    """Thousands of runs, which show the share to half a point; batches of two sizes are tested for size as well."""
    assert simulations.audit_alarms(25, uneven=uneven) <= 0.05


def test_ten_points_more_errors_at_the_end_are_found() -> None:
    assert simulations.audit_alarms(25, extra=0.1) >= 0.75


@pytest.mark.parametrize(("settings", "repeats", "gap"), [(3, 3, 0.005), (6, 5, 0.0), (6, 5, 0.002), (12, 5, 0.02)])
def test_the_settings_tied_with_the_best_hold_the_best(settings: int, repeats: int, gap: float) -> None:
    assert simulations.best_in_the_set(settings, repeats, gap)["held"] >= 0.95


@pytest.mark.parametrize(("settings", "gap"), [(3, 0.005), (6, 0.0), (6, 0.002), (12, 0.02), (12, 0.05)])
def test_halving_keeps_the_best_and_saves_runs(settings: int, gap: float) -> None:
    """Where settings differ clearly, many runs are saved; where they hardly do, none, and the best is not lost."""
    found = simulations.best_in_the_set(settings, 5, gap, halving=True)
    assert found["held"] >= 0.95
    assert found["saved"] >= {0.02: 0.25, 0.05: 0.4}.get(gap, 0.0)


def test_settings_that_are_clearly_worse_are_not_tied() -> None:
    """Of twelve settings two points apart, at most a third is tied with the best after five repeats."""
    assert simulations.best_in_the_set(12, 5, 0.02)["size"] <= 4


@pytest.mark.parametrize(("settings", "spread"), [(3, 0.0), (10, 0.0), (10, 0.02), (30, 0.0), (30, 0.05)])
def test_the_optimism_of_having_chosen_is_corrected(settings: int, spread: float) -> None:
    """Where settings are alike, hardly anything of it is left; where they differ, the correction is cautious."""
    found = simulations.optimism_left(settings, spread)
    assert found["naive"] >= 0.025
    assert -0.015 <= found["corrected"] <= 0.003
