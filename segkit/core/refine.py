"""The third stage as two pure functions: from assignments to questions, from answers to better assignments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import pandas as pd

from segkit.core.batching import asked_twice, entry_batches, shuffled
from segkit.core.catalogue.entries import Entry, entries_of, product_entries
from segkit.core.catalogue.gate import FIRST_RUN, first_runs
from segkit.core.catalogue.lines import product_lines
from segkit.core.models import (
    OUT_OF_SCOPE,
    Answer,
    Category,
    CheckedAnswer,
    Parameters,
    Prompt,
    Question,
    Reassignments,
)
from segkit.core.questions import (
    Questions,
    Wording,
    entry_products,
    halves,
    id_lines,
    part_name,
    product_context,
    refine_schema,
    wording_of,
)
from segkit.core.validation import check_refine

_SECOND_TIME = 1_000_003  # added to the seed: other products and other batches than anywhere else

Move = tuple[str, str, float | None]  # the category a product is moved to, the answer's cache key, the confidence


def refine_questions(
    products: pd.DataFrame,
    assignments: pd.DataFrame,
    taxonomy: Sequence[Category],
    prompts: Mapping[str, str],
    parameters: Parameters,
    start: int = 1,
) -> Questions:
    """Make the questions of the last stage: every assigned product with its category, and all categories.

    `assignments` has `product_id` and `category` (a name of the taxonomy or OUT_OF_SCOPE). Products that have both
    line and category in common share one entry, unless the parameters say otherwise. Batches are numbered from
    `start`.
    """
    placed = dict(zip(assignments["product_id"], assignments["category"], strict=True))
    assigned = products[products["product_id"].isin(list(placed))]
    wording, entries = wording_of(prompts, parameters), _entries(assigned, placed, parameters)
    batches = entry_batches(entries, parameters.seed, parameters.products_per_refinement)
    return Questions(
        [
            partial(_refine_question, wording, taxonomy, number, [(each, placed[each.products[0]]) for each in batch])
            for number, batch in enumerate(batches, start=start)
        ]
    )


def _entries(assigned: pd.DataFrame, placed: Mapping[int, str], parameters: Parameters) -> list[Entry]:
    lines = dict(zip(assigned["product_id"], product_lines(assigned, parameters.product_line), strict=True))
    return entries_of(lines, first_runs(assigned), parameters, placed)


def second_questions(
    products: pd.DataFrame,
    assignments: pd.DataFrame,
    taxonomy: Sequence[Category],
    prompts: Mapping[str, str],
    parameters: Parameters,
    start: int,
) -> Questions:
    """Make the questions that ask some products a second time, drawn at random and in batches of their own.

    They see the same category and the same taxonomy as before, but stand beside other products: what is placed
    differently then is the luck of the prompt.
    """
    entries = product_entries(products, parameters)
    count = asked_twice(len(entries), parameters)
    placed = set(assignments["product_id"])
    asked = [entry.products[0] for entry in entries if entry.products[0] in placed]
    chosen = set(shuffled(asked, parameters.seed + _SECOND_TIME)[:count])
    # The products of all first runs share these batches: nothing that is kept depends on them.
    drawn = products[products["product_id"].isin(list(chosen))].drop(columns=FIRST_RUN, errors="ignore")
    again = assignments[assignments["product_id"].isin(list(chosen))]
    return refine_questions(
        drawn, again, taxonomy, prompts, replace(parameters, seed=parameters.seed + _SECOND_TIME), start
    )


def _refine_question(
    wording: Wording,
    taxonomy: Sequence[Category],
    batch: int,
    entries: Sequence[tuple[Entry, str]],
    part: str = "",
) -> Question[Reassignments]:
    ids = {category.name: category.id for category in taxonomy}
    categories = {category.id: f"{category.name}: {category.definition}" for category in taxonomy}
    lines = {
        f"P_{i}": f"{entry.line} → {ids.get(category, OUT_OF_SCOPE)} ({category})"
        for i, (entry, category) in enumerate(entries)
    }
    schema = refine_schema(list(lines), list(categories))
    first = wording.ask("refine_assignments", schema, subcategories=id_lines(categories), products=id_lines(lines))

    def check(content: str, source: str, before: CheckedAnswer[Reassignments] | None) -> CheckedAnswer[Reassignments]:
        return check_refine(content, list(lines), list(categories), source)

    def again(checked: CheckedAnswer[Reassignments], content: str) -> Prompt:
        return wording.ask_again(first, schema, checked, content, id_lines(lines))

    def cut_up(checked: CheckedAnswer[Reassignments] | None, trouble: str) -> list[Question[Reassignments]]:
        parts = [] if trouble == "invalid" else halves(entries)
        return [
            _refine_question(wording, taxonomy, batch, p, part_name(part, n)) for n, p in enumerate(parts, start=1)
        ]

    asked = [entry for entry, _ in entries]
    context, products = product_context(wording, asked, lines), entry_products(asked)
    return Question("refine_assignments", batch, first, context, check, again, cut_up, part, products=products)


def refined(
    answers: Sequence[Answer[Reassignments]], assignments: pd.DataFrame, taxonomy: Sequence[Category]
) -> pd.DataFrame:
    """Apply the reassignments: `assignments` with `refined_category`, `refined_by` and `refined_confidence`.

    `refined_by` is the cache key of the answer that moved a product, or empty. `refined_confidence` is the confidence
    of the move, or that of the first assignment for a product that was not moved.
    """
    names = {category.id: category.name for category in taxonomy} | {OUT_OF_SCOPE: OUT_OF_SCOPE}
    moves: dict[int, Move] = {}
    for answer in answers:
        if answer.checked is None or not answer.checked.valid:
            continue
        for i, placed in answer.checked.value.items():
            move = (names[placed.category], answer.checked.sources[i], placed.confidence)
            moves |= dict.fromkeys(answer.question.products[int(i[2:])], move)
    before = zip(assignments["product_id"], assignments["category"], assignments["confidence"], strict=True)
    after = [_final(moves.get(product), category, confidence) for product, category, confidence in before]
    return assignments.assign(
        refined_category=pd.array([category for category, _, _ in after], dtype="str"),
        refined_by=pd.array([source for _, source, _ in after], dtype="str"),
        refined_confidence=pd.Series([confidence for _, _, confidence in after], assignments.index, dtype="float64"),
    )


def _final(move: Move | None, category: str, confidence: float) -> Move:
    """Return the final category, source and confidence; an answer that names the same category again changes none."""
    if move is None:
        return category, "", confidence
    return move if move[0] != category else (category, move[1], confidence)
