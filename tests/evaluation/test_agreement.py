"""How far placements agree: on small ones whose answer can be seen, and on real runs."""

from __future__ import annotations

import pandas as pd
import pytest

from segkit.core.models import OUT_OF_SCOPE
from segkit.errors import RunError
from segkit.evaluation import agreement


def placed(text: str) -> pd.Series:
    """A placement from a word: a letter a product, `-` for none, `!` for out of scope."""
    names = {"-": "", "!": OUT_OF_SCOPE}
    return pd.Series([names.get(letter, letter) for letter in text], dtype="str")


def test_other_names_are_no_difference() -> None:
    first, second = placed("aaabbbcc!-"), placed("xxxyyyzz!-")
    assert agreement.ami(first, second) == pytest.approx(1)
    assert not agreement.moved_products(first, second).any()
    assert agreement.match_categories(first, second)["a"] == "x"


def test_of_a_split_category_the_smaller_part_has_moved() -> None:
    """One to one, the larger part is the match; the containment table shows both parts."""
    first, second = placed("aaaaabb"), placed("xxxyybb")
    assert agreement.moved_products(first, second).tolist() == [False, False, False, True, True, False, False]
    shares = agreement.containment(first, second)
    assert shares.loc["a", "x"] == pytest.approx(0.6)
    assert shares.loc["a", "y"] == pytest.approx(0.4)
    assert (shares.sum(axis=1) == 1).all()


def test_a_category_without_a_match_has_a_row_of_its_own() -> None:
    table = agreement.matched_table(placed("aaaabb"), placed("xxxxyz"))
    assert sorted(zip(table["first"], table["second"], strict=True)) == [("", "z"), ("a", "x"), ("b", "y")]
    assert table.set_index("second").loc["y", "jaccard"] == pytest.approx(1 / 2)


def test_out_of_scope_is_matched_with_nothing_else() -> None:
    assert agreement.moved_products(placed("aa!!"), placed("xxxx")).tolist() == [False, False, True, True]


def test_a_category_that_holds_in_every_run_has_a_jaccard_of_one() -> None:
    runs = [placed("aaabbbcc"), placed("xxxyyzzz"), placed("pppqqqqq")]
    table = agreement.best_matches(runs, 0).set_index("category")["jaccard"]
    assert table["a"] == 1
    assert table["b"] == pytest.approx((2 / 3 + 3 / 5) / 2)


def test_votes_take_the_majority_under_the_names_of_the_middle_run() -> None:
    votes = agreement.vote_shares([placed("aaabbb"), placed("xxyyyy"), placed("pppqqq")], 0)
    assert votes["category"].tolist() == list("aaabbb")
    assert votes["agreement"].tolist() == pytest.approx([1, 1, 2 / 3, 1, 1, 1])


def test_consensus_finds_the_groups_that_most_runs_have() -> None:
    """Two of three runs have the third product in the first group; its margin is the smallest."""
    frame = pd.concat([placed("aaabbb"), placed("aaabbb"), placed("aabbbb")], axis=1)
    groups, margin = agreement.consensus_groups(frame)
    assert agreement.ami(groups.astype(str), placed("aaabbb")) == pytest.approx(1)
    assert margin.idxmin() == 2


def test_products_that_one_run_lacks_are_left_out_and_none_in_common_is_an_error() -> None:
    assert agreement.ami(placed("aabb"), placed("aabbc")) == pytest.approx(1)
    with pytest.raises(RunError, match="no product in common"):
        agreement.ami(placed("aa"), placed("aaaa").iloc[2:])
