"""Adding products to a finished run: a new run, in which only what changed is asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from segkit.core.products import FIRST_RUN, first_runs, product_lines, untitled
from segkit.errors import ProductsError, RunError
from segkit.runs.create import create_run, new_run_id
from segkit.runs.run import Run
from segkit.settings import Settings, load_settings


def extend_run(
    earlier: Run,
    products: pd.DataFrame,
    *,
    runs_dir: str | Path = "",
    source: str = "(a frame)",
    settings: Settings | None = None,
) -> Run:
    """Make a run of the products of a finished run and of more, with its parameters and its prompts.

    `products` has `product_id` and `title`, as `load_products` gives them; a product that the earlier run has too
    takes its new row. The batches of the earlier run stay as they are, and what it asked is answered by the cache:
    a batch is asked when one of its products changed, refinement when the taxonomy did. Raises RunError when the
    earlier run is not finished, ProductsError when there is nothing to add or the product line lacks a column.
    """
    if not earlier.has_result("ledger"):
        raise RunError(f"{earlier.id} is not finished, so it cannot be extended", f"segkit resume {earlier.id}")
    run_id, known = new_run_id(), earlier.products
    came = {product: first_run or earlier.id for product, first_run in first_runs(known).items()}
    products = products.drop(columns=FIRST_RUN, errors="ignore")
    product_lines(products.head(1), earlier.parameters.product_line)
    kept = known[~known["product_id"].isin(products["product_id"])].drop(columns=FIRST_RUN, errors="ignore")
    frame = pd.concat([kept, products]).sort_values("product_id", ignore_index=True)
    frame[FIRST_RUN] = [came.get(int(product), run_id) for product in frame["product_id"]]
    if frame.drop(columns=FIRST_RUN).equals(known.drop(columns=FIRST_RUN, errors="ignore")):
        raise ProductsError(f"{earlier.id} holds these very products already", f"segkit show {earlier.id}")
    origin = {"source": source, "where": {}, "untitled": int(untitled(frame).sum())}
    parameters = replace(earlier.parameters, extends=earlier.id)
    place, settings = Path(runs_dir or earlier.folder.parent), settings or load_settings()
    return create_run(place, run_id, parameters, frame, earlier.prompts, origin, settings)
