"""The statistics against values computed by hand or by another library; test_promises tries what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from segkit.evaluation import statistics
from segkit.evaluation.statistics import Estimate


def test_the_jackknife_of_a_mean_is_its_t_interval() -> None:
    """For a mean the jackknife gives the usual standard error exactly."""
    values = [3.0, 5.0, 4.0, 8.0]
    left_out = [float(np.mean(values[:i] + values[i + 1 :])) for i in range(4)]
    one, two = statistics.jackknife(5.0, left_out, "runs"), statistics.t_interval(values, "runs")
    assert (one.low, one.high) == pytest.approx((two.low, two.high))
    assert (two.low, two.high) == pytest.approx(stats.t.interval(0.95, 3, 5, stats.sem(values)))


def test_one_unit_has_no_interval_and_says_so() -> None:
    estimate = statistics.jackknife(0.7, [0.7], "runs")
    assert (estimate.low, estimate.high) == (None, None)
    assert "no interval" in str(estimate)
    assert estimate.as_json("ami") == {"ami": 0.7}


def test_pairs_of_three_runs() -> None:
    """The mean of three pairs; leaving one run out leaves the pair of the other two."""
    similarity = np.array([[1, 0.5, 0.6], [0.5, 1, 0.7], [0.6, 0.7, 1]])
    estimate = statistics.mean_pairwise(similarity)
    error = math.sqrt(2 / 3 * (0.1**2 + 0.1**2))
    assert estimate.value == pytest.approx(0.6)
    assert estimate.high == pytest.approx(0.6 + stats.t.ppf(0.975, 2) * error)
    assert statistics.mean_pairwise(similarity[:2, :2]).low is None


def test_wilson_of_the_textbook() -> None:
    """10 of 100: 5.5 to 17.4 %, as statsmodels, R's prop.test(correct=FALSE) and scipy have it."""
    estimate = statistics.wilson(10, 100)
    reference = stats.binomtest(10, 100).proportion_ci(method="wilson")
    assert (estimate.low, estimate.high) == pytest.approx((reference.low, reference.high))
    assert (estimate.low, estimate.high) == pytest.approx((0.0552, 0.1744), abs=1e-4)


@pytest.mark.parametrize("successes", [0, 3, 20])
def test_clopper_pearson_is_scipys_exact_interval(successes: int) -> None:
    estimate = statistics.clopper_pearson(successes, 20)
    reference = stats.binomtest(successes, 20).proportion_ci(method="exact")
    assert (estimate.low, estimate.high) == pytest.approx((reference.low, reference.high))


def test_batches_without_luck_of_their_own_give_wilsons_interval() -> None:
    outcomes, batches = [1, 0, 0, 0] * 10, [i // 8 for i in range(40)]
    estimate = statistics.clustered_rate(outcomes, batches)
    assert (estimate.low, estimate.high) == pytest.approx(
        (statistics.wilson(10, 40).low, statistics.wilson(10, 40).high)
    )


def test_batches_that_are_all_or_nothing_count_as_one_product_each() -> None:
    """Then the design effect is the size of a batch times k ÷ (k - 1), and the interval much wider."""
    outcomes, batches = [1.0] * 20 + [0.0] * 20, [i // 10 for i in range(40)]
    wide, narrow = statistics.clustered_rate(outcomes, batches), statistics.wilson(20, 40)
    assert wide.high is not None
    assert narrow.high is not None
    assert wide.high - wide.value > 2 * (narrow.high - narrow.value)


def test_corrections_of_the_textbook() -> None:
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.benjamini_hochberg([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.04, 0.04])


def test_krippendorffs_own_example() -> None:
    """Krippendorff (2011), section B: two observers, ten units, nominal alpha 0.095."""
    first, second = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    assert statistics.krippendorff_alpha(list(zip(first, second, strict=True))) == pytest.approx(0.095, abs=5e-4)
    assert statistics.krippendorff_alpha([("a", "a", None), ("b", "b", "b"), ("c", None, None)]) == 1


def test_four_runs_each_are_the_least_that_reach_five_percent() -> None:
    """Two groups that never agree: one of 35 splits with four runs each, one of ten with three."""
    for size, p in ((3, 1 / 10), (4, 1 / 35)):
        similarity = np.kron(np.eye(2), np.ones((size, size)))
        assert statistics.group_test(similarity, size) == pytest.approx(p)


def test_runs_that_are_all_the_same_differ_in_nothing() -> None:
    assert statistics.group_test(np.ones((8, 8)), 4) == 1
    assert statistics.sign_flip_test([0.0] * 5) == 1
    assert statistics.t_test([0.0] * 5) == 1


def test_flipping_signs_of_five_equal_differences() -> None:
    """Only all plus and all minus are as extreme: 2 of 32; and 20 of them are drawn, not counted."""
    assert statistics.sign_flip_test([0.1] * 5) == pytest.approx(2 / 32)
    assert statistics.sign_flip_test([0.1] * 20) == pytest.approx(1 / statistics.EXACT)


def test_permuting_within_batches_keeps_their_sums() -> None:
    """Of a batch of 3 and 3 with two outcomes, and one of 2 and 4 with three; the means are those of the urn."""
    sizes, totals = np.array([[3.0, 3.0], [2.0, 4.0]]), np.array([2.0, 3.0])
    drawn = statistics.permute_within(sizes, totals, times=4000)
    assert set(drawn.sum(axis=1)) == {5.0}
    assert drawn.mean(axis=0) == pytest.approx([1 + 1, 1 + 2], abs=0.05)
    assert drawn[:, 0].var() == pytest.approx(0.4 + 0.4, abs=0.05)


def test_a_rank_correlation_has_the_p_of_its_permutations() -> None:
    """Of 24 orders of four units, two are as extreme as one that is in order."""
    rank, p = statistics.correlation_test(np.arange(4.0), np.arange(4.0), times=4000)
    assert (rank, p) == (pytest.approx(1), pytest.approx(2 / 24, abs=0.02))
    assert statistics.correlation_test(np.arange(4.0), np.zeros(4)) == (0.0, 1.0)


def test_a_share_with_a_perfect_model_needs_no_labels_for_its_precision() -> None:
    """Where predictions are right, the interval is about that of all products and not of the labelled ones."""
    rest = np.arange(10_000) % 4 == 0
    labels = np.arange(200) % 4 == 0
    estimate = statistics.share(labels, labels, rest)
    assert estimate.high is not None
    assert estimate.high - estimate.value < 0.012
    assert statistics.wilson(50, 200).high - 0.25 > 0.05  # type: ignore[operator]


def test_a_share_of_few_labels_is_wilsons_and_one_of_all_labels_is_their_own() -> None:
    labels = np.arange(200) < 5
    assert statistics.share(labels, labels, labels) == statistics.wilson(5, 200, "labelled products")
    all_labelled = statistics.share(np.arange(100) % 2 == 0, np.zeros(100), [])
    assert all_labelled.value == 0.5
    half = stats.t.ppf(0.975, 99) * 0.5 / math.sqrt(99)
    assert all_labelled.low == pytest.approx(1 / (1 + math.exp(half / 0.25)))  # on the scale of log odds


def test_unseen_mass_of_the_textbook() -> None:
    """Five kinds, two of them met once: 2 of 12 products; a sample without any of them has met all."""
    assert statistics.unseen_mass([5, 3, 2, 1, 1]).value == pytest.approx(2 / 12)
    assert statistics.unseen_mass([6, 6]).high == 0
    assert statistics.unseen_mass([]) == Estimate(1.0, 0.0, 1.0, 0, "products")


def test_the_jackknife_test_of_a_mean_is_students() -> None:
    values = [0.02, 0.05, -0.01, 0.04, 0.03]
    left_out = [float(np.mean(values[:i] + values[i + 1 :])) for i in range(5)]
    expected = stats.ttest_1samp(values, 0, alternative="greater").pvalue
    assert statistics.jackknife_test(float(np.mean(values)), left_out) == pytest.approx(expected)
    assert statistics.jackknife_test(0.1, [0.1, 0.1, 0.1]) == 0
    assert statistics.jackknife_test(0.0, [0.0, 0.0]) == 1
    assert statistics.jackknife_test(0.1, []) == 1


def test_a_choice_by_luck_is_optimistic_and_a_clear_one_is_not() -> None:
    """One seed alone decides in the first case: without it, the other setting is chosen, 0.3 lower on that seed."""
    luck = np.array([[[0.8], [0.4], [0.4]], [[0.5], [0.5], [0.5]]])
    assert statistics.selection_optimism(luck, 0) == pytest.approx(0.3 / 3)
    clear = np.array([[[0.9], [0.8]], [[0.1], [0.2]]])
    assert statistics.selection_optimism(clear, 0) == 0
    assert statistics.selection_optimism(clear[:, :1], 0) is None
