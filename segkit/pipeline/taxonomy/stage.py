"""The stage that puts products into a given taxonomy, at work on a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import pandas as pd

from segkit.analysis.live import live_progress
from segkit.core.catalogue.gate import first_runs
from segkit.core.consolidate import numbered
from segkit.core.extract import assignment_frame, join_assignments
from segkit.core.models import NONE_FITS, OUT_OF_SCOPE, STAGES, Answer, Category, Question
from segkit.core.results import kept_tables
from segkit.core.taxonomy.assign import StartingPoint, assign_questions, assigned
from segkit.core.taxonomy.conflicts import names_now, proposal_conflicts
from segkit.core.taxonomy.keys import counted, with_proposals
from segkit.core.text import fold_name
from segkit.errors import StageError
from segkit.llm.ask import ask_all
from segkit.llm.transports.decisions import too_many_categories
from segkit.pipeline.stages import (
    consolidate_taxonomy,
    consolidated_assignments,
    find_categories,
    result_tables,
)
from segkit.pipeline.taxonomy.cascade import place_in_cascade
from segkit.pipeline.taxonomy.rows import LEFT, LINEAGE, with_probabilities
from segkit.runs.run import Run
from segkit.runs.taxonomy import edits_so_far, starting_point
from segkit.settings import Settings, load_settings


def assign_products(run: Run, settings: Settings | None = None) -> pd.DataFrame:
    """Ask for the category of every new product; then find categories for those that fit none, and write the results.

    Returns the assignments of the new products, as `core.taxonomy.assign.assigned` makes them; none for a run that
    extracted its taxonomy from all its products. Raises ModelError or StoppedError when asking had to end; all
    answers are kept.
    """
    settings = settings or load_settings()
    if run.parameters.taxonomy:
        return _assign_new(run, settings)
    return _assign_all(run, settings) if run.parameters.extract_sample else nothing_assigned(run)


def _assign_new(run: Run, settings: Settings) -> pd.DataFrame:
    """Put the new products of a run into the taxonomy that it was given, and write its results."""
    start, new = starting_point(run), run.new_products
    asked, shown = start.asked(new), start.categories
    placed = _placed(run, asked, shown, settings)
    left = _extract_left(run, start, placed, settings)
    taxonomy, left = _with_proposals(run, left)
    _save(run, start, _with_those_apart(placed, start), taxonomy, left)
    return run.result("assignments")


def _extract_left(run: Run, start: StartingPoint, placed: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Extract the kinds of products that fit nowhere; return how each of them was extracted, now or before.

    `category` is the name of the kind, and `key` that of a proposal that an earlier run made of it.
    """
    wanted = start.to_extract(run.new_products, placed, run.parameters.smallest_proposal)
    find_categories(run, wanted, settings)
    consolidate_taxonomy(run, settings, first_runs(wanted))
    now = consolidated_assignments(run)
    now = now[now["category"] != ""]
    # To a model a proposal has its own name for it, also where a person has renamed that.
    names = names_now(run.archived("taxonomy"), edits_so_far(run))
    now = now.assign(category=[names.get(fold_name(name), name) for name in now["category"]], key="")
    before = run.archived("left") if start.extracted else now.head(0)
    is_left = before["product_id"].isin(placed.loc[placed["category"] == NONE_FITS, "product_id"])
    before = before[is_left & ~before["product_id"].isin(now["product_id"])]
    table = pd.concat([now, before], ignore_index=True)
    return _as_left(table).sort_values("product_id", ignore_index=True)


def _as_left(table: pd.DataFrame) -> pd.DataFrame:
    """Fill in the columns of a lineage that an extraction alone does not have."""
    table = table.assign(refined_category="", refined_by="", refined_confidence=table["confidence"])[LEFT]
    numbers = {"product_id": "int64", "batch": "int64", "confidence": "float64", "refined_confidence": "float64"}
    return table.astype({name: numbers.get(name, "str") for name in LEFT})


def _with_proposals(run: Run, left: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the taxonomy of a run with what is proposed, and the products left with the key of their proposal."""
    taxonomy, names = run.archived("taxonomy"), names_now(run.archived("taxonomy"), edits_so_far(run))
    proposed = taxonomy[taxonomy["state"] == "proposed"]
    kinds: dict[str, Category] = {}
    for table in (proposed[["category_name", "definition"]], run.result("taxonomy")):
        for stated, definition in table.itertuples(index=False, name=None):
            name = names.get(fold_name(stated), stated)
            kinds.setdefault(fold_name(name), Category("", name, definition))
    before: dict[str, str] = dict(zip(proposed["key"], proposed["category_name"], strict=True))
    stated = [before.get(key, name) for key, name in zip(left["key"], left["category"], strict=True)]
    left = left.assign(category=[kinds[fold].name if (fold := fold_name(name)) in kinds else name for name in stated])
    sizes = {str(name): int(count) for name, count in left["category"].value_counts().items()}
    grown = with_proposals(taxonomy, list(kinds.values()), sizes, run.parameters.smallest_proposal)
    now = grown[grown["state"] == "proposed"]
    keys = dict(zip(now["category_name"].map(fold_name), now["key"], strict=True))
    return grown, left.assign(key=[keys.get(fold_name(name), "") for name in left["category"]])


def _with_those_apart(placed: pd.DataFrame, start: StartingPoint) -> pd.DataFrame:
    """Add the products of split categories to assignments: they fit none until a part is accepted."""
    apart = {"batch": 0, "part": "", "category": NONE_FITS, "confidence": None, "reason": "", "cache_key": ""}
    rows = [{"product_id": product, **apart} for product in sorted(start.apart)]
    return join_assignments(placed, assignment_frame(rows)) if rows else placed


def nothing_assigned(run: Run) -> pd.DataFrame:
    """Return the assignments of a run that puts nothing into a taxonomy."""
    return assigned([], run.products.head(0), [])


def _assign_all(run: Run, settings: Settings) -> pd.DataFrame:
    """Put all products of a run into the taxonomy that its sample gave, and write the results of the run."""
    products, taxonomy = run.products, numbered(run.result("taxonomy"))
    placed = _placed(run, products, taxonomy, settings)
    fits_none = placed["category"] == NONE_FITS
    reasons = placed["reason"].mask(fits_none, f"{NONE_FITS}: of a kind that the sample did not meet")
    lineage = _as_lineage(placed, placed["category"].mask(fits_none, ""), reasons.tolist())
    tables = {"assignments": placed, "lineage": lineage, **result_tables(run, products, lineage, taxonomy)}
    read = run.result("batch_assignments").query("batch > 0")["product_id"]
    tables["ledger"]["in_sample"] = tables["ledger"]["product_id"].isin(read)  # these were read twice
    tables["ledger"] = with_probabilities(tables["ledger"], placed)
    for name, table in tables.items():
        run.save_result(name, table)
    return placed


def _placed(run: Run, products: pd.DataFrame, taxonomy: Sequence[Category], settings: Settings) -> pd.DataFrame:
    """Return the assignments of products: by the model, or by the cascade that the run was made with."""
    if run.parameters.decisions and (what := too_many_categories(len(taxonomy))):
        raise StageError(what, f"segkit resume {run.id} --no-decisions")
    with live_progress(run, STAGES["assign_products"]):
        if run.parameters.cascade and taxonomy:
            return _in_cascade(run, products, taxonomy, settings)
        questions = assign_questions(products, taxonomy, run.prompts, run.parameters) if taxonomy else []
        return assigned(ask_all(run, "assign_products", questions, settings), products, taxonomy)


def _in_cascade(run: Run, products: pd.DataFrame, taxonomy: Sequence[Category], settings: Settings) -> pd.DataFrame:
    """Do the same with a classifier; the result `cascade` is a row of its facts."""

    def ask(questions: Sequence[Question], planned: int, done: int) -> list[Answer]:
        return ask_all(run, "assign_products", questions, settings, planned=planned, done=done)

    resume = f"segkit resume {run.id}"
    placed, facts = place_in_cascade(products, taxonomy, run.prompts, run.parameters, ask, resume)
    run.save_result("cascade", pd.DataFrame([asdict(facts)]))
    return placed


def _as_lineage(placed: pd.DataFrame, category: pd.Series, reasons: Sequence[str]) -> pd.DataFrame:
    """Return the lineage of products that were asked about once: the first category is that at the end."""
    lineage = placed.assign(
        category=category, batch_category=category, refined_category=category,
        refined_confidence=placed["confidence"], refined_by="", reason=pd.array(reasons, dtype="str"),
    )[LINEAGE]  # fmt: skip
    return lineage.astype(dict.fromkeys(("part", "refined_by", "reason", "cache_key"), "str"))


def _save(run: Run, start: StartingPoint, placed: pd.DataFrame, taxonomy: pd.DataFrame, left: pd.DataFrame) -> None:
    """Write the results of the run; the ledger comes last, for where it stands the stage has done all its work."""
    fits = (placed["category"] != "") & (placed["category"] != NONE_FITS)
    kinds = dict(zip(left["product_id"], left["category"], strict=True))
    reasons = [
        reason if stated != NONE_FITS else _reason(taxonomy, kinds.get(product, ""), product, start)
        for product, stated, reason in placed[["product_id", "category", "reason"]].itertuples(index=False, name=None)
    ]
    earlier = run.archived("earlier")
    lineage = pd.concat([earlier[LINEAGE], _as_lineage(placed, placed["category"].where(fits, ""), reasons)])
    lineage = lineage.sort_values("product_id", ignore_index=True).astype(
        dict.fromkeys(("part", "refined_by", "reason", "cache_key"), "str")
    )
    taxonomy = counted(taxonomy, lineage["refined_category"])
    conflicts = proposal_conflicts(taxonomy, edits_so_far(run))
    tables = {"assignments": placed, "categories": taxonomy, "lineage": lineage, "left": left, "conflicts": conflicts}
    tables |= kept_tables(run.products, lineage, taxonomy, earlier)
    tables["ledger"] = with_probabilities(tables["ledger"], placed, earlier)
    for name, table in tables.items():
        run.save_result(name, table)


def _reason(taxonomy: pd.DataFrame, kind: str, product: int, start: StartingPoint) -> str:
    """Word why a product that fits no category is left: proposed, edited, of a rare kind, or contradictory.

    `kind` is the name of the kind that the product was extracted as, if it was.
    """
    proposed = taxonomy[(taxonomy["state"] == "proposed") & (taxonomy["category_name"] == kind)]
    if len(proposed):
        return f"{NONE_FITS}: it would go into {proposed['key'].iloc[0]}, which is proposed"
    if product in start.apart:
        return f"{NONE_FITS}: it was in {start.edited[product]}, which is split, and no part of it is proposed for it"
    if product in start.edited:
        return f"{NONE_FITS}: it was in {start.edited[product]} before the edits, and fits no category now"
    if kind == OUT_OF_SCOPE:
        return f"{NONE_FITS}: but extraction finds it out of scope"
    if kind in set(taxonomy.loc[taxonomy["state"] == "active", "category_name"]):
        return f"{NONE_FITS}: but extraction names it {kind!r}, as a category that exists"
    return f"{NONE_FITS}: too few of its kind for a category"
