"""Making a run that puts products into a given taxonomy: what it asks about, and what it takes over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from segkit.core.catalogue.facts import input_facts
from segkit.core.catalogue.gate import FIRST_RUN, Catalogue, first_runs
from segkit.core.catalogue.lines import product_lines
from segkit.core.catalogue.load import load_catalogue
from segkit.core.models import Parameters
from segkit.core.taxonomy.assign import StartingPoint
from segkit.errors import ProductsError, RunError, SettingsError, TaxonomyError
from segkit.llm.transports.decisions import require_categories
from segkit.pipeline.extend import with_ids_of
from segkit.pipeline.parameters import check_endpoint, choose_parameters, run_prompts
from segkit.pipeline.taxonomy.rows import empty_asked, empty_left, empty_rows, kept_rows, left_rows
from segkit.runs.create import create_run, new_run_id
from segkit.runs.run import Run
from segkit.runs.taxonomy import Taxonomy, edit_history, start_from, taxonomy_of_run
from segkit.settings import Settings, load_settings

# These are chosen anew, or say how an earlier run has found its categories.
_CHOSEN_ANEW = ("endpoint", "extends", "taxonomy", "extract_sample", "most_unseen", "consensus", "repeat")


def assign_run(
    earlier: Run | Taxonomy,
    products: pd.DataFrame | Catalogue | None = None,
    *,
    run_id: str = "",
    runs_dir: str | Path = "",
    source: str = "",
    settings: Settings | None = None,
    only: bool = False,
    caps: Mapping[str, Any] | None = None,
    **parameters: Any,
) -> Run:
    """Make a run that puts more products into the categories of a finished run, or of a taxonomy that was edited.

    Its products are those of both (with `only`, none but `products`); what the earlier run has placed keeps its rows,
    also where `products` holds it again, but for products of categories that an edit has split, deleted or redefined.
    Without `products`, only the edits are applied. `parameters` replace those of the earlier run; a taxonomy that is
    of no run needs `category`. `caps` are the most calls and dollars of the run. Raises RunError when the earlier run
    is not finished, TaxonomyError for edits that cannot be applied, ProductsError when there is nothing to do.
    """
    given = earlier if isinstance(earlier, Taxonomy) else taxonomy_of_run(earlier)
    settings, run_id = settings or load_settings(), run_id or new_run_id()
    catalogue = products if isinstance(products, Catalogue) or products is None else load_catalogue(products)
    chosen = assign_parameters(given, settings, parameters)
    check_endpoint(chosen, settings, caps)
    beginning = begin(given, catalogue, run_id, only)
    if chosen.decisions:
        require_categories(len(beginning.starting_point(given.frame).categories))
    product_lines(beginning.products.head(1), chosen.product_line)
    origin = _origin(given, catalogue, beginning.products, source)
    archived = {"taxonomy": given.frame, "earlier": beginning.rows, "edits": edit_history(given, run_id)}
    archived |= {"asked": beginning.asked, "left": beginning.left} if given.run else {}
    prompts = run_prompts(chosen)
    place = Path(runs_dir or (given.run.folder.parent if given.run else settings.storage_root))
    return create_run(
        place, run_id, chosen, beginning.products, prompts, origin, settings, caps=caps, archived=archived
    )


def assign_parameters(
    given: Taxonomy, settings: Settings, parameters: Mapping[str, Any], *, needs_key: bool = True
) -> Parameters:
    """Return the parameters of the earlier run, as far as `parameters` do not replace them."""
    earlier = asdict(given.run.parameters) if given.run else {"category": given.category}
    kept = {name: value for name, value in earlier.items() if name not in _CHOSEN_ANEW}
    typed = {name: value for name, value in parameters.items() if value not in (None, "")}
    if wrong := [name for name in ("extract_sample", "most_unseen") if typed.get(name)]:
        raise SettingsError(
            f"{wrong[0]} is {typed[wrong[0]]!r}, but the taxonomy is given", "leave it out: nothing is extracted"
        )
    if given.run and given.run.parameters.temperature is None:
        kept["temperature"] = "none"  # that none is sent is as much a choice as a number is
    return choose_parameters(settings=settings, needs_key=needs_key, **{**kept, **typed}, taxonomy=given.origin)


def _origin(given: Taxonomy, catalogue: Catalogue | None, frame: pd.DataFrame, source: str) -> dict[str, Any]:
    if catalogue is None:
        assert given.run is not None  # or there would be no products
        origin = dict(given.run.document["input"])
    else:
        origin = input_facts(replace(catalogue, products=frame), source)
    return {**origin, "taxonomy_file": given.name} if given.name else origin


@dataclass(frozen=True, slots=True)
class Beginning:
    """The `products` of a run with a given taxonomy, and what is there of an earlier run.

    `rows` are those of the products that stay where they are. `asked` are the products that are asked about again
    (`product_id`, `key`, `action`): since an edit of their category, or, without a key, since they had none. `left`
    are those that fitted nowhere, as they were extracted.
    """

    products: pd.DataFrame
    rows: pd.DataFrame
    asked: pd.DataFrame
    left: pd.DataFrame

    @property
    def new(self) -> pd.DataFrame:
        """The products that the run places itself."""
        return self.products[~self.products["product_id"].isin(self.rows["product_id"])].reset_index(drop=True)

    def starting_point(self, taxonomy: pd.DataFrame) -> StartingPoint:
        """Return what the stage starts from, as `runs.taxonomy.starting_point` reads it of a run that is made."""
        return start_from(taxonomy, self.asked, self.left)


def begin(given: Taxonomy, catalogue: Catalogue | None, run_id: str, only: bool = False) -> Beginning:
    """Return what a run begins with: its products, and the rows that it takes over from an earlier run.

    Raises ProductsError when there is nothing to do, TaxonomyError when no category is left to put products into.
    """
    if given.run is None:
        if catalogue is None:
            what = f"{given.name} belongs to no run, so there are no products"
            raise ProductsError(what, "name a file with products")
        products = catalogue.products.drop(columns=FIRST_RUN, errors="ignore")
        return Beginning(products, empty_rows(), empty_asked(), empty_left())
    rows, asked = kept_rows(given)
    known = given.run.products
    products = known if catalogue is None else catalogue.products
    if only:
        known = known[known["product_id"].isin(products["product_id"])]
        rows, asked = (_of(frame, known) for frame in (rows, asked))
    asked = pd.concat([asked, _without_category(known, rows, asked)], ignore_index=True)
    frame = _joined(given.run.id, known, products, set(rows["product_id"]), run_id)
    if not given.result.changes and not only and len(rows) == len(frame):
        raise ProductsError(f"{given.run.id} has placed all of these products", f"segkit show {given.run.id}")
    left = left_rows(given.run)
    beginning = Beginning(frame, rows, asked, _of(left[~left["product_id"].isin(rows["product_id"])], frame))
    start = beginning.starting_point(given.frame)
    if not start.categories and len(start.asked(beginning.new)):
        what = f"the edits of {given.run.id} leave no category, and there are products to put into one"
        raise TaxonomyError(what, "keep a category, or add one")
    return beginning


def _without_category(known: pd.DataFrame, rows: pd.DataFrame, asked: pd.DataFrame) -> pd.DataFrame:
    """Return the products of an earlier run that it has put into no category."""
    is_left = ~known["product_id"].isin([*rows["product_id"], *asked["product_id"]])
    return known.loc[is_left, ["product_id"]].assign(key="", action="unassigned")


def _of(rows: pd.DataFrame, products: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["product_id"].isin(products["product_id"])].reset_index(drop=True)


def accept_proposals(
    earlier: Run, keys: Sequence[str] = (), *, runs_dir: str | Path = "", settings: Settings | None = None
) -> Run:
    """Make a run in which proposed categories of a finished run are categories, with the products that found them.

    `keys` names some of the proposals; without any, all are accepted. Nothing is asked about the products of an
    accepted proposal; those that still fit nowhere are asked about once more. Raises RunError for a key that is no
    proposal of the run.
    """
    taxonomy = taxonomy_of_run(earlier)
    proposed = set(taxonomy.base.loc[taxonomy.base["state"] == "proposed", "key"])
    unknown = sorted(set(keys) - proposed)
    if unknown or not proposed:
        known = f"its proposals are {', '.join(sorted(proposed))}" if proposed else "see `segkit show`"
        raise RunError(f"{earlier.id} proposes no {', '.join(unknown) or 'category'}", known)
    for key in sorted(set(keys) or proposed):
        taxonomy = taxonomy.accept(key)
    return assign_run(taxonomy, runs_dir=runs_dir, settings=settings)


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
