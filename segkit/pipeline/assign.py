"""Putting products into a taxonomy that is given: the run, its stage, and what came of it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from segkit.analysis.live import live_progress
from segkit.core.catalogue.entries import product_entries, shared_entries
from segkit.core.catalogue.gate import FIRST_RUN, Catalogue, first_runs
from segkit.core.catalogue.lines import product_lines
from segkit.core.catalogue.load import load_catalogue
from segkit.core.consolidate import numbered
from segkit.core.models import NONE_FITS, OUT_OF_SCOPE, STAGES, Category, Parameters
from segkit.core.prompts import ASSIGNING, load_prompts
from segkit.core.results import final_tables, kept_tables
from segkit.core.taxonomy.assign import assign_questions, assigned
from segkit.core.taxonomy.drift import drift_p_value
from segkit.core.taxonomy.edits import moved_rows
from segkit.core.taxonomy.keys import choices, counted, with_proposals
from segkit.errors import ProductsError, RunError
from segkit.llm.ask import ask_all
from segkit.pipeline.extend import with_ids_of
from segkit.pipeline.plan.estimate import plan_run
from segkit.pipeline.prepare import check_endpoint, choose_parameters, input_facts
from segkit.pipeline.stages import consolidate_taxonomy, consolidated_assignments, find_categories
from segkit.runs.create import create_run, new_run_id
from segkit.runs.run import Run
from segkit.runs.taxonomy import Taxonomy, taxonomy_of_run
from segkit.settings import Settings, load_settings

_LINEAGE = ["product_id", "batch", "part", "batch_category", "category", "confidence", "reason", "cache_key"]
_LINEAGE += ["refined_category", "refined_by", "refined_confidence"]
_CHOSEN_ANEW = ("endpoint", "extends", "taxonomy")
_COUNTED = {
    "renamed": "rename", "merged": "merge_into", "split": "split", "deleted": "delete", "added": "add",
    "redefined": "redefine", "locked": "lock",
}  # fmt: skip


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
    frame, rows = _start(given, catalogue, run_id, only)
    chosen = _parameters(given, settings, parameters)
    check_endpoint(chosen, settings)
    product_lines(frame.head(1), chosen.product_line)
    origin = _origin(given, catalogue, frame, source)
    archived = {"taxonomy": given.frame, "earlier": rows, "edits": edit_history(given, run_id)}
    if given.run:
        archived["asked"] = moved_rows(placed_rows(given.run), given.base, given.result)[1]
    prompts = load_prompts(chosen.prompts, keys=ASSIGNING)
    place = Path(runs_dir or (given.run.folder.parent if given.run else settings.storage_root))
    return create_run(place, run_id, chosen, frame, prompts, origin, settings, archived=archived)


def _parameters(given: Taxonomy, settings: Settings, parameters: Mapping[str, Any], **more: Any) -> Parameters:
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


def _start(
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


def taxonomy_check(given: Taxonomy, settings: Settings | None = None, **parameters: Any) -> dict[str, Any]:
    """Report what the edits of a taxonomy change, how many products they make a run ask about, and at what price.

    `renamed`, `merged`, `split`, `deleted`, `added`, `redefined` and `locked` count categories, `changes` lists them.
    `products_to_ask` are the products that a run without further ones asks about, `calls` the calls that it makes if
    every answer is valid at once. Without an earlier run both are None: all products are asked about.
    """
    settings = settings or load_settings()
    counts = Counter(edit.action for edit in given.result.changes)
    calls = products = cost = None
    if given.run:
        frame, rows = _start(given, None, given.run.id)
        asked = frame[~frame["product_id"].isin(rows["product_id"])]
        chosen = _parameters(given, settings, parameters)
        plan = plan_run(asked, load_prompts(chosen.prompts, keys=ASSIGNING), chosen, settings, choices(given.frame))
        total, products = plan.iloc[-1], len(asked)
        calls = int(total["calls"])
        cost = [None if pd.isna(total[name]) else float(total[name]) for name in ("cost_usd_low", "cost_usd_high")]
    return {
        "taxonomy": given.origin,
        **{name: counts[action] for name, action in _COUNTED.items()},
        "products_to_ask": products,
        "calls": calls,
        "cost_usd": cost,
        "changes": given.changes.to_dict("records"),
        "remarks": list(given.remarks),
    }


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
    )[_LINEAGE]  # fmt: skip
    numbers = rows["category"].map(ids).astype("int64")
    return rows.assign(taxonomy_id=numbers, refined_taxonomy_id=numbers)


def living_taxonomy(run: Run) -> pd.DataFrame:
    """Return the taxonomy of a finished run, with the keys of its categories (see `core.taxonomy.keys`)."""
    return taxonomy_of_run(run).base


def empty_rows() -> pd.DataFrame:
    """Return the rows of a run that takes over none."""
    numbers = {"product_id": "int64", "batch": "int64", "confidence": "float64", "refined_confidence": "float64"}
    numbers |= {"taxonomy_id": "int64", "refined_taxonomy_id": "int64"}
    columns = [*_LINEAGE, "taxonomy_id", "refined_taxonomy_id"]
    return pd.DataFrame(columns=columns).astype({name: numbers.get(name, "str") for name in columns})


def placed_rows(run: Run) -> pd.DataFrame:
    """Return the lineage of the products that a finished run has put into a category or out of scope.

    `taxonomy_id` and `refined_taxonomy_id` are those of its results.
    """
    lineage = run.result("lineage")
    if "refined_confidence" not in lineage.columns:  # of a segkit that did not keep what refinement stated
        lineage["refined_confidence"] = lineage["confidence"]
    placed = lineage.loc[lineage["refined_category"] != "", _LINEAGE]
    for name, column in (("segments", "taxonomy_id"), ("refined_segments", "refined_taxonomy_id")):
        rows = run.result(name)[["product_id", "taxonomy_id"]].rename(columns={"taxonomy_id": column})
        placed = placed.merge(rows, on="product_id", validate="1:1")
    return placed


def assign_products(run: Run, settings: Settings | None = None) -> pd.DataFrame:
    """Ask for the category of every new product; then find categories for those that fit none, and write the results.

    Returns the assignments of the new products, as `core.taxonomy.assign.assigned` makes them; none for a run that
    extracted its taxonomy from all its products. Raises ModelError or StoppedError when asking had to end; all
    answers are kept.
    """
    settings = settings or load_settings()
    if run.parameters.extract_sample:
        return _assign_all(run, settings)
    if not run.parameters.taxonomy:
        return _nothing_assigned(run)
    taxonomy, new = run.archived("taxonomy"), run.new_products
    shown = choices(taxonomy)
    questions = assign_questions(new, shown, run.prompts, run.parameters) if shown else []
    with live_progress(run, STAGES["assign_products"]):
        answers = ask_all(run, "assign_products", questions, settings)
    placed = assigned(answers, new, shown)
    left = new[new["product_id"].isin(placed.loc[placed["category"] == NONE_FITS, "product_id"])]
    left = left[~left["product_id"].isin(list(_asked_by_edits(run)))]  # a kind just removed is not proposed again
    is_enough = len(left) >= run.parameters.smallest_proposal
    find_categories(run, left if is_enough else left.head(0), settings)
    found = consolidate_taxonomy(run, settings)
    ends = consolidated_assignments(run).set_index("product_id")["category"]
    names = [Category("", name, definition) for name, definition in found.itertuples(index=False, name=None)]
    sizes = {str(name): int(count) for name, count in ends.value_counts().items()}
    grown = with_proposals(taxonomy, names, sizes, run.parameters.smallest_proposal)
    _save(run, placed, grown, ends)
    return placed


def _asked_by_edits(run: Run) -> dict[int, str]:
    """Return the products that are asked about since an edit of their category, each with the key of that."""
    if not run.parameters.taxonomy or not run.file("asked.parquet").exists():
        return {}
    asked = run.archived("asked")
    return dict(zip(asked["product_id"].tolist(), asked["key"].tolist(), strict=True))


def _nothing_assigned(run: Run) -> pd.DataFrame:
    return assigned([], run.products.head(0), [])


def _assign_all(run: Run, settings: Settings) -> pd.DataFrame:
    """Put all products of a run into the taxonomy that its sample gave, and write the results of the run."""
    products, taxonomy = run.products, numbered(run.result("taxonomy"))
    questions = assign_questions(products, taxonomy, run.prompts, run.parameters)
    with live_progress(run, STAGES["assign_products"]):
        answers = ask_all(run, "assign_products", questions, settings)
    placed = assigned(answers, products, taxonomy)
    fits_none = placed["category"] == NONE_FITS
    reasons = placed["reason"].mask(fits_none, f"{NONE_FITS}: of a kind that the sample did not meet")
    lineage = _as_lineage(placed, placed["category"].mask(fits_none, ""), reasons.tolist())
    tables = {"assignments": placed, "lineage": lineage, **final_tables(products, lineage, taxonomy)}
    read = run.result("batch_assignments").query("batch > 0")["product_id"]
    tables["ledger"]["in_sample"] = tables["ledger"]["product_id"].isin(read)  # these were read twice
    for name, table in tables.items():
        run.save_result(name, table)
    return placed


def _as_lineage(placed: pd.DataFrame, category: pd.Series, reasons: Sequence[str]) -> pd.DataFrame:
    """Return the lineage of products that were asked about once: the first category is that at the end."""
    lineage = placed.assign(
        category=category, batch_category=category, refined_category=category,
        refined_confidence=placed["confidence"], refined_by="", reason=pd.array(reasons, dtype="str"),
    )[_LINEAGE]  # fmt: skip
    return lineage.astype(dict.fromkeys(("part", "refined_by", "reason", "cache_key"), "str"))


def _save(run: Run, placed: pd.DataFrame, taxonomy: pd.DataFrame, ends: pd.Series) -> None:
    """Write the results of the run; the ledger comes last, for where it stands the stage has done all its work."""
    fits = (placed["category"] != "") & (placed["category"] != NONE_FITS)
    category, edited = placed["category"].where(fits, ""), _asked_by_edits(run)
    reasons = [
        reason if stated != NONE_FITS else _reason(taxonomy, str(ends.get(product, "")), edited.get(product, ""))
        for product, stated, reason in placed[["product_id", "category", "reason"]].itertuples(index=False, name=None)
    ]
    earlier = run.archived("earlier")
    lineage = pd.concat([earlier[_LINEAGE], _as_lineage(placed, category, reasons)])
    lineage = lineage.sort_values("product_id", ignore_index=True).astype(
        dict.fromkeys(("part", "refined_by", "reason", "cache_key"), "str")
    )
    taxonomy = counted(taxonomy, lineage["refined_category"])
    tables = {"assignments": placed, "categories": taxonomy, "lineage": lineage}
    for name, table in {**tables, **kept_tables(run.products, lineage, taxonomy, earlier)}.items():
        run.save_result(name, table)


def _reason(taxonomy: pd.DataFrame, found: str, edited: str) -> str:
    """Word why a product that fits no category is left: proposed, of a kind that is too rare, or contradictory.

    `edited` is the key of its category before an edit split, deleted or redefined that one.
    """
    if edited:
        return f"{NONE_FITS}: it was in {edited} before the edits, and fits no category now"
    proposed = taxonomy[(taxonomy["state"] == "proposed") & (taxonomy["category_name"] == found)]
    if len(proposed):
        return f"{NONE_FITS}: it would go into {proposed['key'].iloc[0]}, which is proposed"
    if found == OUT_OF_SCOPE:
        return f"{NONE_FITS}: but extraction finds it out of scope"
    if found in set(taxonomy.loc[taxonomy["state"] == "active", "category_name"]):
        return f"{NONE_FITS}: but extraction names it {found!r}, as a category that exists"
    return f"{NONE_FITS}: too few of its kind for a category"


def assign_report(run: Run) -> dict[str, Any]:
    """Report what a run of this kind did: the counts of its new products, proposals, old rows, and drift.

    If a run extracted its taxonomy from a sample, all products are new. `old_rows_unchanged` compares the rows of
    the products that were placed before, in the results of this run, with those that it started from, by their
    SHA-256. `drift_p_value` is that of `core.taxonomy.drift`.
    """
    placed = run.result("assignments") if run.has_result("assignments") else _nothing_assigned(run)
    taxonomy = living_taxonomy(run)
    is_none, is_out = placed["category"] == NONE_FITS, placed["category"] == OUT_OF_SCOPE
    proposed = taxonomy[taxonomy["state"] == "proposed"]
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
        "proposed": [
            {"key": key, "category_name": name, "products": int(count)}
            for key, name, count in proposed[["key", "category_name", "product_count"]].itertuples(index=False)
        ],
        "old_rows": len(old),
        "old_rows_unchanged": before == after,
        "old_rows_sha256": after,
        "calls": run.status.calls,
        "drift_p_value": drift_p_value(_earlier_batches(run, old), _new_batches(run, placed)),
    }


def _new_batches(run: Run, placed: pd.DataFrame) -> pd.DataFrame:
    """Return the batch and the category of the products that came in; those that edits set free are no delivery."""
    is_new = ~placed["product_id"].isin(list(_asked_by_edits(run)))
    return placed.loc[is_new & (placed["category"] != ""), ["batch", "category"]]


def _earlier_batches(run: Run, old: pd.DataFrame) -> pd.DataFrame:
    """Return the batch and the category of the products placed before; runs number their batches from 1 each."""
    came = first_runs(run.products)
    same = shared_entries(product_entries(run.products, run.parameters))  # these stand in the batch of another one
    asked = old[old["batch"] > 0]
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
