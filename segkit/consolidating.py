"""The second stage as pure functions: taxonomies of batches → questions, and answers → one taxonomy, as a tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from segkit.batching import consolidation_rounds, letters
from segkit.folding import fold_name
from segkit.models import Answer, Asking, Category, Checked, Question
from segkit.replies import Merged, check_consolidate, consolidate_schema
from segkit.runs import Parameters
from segkit.wording import Wording, id_lines

Taxonomy = Sequence[Category]


def taxonomies_of(batch_categories: pd.DataFrame) -> list[Taxonomy]:
    """Give the taxonomy of each batch, in the order of the batches; parts of a batch belong to its taxonomy."""
    taxonomies: list[Taxonomy] = []
    for _, rows in batch_categories.groupby("batch", sort=True):
        named: dict[str, Category] = {}
        for name, definition in zip(rows["name"], rows["definition"], strict=True):
            named.setdefault(fold_name(name), Category("", name, definition))
        taxonomies.append(list(named.values()))
    return taxonomies


def consolidate_questions(
    taxonomies: Sequence[Taxonomy], first_number: int, prompts: Mapping[str, str], parameters: Parameters
) -> list[Question | Taxonomy]:
    """Make the questions of one round; a group of one taxonomy needs none and is given back as it is."""
    sizes = consolidation_rounds(len(taxonomies), parameters.taxonomies_per_consolidation)[0]
    wording = Wording(prompts, parameters.category)
    groups: list[Question | Taxonomy] = []
    start, number = 0, first_number
    for size in sizes:
        group = taxonomies[start : start + size]
        start += size
        if size == 1:
            groups.append(group[0])
        else:
            groups.append(_consolidate_question(wording, number, group))
            number += 1
    return groups


def _consolidate_question(wording: Wording, number: int, group: Sequence[Taxonomy]) -> Question:
    shown = distinct_categories(group)
    lines = {category.id: f"{category.name}: {category.definition}" for category in shown}
    schema = consolidate_schema(list(lines))
    first = wording.ask("consolidate_taxonomy", schema, taxonomies=id_lines(lines))

    def check(content: str, source: str, before: Checked | None) -> Checked:
        return check_consolidate(content, list(lines), source)

    def again(checked: Checked, content: str) -> Asking:
        return wording.ask_again(first, schema, checked, content, id_lines(lines))

    context = {
        "batch_size": len(shown),
        "expected_ids": list(lines),
        "product_category": wording.category,
        "taxonomies": len(group),
        "categories": [category.name for category in shown],
    }
    return Question("consolidate_taxonomy", number, first, context, check, again, lambda checked, trouble: [])


def distinct_categories(group: Sequence[Taxonomy]) -> list[Category]:
    """Number the categories of a group of taxonomies with letters; equal folded names are shown once, the first."""
    seen: dict[str, Category] = {}
    for number, taxonomy in enumerate(group):
        for category in taxonomy:
            identifier = f"{letters(number)}_{sum(c.id.startswith(letters(number) + '_') for c in seen.values())}"
            seen.setdefault(fold_name(category.name), replace(category, id=identifier))
    return list(seen.values())


def merged(answer: Answer, group: Sequence[Taxonomy]) -> tuple[list[Category], dict[str, str]]:
    """Give the categories of a merge, and for each folded input name the name it went into.

    Without a valid answer the merge by name takes its place: equal folded names are one category.
    """
    shown = distinct_categories(group)
    if answer.checked is None or not answer.checked.valid:
        return shown, {fold_name(category.name): category.name for category in shown}
    value: Merged = answer.checked.value
    names = {category.id: category.name for category in value.categories}
    return list(value.categories), {fold_name(c.name): names[value.members[c.id]] for c in shown}
