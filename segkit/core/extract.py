"""The first stage as two pure functions: from products to questions, from answers to assignments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

import pandas as pd

from segkit.core.batching import extraction_batches
from segkit.core.catalogue.entries import Entry
from segkit.core.catalogue.titles import untitled
from segkit.core.models import OUT_OF_SCOPE, Answer, BatchFindings, CheckedAnswer, Parameters, Prompt, Question
from segkit.core.questions import (
    Questions,
    Wording,
    entry_lines,
    entry_products,
    extract_schema,
    halves,
    id_lines,
    part_name,
    product_context,
    wording_of,
)
from segkit.core.text import one_line
from segkit.core.validation import check_extract

NO_TITLE = "no title"


def extract_questions(
    products: pd.DataFrame,
    prompts: Mapping[str, str],
    parameters: Parameters,
    start: int = 0,
    end: int | None = None,
) -> Questions:
    """Make the questions of the first stage: every product that has a title belongs to exactly one batch.

    Where the parameters ask for a sample, only that is read. `products` has `product_id`, `title` and the columns of
    the product line; its order does not matter. Products with the same line share one entry, unless the parameters
    say otherwise. `start` and `end` take some of the batches, as a slice does.
    """
    wording, batches = wording_of(prompts, parameters), extraction_batches(products, parameters)[start:end]
    numbered = enumerate(batches, start=start + 1)
    return Questions([partial(_extract_question, wording, number, batch) for number, batch in numbered])


def _extract_question(
    wording: Wording, batch: int, entries: Sequence[Entry], part: str = ""
) -> Question[BatchFindings]:
    lines = entry_lines(entries)
    first = wording.ask("extract_taxonomy", extract_schema(list(lines)), products=id_lines(lines))

    def missing(checked: CheckedAnswer[BatchFindings] | None) -> tuple[str, ...]:
        return checked.missing if checked and checked.missing else tuple(lines)

    def check(content: str, source: str, before: CheckedAnswer[BatchFindings] | None) -> CheckedAnswer[BatchFindings]:
        return check_extract(content, missing(before), source, before, frozenset(lines))

    def again(checked: CheckedAnswer[BatchFindings], content: str) -> Prompt:
        wanted = {i: lines[i] for i in missing(checked)}
        named = "; ".join(category.name for category in checked.value.categories.values())
        so_far = [f"Categories already named, use them where they fit: {one_line(named, 4000)}"] if named else []
        schema = extract_schema(list(wanted))
        return wording.ask_again(first, schema, checked, content, [*so_far, *id_lines(wanted)])

    def cut_up(checked: CheckedAnswer[BatchFindings] | None, trouble: str) -> list[Question[BatchFindings]]:
        rest = [entries[int(i[2:])] for i in missing(checked)]
        # What a broken-off answer left out is a smaller question already; all else is halved to find the culprit.
        shrunk = trouble == "truncated" and len(rest) < len(entries)
        parts = [rest] if shrunk else halves(rest)
        return [_extract_question(wording, batch, p, part_name(part, n)) for n, p in enumerate(parts, start=1)]

    context, products = product_context(wording, entries, lines), entry_products(entries)
    return Question("extract_taxonomy", batch, first, context, check, again, cut_up, part, True, products)


def extracted(answers: Sequence[Answer[BatchFindings]], products: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Gather the content of the answers in two tables.

    Returns the categories of the batches (`batch`, `part`, `name`, `definition`) and one assignment a product
    (`product_id`, `batch`, `part`, `category` as in the batch, or OUT_OF_SCOPE, or empty; `confidence`; `reason`
    where there is no category; `cache_key` of the interaction that stated it), sorted by product.
    """
    categories = [
        (answer.question.batch, answer.question.part, category.name, category.definition)
        for answer in answers
        if answer.checked
        for category in answer.checked.value.categories.values()
    ]
    placed = (row for answer in answers for row in _extracted_rows(answer))
    return _category_frame(categories), assignment_frame(chain(placed, rows_without_title(products)))


def rows_without_title(products: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Return the rows of assignments of the products that are in no batch."""
    for product in products.loc[untitled(products), "product_id"]:
        yield {"product_id": product, "batch": 0, "part": "", "category": "", "reason": NO_TITLE}


def _extracted_rows(answer: Answer[BatchFindings]) -> Iterator[dict[str, Any]]:
    done = answer.checked.value if answer.checked else BatchFindings()
    origin = {"batch": answer.question.batch, "part": answer.question.part}
    products = answer.question.products
    for i, placed in done.assignments.items():
        category = placed.category if placed.category == OUT_OF_SCOPE else done.categories[placed.category].name
        assert answer.checked is not None
        stated = {"category": category, "confidence": placed.confidence, "cache_key": answer.checked.sources[i]}
        for product in products[int(i[2:])]:
            yield {"product_id": product, **origin, **stated}
    if answer.reason:
        missing = answer.checked.missing if answer.checked else [f"P_{i}" for i in range(len(products))]
        left = {**origin, "category": "", "reason": answer.reason}
        for i in missing:
            yield from ({"product_id": product, **left} for product in products[int(i[2:])])


def _category_frame(rows: list[tuple[int, str, str, str]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["batch", "part", "name", "definition"])
    return frame.astype({"batch": "int64", "part": "str", "name": "str", "definition": "str"})


def join_assignments(*frames: pd.DataFrame) -> pd.DataFrame:
    """Join tables of assignments, of which some may have probabilities and others not."""
    joined = pd.concat(frames, ignore_index=True)
    if "probabilities" in joined.columns:
        joined = joined.assign(probabilities=joined["probabilities"].astype(object).fillna("").astype("str"))
    return joined.sort_values("product_id", ignore_index=True)


def assignment_frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Make the table of assignments, sorted by product, from a row each.

    Rows are taken one by one, so that a million of them never exist at the same time. `probabilities` is a column
    where a row has some.
    """
    columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    for row in rows:
        for name, values in columns.items():
            values.append(row.get(name))
    if all(value is None for value in columns["probabilities"]):
        del columns["probabilities"]
    frame = pd.DataFrame({name: _typed(name, columns.pop(name)) for name in list(columns)})
    return frame.sort_values("product_id", ignore_index=True)


_COLUMNS = ("product_id", "batch", "part", "category", "confidence", "reason", "cache_key", "probabilities")
_NUMBERS = {"product_id": "int64", "batch": "int64", "confidence": "float64"}


def _typed(name: str, values: list[Any]) -> pd.Series:
    """Return a column of the table of assignments; a text that is missing is empty."""
    if name in _NUMBERS:
        return pd.Series(values, dtype=_NUMBERS[name])
    return pd.Series(["" if value is None else value for value in values], dtype="str")
