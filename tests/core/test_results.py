"""The tables a run ends with: the same ids mean the same in all four, and every product has one state."""

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.core.models import OUT_OF_SCOPE, Category
from segkit.core.results import final_tables

TAXONOMY = [
    Category(f"S_{i}", name, f"About {name}") for i, name in enumerate(["Rotary", "Slide", "Smart", "Unused"])
]
PLACES = ["Rotary", "Slide", "Smart", OUT_OF_SCOPE]


def tables(rows: list[tuple[str, str]], asked: int = 0) -> dict[str, pd.DataFrame]:
    """The tables for products 0, 1, … that stand in these categories, before and after refinement."""
    assignments = pd.DataFrame(
        {
            "product_id": range(len(rows)),
            "category": pd.Series([first for first, _ in rows], dtype="str"),
            "refined_category": pd.Series([final for _, final in rows], dtype="str"),
            "confidence": [0.5] * len(rows),
            "reason": pd.Series(["" if final else "invalid: no" for _, final in rows], dtype="str"),
        }
    )
    return final_tables(pd.DataFrame({"product_id": range(asked or len(rows))}), assignments, TAXONOMY)


ROWS = st.lists(st.sampled_from([("", ""), *((a, b) for a in PLACES for b in PLACES)]), max_size=40)


@given(ROWS, st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_the_four_tables_agree(rows: list[tuple[str, str]], never_asked: int) -> None:
    """Every product once in the ledger; ids, counts and names agree in all tables."""
    found = tables(rows, len(rows) + never_asked)
    taxonomies, ledger = found["taxonomies"], found["ledger"]
    assert taxonomies["id"].tolist() == list(range(1, len(taxonomies) + 1))
    names = dict(zip(taxonomies["id"], taxonomies["category_name"], strict=True))
    for table, place in (("segments", 0), ("refined_segments", 1)):
        segments = found[table]
        stated = {i: row[place] for i, row in enumerate(rows) if row[place]}
        told = {p: names[t] for p, t in zip(segments["product_id"], segments["taxonomy_id"], strict=True)}
        assert told == stated, table
        assert len(segments) == len(stated)
    counts = found["refined_segments"]["taxonomy_id"].value_counts()
    assert taxonomies["product_count"].tolist() == [counts.get(i, 0) for i in taxonomies["id"]]
    assert ledger["product_id"].tolist() == list(range(len(rows) + never_asked))
    assert set(ledger["state"]) <= {"assigned", "out_of_scope", "unassigned"}
    for state, final in zip(ledger["state"], [final for _, final in rows], strict=False):
        assert state == ("unassigned" if not final else "out_of_scope" if final == OUT_OF_SCOPE else "assigned")
    assert ((ledger["reason"] != "") == (ledger["state"] == "unassigned")).all()
    assert (ledger["reason"] == "never asked").sum() == never_asked


def test_the_columns_other_programs_rely_on() -> None:
    """Names, order and types are part of the contract, also of empty tables."""
    for rows in ([], [("Rotary", "Slide"), ("", "")]):
        found = tables(rows)
        assert {name: list(table.columns) for name, table in found.items()} == {
            "taxonomies": ["id", "category_name", "definition", "product_count", "key"],
            "segments": ["product_id", "taxonomy_id", "confidence"],
            "refined_segments": ["product_id", "taxonomy_id", "confidence"],
            "ledger": ["product_id", "state", "reason"],
        }
        assert found["segments"]["taxonomy_id"].dtype == found["taxonomies"]["id"].dtype == "int64"


def test_the_largest_category_comes_first_and_out_of_scope_last() -> None:
    """One order for one result, by count and then by name."""
    rows = (
        [("Slide", "Slide")] * 2 + [("Smart", "Smart")] + [("Rotary", "Rotary")] + [(OUT_OF_SCOPE, OUT_OF_SCOPE)] * 5
    )
    taxonomies = tables(rows)["taxonomies"]
    assert taxonomies["category_name"].tolist() == ["Slide", "Rotary", "Smart", OUT_OF_SCOPE]
    assert taxonomies["product_count"].tolist() == [2, 1, 1, 5]
    assert taxonomies["definition"].tolist()[0] == "About Slide"


def test_categories_without_a_product_are_dropped() -> None:
    """One that nothing ever stood in is gone, one that refinement emptied stays for the first pass."""
    taxonomies = tables([("Smart", "Rotary")])["taxonomies"]
    assert dict(zip(taxonomies["category_name"], taxonomies["product_count"], strict=True)) == {
        "Rotary": 1,
        "Smart": 0,
    }


def test_a_category_outside_the_taxonomy_is_never_written() -> None:
    """An assignment without a category of the run is an error, not a row without meaning."""
    with pytest.raises(ValueError, match="NA"):
        tables([("Invented", "Invented")])
