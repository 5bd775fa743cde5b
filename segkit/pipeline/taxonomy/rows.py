"""The rows of the products of an earlier run, as a run with its taxonomy takes them over."""

from __future__ import annotations

import pandas as pd

from segkit.core.taxonomy.edits import moved_rows
from segkit.runs.run import Run
from segkit.runs.taxonomy import Taxonomy

LINEAGE = ["product_id", "batch", "part", "batch_category", "category", "confidence", "reason", "cache_key"]
LINEAGE += ["refined_category", "refined_by", "refined_confidence"]
#: What is kept of products that fit nowhere: how they were extracted, and the proposal that each would go into.
LEFT = [*LINEAGE, "key"]
_NUMBERS = {"product_id": "int64", "batch": "int64", "confidence": "float64", "refined_confidence": "float64"}
_NUMBERS |= {"taxonomy_id": "int64", "refined_taxonomy_id": "int64"}


def empty_rows() -> pd.DataFrame:
    """Return the rows of a run that takes over none."""
    return _typed(pd.DataFrame(columns=[*LINEAGE, "taxonomy_id", "refined_taxonomy_id"]))


def empty_left() -> pd.DataFrame:
    """Return the rows of products that fit nowhere, of a run that has none."""
    return _typed(pd.DataFrame(columns=LEFT))


def empty_asked() -> pd.DataFrame:
    """Return the products that are asked about again, of a taxonomy without edits."""
    return _typed(pd.DataFrame(columns=["product_id", "key", "action"]))


def _typed(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.astype({name: _NUMBERS.get(name, "str") for name in rows.columns})


def placed_rows(run: Run) -> pd.DataFrame:
    """Return the lineage of the products that a finished run has put into a category or out of scope.

    `taxonomy_id` and `refined_taxonomy_id` are those of its results.
    """
    lineage = run.result("lineage")
    if "refined_confidence" not in lineage.columns:  # of a segkit that did not keep what refinement stated
        lineage["refined_confidence"] = lineage["confidence"]
    placed = lineage.loc[lineage["refined_category"] != "", LINEAGE]
    for name, column in (("segments", "taxonomy_id"), ("refined_segments", "refined_taxonomy_id")):
        rows = run.result(name)[["product_id", "taxonomy_id"]].rename(columns={"taxonomy_id": column})
        placed = placed.merge(rows, on="product_id", validate="1:1")
    return placed


def left_rows(run: Run) -> pd.DataFrame:
    """Return the lineage of the products that fit nowhere and were extracted on their own (see LEFT)."""
    return run.result("left") if run.has_result("left") else empty_left()


def kept_rows(given: Taxonomy) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows that an edited taxonomy takes over from its run, and the products that are asked about again.

    Products that would go into a proposal are rows of the category which that has become, by being accepted or merged
    into another one. The second frame has `product_id`, `key` and `action`, as `moved_rows` returns it.
    """
    assert given.run is not None
    rows, asked = moved_rows(placed_rows(given.run), given.base, given.result)
    rows = pd.concat([rows, _rows_of_proposals(given.run, given)], ignore_index=True)
    return with_probabilities(rows, given.run.result("ledger")), asked


def with_probabilities(rows: pd.DataFrame, *stated: pd.DataFrame) -> pd.DataFrame:
    """Add to rows the probabilities that decision endpoints stated, of the first table that has some for a product.

    Where no table has the column, nothing is added.
    """
    found: dict[int, str] = {}
    tables = [table for table in stated if "probabilities" in table.columns]
    for table in reversed(tables):
        found |= dict(zip(table["product_id"], table["probabilities"], strict=True))
    column = pd.array([found.get(product, "") for product in rows["product_id"]], dtype="str")
    return rows.assign(probabilities=column) if tables else rows


def _rows_of_proposals(run: Run, given: Taxonomy) -> pd.DataFrame:
    after = given.result.taxonomy.set_index("key")
    proposed = given.base.loc[given.base["state"] == "proposed", "key"]
    ends = {key: given.result.goes_into.get(key, key) for key in proposed}
    active = {key: end for key, end in ends.items() if after["state"].get(end) == "active"}
    rows = left_rows(run)
    rows = rows[rows["key"].isin(list(active))]
    end = rows["key"].map(active)
    name, number = end.map(after["category_name"]), end.map(after["id"])
    rows = rows.assign(category=name, refined_category=name, reason="", refined_confidence=rows["confidence"])
    return _typed(rows.drop(columns="key").assign(taxonomy_id=number, refined_taxonomy_id=number))
