"""The stage that puts products into a given taxonomy, at work on a run folder."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from segkit.analysis.live import live_progress
from segkit.core.consolidate import numbered
from segkit.core.models import NONE_FITS, OUT_OF_SCOPE, STAGES, Category
from segkit.core.results import kept_tables
from segkit.core.taxonomy.assign import assign_questions, assigned
from segkit.core.taxonomy.keys import choices, counted, with_proposals
from segkit.llm.ask import ask_all
from segkit.pipeline.stages import (
    consolidate_taxonomy,
    consolidated_assignments,
    find_categories,
    result_tables,
)
from segkit.pipeline.taxonomy.rows import LINEAGE
from segkit.runs.run import Run
from segkit.settings import Settings, load_settings


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
        return nothing_assigned(run)
    taxonomy, new = run.archived("taxonomy"), run.new_products
    shown = choices(taxonomy)
    questions = assign_questions(new, shown, run.prompts, run.parameters) if shown else []
    with live_progress(run, STAGES["assign_products"]):
        answers = ask_all(run, "assign_products", questions, settings)
    placed = assigned(answers, new, shown)
    left = new[new["product_id"].isin(placed.loc[placed["category"] == NONE_FITS, "product_id"])]
    left = left[~left["product_id"].isin(list(asked_by_edits(run)))]  # a kind just removed is not proposed again
    is_enough = len(left) >= run.parameters.smallest_proposal
    find_categories(run, left if is_enough else left.head(0), settings)
    found = consolidate_taxonomy(run, settings)
    ends = consolidated_assignments(run).set_index("product_id")["category"]
    names = [Category("", name, definition) for name, definition in found.itertuples(index=False, name=None)]
    sizes = {str(name): int(count) for name, count in ends.value_counts().items()}
    grown = with_proposals(taxonomy, names, sizes, run.parameters.smallest_proposal)
    _save(run, placed, grown, ends)
    return placed


def asked_by_edits(run: Run) -> dict[int, str]:
    """Return the products that are asked about since an edit of their category, each with the key of that."""
    if not run.parameters.taxonomy or not run.file("asked.parquet").exists():
        return {}
    asked = run.archived("asked")
    return dict(zip(asked["product_id"].tolist(), asked["key"].tolist(), strict=True))


def nothing_assigned(run: Run) -> pd.DataFrame:
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
    tables = {"assignments": placed, "lineage": lineage, **result_tables(run, products, lineage, taxonomy)}
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
    )[LINEAGE]  # fmt: skip
    return lineage.astype(dict.fromkeys(("part", "refined_by", "reason", "cache_key"), "str"))


def _save(run: Run, placed: pd.DataFrame, taxonomy: pd.DataFrame, ends: pd.Series) -> None:
    """Write the results of the run; the ledger comes last, for where it stands the stage has done all its work."""
    fits = (placed["category"] != "") & (placed["category"] != NONE_FITS)
    category, edited = placed["category"].where(fits, ""), asked_by_edits(run)
    reasons = [
        reason if stated != NONE_FITS else _reason(taxonomy, str(ends.get(product, "")), edited.get(product, ""))
        for product, stated, reason in placed[["product_id", "category", "reason"]].itertuples(index=False, name=None)
    ]
    earlier = run.archived("earlier")
    lineage = pd.concat([earlier[LINEAGE], _as_lineage(placed, category, reasons)])
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
