"""Validating answers under the contract: what is literally stated counts, what is not is told as a fault.

A check never raises and never guesses: position, case and similarity of ids mean nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from segkit.core.json_text import Found, MalformedError, Pairs, find_object, holds_invalid
from segkit.core.models import OUT_OF_SCOPE, Category, Checked
from segkit.core.notes import Notes, listed, short
from segkit.core.text import clean_definition, clean_name, fold_name, name_fault


@dataclass(frozen=True, slots=True)
class Placed:
    """A local category name (folded) or OUT_OF_SCOPE, and the confidence that was stated with it."""

    category: str
    confidence: float | None


@dataclass(frozen=True, slots=True)
class Extracted:
    """What the answers to an extract question state: categories by folded name, assignments by `P_i`."""

    categories: dict[str, Category] = field(default_factory=dict)
    assignments: dict[str, Placed] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Merged:
    """What a consolidate answer states: its categories, and the category of each input id."""

    categories: tuple[Category, ...]
    members: dict[str, str]


def check_extract(
    content: str, ids: Sequence[str], source: str, before: Checked | None = None, others: frozenset[str] = frozenset()
) -> Checked:
    """Check an extract answer for the products `ids` and join it with what earlier attempts stated.

    An item that is complete and valid by itself counts, whatever else is wrong. `others` are local ids of the
    prompt that were not asked for again: they may be answered, and are passed over. What an earlier attempt
    stated stays; a contradiction is a warning.
    """
    notes = Notes()
    done = before.value if before else Extracted()
    sources = dict(before.sources) if before else {}
    found = _find(content, ("categories", "assignments"), notes)
    categories = _categories(found, notes) if found else {}
    stated = _assignments(found, categories, notes) if found else {}
    stated = _of_this_batch(stated, others | set(ids), notes)
    joined = _join(done, categories, stated, frozenset(ids), notes)
    sources |= {product: source for product in joined.assignments if product not in sources}
    missing = tuple(product for product in ids if product not in joined.assignments)
    if found and missing:
        notes.fault("completeness", "products without a valid assignment", missing)
    return Checked(joined, tuple(notes.faults), missing, tuple(notes.warnings), sources)


def check_consolidate(content: str, ids: Sequence[str], source: str) -> Checked:
    """Check a consolidate answer: every input category is a member of exactly one category."""
    notes = Notes()
    found = _whole(_find(content, ("categories", "members"), notes), notes)
    categories = _categories(found, notes) if found else {}
    members = _members(found, ids, categories, notes) if found else {}
    missing = tuple(i for i in ids if i not in members)
    if found and missing:
        notes.fault("completeness", "input categories that are no member", missing)
    used = set(members.values())
    empty = [name for name in categories if name not in used]
    if found and empty:
        notes.fault("completeness", "categories without a member", empty)
    value = Merged(tuple(categories.values()), members)
    return Checked(value, tuple(notes.faults), missing, tuple(notes.warnings), dict.fromkeys(ids, source))


def check_refine(content: str, product_ids: Sequence[str], category_ids: Sequence[str], source: str) -> Checked:
    """Check a refine answer; its value is the reassignments by `P_i`, which may be none."""
    notes = Notes()
    found = _whole(_find(content, ("reassignments",), notes), notes)
    value = _reassignments(found, set(product_ids), {*category_ids, OUT_OF_SCOPE}, notes) if found else {}
    return Checked(value, tuple(notes.faults), (), tuple(notes.warnings), dict.fromkeys(value, source))


def _find(content: str, keys: tuple[str, ...], notes: Notes) -> Found | None:
    try:
        found = find_object(content, keys)
    except MalformedError as error:
        notes.fault("format", str(error))
        return None
    if not found.closed:
        notes.fault("format", f"the answer breaks off ({found.why})")
    absent = [key for key in keys if key not in found.value]
    if absent and found.closed:
        notes.fault("validation", f"missing fields (there are {listed(list(found.value))})", absent)
    twice = [key for key in keys if key in found.value.repeated]
    if twice:
        notes.fault("validation", "fields that stand more than once", twice)
    return None if twice or len(absent) == len(keys) else found


def _whole(found: Found | None, notes: Notes) -> Found | None:
    """Let nothing of a broken-off answer through where only a whole answer has a meaning."""
    return found if found and found.closed and not notes.faults else None


def _categories(found: Found, notes: Notes) -> dict[str, Category]:
    """Read the valid categories by their ids; those whose id or folded name is not unique are faults."""
    given = found.value.get("categories", [])
    if not isinstance(given, list):
        notes.fault("validation", "categories is not a list")
        return {}
    read = [category for entry in given if (category := _category(entry, notes))]
    doubled = _doubled([category.id for category in read])
    if doubled:
        notes.fault("validation", "category ids that stand more than once", doubled)
    named: dict[str, list[Category]] = {}
    for category in read:
        named.setdefault(fold_name(category.name), []).append(category)
    for same in named.values():
        if len(same) > 1:
            notes.fault("validation", "categories with the same name", [f"{c.id} {c.name!r}" for c in same])
    spoiled = set(doubled)
    return {same[0].id: same[0] for same in named.values() if len(same) == 1 and same[0].id not in spoiled}


def _category(entry: Any, notes: Notes) -> Category | None:
    if not isinstance(entry, dict):
        notes.fault("validation", f"a category is not an object but {short(entry)}")
        return None
    identifier, name = entry.get("id"), entry.get("name")
    fault = "it has no id" if not isinstance(identifier, str) or not identifier.strip() else ""
    fault = fault or ("it holds what JSON cannot hold, or a key twice" if holds_invalid(entry) else name_fault(name))
    definition = "" if fault else clean_definition(entry.get("definition"))
    if not fault and not definition:
        fault = "it has no definition"
    if fault:
        notes.fault("validation", f"category {short(identifier)}: {fault}")
        return None
    return Category(identifier.strip(), clean_name(name), definition)  # type: ignore[union-attr,arg-type]


def _assignments(found: Found, categories: Mapping[str, Category], notes: Notes) -> dict[str, Placed]:
    given = found.value.get("assignments", {})
    if not isinstance(given, Pairs):
        notes.fault("validation", "assignments is not an object with the products' ids as keys")
        return {}
    stated: dict[str, Placed] = {}
    entries = [(key.strip(), value) for key in given for value in given.repeated.get(key, [given[key]])]
    conflicts: set[str] = set()
    wrong: dict[str, list[str]] = {}
    for product, entry in entries:
        placed, why = _placed(entry, categories, notes, product)
        if placed is None:
            wrong.setdefault(why, []).append(product)
        elif product in stated and stated[product].category != placed.category:
            conflicts.add(product)
        else:
            stated.setdefault(product, placed)
    for why, products in wrong.items():
        notes.fault("validation", why, products)
    if conflicts:
        notes.fault("completeness", "products with two different categories", sorted(conflicts))
    spoiled = conflicts | {product for products in wrong.values() for product in products if product in stated}
    return {product: placed for product, placed in stated.items() if product not in spoiled}


def _placed(entry: Any, categories: Mapping[str, Category], notes: Notes, product: str) -> tuple[Placed | None, str]:
    if not isinstance(entry, dict):
        return None, "assignments that are not objects with category and confidence"
    if holds_invalid(entry):
        return None, "assignments that hold what JSON cannot hold, or a key twice"
    category = entry.get("category")
    if not isinstance(category, str):
        return None, "assignments whose category is not a text"
    category = category.strip()
    if category != OUT_OF_SCOPE and category not in categories:
        return None, f"category {short(category)} is not among the answer's valid categories"
    name = category if category == OUT_OF_SCOPE else fold_name(categories[category].name)
    return Placed(name, _confidence(entry.get("confidence"), notes, product)), ""


def _confidence(value: Any, notes: Notes, product: str) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)
    notes.warn(f"confidence of {product} is {short(value)}, stored as unknown")
    return None


def _of_this_batch(stated: dict[str, Placed], known: frozenset[str], notes: Notes) -> dict[str, Placed]:
    strangers = [product for product in stated if product not in known]
    if strangers and len(strangers) == len(stated):
        notes.fault("completeness", "answer to another question, none of its ids was asked for", strangers)
    elif strangers:
        notes.fault("completeness", "ids that are not of this batch", strangers)
    return {product: placed for product, placed in stated.items() if product in known}


def _join(
    done: Extracted,
    categories: Mapping[str, Category],
    stated: Mapping[str, Placed],
    ids: frozenset[str],
    notes: Notes,
) -> Extracted:
    named = {fold_name(category.name): category for category in categories.values()}
    assignments = dict(done.assignments)
    for product, placed in stated.items():
        before = assignments.setdefault(product, placed) if product in ids else assignments.get(product, placed)
        if before.category != placed.category:
            notes.warn(f"{product} was {before.category!r} and is now {placed.category!r}; the first stays")
    used = {placed.category for placed in assignments.values()}
    joined = {**named, **done.categories}
    # Done first: a category keeps the wording and the place it had when it was first named.
    order = [*done.categories, *(name for name in named if name not in done.categories)]
    return Extracted({name: joined[name] for name in order if name in used}, assignments)


def _members(found: Found, ids: Sequence[str], categories: Mapping[str, Category], notes: Notes) -> dict[str, str]:
    given = found.value.get("members", {})
    if not isinstance(given, Pairs):
        notes.fault("validation", "members is not an object with the input ids as keys")
        return {}
    entries: dict[str, list[Any]] = {}
    for key in given:
        entries.setdefault(key.strip(), []).extend(given.repeated.get(key, [given[key]]))
    asked = set(ids)
    foreign = [key for key in entries if key not in asked]
    if foreign:
        notes.fault("completeness", "ids that were not asked for", foreign)
    twice = [key for key, values in entries.items() if any(value != values[0] for value in values)]
    if twice:
        notes.fault("completeness", "input ids with two different categories", twice)
    wrong = [
        k for k, values in entries.items() if not isinstance(values[0], str) or values[0].strip() not in categories
    ]
    if wrong:
        notes.fault("validation", "members whose category is not among the answer's valid categories", wrong)
    spoiled = {*foreign, *twice, *wrong}
    return {key: values[0].strip() for key, values in entries.items() if key not in spoiled}


def _reassignments(found: Found, products: set[str], categories: set[str], notes: Notes) -> dict[str, Placed]:
    given = found.value.get("reassignments")
    if not isinstance(given, list):
        notes.fault("validation", "reassignments is not a list")
        return {}
    changes: dict[str, Placed] = {}
    for entry in given:
        change = _reassignment(entry, products, categories, notes)
        if change is None:
            continue
        product, placed = change
        if changes.setdefault(product, placed).category != placed.category:
            notes.fault("completeness", "products with two different categories", [product])
    return changes


def _reassignment(entry: Any, products: set[str], categories: set[str], notes: Notes) -> tuple[str, Placed] | None:
    if not isinstance(entry, dict) or holds_invalid(entry):
        notes.fault("validation", f"not a valid reassignment: {short(entry)}")
        return None
    product, category = entry.get("product"), entry.get("category")
    if not isinstance(product, str) or product.strip() not in products:
        notes.fault("completeness", f"{short(product)} is no product of this batch")
        return None
    if not isinstance(category, str) or category.strip() not in categories:
        notes.fault("validation", f"{product.strip()}: {short(category)} is no subcategory of the prompt")
        return None
    return product.strip(), Placed(category.strip(), _confidence(entry.get("confidence"), notes, product.strip()))


def _doubled(values: Sequence[str]) -> list[str]:
    return sorted(value for value, count in Counter(values).items() if count > 1)
