"""The rows of products that an earlier run has placed, as a run with its taxonomy takes them over."""

from __future__ import annotations

import pandas as pd

from segkit.runs.run import Run
from segkit.runs.taxonomy import taxonomy_of_run

LINEAGE = ["product_id", "batch", "part", "batch_category", "category", "confidence", "reason", "cache_key"]
LINEAGE += ["refined_category", "refined_by", "refined_confidence"]


def empty_rows() -> pd.DataFrame:
    """Return the rows of a run that takes over none."""
    numbers = {"product_id": "int64", "batch": "int64", "confidence": "float64", "refined_confidence": "float64"}
    numbers |= {"taxonomy_id": "int64", "refined_taxonomy_id": "int64"}
    columns = [*LINEAGE, "taxonomy_id", "refined_taxonomy_id"]
    return pd.DataFrame(columns=columns).astype({name: numbers.get(name, "str") for name in columns})


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


def living_taxonomy(run: Run) -> pd.DataFrame:
    """Return the taxonomy of a finished run, with the keys of its categories (see `core.taxonomy.keys`)."""
    return taxonomy_of_run(run).base
