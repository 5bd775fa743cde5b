"""The stage that puts products into a given taxonomy, as two pure functions: products → questions → assignments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import orjson
import pandas as pd

from segkit.core.batching import entry_batches
from segkit.core.catalogue.entries import Entry, product_entries
from segkit.core.catalogue.gate import FIRST_RUN
from segkit.core.extract import assignment_frame, rows_without_title
from segkit.core.models import NONE_FITS, Answer, Category, CheckedAnswer, Parameters, Placement, Prompt, Question
from segkit.core.questions import (
    Questions,
    Wording,
    assign_schema,
    entry_lines,
    entry_products,
    halves,
    id_lines,
    part_name,
    product_context,
    wording_of,
)
from segkit.core.validation import check_assign


@dataclass(frozen=True, slots=True)
class StartingPoint:
    """What a run with a given taxonomy starts from, beside its products.

    `categories` are those to choose from. `edited` holds for each product that is asked about again since an edit of
    its category the key of that; of these, `apart` are the products of categories that were split without naming the
    parts. `again` are all products that an earlier run had too, and `extracted` those of them that fitted nowhere
    and were extracted there.
    """

    categories: tuple[Category, ...] = ()
    edited: Mapping[int, str] = field(default_factory=dict)
    apart: frozenset[int] = frozenset()
    again: frozenset[int] = frozenset()
    extracted: frozenset[int] = frozenset()

    def asked(self, products: pd.DataFrame) -> pd.DataFrame:
        """Return the products that the stage asks about: all, but for those that are extracted on their own."""
        return products[~products["product_id"].isin(self.apart)].reset_index(drop=True)

    def to_extract(self, products: pd.DataFrame, placed: pd.DataFrame, smallest: int) -> pd.DataFrame:
        """Return the products whose kinds are extracted, each with its group as its first run.

        `placed` are assignments. Products that fit nowhere are one group, if there are enough of them and one is new:
        else nothing would come of it that an earlier run has not found. A kind that an edit has just removed is
        not proposed again. Each category that was split without naming the parts is a group of its own.
        """
        left = placed.loc[placed["category"] == NONE_FITS, "product_id"]
        left = left[~left.isin(list(self.edited))]
        is_worth_it = len(left) >= smallest and not set(left) <= self.extracted
        wanted = {*left, *self.apart} if is_worth_it else self.apart
        found = products[products["product_id"].isin(wanted)].reset_index(drop=True)
        groups = [self.edited[product] if product in self.apart else "" for product in found["product_id"]]
        return found.assign(**{FIRST_RUN: groups})


def assign_questions(
    products: pd.DataFrame,
    taxonomy: Sequence[Category],
    prompts: Mapping[str, str],
    parameters: Parameters,
    first: int = 1,
) -> Questions:
    """Make the questions of the stage: every product that has a title belongs to exactly one batch.

    `taxonomy` holds the categories to choose from, with their local ids `S_0`, `S_1`, …. Products with the same line
    share one entry, unless the parameters say otherwise. The batches are numbered from `first`.
    """
    wording, entries = wording_of(prompts, parameters), product_entries(products, parameters)
    batches = entry_batches(entries, parameters.seed, parameters.products_per_assignment)
    numbered = enumerate(batches, first)
    return Questions([partial(_assign_question, wording, taxonomy, number, batch) for number, batch in numbered])


def _assign_question(
    wording: Wording, taxonomy: Sequence[Category], batch: int, entries: Sequence[Entry], part: str = ""
) -> Question:
    categories = {category.id: f"{category.name}: {category.definition}" for category in taxonomy}
    lines = entry_lines(entries)
    schema = assign_schema(list(lines), list(categories))
    first = wording.ask("assign_products", schema, subcategories=id_lines(categories), products=id_lines(lines))

    def missing(checked: CheckedAnswer | None) -> tuple[str, ...]:
        return checked.missing if checked and checked.missing else tuple(lines)

    def check(content: str, source: str, before: CheckedAnswer | None) -> CheckedAnswer:
        return check_assign(content, missing(before), list(categories), source, before, frozenset(lines))

    def again(checked: CheckedAnswer, content: str) -> Prompt:
        wanted = {i: lines[i] for i in missing(checked)}
        return wording.ask_again(
            first, assign_schema(list(wanted), list(categories)), checked, content, id_lines(wanted)
        )

    def cut_up(checked: CheckedAnswer | None, trouble: str) -> list[Question]:
        rest = [entries[int(i[2:])] for i in missing(checked)]
        # What a broken-off answer left out is a smaller question already; all else is halved to find the culprit.
        shrunk = trouble == "truncated" and len(rest) < len(entries)
        parts = [rest] if shrunk else halves(rest)
        return [
            _assign_question(wording, taxonomy, batch, p, part_name(part, n)) for n, p in enumerate(parts, start=1)
        ]

    context, products = product_context(wording, entries, lines), entry_products(entries)
    return Question("assign_products", batch, first, context, check, again, cut_up, part, True, products)


def probabilities_text(probabilities: Mapping[str, float], names: Mapping[str, str]) -> str:
    """Return the probability of each choice as JSON by its name, the likeliest first; those near 0 are left out."""
    ranked = sorted(probabilities.items(), key=lambda each: (-each[1], each[0]))
    shown = {names.get(choice, choice): round(value, 4) for choice, value in ranked}
    return orjson.dumps({name: value for name, value in shown.items() if value}).decode()


def _probabilities(placed: Placement, names: Mapping[str, str]) -> dict[str, str]:
    return {"probabilities": probabilities_text(placed.probabilities, names)} if placed.probabilities else {}


def assigned(answers: Sequence[Answer], products: pd.DataFrame, taxonomy: Sequence[Category]) -> pd.DataFrame:
    """Return one row a product, sorted by product.

    The columns are `product_id`, `batch`, `part`, `category` (a name of the taxonomy, OUT_OF_SCOPE, NONE_FITS, or
    empty), `confidence`, `reason` where there is no category, and `cache_key` of the interaction that stated it;
    and `probabilities` where a decision endpoint stated some (see `probabilities_text`).
    """
    names = {category.id: category.name for category in taxonomy}
    placed = (row for answer in answers for row in _assigned_rows(answer, names))
    return assignment_frame(chain(placed, rows_without_title(products)))


def _assigned_rows(answer: Answer, names: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    products_of = answer.question.products
    checked = answer.checked or CheckedAnswer({}, missing=tuple(f"P_{i}" for i in range(len(products_of))))
    origin = {"batch": answer.question.batch, "part": answer.question.part}
    for i, placed in checked.value.items():
        stated = {
            "category": names.get(placed.category, placed.category),
            "confidence": placed.confidence,
            "cache_key": checked.sources[i],
            **_probabilities(placed, names),
        }
        for product in products_of[int(i[2:])]:
            yield {"product_id": product, **origin, **stated}
    if answer.reason:
        left = {**origin, "category": "", "reason": answer.reason}
        for i in checked.missing:
            yield from ({"product_id": product, **left} for product in products_of[int(i[2:])])
