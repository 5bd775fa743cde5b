"""Adding products to a finished run: a new run, in which only what changed is asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from segkit.core.catalogue.facts import input_facts
from segkit.core.catalogue.gate import FIRST_RUN, Catalogue, first_runs
from segkit.core.catalogue.ids import number_of
from segkit.core.catalogue.lines import product_lines
from segkit.core.catalogue.load import load_catalogue
from segkit.errors import ProductsError, RunError
from segkit.pipeline.parameters import check_endpoint
from segkit.runs.create import create_run, new_run_id
from segkit.runs.run import Run
from segkit.runs.taxonomy import taxonomy_of_run
from segkit.settings import Settings, load_settings


def extend_run(
    earlier: Run,
    products: pd.DataFrame | Catalogue,
    *,
    run_id: str = "",
    runs_dir: str | Path = "",
    source: str = "",
    settings: Settings | None = None,
) -> Run:
    """Make a run of the products of a finished run and of more, with its parameters and its prompts.

    `products` is a frame with `product_id` and `title`, or a catalogue; a product that the earlier run has too takes
    its new row. The batches of the earlier run stay as they are, and what it asked is answered by the cache:
    a batch is asked when one of its products changed, refinement when the taxonomy did. Categories that are found
    again keep their keys (see `core.taxonomy.keys.numbers_kept`). Raises RunError when the
    earlier run is not finished or has no taxonomy of its own, ProductsError when there is nothing to add or the
    product line lacks a column.
    """
    if not earlier.has_result("ledger"):
        raise RunError(f"{earlier.id} is not finished, so it cannot be extended", f"segkit resume {earlier.id}")
    if earlier.parameters.taxonomy:
        what = f"{earlier.id} was put into the taxonomy of {earlier.parameters.taxonomy} and has none of its own"
        raise RunError(what, f"segkit assign PRODUCTS --taxonomy {earlier.id}")
    run_id, known = run_id or new_run_id(), earlier.products
    came = {product: first_run or earlier.id for product, first_run in first_runs(known).items()}
    catalogue = products if isinstance(products, Catalogue) else load_catalogue(products)
    added = with_ids_of(known, catalogue.products.drop(columns=FIRST_RUN, errors="ignore"))
    product_lines(added.head(1), earlier.parameters.product_line)
    kept = known[~known["product_id"].isin(added["product_id"])].drop(columns=FIRST_RUN, errors="ignore")
    frame = pd.concat([kept, added]).sort_values("product_id", ignore_index=True)
    frame[FIRST_RUN] = [came.get(int(product), run_id) for product in frame["product_id"]]
    if frame.drop(columns=FIRST_RUN).equals(known.drop(columns=FIRST_RUN, errors="ignore")):
        raise ProductsError(f"{earlier.id} holds these very products already", f"segkit show {earlier.id}")
    origin = input_facts(replace(catalogue, products=frame), source)
    parameters = replace(earlier.parameters, extends=earlier.id)
    place, settings = Path(runs_dir or earlier.folder.parent), settings or load_settings()
    check_endpoint(parameters, settings)
    archived = _keys_of(earlier, known, frame)
    return create_run(place, run_id, parameters, frame, earlier.prompts, origin, settings, archived=archived)


def _keys_of(earlier: Run, known: pd.DataFrame, products: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the taxonomy of the earlier run, and the category of each of its products whose title is the same."""
    taxonomy, numbered = taxonomy_of_run(earlier).base, earlier.result("taxonomies")
    # What refinement has emptied may be found again; what earlier extensions no longer found is gone.
    stays = taxonomy["id"].isin(numbered["id"])
    same = known[["product_id", "title"]].merge(products[["product_id", "title"]])["product_id"]
    ends = earlier.result("lineage")[["product_id", "refined_category"]]
    return {
        "taxonomy": taxonomy.assign(state=taxonomy["state"].mask(stays, "active")),
        "earlier": ends[ends["product_id"].isin(same)].reset_index(drop=True),
    }


def with_ids_of(known: pd.DataFrame, added: pd.DataFrame) -> pd.DataFrame:
    """Return added products whose ids are of the kind of the earlier ones: texts stay texts, also all-number ones."""
    texts, more = "source_id" in known.columns, "source_id" in added.columns
    if texts and not more:
        sources = added["product_id"].astype("str")
        return added.assign(product_id=[number_of(text) for text in sources], source_id=sources)
    if more and not texts:
        text = added["source_id"].iloc[0]
        what = f"the ids of the finished run are numbers, those of the added products are texts: {text!r}"
        raise ProductsError(what, "make a new run of the whole catalogue: segkit run")
    return added
