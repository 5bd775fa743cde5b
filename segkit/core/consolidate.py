"""The second stage as pure functions: taxonomies of batches are merged, some at a time, until one is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import pandas as pd

from segkit.core.batching import letters
from segkit.core.models import OUT_OF_SCOPE, Answer, Category, CheckedAnswer, MergedCategories, Prompt, Question
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


def merge_round(taxonomies: Sequence[Taxonomy], sizes: Sequence[int], asked: int, wording: Wording) -> list[Merge]:
    """Make the merges of one round, of so many taxonomies each; `asked` questions were asked in earlier rounds."""
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


def count_by_first_run(
    taxonomies: Sequence[Taxonomy], batches: Mapping[int, int], first_runs: Mapping[int, str]
) -> list[int]:
    """Count the taxonomies for each first run of their products, in the order of their batches.

    `batches` names a product of each batch, `first_runs` the run in which each product came.
    """
    counted = Counter(first_runs[batches[taxonomy.first]] for taxonomy in taxonomies)
    return [counted[first_run] for first_run in sorted(counted)]


def merge_steps(
    number: int, position: int, first: int, merge: Merge, ends: Mapping[str, str]
) -> list[dict[str, object]]:
    """Return into which category each category of a merge's members went: rows of the result `merges`.

    `number` is that of the round, `position` that of the merge in it, `first` that of its first taxonomy.
    """
    return [
        {"round": number, "merge": position, "taxonomy": place, "name": c.name, "into": ends[fold_name(c.name)]}
        for place, member in enumerate(merge.members, start=first)
        for c in member.categories
    ]


def steps_frame(steps: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    """Return the result `merges`: which category of which taxonomy went where, in every round."""
    frame = pd.DataFrame(steps, columns=["round", "merge", "taxonomy", "name", "into"])
    numbers = dict.fromkeys(("round", "merge", "taxonomy"), "int64")
    return frame.astype({**numbers, "name": "str", "into": "str"})


def consolidated(assignments: pd.DataFrame, batch_categories: pd.DataFrame, merges: pd.DataFrame) -> pd.DataFrame:
    """Return the first-pass assignments, with `batch_category` as stated and `category` after consolidation."""
    assignments = assignments.rename(columns={"category": "batch_category"})
    paths = _paths(batch_categories, merges)
    ends = [
        name if name in ("", OUT_OF_SCOPE) else paths[batch, fold_name(name)]
        for batch, name in zip(assignments["batch"], assignments["batch_category"], strict=True)
    ]
    assignments.insert(4, "category", pd.Series(ends, dtype="str"))
    return assignments


def _paths(batch_categories: pd.DataFrame, merges: pd.DataFrame) -> dict[tuple[int, str], str]:
    """Follow every category of a batch through the rounds to the category it ended in."""
    numbers = {batch: i for i, batch in enumerate(sorted(batch_categories["batch"].unique()))}
    starts = {
        (batch, fold_name(name)): (numbers[batch], name)
        for batch, name in zip(batch_categories["batch"], batch_categories["name"], strict=True)
    }
    return followed(starts, merges)


def followed(starts: Mapping[tuple[int, str], tuple[int, str]], merges: pd.DataFrame) -> dict[tuple[int, str], str]:
    """Follow categories through the rounds of `merges`, each from a taxonomy and a name to the name it ends with."""
    steps = {
        (r, t, fold_name(name)): (merge - 1, into)
        for r, merge, t, name, into in merges.itertuples(index=False, name=None)
    }
    rounds = int(merges["round"].max()) if len(merges) else 0
    ends = {}
    for key, (start, first_name) in starts.items():
        place, name = start, first_name
        for number in range(1, rounds + 1):
            place, name = steps[number, place, fold_name(name)]
        ends[key] = name
    return ends


def categories_frame(categories: Sequence[Category]) -> pd.DataFrame:
    """Return the `name` and `definition` of some categories, a row each."""
    return pd.DataFrame([(c.name, c.definition) for c in categories], columns=["name", "definition"], dtype="str")


def numbered(taxonomy: pd.DataFrame) -> list[Category]:
    """Return the categories of the result `taxonomy` with the local ids that prompts show: S_0, S_1, …."""
    rows = zip(taxonomy["name"], taxonomy["definition"], strict=True)
    return [Category(f"S_{i}", name, definition) for i, (name, definition) in enumerate(rows)]


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
