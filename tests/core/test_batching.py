"""Cutting into batches: every product once, evenly, and in an order that the input's order never changes."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.core.batching import calculate_optimal_batch_sizes, consolidation_rounds, cut, letters, shuffled


@pytest.mark.parametrize(
    ("total", "most", "sizes"),
    [
        (59, 40, [30, 29]),
        (0, 40, []),
        (1, 40, [1]),
        (40, 40, [40]),
        (41, 40, [21, 20]),
        (5, 1, [1] * 5),
        (7, 3, [3, 2, 2]),
    ],
)
def test_known_sizes(total: int, most: int, sizes: list[int]) -> None:
    """59 at 40 give 30 and 29; nothing gives no batch."""
    assert calculate_optimal_batch_sizes(total, most) == sizes


@given(st.integers(0, 5000), st.integers(1, 1200))
def test_sizes_are_few_even_and_complete(total: int, most: int) -> None:
    """Conservation, evenness, and no batch more than needed."""
    sizes = calculate_optimal_batch_sizes(total, most)
    assert sum(sizes) == total
    assert len(sizes) == -(-total // most)
    assert all(1 <= size <= most for size in sizes)
    assert not sizes or max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(("total", "most"), [(-1, 40), (10, 0), (10, -5)])
def test_impossible_sizes_are_refused(total: int, most: int) -> None:
    """The error names both numbers."""
    with pytest.raises(ValueError, match=f"{total} into batches of {most}"):
        calculate_optimal_batch_sizes(total, most)


@given(st.lists(st.integers(), max_size=300), st.integers(1, 50))
def test_a_cut_conserves_everything_in_order(things: list[int], most: int) -> None:
    """Put together again, the batches are what was cut, twins included."""
    batches = cut(things, most)
    assert [thing for batch in batches for thing in batch] == things
    assert [len(batch) for batch in batches] == calculate_optimal_batch_sizes(len(things), most)


@given(st.sets(st.integers(-(2**63), 2**63 - 1), max_size=100), st.integers(), st.randoms(use_true_random=False))
def test_the_order_of_the_input_is_forgotten(ids: set[int], seed: int, chance: random.Random) -> None:
    """The same ids with the same seed have one order, however they come."""
    mixed = list(ids)
    chance.shuffle(mixed)
    before = list(mixed)
    assert shuffled(mixed, seed) == shuffled(sorted(ids), seed)
    assert sorted(shuffled(mixed, seed)) == sorted(ids)
    assert mixed == before, "the input was changed"


def test_a_seed_means_one_order_for_ever() -> None:
    """A resumed run on another day or machine cuts the same batches."""
    assert shuffled(range(10), 0) == [7, 8, 1, 5, 3, 4, 2, 0, 9, 6]
    assert shuffled(range(10), 0) != shuffled(range(10), 1)


def test_shuffling_mixes_the_corners_of_a_catalogue() -> None:
    """A sorted catalogue of ten shelves has nearly all of them in each batch."""
    for batch in cut(shuffled(range(1000), 0), 40):
        assert len({product // 100 for product in batch}) >= 7


@pytest.mark.parametrize(
    ("number", "name"),
    [(0, "A"), (25, "Z"), (26, "AA"), (27, "AB"), (51, "AZ"), (52, "BA"), (701, "ZZ"), (702, "AAA")],
)
def test_letters(number: int, name: str) -> None:
    """Letters run A…Z, AA, AB, …"""
    assert letters(number) == name


def test_letters_are_unique_and_in_order() -> None:
    """No two taxonomies share a letter, and longer names come later."""
    names = [letters(number) for number in range(2000)]
    assert all((len(a), a) < (len(b), b) for a, b in pairwise(names))


@pytest.mark.parametrize(
    ("taxonomies", "most", "rounds"),
    [
        (250, 20, [[20] * 3 + [19] * 10, [13]]),
        (25, 20, [[13, 12], [2]]),
        (1, 20, []),
        (0, 20, []),
        (2, 2, [[2]]),
        (3, 2, [[2, 1], [2]]),
    ],
)
def test_known_rounds(taxonomies: int, most: int, rounds: list[list[int]]) -> None:
    """250 at 20 are 13 merges and one of 13; one taxonomy needs none."""
    assert consolidation_rounds([taxonomies], most) == rounds


@given(st.integers(0, 3000), st.integers(2, 200))
@settings(deadline=None)
def test_rounds_end_in_one_taxonomy(taxonomies: int, most: int) -> None:
    """Each round takes in all that the one before gave, and the last gives one."""
    left = taxonomies
    for sizes in consolidation_rounds([taxonomies], most):
        assert sum(sizes) == left
        assert max(sizes) <= most
        assert len(sizes) < left, "a round that merges nothing"
        left = len(sizes)
    assert left == min(taxonomies, 1)


@pytest.mark.parametrize("most", [1, 0, -3])
def test_merging_one_at_a_time_would_never_end(most: int) -> None:
    """Fewer than two taxonomies a merge are refused, not tried for ever."""
    with pytest.raises(ValueError, match=f"{most} at a time"):
        consolidation_rounds([5], most)
