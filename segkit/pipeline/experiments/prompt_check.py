"""A prompt set tried on sample products: each template is rendered, and what would mislead a model is listed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from segkit.core.prompt_sets import PromptSet
from segkit.core.prompts import OPTIONAL, PLACEHOLDERS, faults_of, fill, find_prompt, read_prompt
from segkit.core.questions import id_lines
from segkit.core.text import shortened
from segkit.errors import PromptError
from segkit.pipeline.plan.estimate import DENSE
from segkit.pipeline.plan.walk import PLAIN

#: How the line begins that says what belongs to the product category, where prompts have one.
SCOPE = "Scope:"
_CATEGORIES = {
    "Rotary Things": "Things that are turned, e.g. one with a knob",
    "Flat Things": "Things without height, e.g. a plate",
}


@dataclass(frozen=True, slots=True)
class PromptCheck:
    """One prompt of a set: its file, whether the set holds it itself, its tokens as rendered, and its faults."""

    key: str
    path: str
    own: bool
    tokens: tuple[int, int]
    faults: tuple[str, ...]


def check_set(prompt_set: PromptSet, titles: list[str], category: str) -> list[PromptCheck]:
    """Render every prompt of a set for products with these titles, and return what is wrong with each.

    Nothing is asked. A fault is a placeholder that is unknown or missing, a file that cannot be read, or a list of
    products or categories that does not begin on a line of its own, so that a model could not tell its ids. Lines
    that begin with `Scope:` must say the same in every prompt that has one.
    """
    checks = [_checked(prompt_set, key, titles, category) for key in PLACEHOLDERS]
    fault = _scope_fault(prompt_set)
    return [*checks[:-1], replace(checks[-1], faults=(*checks[-1].faults, *fault))]


def _scope_fault(prompt_set: PromptSet) -> list[str]:
    """Return a sentence if the prompts that begin a line with `Scope:` do not all say the same there."""
    scopes: dict[str, list[str]] = {}
    for key in PLACEHOLDERS:
        with suppress(PromptError):
            text = read_prompt(find_prompt(key, prompt_set.name))
            for line in text.splitlines():
                if line.startswith(SCOPE):
                    scopes.setdefault(line, []).append(key)
    if len(scopes) < 2:
        return []
    sides = " and ".join(", ".join(keys) for keys in scopes.values())
    return [f"the line {SCOPE!r} differs between {sides}: one stage would undo what another decides"]


def _checked(prompt_set: PromptSet, key: str, titles: list[str], category: str) -> PromptCheck:
    try:
        path = find_prompt(key, prompt_set.name)
        text = read_prompt(path)
    except PromptError as error:
        return PromptCheck(key, "", False, (0, 0), (error.message,))
    faults = [fault.message for fault in faults_of(path, text, key)]
    values = {**_values(titles, category)[key], **{name: ["…"] for name in OPTIONAL.get(key, ())}}
    rendered = "" if faults else fill(text, {name: "\n".join(lines) for name, lines in values.items()})
    lines = set(rendered.splitlines())
    for name, wanted in values.items():
        lost = [line for line in wanted if line.startswith("[") and line not in lines]
        if rendered and lost:
            faults.append(f"{path}: the lines of ${name} do not stand alone: {shortened(lost, most=1)}")
    tokens = math.floor(len(rendered) / PLAIN), math.ceil(len(rendered) / DENSE)
    return PromptCheck(key, str(path), path == Path(prompt_set.files.get(key, "")), tokens, tuple(faults))


def _values(titles: list[str], category: str) -> Mapping[str, Mapping[str, list[str]]]:
    """Return sample values of the placeholders of each prompt, in the form that docs/contract.md fixes."""
    products = id_lines({f"P_{i}": title for i, title in enumerate(titles)})
    described = [f"{name}: {definition}" for name, definition in _CATEGORIES.items()]
    subcategories = id_lines({f"S_{i}": line for i, line in enumerate(described)})
    taxonomies = id_lines({f"{letter}_{i}": line for letter in "AB" for i, line in enumerate(described)})
    placed = [f"{line} → S_0 ({next(iter(_CATEGORIES))})" for line in products]
    head = {"product_category": [category]}
    return {
        "extract_taxonomy": {**head, "products": products},
        "consolidate_taxonomy": {**head, "taxonomies": taxonomies},
        "refine_assignments": {**head, "subcategories": subcategories, "products": placed},
        "assign_products": {**head, "subcategories": subcategories, "products": products},
        "shared_retry": {
            "errors": ["- completeness: P_0 is missing"],
            "previous_answer": ["> {}"],
            "missing": products,
        },
    }
