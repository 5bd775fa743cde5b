"""What a sample has not met: the bound, when reading stops, and how often the bound holds."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from catalogues import data
from hypothesis import given
from hypothesis import strategies as st

from segkit.core.batching import consolidation_rounds, reading_ends, sample_rounds
from segkit.core.models import OUT_OF_SCOPE
from segkit.core.taxonomy.unseen import least_batches, reading, readings_frame, sentence, unseen_bound, unseen_share


def test_nothing_is_unseen_of_what_was_read_whole() -> None:
    assert unseen_bound(50, 3, 100, 100) == unseen_share(50, 100, 100) == 0
    assert unseen_bound(0, 0, 0, 100) == unseen_share(0, 0, 100) == 1


@given(st.integers(0, 50), st.integers(0, 50), st.integers(100, 5000), st.integers(1, 100_000))
def test_the_bound_lies_above_the_estimate_and_falls_with_what_is_read(
    once: int, twice: int, read: int, more: int
) -> None:
    bound = unseen_bound(once, twice, read, read + more)
    assert unseen_share(once, read, read + more) < bound <= 1
    assert unseen_bound(once, twice, read, read + more) <= unseen_bound(once + 1, twice, read, read + more)
    assert unseen_bound(once, twice, read, read + more) >= unseen_bound(once, twice, read + 1, read + more)


def test_even_a_sample_that_met_each_kind_often_may_have_missed_one() -> None:
    assert unseen_bound(0, 0, 200, 10**6) == pytest.approx(0.0243, abs=5e-4)
    assert unseen_bound(0, 0, 600, 10**6) < 0.01


def test_a_reading_counts_kinds_not_products() -> None:
    ends = pd.Series(["a", "a", "a", "b", "b", "c", OUT_OF_SCOPE, ""])
    found = reading(1, 2, ends, 100)
    assert [found[name] for name in ("products", "categories", "met_once", "met_twice")] == [8, 3, 2, 1]
    assert found["unseen"] == pytest.approx(2 / 7 * (1 - 7 / 100))


def test_the_sentence() -> None:
    row = reading(3, 22, pd.Series(["a", "b"] * 440), 44_446)
    text = sentence(readings_frame([row]), 44_446)
    assert text == "read 880 of 44,446 products (22 batches): at most 0.6 % belong to a kind not met (95 %)"
    assert sentence(readings_frame([reading(1, 1, pd.Series(["a"] * 9), 9)]), 9) == "read all 9 products (1 batch)"


@given(st.integers(0, 3000))
def test_each_look_reads_a_quarter_more_and_the_last_one_all(batches: int) -> None:
    ends = reading_ends(batches)
    assert ends == sorted(set(ends))
    assert (ends[-1] if ends else 0) == batches
    assert all(b - a <= max(5, a / 4) for a, b in pairwise(ends))


@given(st.lists(st.integers(0, 60), max_size=8), st.integers(2, 25))
def test_the_rounds_of_a_sample_bring_all_together(added: list[int], most: int) -> None:
    """Each round uses every taxonomy once; one look alone is merged as a run without a sample."""
    left = sum(added)
    for sizes in sample_rounds(added, most):
        assert sum(sizes) == left
        assert max(sizes) <= most
        left = len(sizes)
    assert left <= 1
    assert sample_rounds(added[:1], most) == consolidation_rounds(added[:1], most)


def test_the_least_that_is_read() -> None:
    assert least_batches(44_446, 1112, 0.01) == 15
    assert least_batches(100, 3, 0.01) == 3
    assert least_batches(44_446, 1112, 1) == 5


def stopped(kinds: np.ndarray, order: np.random.Generator, most: float = 0.01) -> tuple[float, float]:
    """Read a shuffled catalogue until the bound pleases; return the share that is unseen then, and the bound."""
    kinds = order.permutation(np.unique(kinds, return_inverse=True)[1])
    sizes, batches = np.bincount(kinds), -(-len(kinds) // 40)
    for end in reading_ends(batches):
        read = len(kinds) * end // batches
        met = np.bincount(kinds[:read], minlength=len(sizes))
        bound = unseen_bound(int((met == 1).sum()), int((met == 2).sum()), read, len(kinds))
        if bound <= most:
            break
    return float(sizes[met == 0].sum()) / len(kinds), bound


def zipf(kinds: int, exponent: float, count: int, order: np.random.Generator) -> np.ndarray:
    weights = np.arange(1.0, kinds + 1) ** -exponent
    return order.choice(kinds, size=count, p=weights / weights.sum())


@pytest.mark.long
@pytest.mark.parametrize(
    ("kinds", "exponent", "count"),
    [(10, 2, 20_000), (50, 1, 20_000), (50, 2, 20_000), (200, 1, 20_000), (200, 2, 20_000), (1000, 1.5, 20_000),
     (1000, 2, 20_000), (50, 1.2, 1000), (100, 1, 3000)],
)  # fmt: skip
def test_the_bound_holds_where_reading_stops(kinds: int, exponent: float, count: int) -> None:
    """In 95 % of 300 draws at least, and that although the first look that pleases is taken."""
    order = np.random.default_rng(kinds + int(10 * exponent))
    catalogue = zipf(kinds, exponent, count, order)
    draws = [stopped(catalogue, order) for _ in range(300)]
    assert np.mean([unseen <= bound for unseen, bound in draws]) >= 0.95


@pytest.mark.long
def test_the_bound_holds_on_a_labelled_catalogue() -> None:
    kinds = pd.read_csv(data("fashion_catalogue.csv"))["subcategory"].to_numpy()
    order = np.random.default_rng(5)
    assert np.mean([unseen <= bound for unseen, bound in (stopped(kinds, order) for _ in range(300))]) >= 0.95
