"""People's edits of a taxonomy: refused with a reason, or applied so that a second time changes nothing."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkit.core.taxonomy.edits import Edit, edited
from segkit.core.taxonomy.keys import taxonomy_frame
from segkit.errors import TaxonomyError

KEYS = [f"C-{number}" for number in range(1, 7)]
BASE = taxonomy_frame(
    [
        {"key": key, "id": i, "category_name": f"Kind {i}", "definition": f"All {i}", "product_count": 10 * i}
        for i, key in enumerate(KEYS, start=1)
    ]
)
EDITS = st.one_of(
    st.builds(Edit, st.just("rename"), st.sampled_from(KEYS), st.sampled_from(["Kind 1", "New A", "New B"])),
    st.builds(Edit, st.just("redefine"), st.sampled_from(KEYS), st.just(""), st.sampled_from(["All 1", "Other"])),
    st.builds(Edit, st.just("merge_into"), st.sampled_from(KEYS), into=st.tuples(st.sampled_from(KEYS))),
    st.builds(Edit, st.just("split"), st.sampled_from(KEYS), into=st.just(("Part A", "Part B: small ones"))),
    st.builds(Edit, st.sampled_from(["delete", "lock"]), st.sampled_from(KEYS)),
    st.builds(Edit, st.just("add"), st.just(""), st.sampled_from(["New A", "New C"]), st.just("Things")),
)


@given(st.lists(EDITS, max_size=6))
def test_a_list_applied_twice_is_applied_once_and_loses_no_product(edits: list[Edit]) -> None:
    try:
        first = edited(BASE, edits)
    except TaxonomyError:
        return
    again = edited(first.taxonomy, edits)
    pd.testing.assert_frame_equal(again.taxonomy, first.taxonomy)
    assert not again.changes
    assert not again.asked
    asked = BASE.set_index("key").loc[list(first.asked), "product_count"].sum()
    assert first.taxonomy["product_count"].sum() + asked == BASE["product_count"].sum()
    assert first.taxonomy["key"].is_unique
    assert set(KEYS) <= set(first.taxonomy["key"]), "retired keys stay in the register"


@pytest.mark.parametrize(
    ("edits", "why"),
    [
        ([Edit("merge_into", "C-1", into=("C-2",)), Edit("merge_into", "C-2", into=("C-1",))], "in a circle"),
        ([Edit("merge_into", "C-1", into=("C-1",))], "in a circle"),
        ([Edit("rename", "C-1", "kind 2")], "the same name"),
        ([Edit("delete", "C-1"), Edit("merge_into", "C-2", into=("C-1",))], "which has delete"),
        ([Edit("delete", "C-9", where="row 7")], "row 7: there is no category C-9"),
        ([Edit("split", "C-1", into=("One",))], "two parts or more"),
    ],
)
def test_what_cannot_be_applied_says_why(edits: list[Edit], why: str) -> None:
    with pytest.raises(TaxonomyError, match=why):
        edited(BASE, edits)


@pytest.mark.parametrize(
    "edits",
    [
        [Edit("redefine", "C-1", "", "All 1"), Edit("redefine", "C-1", "", "Other")],
        [Edit("lock", "C-1"), Edit("unlock", "C-1")],
    ],
)
def test_edits_that_contradict_each_other_are_refused_whatever_holds_now(edits: list[Edit]) -> None:
    """One of the two is what the taxonomy is already; else each application of the list would undo the last."""
    with pytest.raises(TaxonomyError, match=r"more than once|can have one of them"):
        edited(BASE, edits)
