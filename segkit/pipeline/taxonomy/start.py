"""Making a run that puts products into a given taxonomy: what it asks about, and what it takes over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from segkit.core.catalogue.facts import input_facts
from segkit.core.catalogue.gate import FIRST_RUN, Catalogue, first_runs
from segkit.core.catalogue.lines import product_lines
from segkit.core.catalogue.load import load_catalogue
from segkit.core.models import Parameters
from segkit.core.prompts import ASSIGNING, load_prompts
from segkit.core.taxonomy.edits import moved_rows
from segkit.errors import ProductsError, RunError
from segkit.pipeline.extend import with_ids_of
from segkit.pipeline.parameters import check_endpoint, choose_parameters
from segkit.pipeline.stages import consolidated_assignments
from segkit.pipeline.taxonomy.rows import LINEAGE, empty_rows, living_taxonomy, placed_rows
from segkit.runs.create import create_run, new_run_id
from segkit.runs.run import Run
from segkit.runs.taxonomy import Taxonomy, taxonomy_of_run
from segkit.settings import Settings, load_settings

_CHOSEN_ANEW = ("endpoint", "extends", "taxonomy")


def assign_run(
    earlier: Run | Taxonomy,
    products: pd.DataFrame | Catalogue | None = None,
    *,
    run_id: str = "",
    runs_dir: str | Path = "",
    source: str = "",
    settings: Settings | None = None,
    only: bool = False,
    **parameters: Any,
) -> Run:
    """Make a run that puts more products into the categories of a finished run, or of a taxonomy that was edited.

    Its products are those of both (with `only`, none but `products`); what the earlier run has placed keeps its rows,
    also where `products` holds it again, but for products of categories that an edit has split, deleted or redefined.
    Without `products`, only the edits are applied. `parameters` replace those of the earlier run; a taxonomy that is
    of no run needs `category`. Raises RunError when the earlier run is not finished, TaxonomyError for edits that
    cannot be applied, ProductsError when there is nothing to do.
    """
    given = earlier if isinstance(earlier, Taxonomy) else taxonomy_of_run(earlier)
    settings, run_id = settings or load_settings(), run_id or new_run_id()
    catalogue = products if isinstance(products, Catalogue) or products is None else load_catalogue(products)
    frame, rows = start_products(given, catalogue, run_id, only)
    chosen = assign_parameters(given, settings, parameters)
    check_endpoint(chosen, settings)
    product_lines(frame.head(1), chosen.product_line)
    origin = _origin(given, catalogue, frame, source)
    archived = {"taxonomy": given.frame, "earlier": rows, "edits": edit_history(given, run_id)}
    if given.run:
        archived["asked"] = moved_rows(placed_rows(given.run), given.base, given.result)[1]
    prompts = load_prompts(chosen.prompts, keys=ASSIGNING)
    place = Path(runs_dir or (given.run.folder.parent if given.run else settings.storage_root))
    return create_run(place, run_id, chosen, frame, prompts, origin, settings, archived=archived)


def assign_parameters(given: Taxonomy, settings: Settings, parameters: Mapping[str, Any], **more: Any) -> Parameters:
    """Return the parameters of the earlier run, as far as `parameters` do not replace them."""
    earlier = asdict(given.run.parameters) if given.run else {"category": given.category}
    kept = {name: value for name, value in earlier.items() if name not in _CHOSEN_ANEW}
    typed = {name: value for name, value in parameters.items() if value not in (None, "")}
    return choose_parameters(settings=settings, **{**kept, **typed, **more}, taxonomy=given.origin)


def _origin(given: Taxonomy, catalogue: Catalogue | None, frame: pd.DataFrame, source: str) -> dict[str, Any]:
    if catalogue is None:
        assert given.run is not None  # or there would be no products
        origin = dict(given.run.document["input"])
    else:
        origin = input_facts(replace(catalogue, products=frame), source)
    return {**origin, "taxonomy_file": given.name} if given.name else origin


def start_products(
    given: Taxonomy, catalogue: Catalogue | None, run_id: str, only: bool = False
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the products of a run and the rows that it takes over from the earlier one."""
    if given.run is None:
        if catalogue is None:
            raise ProductsError(f"{given.name} is of no run, so there are no products", "name a file with products")
        return catalogue.products.drop(columns=FIRST_RUN, errors="ignore"), empty_rows()
    rows, _ = moved_rows(placed_rows(given.run), given.base, given.result)
    known = given.run.products
    products = known if catalogue is None else catalogue.products
    if only:
        known = known[known["product_id"].isin(products["product_id"])]
        rows = rows[rows["product_id"].isin(known["product_id"])].reset_index(drop=True)
    frame = _joined(given.run.id, known, products, set(rows["product_id"]), run_id)
    if not given.result.changes and not only and len(rows) == len(frame):
        raise ProductsError(f"{given.run.id} has placed all of these products", f"segkit show {given.run.id}")
    return frame, rows


def edit_history(given: Taxonomy, run_id: str) -> pd.DataFrame:
    """Return the edits of a taxonomy and those of the runs before it, oldest first, each with its run."""
    columns = ["run", "action", "key", "category_name", "now", "note"]
    new = given.changes.assign(run=run_id)[columns].astype("str")
    before = given.run.archived("edits") if given.run and given.run.file("edits.parquet").exists() else new.head(0)
    return pd.concat([before, new], ignore_index=True)


def accept_proposals(
    earlier: Run, keys: Sequence[str] = (), *, runs_dir: str | Path = "", settings: Settings | None = None
) -> Run:
    """Make a run in which proposed categories of a finished run are categories, with the products that found them.

    `keys` names some of the proposals; without any, all are accepted. Nothing is asked about the products of an
    accepted proposal; those that still fit nowhere are asked about once more. Raises RunError for a key that is no
    proposal of the run.
    """
    settings, run_id, taxonomy = settings or load_settings(), new_run_id(), living_taxonomy(earlier)
    proposed = set(taxonomy.loc[taxonomy["state"] == "proposed", "key"])
    unknown = sorted(set(keys) - proposed)
    if unknown or not proposed:
        known = f"its proposals are {', '.join(sorted(proposed))}" if proposed else "see `segkit show`"
        raise RunError(f"{earlier.id} proposes no {', '.join(unknown) or 'category'}", known)
    is_accepted = taxonomy["key"].isin(set(keys) or proposed) & (taxonomy["state"] == "proposed")
    rows = pd.concat([placed_rows(earlier), _accepted_rows(earlier, taxonomy[is_accepted])], ignore_index=True)
    frame = earlier.products
    came = {**first_runs(frame), **dict.fromkeys(set(frame["product_id"]) - set(rows["product_id"]), run_id)}
    frame = frame.assign(**{FIRST_RUN: [came[int(product)] for product in frame["product_id"]]})
    archived = {"taxonomy": taxonomy.assign(state=taxonomy["state"].mask(is_accepted, "active")), "earlier": rows}
    parameters = replace(earlier.parameters, taxonomy=earlier.id)
    check_endpoint(parameters, settings)
    place, origin = Path(runs_dir or earlier.folder.parent), dict(earlier.document["input"])
    return create_run(place, run_id, parameters, frame, earlier.prompts, origin, settings, archived=archived)


def _accepted_rows(run: Run, accepted: pd.DataFrame) -> pd.DataFrame:
    """Return the lineage of the products that would go into accepted proposals, as the batches state it."""
    ends = consolidated_assignments(run)
    ids = dict(zip(accepted["category_name"], accepted["id"], strict=True))
    rows = ends[ends["category"].isin(list(ids))]
    rows = rows.assign(
        batch_category=rows["category"], refined_category=rows["category"], refined_by="",
        refined_confidence=rows["confidence"],
    )[LINEAGE]  # fmt: skip
    numbers = rows["category"].map(ids).astype("int64")
    return rows.assign(taxonomy_id=numbers, refined_taxonomy_id=numbers)


def _joined(earlier: str, known: pd.DataFrame, products: pd.DataFrame, placed: set[int], run_id: str) -> pd.DataFrame:
    """Join the products of an earlier run with those that are new, each marked with the run in which it came.

    `placed` are the ids whose rows are kept; all others are asked about in the new run.
    """
    products = with_ids_of(known, products.drop(columns=FIRST_RUN, errors="ignore")) if len(known) else products
    came = {product: first or earlier for product, first in first_runs(known).items() if product in placed}
    old = known[known["product_id"].isin(placed)].drop(columns=FIRST_RUN, errors="ignore")
    left = known[~known["product_id"].isin(placed | set(products["product_id"]))]
    added = products[~products["product_id"].isin(placed)]
    frame = pd.concat([old, left, added]).drop(columns=FIRST_RUN, errors="ignore")
    frame = frame.sort_values("product_id", ignore_index=True)
    return frame.assign(**{FIRST_RUN: [came.get(int(product), run_id) for product in frame["product_id"]]})
