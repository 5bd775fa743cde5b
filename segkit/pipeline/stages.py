"""The three stages at work on a run folder: each reads what the one before left, asks, and writes its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import pandas as pd

from segkit.analysis.live import live_progress
from segkit.core.batching import calls_of, consolidation_rounds, extraction_batches, looks, sample_rounds
from segkit.core.catalogue.gate import first_runs
from segkit.core.catalogue.titles import untitled
from segkit.core.consolidate import (
    Merge,
    Taxonomy,
    categories_frame,
    consolidated,
    count_by_first_run,
    distinct_categories,
    followed,
    merge_round,
    merge_steps,
    merged,
    numbered,
    steps_frame,
    taxonomies_of,
)
from segkit.core.extract import extract_questions, extracted
from segkit.core.models import OUT_OF_SCOPE, STAGES, Answer, Category
from segkit.core.questions import Questions, wording_of
from segkit.core.refine import refine_questions, refined, second_questions
from segkit.core.results import final_tables
from segkit.core.taxonomy.keys import numbers_kept, succeeded
from segkit.core.taxonomy.unseen import reading, readings_frame
from segkit.core.text import fold_name
from segkit.errors import RunError
from segkit.evaluation.statistics import clustered_rate
from segkit.llm.ask import ask_all
from segkit.runs.events import log_event
from segkit.runs.run import Run
from segkit.runs.status import update_status
from segkit.settings import Settings, load_settings


def extract_taxonomy(run: Run, settings: Settings | None = None) -> pd.DataFrame:
    """Ask for the categories of every batch and the assignments of its products.

    Returns the categories found (`batch`, `part`, `name`, `definition`); the assignments are the run's result
    `batch_assignments`. A run with a sample asks about that, and says in its result `readings` what may be unseen.
    Raises ModelError or StoppedError when asking had to end (all answers are kept), RunError for a run with a given
    taxonomy.
    """
    settings = settings or load_settings()
    if run.parameters.taxonomy:
        what = f"{run.id} has the taxonomy of {run.parameters.taxonomy}, so there is none to extract"
        raise RunError(what, f"go on with notebook 35_assign_products, or: segkit resume {run.id}")
    if run.parameters.extract_sample:
        return read_sample(run, settings)
    return find_categories(run, run.products, settings)


def read_sample(run: Run, settings: Settings) -> pd.DataFrame:
    """Ask about random batches until the sample is enough; the results are those of `extract_taxonomy`.

    After each look the taxonomies are merged, since the same kind has other names in other batches. The result
    `readings` has a row a look: see `core.taxonomy.unseen`. Consolidation finds the answers of
    these merges in the logs.
    """
    products, parameters = run.products, run.parameters
    total, batches = int((~untitled(products)).sum()), len(extraction_batches(products, parameters))
    update_status(run.folder, sample=parameters.extract_sample)
    answers: list[Answer] = []
    readings: list[dict[str, float]] = []
    sample = _Sample(run, settings)
    for number, (start, end) in enumerate(pairwise([0, *looks(batches, parameters)]), start=1):
        questions = extract_questions(products, run.prompts, parameters, start, end)
        with live_progress(run, STAGES["extract_taxonomy"]):
            answers += ask_all(run, "extract_taxonomy", questions, settings, planned=end, done=start)
        categories, assignments = extracted(answers, products)
        run.save_result("batch_categories", categories)
        run.save_result("batch_assignments", assignments)
        sample.add([taxonomy for taxonomy in taxonomies_of(categories) if taxonomy.first > start])
        readings.append(reading(number, end, sample.ends(assignments), total))
        run.save_result("readings", readings_frame(readings))
        if readings[-1]["bound"] <= parameters.most_unseen:
            break
    return run.result("batch_categories")


class _Sample:
    """The taxonomy of what was read so far, and where each category of a batch ended in it."""

    def __init__(self, run: Run, settings: Settings) -> None:
        self._run, self._settings, self._asked = run, settings, 0
        self._taxonomies: list[Taxonomy] = []
        self._ends: dict[tuple[int, str], str] = {}

    def add(self, new: Sequence[Taxonomy]) -> None:
        """Merge the taxonomies of more batches into that of all before."""
        waiting = [*self._taxonomies, *new]
        rounds = consolidation_rounds([len(waiting)], self._run.parameters.taxonomies_per_consolidation)
        starts = {key: (0, name) for key, name in self._ends.items()} | {
            (taxonomy.first, fold_name(category.name)): (position, category.name)
            for position, taxonomy in enumerate(new, start=len(self._taxonomies))
            for category in taxonomy.categories
        }
        steps: list[dict[str, object]] = []
        with live_progress(self._run, STAGES["consolidate_taxonomy"]):
            self._taxonomies = _merge(self._run, waiting, rounds, steps, self._settings, self._asked)
        self._asked += calls_of(rounds)
        self._ends = followed(starts, steps_frame(steps))

    def ends(self, assignments: pd.DataFrame) -> pd.Series:
        """Return the category that each product read is in by now."""
        read = assignments[assignments["batch"] > 0]
        ends = [
            name if name in ("", OUT_OF_SCOPE) else self._ends[batch, fold_name(name)]
            for batch, name in zip(read["batch"], read["category"], strict=True)
        ]
        return pd.Series(ends, dtype="str")


def find_categories(run: Run, products: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Ask for the categories of every batch of some products; the results are those of `extract_taxonomy`."""
    questions = extract_questions(products, run.prompts, run.parameters)
    with live_progress(run, STAGES["extract_taxonomy"]):
        answers = ask_all(run, "extract_taxonomy", questions, settings)
    categories, assignments = extracted(answers, products)
    run.save_result("batch_categories", categories)
    run.save_result("batch_assignments", assignments)
    return categories


def consolidate_taxonomy(
    run: Run, settings: Settings | None = None, groups: Mapping[int, str] | None = None
) -> pd.DataFrame:
    """Merge the taxonomies of the batches, as a tree, into the one taxonomy of the run.

    Returns `name` and `definition` of its categories; the result `merges` states for every round which category
    went into which (`round`, `merge`, `name`, `into`). If `groups` names the group of each product, the taxonomies of
    different groups are not merged, and the categories are those of all groups.
    """
    settings = settings or load_settings()
    taxonomies = taxonomies_of(run.result("batch_categories"))
    rounds = _rounds(run, taxonomies, groups)
    steps: list[dict[str, object]] = []
    with live_progress(run, STAGES["consolidate_taxonomy"]):
        taxonomies = _merge(run, taxonomies, rounds, steps, settings)
    taxonomy = distinct_categories(taxonomies)
    run.save_result("merges", steps_frame(steps))
    frame = categories_frame(taxonomy)
    run.save_result("taxonomy", frame)
    return frame


def _merge(
    run: Run,
    taxonomies: list[Taxonomy],
    rounds: Sequence[Sequence[int]],
    steps: list[dict[str, object]],
    settings: Settings,
    done: int = 0,
) -> list[Taxonomy]:
    """Merge taxonomies in rounds, and note in `steps` which category went where; `done` were asked about before."""
    planned = done + calls_of(rounds)
    for number, sizes in enumerate(rounds, start=1):
        merges = merge_round(taxonomies, sizes, done, wording_of(run.prompts, run.parameters))
        questions = [merge.question for merge in merges if merge.question]
        answers = ask_all(run, "consolidate_taxonomy", questions, settings, planned=planned, done=done)
        taxonomies = _apply(run, number, merges, answers, steps)
        done += len(questions)
    return taxonomies


def _rounds(run: Run, taxonomies: Sequence[Taxonomy], groups: Mapping[int, str] | None) -> list[list[int]]:
    """Return the sizes of the groups merged in each round; a sample is merged after each look at it, as it grew."""
    most = run.parameters.taxonomies_per_consolidation
    if groups is not None:
        return consolidation_rounds(_by_first_run(run, taxonomies, groups), most, apart=True)
    if not run.parameters.extract_sample:
        return consolidation_rounds(_by_first_run(run, taxonomies, first_runs(run.products)), most)
    ends = [0, *run.result("readings")["batches"].tolist()]
    return sample_rounds([sum(a < each.first <= b for each in taxonomies) for a, b in pairwise(ends)], most)


def refine_assignments(run: Run, settings: Settings | None = None) -> pd.DataFrame:
    """Ask whether another category fits each product strictly better, and write the results of the run.

    Returns the lineage of every product: its batch and category there, the category after consolidation and after
    refinement, the confidence, and the cache keys of the interactions that stated them.
    """
    settings = settings or load_settings()
    products, assignments = run.products, consolidated_assignments(run)
    taxonomy = numbered(run.result("taxonomy"))
    placed = assignments[assignments["category"] != ""]
    questions = refine_questions(products, placed, taxonomy, run.prompts, run.parameters) if taxonomy else Questions()
    given = (products, placed, taxonomy, run.prompts, run.parameters)
    second = second_questions(*given, len(questions) + 1) if questions else Questions()
    with live_progress(run, STAGES["refine_assignments"]):
        answers = ask_all(run, "refine_assignments", questions + second, settings)
    firsts = [answer for answer in answers if answer.question.batch <= len(questions)]
    lineage = refined(firsts, assignments, taxonomy)
    if second:
        _save_repeatability(run, lineage, answers[len(firsts) :], placed, taxonomy)
    # The ledger comes last: where it stands, the stage has done all its work.
    for name, table in {"lineage": lineage, **result_tables(run, products, lineage, taxonomy)}.items():
        run.save_result(name, table)
    return lineage


def result_tables(
    run: Run, products: pd.DataFrame, lineage: pd.DataFrame, taxonomy: Sequence[Category]
) -> dict[str, pd.DataFrame]:
    """Make the tables that a run ends with; the categories of a run that it extends keep their numbers and keys.

    Then the table `categories` has the keys that were retired too.
    """
    if not run.parameters.extends or not run.file("taxonomy.parquet").exists():
        return final_tables(products, lineage, taxonomy)
    earlier = run.archived("taxonomy")
    numbers = numbers_kept(earlier, run.archived("earlier"), lineage)
    tables = final_tables(products, lineage, taxonomy, numbers)
    return {"categories": succeeded(earlier, tables["taxonomies"]), **tables}


def _save_repeatability(
    run: Run, lineage: pd.DataFrame, answers: Sequence[Answer], placed: pd.DataFrame, taxonomy: Sequence[Category]
) -> None:
    """Save what the products that were asked twice said each time, and how many were placed differently."""
    batches = {
        product: answer.question.batch
        for answer in answers
        if answer.checked and answer.checked.valid
        for product, *_ in answer.question.products
    }
    asked = placed[placed["product_id"].isin(list(batches))]
    again = refined(answers, asked, taxonomy).set_index("product_id")["refined_category"]
    first = lineage.set_index("product_id")["refined_category"].reindex(again.index)
    table = pd.DataFrame(
        {"product_id": again.index, "category": first.to_numpy(), "second_category": again.to_numpy()}
    )
    table["batch"] = pd.array([batches[product] for product in table["product_id"]], dtype="int64")
    run.save_result("asked_twice", table)
    differs = (table["category"] != table["second_category"]).astype(float).tolist()
    estimate = clustered_rate(differs, table["batch"].tolist())
    if estimate.count:
        share = estimate.as_json("share")
        update_status(run.folder, asked_twice={"products": estimate.count, "differently": int(sum(differs)), **share})


def consolidated_assignments(run: Run) -> pd.DataFrame:
    """Return the first-pass assignments, with `batch_category` as stated and `category` after consolidation."""
    return consolidated(run.result("batch_assignments"), run.result("batch_categories"), run.result("merges"))


def _by_first_run(run: Run, taxonomies: Sequence[Taxonomy], came: Mapping[int, str]) -> list[int]:
    frame = run.result("batch_assignments")
    # A product that shares the line of an earlier one is in its batch, though it came in later.
    earliest = sorted(
        zip(frame["batch"], frame["product_id"], strict=True), key=lambda row: came[row[1]], reverse=True
    )
    return count_by_first_run(taxonomies, dict(earliest), came)


def _apply(
    run: Run, number: int, merges: Sequence[Merge], answers: Sequence[Answer], steps: list[dict[str, object]]
) -> list[Taxonomy]:
    """Apply the answers of one round, and note which category of which taxonomy went where."""
    by_number = {answer.question.batch: answer for answer in answers}
    after: list[Taxonomy] = []
    place = 0
    for position, merge in enumerate(merges, start=1):
        answer = by_number[merge.question.batch] if merge.question else None
        if answer and answer.reason:
            log_event(run.folder, "merged_by_name", round=number, merge=position, why=answer.reason)
        taxonomy, ends = merged(merge, answer)
        after.append(taxonomy)
        steps += merge_steps(number, position, place, merge, ends)
        place += len(merge.members)
    return after
