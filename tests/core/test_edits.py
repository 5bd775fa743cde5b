"""People's edits of a taxonomy: refused with a reason, or applied so that a second time changes nothing."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkit.core.taxonomy.edits import Edit, edited, moved_rows
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
    st.builds(Edit, st.just("split"), st.sampled_from(KEYS)),
    st.builds(Edit, st.sampled_from(["delete", "lock"]), st.sampled_from(KEYS)),
    st.builds(Edit, st.just("add"), st.just(""), st.sampled_from(["New A", "New C"]), st.just("Things")),
    st.builds(Edit, st.just("add"), st.just(""), st.just("Kind 1"), st.just("All 1")),
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


@given(st.lists(EDITS, max_size=6))
def test_every_product_is_kept_or_asked_about_and_those_of_a_deleted_category_are_told(edits: list[Edit]) -> None:
    try:
        result = edited(BASE, edits)
    except TaxonomyError:
        return
    numbers = [number for number in range(1, 7) for _ in range(3)]
    names = [f"Kind {number}" for number in numbers]
    rows = pd.DataFrame({"product_id": range(1, 19), "taxonomy_id": numbers, "refined_taxonomy_id": numbers})
    rows = rows.assign(category=names, refined_category=names)
    kept, asked = moved_rows(rows, BASE, result)
    assert sorted([*kept["product_id"], *asked["product_id"]]) == rows["product_id"].tolist()
    for key, action in result.asked.items():
        told = asked[asked["key"] == key]
        assert told["product_id"].tolist() == rows.loc[rows["taxonomy_id"] == int(key[2:]), "product_id"].tolist()
        assert set(told["action"]) == {action}
    assert {edit.key for edit in result.changes if edit.action == "delete"} <= set(asked["key"])
    after = result.taxonomy.set_index("id")
    assert set(kept["refined_taxonomy_id"].map(after["state"])) <= {"active"}
    assert kept["refined_category"].tolist() == kept["refined_taxonomy_id"].map(after["category_name"]).tolist()


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


def test_a_list_may_unlock_what_it_edits() -> None:
    locked = edited(BASE, [Edit("lock", "C-1")]).taxonomy
    with pytest.raises(TaxonomyError, match=r"C-1 \(Kind 1\) is locked"):
        edited(locked, [Edit("delete", "C-1")])
    both = edited(locked, [Edit("rename", "C-1", "Kinds"), Edit("unlock", "C-1")]).taxonomy.set_index("key")
    assert both.loc["C-1", ["category_name", "is_locked"]].tolist() == ["Kinds", False]


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


@pytest.mark.parametrize("other", [Edit("delete", "C-1"), Edit("rename", "C-1", "New A")])
def test_a_category_is_added_in_place_of_one_that_goes(other: Edit) -> None:
    result = edited(BASE, [other, Edit("add", "", "Kind 1", "All 1")])
    assert [edit.key for edit in result.changes] == ["C-1", "C-7"]
    living = result.taxonomy[result.taxonomy["state"] == "active"]
    assert living.set_index("key")["category_name"]["C-7"] == "Kind 1"


def test_what_is_proposed_is_not_added_but_accepted() -> None:
    proposed = BASE.assign(state=["active"] * 5 + ["proposed"])
    with pytest.raises(TaxonomyError, match=r"C-6 \(Kind 6\) is proposed; `accept` it"):
        edited(proposed, [Edit("add", "", "kind 6", "All 6")])
