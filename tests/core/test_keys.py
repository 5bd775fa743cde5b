"""Keys of categories that last: found again by name or by products, and never given to another category."""

from __future__ import annotations

from itertools import pairwise

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.core.models import OUT_OF_SCOPE, Category
from segkit.core.results import final_tables, kept_tables
from segkit.core.taxonomy.keys import next_number, numbers_kept, of_results, succeeded, taxonomy_frame

NAMES = ["Kettles", "Toasters", "Ladles", "Whisks", "Blenders", OUT_OF_SCOPE]


def lineage(categories: list[str]) -> pd.DataFrame:
    """Products 0, 1, … in these categories, before and after refinement."""
    column = pd.Series(categories, dtype="str")
    return pd.DataFrame(
        {
            "product_id": range(len(categories)),
            "category": column,
            "refined_category": column,
            "confidence": 0.5,
            "reason": column.map({"": "no"}).fillna(""),
        }
    )


def extended(taxonomy: pd.DataFrame, before: list[str], after: list[str]) -> pd.DataFrame:
    """The taxonomy after an extension in which the products are in other categories."""
    rows = lineage(after)
    numbers = numbers_kept(taxonomy, lineage(before), rows)
    categories = [Category("", name, f"About {name}") for name in NAMES[:-1]]
    tables = final_tables(rows[["product_id"]], rows, [c for c in categories if c.name in set(after)], numbers)
    return succeeded(taxonomy, tables["taxonomies"])


def first(categories: list[str]) -> pd.DataFrame:
    return extended(taxonomy_frame([]), [], categories)


def keys(taxonomy: pd.DataFrame) -> dict[str, str]:
    living = taxonomy[taxonomy["state"] == "active"]
    return dict(zip(living["category_name"], living["key"], strict=True))


def test_the_same_name_is_the_same_category() -> None:
    before = ["Kettles"] * 3 + ["Toasters"] * 2
    after = ["Toasters"] * 3 + ["Kettles"] * 2  # by its products, each would be the other one
    assert keys(extended(first(before), before, after)) == {"Kettles": "C-1", "Toasters": "C-2"}


def test_most_of_the_products_on_both_sides_make_it_the_same_category() -> None:
    """Renamed by the model it keeps its key; half of it, or a part of something larger, is another category."""
    before = ["Kettles"] * 4 + ["Toasters"] * 4
    renamed = extended(first(before), before, ["Ladles"] * 3 + ["Whisks"] + ["Toasters"] * 4)
    assert keys(renamed) == {"Ladles": "C-1", "Whisks": "C-3", "Toasters": "C-2"}
    halved = extended(first(before), before, ["Ladles"] * 2 + ["Whisks"] * 2 + ["Toasters"] * 4)
    assert keys(halved) == {"Ladles": "C-3", "Whisks": "C-4", "Toasters": "C-2"}
    joined = extended(first(before), before, ["Blenders"] * 8)
    assert keys(joined) == {"Blenders": "C-3"}
    assert set(joined.loc[joined["state"] == "retired", "key"]) == {"C-1", "C-2"}


CATALOGUES = st.lists(st.lists(st.sampled_from([*NAMES, ""]), min_size=6, max_size=6), min_size=2, max_size=6)


@given(CATALOGUES)
@settings(max_examples=15, deadline=None)
def test_a_key_that_was_retired_never_comes_back(catalogues: list[list[str]]) -> None:
    """However often a catalogue is extended: keys and numbers are one to one, and a new key has a new number."""
    taxonomy, retired, highest = first(catalogues[0]), set(), 0
    for before, after in pairwise(catalogues):
        known = set(taxonomy["key"])
        retired |= set(taxonomy.loc[taxonomy["state"] == "retired", "key"])
        highest = next_number(taxonomy) - 1
        taxonomy = extended(taxonomy, before, after)
        assert known <= set(taxonomy["key"]), "the register forgets none"
        assert not retired & set(keys(taxonomy).values())
        assert taxonomy["key"].is_unique
        assert (taxonomy["key"] == "C-" + taxonomy["id"].astype(str)).all()
        assert all(int(key[2:]) > highest for key in set(taxonomy["key"]) - known)
        assert set(keys(taxonomy)) == {name for name in after if name} | ({OUT_OF_SCOPE} & set(keys(taxonomy)))


def test_a_name_that_is_used_again_belongs_to_its_new_key() -> None:
    """The first pass still speaks of the deleted category, new products go into the new one of its name."""
    taxonomy = taxonomy_frame(
        [
            {"key": "C-1", "id": 1, "category_name": "Kettles", "state": "retired", "retired_by": "delete"},
            {"key": "C-2", "id": 2, "category_name": "Toasters"},
            {"key": "C-3", "id": 3, "category_name": "Kettles"},
        ]
    )
    old = pd.DataFrame({"product_id": [0], "taxonomy_id": [1], "refined_taxonomy_id": [2], "confidence": [0.5]})
    rows = lineage(["Kettles", "Kettles"])
    rows.loc[0, "refined_category"] = "Toasters"
    tables = kept_tables(rows[["product_id"]], rows, taxonomy, old.assign(refined_confidence=0.5))
    assert tables["segments"]["taxonomy_id"].tolist() == [1, 3]
    assert tables["refined_segments"]["taxonomy_id"].tolist() == [2, 3]
    assert tables["taxonomies"]["key"].tolist() == ["C-1", "C-2", "C-3"]


def test_a_run_of_before_keys_gets_them_from_its_numbers() -> None:
    rows = lineage(["Kettles", "Toasters", "Kettles"])
    tables = final_tables(rows[["product_id"]], rows, [Category("", name, "x") for name in NAMES[:2]])
    old = of_results(tables["taxonomies"].drop(columns="key"))
    assert keys(extended(old, ["Kettles", "Toasters", "Kettles"], ["", "Kettles", "Ladles"])) == {
        "Kettles": "C-1",
        "Ladles": "C-3",
    }
