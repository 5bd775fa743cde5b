"""Checks of answers: only what is stated literally counts, everything else is reported as a fault.

A check never raises and never guesses: the order, case and similarity of ids mean nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from segkit.core.json_text import Found, MalformedError, Pairs, find_object, holds_invalid
from segkit.core.models import (
    NONE_FITS,
    OUT_OF_SCOPE,
    BatchFindings,
    Category,
    CheckedAnswer,
    Fault,
    MergedCategories,
    Placement,
    Reassignments,
)
from segkit.core.text import clean_definition, clean_name, fold_name, name_fault, shortened

_SHOWN = 20
_MOST_NOTES = 50
# Probabilities that were rounded before they were stated sum to nearly 1.
_ROUNDED = 0.02


class Findings:
    """Collects faults and warnings while one answer is read; their number is bounded."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.warnings: list[str] = []

    def fault(self, kind: str, text: str, ids: Sequence[str] = ()) -> None:
        if len(self.faults) < _MOST_NOTES:
            self.faults.append(Fault(kind, _storable(f"{text}: {shortened(ids, _SHOWN)}" if ids else text)))

    def warn(self, text: str) -> None:
        if len(self.warnings) < _MOST_NOTES:
            self.warnings.append(_storable(text))


def check_extract(
    content: str,
    ids: Sequence[str],
    source: str,
    before: CheckedAnswer[BatchFindings] | None = None,
    others: frozenset[str] = frozenset(),
) -> CheckedAnswer[BatchFindings]:
    """Check an extract answer for the products `ids` and join it with what earlier attempts stated.

    An item that is complete and valid by itself counts, whatever else is wrong. `others` are local ids of the
    prompt that were not asked for again: they may be answered, and are passed over. What an earlier attempt
    stated stays; a contradiction is a warning.
    """
    findings = Findings()
    done = before.value if before else BatchFindings()
    sources = dict(before.sources) if before else {}
    found = _find(content, ("categories", "assignments"), findings)
    categories = _categories(found, findings) if found else {}
    names = {category.id: fold_name(category.name) for category in categories.values()}
    stated = _assignments(found, names, "the answer's valid categories", findings) if found else {}
    stated = _of_this_batch(stated, others | set(ids), findings)
    joined = _join(done, categories, stated, frozenset(ids), findings)
    sources |= {product: source for product in joined.assignments if product not in sources}
    missing = tuple(product for product in ids if product not in joined.assignments)
    if found and missing:
        findings.fault("completeness", "products without a valid assignment", missing)
    return CheckedAnswer(joined, tuple(findings.faults), missing, tuple(findings.warnings), sources)


def check_assign(
    content: str,
    product_ids: Sequence[str],
    category_ids: Sequence[str],
    source: str,
    before: CheckedAnswer | None = None,
    others: frozenset[str] = frozenset(),
) -> CheckedAnswer:
    """Check an assign answer for `product_ids` and join it with what earlier attempts stated.

    Its value is the placements by `P_i`, each with an id of the prompt, NONE_FITS or OUT_OF_SCOPE. As in
    `check_extract` an item that is valid by itself counts, and a product that is left out is missing. Probabilities
    that are none are stored as unknown, like a confidence, and so is then the confidence.
    """
    findings = Findings()
    done: dict[str, Placement] = dict(before.value) if before else {}
    sources = dict(before.sources) if before else {}
    found = _find(content, ("assignments",), findings)
    names = {i: i for i in (*category_ids, NONE_FITS)}
    stated = _assignments(found, names, "the subcategories of the prompt", findings) if found else {}
    stated = _with_probabilities(stated, found, {*names, OUT_OF_SCOPE}, findings) if found else {}
    stated = _of_this_batch(stated, others | set(product_ids), findings)
    for product, placed in stated.items():
        first = done.setdefault(product, placed) if product in product_ids else done.get(product, placed)
        if first.category != placed.category:
            findings.warn(f"{product} was {first.category!r} and is now {placed.category!r}; the first stays")
    sources |= {product: source for product in done if product not in sources}
    missing = tuple(product for product in product_ids if product not in done)
    if found and missing:
        findings.fault("completeness", "products without a valid assignment", missing)
    return CheckedAnswer(done, tuple(findings.faults), missing, tuple(findings.warnings), sources)


def check_consolidate(content: str, ids: Sequence[str], source: str) -> CheckedAnswer[MergedCategories]:
    """Check a consolidate answer: every input category is a member of exactly one category."""
    findings = Findings()
    found = _whole(_find(content, ("categories", "members"), findings), findings)
    categories = _categories(found, findings) if found else {}
    members = _members(found, ids, categories, findings) if found else {}
    missing = tuple(i for i in ids if i not in members)
    if found and missing:
        findings.fault("completeness", "input categories that are no member", missing)
    used = set(members.values())
    empty = [name for name in categories if name not in used]
    if found and empty:
        findings.fault("completeness", "categories without a member", empty)
    value = MergedCategories(tuple(categories.values()), members)
    return CheckedAnswer(value, tuple(findings.faults), missing, tuple(findings.warnings), dict.fromkeys(ids, source))


def check_refine(
    content: str, product_ids: Sequence[str], category_ids: Sequence[str], source: str
) -> CheckedAnswer[Reassignments]:
    """Check a refine answer; its value is the reassignments by `P_i`, which may be none."""
    findings = Findings()
    found = _whole(_find(content, ("reassignments",), findings), findings)
    value = _reassignments(found, set(product_ids), {*category_ids, OUT_OF_SCOPE}, findings) if found else {}
    return CheckedAnswer(value, tuple(findings.faults), (), tuple(findings.warnings), dict.fromkeys(value, source))


def _find(content: str, keys: tuple[str, ...], findings: Findings) -> Found | None:
    try:
        found = find_object(content, keys)
    except MalformedError as error:
        findings.fault("format", str(error))
        return None
    if not found.closed:
        findings.fault("format", f"the answer breaks off ({found.why})")
    absent = [key for key in keys if key not in found.value]
    if absent and found.closed:
        findings.fault("validation", f"missing fields (there are {shortened(found.value, _SHOWN)})", absent)
    twice = [key for key in keys if key in found.value.repeated]
    if twice:
        findings.fault("validation", "fields that stand more than once", twice)
    return None if twice or len(absent) == len(keys) else found


def _whole(found: Found | None, findings: Findings) -> Found | None:
    """Let nothing of a broken-off answer through where only a whole answer has a meaning."""
    return found if found and found.closed and not findings.faults else None


def _categories(found: Found, findings: Findings) -> dict[str, Category]:
    """Read the valid categories by their ids; those whose id or folded name is not unique are faults."""
    given = found.value.get("categories", [])
    if not isinstance(given, list):
        findings.fault("validation", "categories is not a list")
        return {}
    # An exact repetition counts once.
    read = [category for entry in _distinct(given) if (category := _category(entry, findings))]
    doubled = _doubled([category.id for category in read])
    if doubled:
        findings.fault("validation", "category ids that stand more than once", doubled)
    named: dict[str, list[Category]] = {}
    for category in read:
        named.setdefault(fold_name(category.name), []).append(category)
    for same in named.values():
        if len(same) > 1:
            findings.fault("validation", "categories with the same name", [f"{c.id} {c.name!r}" for c in same])
    spoiled = set(doubled)
    return {same[0].id: same[0] for same in named.values() if len(same) == 1 and same[0].id not in spoiled}


def _distinct(entries: list[Any]) -> list[Any]:
    """Return the entries of a list without those that repeat an earlier one exactly."""
    return list({repr(entry): entry for entry in reversed(entries)}.values())[::-1]


def _category(entry: Any, findings: Findings) -> Category | None:
    if not isinstance(entry, dict):
        findings.fault("validation", f"a category is not an object but {short(entry)}")
        return None
    identifier, name = entry.get("id"), entry.get("name")
    fault = "it has no id" if not isinstance(identifier, str) or not identifier.strip() else ""
    fault = fault or ("it holds what JSON cannot hold, or a key twice" if holds_invalid(entry) else name_fault(name))
    definition = "" if fault else clean_definition(entry.get("definition"))
    if not fault and not definition:
        fault = "it has no definition"
    if fault:
        findings.fault("validation", f"category {short(identifier)}: {fault}")
        return None
    return Category(identifier.strip(), clean_name(name), definition)  # type: ignore[union-attr,arg-type]


def _assignments(found: Found, names: Mapping[str, str], whose: str, findings: Findings) -> dict[str, Placement]:
    """Read the valid assignments; `names` gives for each id that is allowed the name a placement holds."""
    given = found.value.get("assignments", {})
    if not isinstance(given, Pairs):
        findings.fault("validation", "assignments is not an object with the products' ids as keys")
        return {}
    stated: dict[str, Placement] = {}
    entries = [(key.strip(), value) for key in given for value in given.repeated.get(key, [given[key]])]
    conflicts: set[str] = set()
    wrong: dict[str, list[str]] = {}
    for product, entry in entries:
        placed, why = _placed(entry, names, whose, findings, product)
        if placed is None:
            wrong.setdefault(why, []).append(product)
        elif product in stated and stated[product].category != placed.category:
            conflicts.add(product)
        else:
            stated.setdefault(product, placed)
    for why, products in wrong.items():
        findings.fault("validation", why, products)
    if conflicts:
        findings.fault("completeness", "products with two different categories", sorted(conflicts))
    spoiled = conflicts | {product for products in wrong.values() for product in products if product in stated}
    return {product: placed for product, placed in stated.items() if product not in spoiled}


def _placed(
    entry: Any, names: Mapping[str, str], whose: str, findings: Findings, product: str
) -> tuple[Placement | None, str]:
    if not isinstance(entry, dict):
        return None, "assignments that are not objects with category and confidence"
    if holds_invalid(entry):
        return None, "assignments that hold what JSON cannot hold, or a key twice"
    category = entry.get("category")
    if not isinstance(category, str):
        return None, "assignments whose category is not a text"
    category = category.strip()
    if category != OUT_OF_SCOPE and category not in names:
        return None, f"category {short(category)} is not among {whose}"
    name = category if category == OUT_OF_SCOPE else names[category]
    return Placement(name, _confidence(entry.get("confidence"), findings, product)), ""


def _confidence(value: Any, findings: Findings, product: str) -> float | None:
    if _is_share(value):
        return float(value)
    findings.warn(f"confidence of {product} is {short(value)}, stored as unknown")
    return None


def _with_probabilities(
    stated: Mapping[str, Placement], found: Found, choices: set[str], findings: Findings
) -> dict[str, Placement]:
    """Add the probabilities of all choices where the answer states them: that of the category is its confidence."""
    given = found.value.get("assignments", {})
    weighed = {
        product: _weighed(placed, given[product]["probabilities"], choices, findings, product)
        for product, placed in stated.items()
        if "probabilities" in given.get(product, {})
    }
    return {**stated, **weighed}


def _weighed(placed: Placement, given: Any, choices: set[str], findings: Findings, product: str) -> Placement:
    fault = _fault_of_probabilities(given, placed.category, choices)
    if fault:
        findings.warn(f"probabilities of {product} {fault}, stored as unknown")
        return Placement(placed.category, None)
    probabilities = {choice: float(value) for choice, value in given.items()}
    return Placement(placed.category, probabilities[placed.category], probabilities)


def _fault_of_probabilities(given: Any, category: str, choices: set[str]) -> str:
    """Return what is wrong with the probabilities of a product, or nothing."""
    if not isinstance(given, dict) or holds_invalid(given):
        return "are not one number a choice"
    if strangers := [choice for choice in given if choice not in choices]:
        return f"name choices that are not of the prompt ({shortened(strangers, 3)})"
    if category not in given:
        return f"leave out {category}"
    if not all(_is_share(value) for value in given.values()):
        return "are not all numbers from 0 to 1"
    total = sum(given.values())
    return "" if abs(total - 1) <= _ROUNDED else f"sum to {total:.3f}"


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _of_this_batch(stated: dict[str, Placement], asked: frozenset[str], findings: Findings) -> dict[str, Placement]:
    strangers = [product for product in stated if product not in asked]
    if strangers and len(strangers) == len(stated):
        findings.fault("completeness", "answer to another question, none of its ids was asked for", strangers)
    elif strangers:
        findings.fault("completeness", "ids that are not of this batch", strangers)
    return {product: placed for product, placed in stated.items() if product in asked}


def _join(
    done: BatchFindings,
    categories: Mapping[str, Category],
    stated: Mapping[str, Placement],
    ids: frozenset[str],
    findings: Findings,
) -> BatchFindings:
    named = {fold_name(category.name): category for category in categories.values()}
    assignments = dict(done.assignments)
    for product, placed in stated.items():
        before = assignments.setdefault(product, placed) if product in ids else assignments.get(product, placed)
        if before.category != placed.category:
            findings.warn(f"{product} was {before.category!r} and is now {placed.category!r}; the first stays")
    used = {placed.category for placed in assignments.values()}
    joined = {**named, **done.categories}
    # Done first: a category keeps the wording and the place it had when it was first named.
    order = [*done.categories, *(name for name in named if name not in done.categories)]
    return BatchFindings({name: joined[name] for name in order if name in used}, assignments)


def _members(
    found: Found, ids: Sequence[str], categories: Mapping[str, Category], findings: Findings
) -> dict[str, str]:
    given = found.value.get("members", {})
    if not isinstance(given, Pairs):
        findings.fault("validation", "members is not an object with the input ids as keys")
        return {}
    entries: dict[str, list[Any]] = {}
    for key in given:
        entries.setdefault(key.strip(), []).extend(given.repeated.get(key, [given[key]]))
    asked = set(ids)
    foreign = [key for key in entries if key not in asked]
    if foreign:
        findings.fault("completeness", "ids that were not asked for", foreign)
    twice = [key for key, values in entries.items() if any(value != values[0] for value in values)]
    if twice:
        findings.fault("completeness", "input ids with two different categories", twice)
    wrong = [
        k for k, values in entries.items() if not isinstance(values[0], str) or values[0].strip() not in categories
    ]
    if wrong:
        findings.fault("validation", "members whose category is not among the answer's valid categories", wrong)
    spoiled = {*foreign, *twice, *wrong}
    return {key: values[0].strip() for key, values in entries.items() if key not in spoiled}


def _reassignments(
    found: Found, products: set[str], categories: set[str], findings: Findings
) -> dict[str, Placement]:
    given = found.value.get("reassignments")
    if not isinstance(given, list):
        findings.fault("validation", "reassignments is not a list")
        return {}
    changes: dict[str, Placement] = {}
    for entry in given:
        change = _reassignment(entry, products, categories, findings)
        if change is None:
            continue
        product, placed = change
        if changes.setdefault(product, placed).category != placed.category:
            findings.fault("completeness", "products with two different categories", [product])
    return changes


def _reassignment(
    entry: Any, products: set[str], categories: set[str], findings: Findings
) -> tuple[str, Placement] | None:
    if not isinstance(entry, dict) or holds_invalid(entry):
        findings.fault("validation", f"not a valid reassignment: {short(entry)}")
        return None
    product, category = entry.get("product"), entry.get("category")
    if not isinstance(product, str) or product.strip() not in products:
        findings.fault("completeness", f"{short(product)} is no product of this batch")
        return None
    if not isinstance(category, str) or category.strip() not in categories:
        findings.fault("validation", f"{product.strip()}: {short(category)} is no subcategory of the prompt")
        return None
    return product.strip(), Placement(
        category.strip(), _confidence(entry.get("confidence"), findings, product.strip())
    )


def _doubled(values: Sequence[str]) -> list[str]:
    return sorted(value for value, count in Counter(values).items() if count > 1)


def short(value: Any) -> str:
    """Show a value in at most 80 characters."""
    text = ascii(value) if isinstance(value, str) and holds_invalid(value) else repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


def _storable(text: str) -> str:
    """Replace lone surrogates, which no file can hold."""
    return text.encode(errors="replace").decode()
