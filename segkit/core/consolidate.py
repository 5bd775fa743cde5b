"""The second stage as pure functions: taxonomies of batches are merged, some at a time, until one is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import pandas as pd

from segkit.core.batching import letters
from segkit.core.models import Answer, Category, CheckedAnswer, MergedCategories, Prompt, Question
from segkit.core.questions import Wording, consolidate_schema, id_lines
from segkit.core.text import fold_name, one_line
from segkit.core.validation import check_consolidate


@dataclass(frozen=True, slots=True)
class Taxonomy:
    """The categories of one batch, or of all batches from the first to the last one that were merged into it."""

    first: int
    last: int
    categories: tuple[Category, ...]

    @property
    def span(self) -> str:
        return f"batch {self.first}" if self.first == self.last else f"batches {self.first} to {self.last}"


@dataclass(frozen=True, slots=True)
class Merge:
    """Some taxonomies that become one, and the question about them; a single taxonomy needs none."""

    members: tuple[Taxonomy, ...]
    question: Question[MergedCategories] | None


def taxonomies_of(batch_categories: pd.DataFrame) -> list[Taxonomy]:
    """Return the taxonomy of each batch, in the order of the batches; parts of a batch belong to its taxonomy."""
    taxonomies = []
    for batch, rows in batch_categories.groupby("batch", sort=True):
        named: dict[str, Category] = {}
        for name, definition in zip(rows["name"], rows["definition"], strict=True):
            named.setdefault(fold_name(name), Category("", name, definition))
        taxonomies.append(Taxonomy(int(str(batch)), int(str(batch)), tuple(named.values())))
    return taxonomies


def merge_round(
    taxonomies: Sequence[Taxonomy], sizes: Sequence[int], asked: int, prompts: Mapping[str, str], category: str
) -> list[Merge]:
    """Make the merges of one round, of so many taxonomies each; `asked` questions were asked in earlier rounds."""
    wording = Wording(prompts, category)
    merges, rest = [], iter(taxonomies)
    for size in sizes:
        members = tuple(islice(rest, size))
        question = None
        if size > 1:
            asked += 1
            question = _question(wording, asked, members)
        merges.append(Merge(members, question))
    return merges


def merged(merge: Merge, answer: Answer[MergedCategories] | None) -> tuple[Taxonomy, dict[str, str]]:
    """Return the taxonomy that a merge makes, and for each folded name among its members the name it went into.

    Without a valid answer, categories are merged by name: equal folded names are one category.
    """
    shown = distinct_categories(merge.members)
    span = merge.members[0].first, merge.members[-1].last
    if answer is None or answer.checked is None or not answer.checked.valid:
        return Taxonomy(*span, tuple(shown)), {fold_name(category.name): category.name for category in shown}
    value = answer.checked.value
    names = {category.id: category.name for category in value.categories}
    return Taxonomy(*span, value.categories), {fold_name(c.name): names[value.members[c.id]] for c in shown}


def distinct_categories(members: Sequence[Taxonomy]) -> list[Category]:
    """Number categories by the letter of their taxonomy and their position; of equal folded names, keep the first."""
    seen: dict[str, Category] = {}
    for number, taxonomy in enumerate(members):
        for position, category in enumerate(taxonomy.categories):
            seen.setdefault(fold_name(category.name), replace(category, id=f"{letters(number)}_{position}"))
    return list(seen.values())


def _question(wording: Wording, number: int, members: Sequence[Taxonomy]) -> Question[MergedCategories]:
    shown = distinct_categories(members)
    lines = {category.id: f"{category.name}: {category.definition}" for category in shown}
    schema = consolidate_schema(list(lines))
    first = wording.ask("consolidate_taxonomy", schema, taxonomies=_lists(members, lines))

    def check(
        content: str, source: str, before: CheckedAnswer[MergedCategories] | None
    ) -> CheckedAnswer[MergedCategories]:
        return check_consolidate(content, list(lines), source)

    def again(checked: CheckedAnswer[MergedCategories], content: str) -> Prompt:
        return wording.ask_again(first, schema, checked, content, id_lines(lines))

    context = {
        "batch_size": len(shown),
        "expected_ids": list(lines),
        "product_category": wording.category,
        "batches": [members[0].first, members[-1].last],
        "categories": [category.name for category in shown],
    }
    return Question("consolidate_taxonomy", number, first, context, check, again, lambda checked, trouble: [])


def _lists(members: Sequence[Taxonomy], lines: Mapping[str, str]) -> list[str]:
    """Render each list under a heading; those of an earlier list appear by name only, to show how common they are."""
    rendered = []
    for number, taxonomy in enumerate(members):
        ids = {f"{letters(number)}_{position}": category for position, category in enumerate(taxonomy.categories)}
        rendered.append(f"List {letters(number)}, from {taxonomy.span}:")
        rendered += id_lines({i: lines[i] for i in ids if i in lines})
        repeated = [category.name for i, category in ids.items() if i not in lines]
        if repeated:
            rendered.append(one_line(f"List {letters(number)} also has: {'; '.join(repeated)}", 2000))
    return rendered
