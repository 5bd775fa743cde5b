"""How one product got its category, in sentences, with the lines of prompts and answers that they rest on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pandas as pd

from segkit.analysis.frames import records
from segkit.analysis.jupyter import show
from segkit.analysis.lineage import asked_product, merge_steps, product_path
from segkit.core.catalogue.ids import numbers_of
from segkit.core.models import OUT_OF_SCOPE
from segkit.core.text import fold_name, quantity, shortened
from segkit.evaluation import agreement
from segkit.evaluation.explain.evidence import (
    answer_items,
    answer_line,
    id_of_category,
    id_of_product,
    prompt_line,
    read_log,
)
from segkit.evaluation.explain.nearest import category_similarity, similar_elsewhere
from segkit.evaluation.pages import Html, Parts, Readable
from segkit.runs.run import Run

_REASONS = ("reason", "why", "explanation", "rationale")
_NAMED = 4  # categories or repeats that a sentence lists before it counts the rest


@dataclass(frozen=True, repr=False)
class Explanation(Readable):
    """How a product got its category.

    `product` is its row of `run.assignments`. `steps` is its path (`step`, `category` after it, `where`,
    `confidence`, `prompt_line`, `answer_line`, `cache_key`, `file_path`), `lines` the same and what follows in words.
    `second_category` is where it was placed when it was asked twice (empty if it was not), `repeats` the categories
    in which repeats of the run place it, by the names of this run, `next_best` the category that it would be in
    otherwise, and `similar` the products most like it that stand elsewhere.
    """

    run: Run
    product: dict[str, Any]
    steps: pd.DataFrame
    lines: list[str]
    second_category: str
    repeats: list[str]
    next_best: dict[str, Any] | None
    similar: pd.DataFrame

    def as_json(self) -> dict[str, Any]:
        """Return the explanation as other programs read it."""
        same = sum(name == self.product["category"] for name in self.repeats)
        return {
            "run": self.run.id,
            **self.product,
            "sentences": self.lines,
            "steps": records(self.steps),
            "second_category": self.second_category or None,
            "repeats": {"runs": len(self.repeats), "same": same, "categories": dict(Counter(self.repeats))},
            "next_best": self.next_best,
            "similar_elsewhere": records(self.similar),
        }

    def sentences(self) -> list[str]:
        """Return the title of the product and how it got its category."""
        return [str(self.product["title"]), *self.lines]

    def shown(self) -> Parts:
        """Return what Jupyter shows: the sentences, the lines of prompts and answers, and similar products."""
        lines = [
            (f"{step} {where}".strip(), source, line)
            for step, where, *both in self._evidence
            for source, line in zip(("prompt", "answer"), both, strict=True)
            if line
        ]
        evidence = Html(show(pd.DataFrame(lines, columns=["step", "line_of", "text"]), once="step").to_html())
        parts: dict[str, Sequence[Any]] = {
            str(self.product["title"]): self.lines,
            "Evidence": [evidence],
        }
        return {**parts, "Similar products elsewhere": [self.similar] if len(self.similar) else []}

    @property
    def _evidence(self) -> Iterable[tuple[str, ...]]:
        return self.steps[["step", "where", "prompt_line", "answer_line"]].itertuples(index=False, name=None)


def explain(run: Run, product_id: int | str) -> Explanation:
    """Return how a product got its category, in sentences with their evidence; nothing is asked of a model.

    `product_id` is an id as it was given, or its number. Raises ProductsError for a product that the run lacks.
    """
    steps = product_path(run, product_id)
    (number,) = numbers_of(run.products, [product_id])
    assignments = run.assignments
    product = records(assignments[assignments["product_id"] == number])[0]
    asked = asked_product(run, number)  # the one that prompts and answers name
    reasons, lines = zip(*(_evidence(run, asked, step) for step in records(steps)), strict=True)
    steps = steps.assign(prompt_line=[line for line, _ in lines], answer_line=[line for _, line in lines])
    second, repeats = _second_category(run, number), _repeated(run, number)
    next_best = _next_best(run, number, product, second, repeats)
    similar = similar_elsewhere(run, number)
    sentences = [_step(run, number, step, reason) for step, reason in zip(records(steps), reasons, strict=True)]
    sentences += [_twice(product["category"], second), _repeats(run, product["category"], repeats)]
    sentences += [_next(next_best), _similar(similar)]
    return Explanation(run, product, steps, [each for each in sentences if each], second, repeats, next_best, similar)


def _evidence(run: Run, number: int, step: dict[str, Any]) -> tuple[str, tuple[str, str]]:
    """Return the reason that an answer states for a step, and its line of the prompt and of the answer."""
    log = read_log(run, step["file_path"])
    is_merge = step["step"] == "merged"
    local = id_of_category(log, step["before"]) if is_merge else id_of_product(log, number)
    items = answer_items(log, local) if local else {}
    stated = items.get("stated")
    reason = next((str(stated[key]) for key in _REASONS if stated.get(key)), "") if isinstance(stated, dict) else ""
    return reason, (prompt_line(log, local) if local else "", answer_line(items, local))


def _step(run: Run, number: int, step: dict[str, Any], reason: str) -> str:
    """Describe one step of the path; a step in which nothing happened has no sentence."""
    category, confidence = step["category"], step["confidence"]
    sure = "" if confidence is None or confidence != confidence else f" ({confidence:.2f})"
    match step["step"]:
        case "the same line as":
            return f"It has the same line as {step['where']}, which was asked about for both."
        case "unassigned":
            return f"It has no category: {step['where']}."
        case "stated":
            return f"{step['where'].capitalize()} stated it as {category}{sure}{_company(run, number)}."
        case "assigned":
            return f"{step['where'].capitalize()} put it into {category}{sure}, a category of the taxonomy given."
        case "classified":
            return (
                f"A classifier trained on answers of the run put it into {category}{sure}; the model was not asked."
            )
        case "merged" | "merged by name":
            return _merge(run, step)
        case "moved by refinement":
            return f"Refinement moved it to {category}{sure} because {reason or _fits_better(run, category)}."
        case "kept by refinement":
            return f"Refinement kept it in {category}."
        case "taken over":
            return f"It was in {category} before: that is taken over from {step['where']}."
        case "agreed":
            return f"{step['where'].capitalize()} agree on {category}{sure}."
    return ""


def _company(run: Run, number: int) -> str:
    """Return how many products of the same batch were stated alike."""
    stated = run.result("batch_assignments")
    own = stated[stated["product_id"] == number].iloc[0]
    batch = stated[stated["batch"] == own["batch"]]
    alike = int((batch["category"].map(fold_name) == fold_name(own["category"])).sum())
    return f", one of {alike} there among {quantity(len(batch), 'product')}"


def _merge(run: Run, step: dict[str, Any]) -> str:
    """Describe what a category was merged with: the other categories that went the same way in the same merge."""
    steps = merge_steps(run)
    at = steps["round"].astype(str).radd("round ") + ", merge " + steps["merge"].astype(str)
    together = steps[(at == step["where"]) & (steps["into"].map(fold_name) == fold_name(step["category"]))]
    names = {fold_name(name): name for name in together["batch_category"]}
    others = [name for folded, name in names.items() if folded != fold_name(step["before"])]
    into = f"into {step['category']}" if fold_name(step["category"]) != fold_name(step["before"]) else ""
    if not others:
        return f"It was renamed {step['category']} ({step['where']})." if into else ""
    with_others = f"merged with {shortened(others, _NAMED)}"
    how = " by name, without a valid answer" if step["step"] == "merged by name" else ""
    return f"{step['before']} was {with_others}{how}" + (f" {into}" if into else "") + f" ({step['where']})."


def _fits_better(run: Run, category: str) -> str:
    if category == OUT_OF_SCOPE:
        return f"the model found that it is not of the category {run.parameters.category}"
    taxonomies = run.result("taxonomies").set_index("category_name")["definition"]
    return f'the model found that this fits better: "{taxonomies.get(category, "")}"'


def _second_category(run: Run, number: int) -> str:
    if not run.has_result("asked_twice"):
        return ""
    twice = run.result("asked_twice").set_index("product_id")["second_category"]
    return str(twice.get(number, ""))


def _repeated(run: Run, number: int) -> list[str]:
    """Return where each repeat of a run places a product, by the names of this run where a category has a match."""
    placed, found = agreement.placements(run), []
    for other in map(agreement.placements, agreement.repeats_of(run)):
        names = {there: here for here, there in agreement.match_categories(placed, other).items()}
        name = str(other.get(number, ""))
        found.append(names.get(name, name))
    return found


def _next_best(
    run: Run, number: int, product: dict[str, Any], second: str, repeats: list[str]
) -> dict[str, Any] | None:
    """Return the category that a product would be in otherwise.

    It is found by its repeats, its second answer, the probabilities of a decision, or its words.
    """
    own = product["category"]
    elsewhere = Counter(name for name in repeats if name not in ("", own))
    if elsewhere:
        ((name, count),) = elsewhere.most_common(1)
        return {"category": name, "by": "repeats", "share": count / len(repeats)}
    if second not in ("", own):
        return {"category": second, "by": "second answer", "share": 0.5}
    stated = orjson.loads(product.get("probabilities") or "{}")
    if shares := {name: share for name, share in stated.items() if name != own}:
        name = max(shares, key=lambda other: shares[other])
        return {"category": name, "by": "probabilities", "share": shares[name]}
    ((_, row),) = category_similarity(run, [number]).iterrows()
    similar = {str(name): float(value) for name, value in row.items()}
    others = [name for name in similar if name != own and similar[name] > 0]
    if not others:
        return None
    name = max(others, key=lambda other: similar[other])
    return {"category": name, "by": "words", "similarity": similar[name], "own_similarity": similar.get(own, 0.0)}


def _twice(own: str, second: str) -> str:
    if not second:
        return ""
    where = "in the same category again" if second == own else f"in {second}"
    return f"Asked a second time, among other products, the model placed it {where}."


def _repeats(run: Run, own: str, repeats: list[str]) -> str:
    if not repeats:
        return f"This run has no repeats that would show how stable that is: segkit stability {run.id} --repeats 5."
    counted = Counter(name or "no category" for name in repeats if name != own)
    elsewhere = shortened([f"{name} ({count})" for name, count in counted.most_common()], _NAMED)
    same = len(repeats) - sum(counted.values())
    text = f"{same} of {len(repeats)} repeats of this run place it in the same category"
    return f"{text}; others: {elsewhere}." if elsewhere else f"{text}."


def _next(next_best: dict[str, Any] | None) -> str:
    if next_best is None:
        return ""
    what = f"The next best category is {next_best['category']}"
    if next_best["by"] == "words":
        own, other = next_best["own_similarity"], next_best["similarity"]
        return f"{what}, by the words of its title (similarity {other:.2f}; its own category {own:.2f})."
    if next_best["by"] == "probabilities":
        return f"{what}, with a probability of {next_best['share']:.4f} in the answer."
    return f"{what} ({next_best['share']:.0%} of the {'repeats' if next_best['by'] == 'repeats' else 'answers'})."


def _similar(similar: pd.DataFrame) -> str:
    listed = [f'"{row["title"]}" ({row["product_id"]}) in {row["category"]}' for row in records(similar)]
    return f"Similar products that stand elsewhere: {'; '.join(listed)}." if listed else ""
