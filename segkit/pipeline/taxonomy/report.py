"""What a run with a given taxonomy did: its new products, its proposals, its old rows, and drift."""

from __future__ import annotations

import hashlib
from typing import Any

import pandas as pd

from segkit.analysis.frames import records
from segkit.core.catalogue.entries import product_entries, shared_entries
from segkit.core.catalogue.gate import first_runs
from segkit.core.models import BY_CLASSIFIER, NONE_FITS, OUT_OF_SCOPE
from segkit.core.taxonomy.drift import drift_p_value
from segkit.pipeline.taxonomy.rows import empty_rows
from segkit.pipeline.taxonomy.stage import nothing_assigned
from segkit.runs.run import Run
from segkit.runs.taxonomy import starting_point


def assign_report(run: Run) -> dict[str, Any]:
    """Report what a run of this kind did: the counts of its new products, proposals, old rows, and drift.

    If a run extracted its taxonomy from a sample, all products are new. `old_rows_unchanged` compares the rows of
    the products that were placed before, in the results of this run, with those that it started from, by their
    SHA-256. `conflicts` are those of `core.taxonomy.conflicts`. `drift_p_value` is that of `core.taxonomy.drift`.
    """
    placed = run.result("assignments") if run.has_result("assignments") else nothing_assigned(run)
    is_none, is_out = placed["category"] == NONE_FITS, placed["category"] == OUT_OF_SCOPE
    old = run.archived("earlier") if run.parameters.taxonomy else empty_rows()
    before, after = _fingerprints(run, old)
    return {
        "run_id": run.id,
        "taxonomy": run.parameters.taxonomy,
        "products": len(placed),
        "assigned": int((~is_none & ~is_out & (placed["category"] != "")).sum()),
        "out_of_scope": int(is_out.sum()),
        "none_fits": int(is_none.sum()),
        "unanswered": int((placed["category"] == "").sum()),
        "proposed": proposed_categories(run),
        "conflicts": conflicts_of(run),
        "old_rows": len(old),
        "old_rows_unchanged": before == after,
        "old_rows_sha256": after,
        "calls": run.status.calls,
        "drift_p_value": drift_p_value(_earlier_batches(run, old), _new_batches(run, placed)),
    }


def proposed_categories(run: Run) -> list[dict[str, Any]]:
    """List the `key`, the `category_name` and the number of `products` of each category that a run proposes."""
    if not run.has_result("categories"):  # its taxonomy was not given
        return []
    taxonomy = run.result("categories")
    proposed = taxonomy.loc[taxonomy["state"] == "proposed", ["key", "category_name", "product_count"]]
    return [
        {"key": key, "category_name": name, "products": int(count)}
        for key, name, count in proposed.itertuples(index=False)
    ]


def conflicts_of(run: Run) -> list[dict[str, Any]]:
    """List the conflicts of a run as `core.taxonomy.conflicts` words them."""
    return records(run.result("conflicts")) if run.has_result("conflicts") else []


def _new_batches(run: Run, placed: pd.DataFrame) -> pd.DataFrame:
    """Return the batch and the category of the products that came in; what an earlier run had is no delivery.

    Of a cascade the first batches count: the later ones hold the products that the classifier is not sure of.
    """
    is_new = ~placed["product_id"].isin(list(starting_point(run).again)) & (placed["category"] != "")
    if run.parameters.cascade and run.has_result("cascade") and (placed["part"] == BY_CLASSIFIER).any():
        is_new &= placed["batch"].between(1, int(run.result("cascade")["first_batches"].iloc[0]))
    return placed.loc[is_new, ["batch", "category"]]


def _earlier_batches(run: Run, old: pd.DataFrame) -> pd.DataFrame:
    """Return the batch and the category of the products placed before; runs number their batches from 1 each."""
    came = first_runs(run.products)
    same = shared_entries(product_entries(run.products, run.parameters))  # these stand in the batch of another one
    asked = old[old["batch"] > 0]
    if (old["part"] == BY_CLASSIFIER).any():  # the batches of a cascade are not random
        asked = asked.head(0)
    batches = [
        f"{came[same.get(int(product), int(product))]} {batch}"
        for product, batch in zip(asked["product_id"], asked["batch"], strict=True)
    ]
    return pd.DataFrame({"batch": batches, "category": asked["refined_category"].tolist()})


def _fingerprints(run: Run, old: pd.DataFrame) -> tuple[str, str]:
    """Hash the rows of the products placed before: as the run got them, and as they are in its results."""
    columns = ["product_id", "taxonomy_id", "confidence", "refined_taxonomy_id", "refined_confidence"]
    names = {"taxonomy_id": "refined_taxonomy_id", "confidence": "refined_confidence"}
    refined = run.result("refined_segments").rename(columns=names)
    now = run.result("segments").merge(refined, on="product_id")
    now = now[now["product_id"].isin(old["product_id"])]
    hashes = [
        hashlib.sha256(rows[columns].sort_values("product_id").to_csv(index=False).encode()).hexdigest()
        for rows in (old, now)
    ]
    return hashes[0], hashes[1]
