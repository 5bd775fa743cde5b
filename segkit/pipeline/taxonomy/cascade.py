"""Putting products into a taxonomy by a cascade: the model is asked about some, a classifier places the sure ones.

The classifier learns from the answers of this run. What it may place is decided by answers that it has not seen: the
largest share of the products at which it surely agrees with the model as often as was promised.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd

from segkit.core.batching import AUDITED, asked_twice, assignment_calls, cascade_sizes, shuffled
from segkit.core.catalogue.entries import Entry, product_entries
from segkit.core.extract import assignment_frame, join_assignments
from segkit.core.models import BY_CLASSIFIER, Answer, Category, Parameters, Question
from segkit.core.taxonomy.assign import assign_questions, assigned
from segkit.errors import StageError
from segkit.evaluation.statistics import Estimate, clopper_pearson, clustered_rate
from segkit.pipeline.taxonomy.classifier import LineClassifier, Threshold, find_threshold

TOO_FEW, NOT_SURE = "the products have too few different lines", "it agrees with the model less often than promised"


@dataclass(slots=True)
class CascadeFacts:
    """What a cascade promised, found and saved: the one row of the result `cascade`.

    `self_agreement` is that of the model with itself, `agreement` that of the classifier with held-back answers,
    `audit_agreement` that with the answers about lines it was sure of; each with its 95 % interval, missing where it
    was not measured. The batches up to `first_batches` hold products drawn at random. `reason` says why the
    classifier placed nothing.
    """

    promised: float
    reason: str = ""
    held_back: int = 0
    training: int = 0
    first_batches: int = 0
    products_by_classifier: int = 0
    calls_saved: int = 0
    audited: int = 0
    self_agreement: float | None = None
    self_agreement_low: float | None = None
    self_agreement_high: float | None = None
    agreement: float | None = None
    agreement_low: float | None = None
    agreement_high: float | None = None
    audit_agreement: float | None = None
    audit_agreement_low: float | None = None
    audit_agreement_high: float | None = None

    def note(self, name: str, found: Estimate) -> None:
        """Keep a figure with its interval."""
        for end, value in (("", found.value), ("_low", found.low), ("_high", found.high)):
            setattr(self, name + end, value)


@dataclass(frozen=True, slots=True)
class _Placed:
    """What the classifier says of an entry; an `audited` one is asked about all the same."""

    entry: Entry
    category: str
    score: float
    audited: bool

    def rows(self) -> list[dict[str, object]]:
        same = {"batch": 0, "part": BY_CLASSIFIER, "category": self.category, "confidence": self.score}
        return [{"product_id": product, **same} for product in self.entry.products]


#: Asks questions, of so many in all of which so many are done, and returns their answers.
Ask = Callable[[Sequence[Question], int, int], Sequence[Answer]]


def place_in_cascade(
    products: pd.DataFrame,
    taxonomy: Sequence[Category],
    prompts: Mapping[str, str],
    parameters: Parameters,
    ask: Ask,
    resume: str = "segkit resume latest",
) -> tuple[pd.DataFrame, CascadeFacts]:
    """Return the assignments of products as `core.taxonomy.assign.assigned` does, some by the classifier, and facts.

    `resume` is the command that continues the run. Raises StageError when the promise is above the agreement of the
    model with itself; what was answered is kept.
    """
    order, facts = _in_random_order(products, parameters), CascadeFacts(parameters.cascade)
    asking = _Asking(products, taxonomy, prompts, parameters, ask, assignment_calls(order, parameters), resume)
    facts.held_back, facts.training = cascade_sizes(len(order)) or (0, 0)
    first = facts.held_back + facts.training
    facts.reason = "" if first else TOO_FEW
    found = _ask_first(asking, order[:first], facts) if first else None
    placed = _by_classifier(*found, order[first:], parameters.seed) if found else []
    sure = [each for each in placed if not each.audited]
    left_out = {each.entry.products[0] for each in sure}
    answers = asking.ask([entry for entry in order[first:] if entry.products[0] not in left_out])
    _audit([each for each in placed if each.audited], answers, facts)
    rows = [row for each in sure for row in each.rows()]
    facts.products_by_classifier = len(rows)
    facts.calls_saved = assignment_calls(order, replace(parameters, cascade=0.0)) - asking.asked
    return join_assignments(assigned(asking.answers, products, taxonomy), assignment_frame(rows)), facts


def _in_random_order(products: pd.DataFrame, parameters: Parameters) -> list[Entry]:
    entries = {entry.products[0]: entry for entry in product_entries(products, parameters)}
    return [entries[product] for product in shuffled(list(entries), parameters.seed)]


@dataclass(slots=True)
class _Asking:
    """Asks the model about entries, part by part; the batches of a part are numbered after those before it."""

    products: pd.DataFrame
    taxonomy: Sequence[Category]
    prompts: Mapping[str, str]
    parameters: Parameters
    send: Ask
    planned: int
    resume: str  # the command that continues the run
    asked: int = 0  # questions so far
    answers: list[Answer] = field(default_factory=list)

    def ask(self, entries: Sequence[Entry]) -> pd.DataFrame:
        """Return the answers about entries, a row each with `category` and `batch`, by the product that names it."""
        answers = self._ask(entries, self.parameters)
        self.answers += answers
        return self._table(answers, entries)

    def ask_again(self, entries: Sequence[Entry]) -> pd.DataFrame:
        """Return the same from a second time, among other products; it does not count as the answer of the run."""
        other = replace(self.parameters, seed=self.parameters.seed + 1)
        return self._table(self._ask(entries, other), entries)

    def _ask(self, entries: Sequence[Entry], parameters: Parameters) -> Sequence[Answer]:
        ids = [product for entry in entries for product in entry.products]
        products = self.products[self.products["product_id"].isin(ids)]
        questions = assign_questions(products, self.taxonomy, self.prompts, parameters, self.asked + 1)
        answers = self.send(questions, max(self.planned, self.asked + len(questions)), self.asked)
        self.asked += len(questions)
        return answers

    def _table(self, answers: Sequence[Answer], entries: Sequence[Entry]) -> pd.DataFrame:
        table = assigned(answers, self.products.head(0), self.taxonomy).set_index("product_id")
        is_entry = table.index.isin([entry.products[0] for entry in entries])  # others have the same line
        return table.loc[is_entry & (table["category"] != ""), ["category", "batch"]]


def _ask_first(
    asking: _Asking, entries: Sequence[Entry], facts: CascadeFacts
) -> tuple[LineClassifier, Threshold] | None:
    """Ask about random entries, and return the classifier that learned from them with what it may place, if any."""
    held_back, training = entries[: facts.held_back], entries[facts.held_back :]
    known = asking.ask(held_back)
    _check_promise(asking, held_back, known, facts)
    learned = asking.ask(training)
    facts.first_batches, facts.reason = asking.asked, NOT_SURE
    if learned["category"].nunique() < 2:
        return None
    lines = pd.Series({entry.products[0]: entry.line for entry in entries})
    classifier = LineClassifier(lines[learned.index], learned["category"], asking.parameters.seed)
    names, scores = classifier.placed(lines[known.index])
    agrees = [name == category for name, category in zip(names, known["category"], strict=True)]
    threshold = find_threshold(scores, agrees, known["batch"], facts.promised)
    if threshold is None:
        return None
    facts.reason = ""
    facts.note("agreement", threshold.agreement)
    return classifier, threshold


def _check_promise(asking: _Asking, entries: Sequence[Entry], known: pd.DataFrame, facts: CascadeFacts) -> None:
    """Ask about some entries a second time; raise StageError when the model itself does not keep the promise."""
    again = asking.ask_again(entries[: asked_twice(len(entries), asking.parameters)])
    both = known.assign(category_again=again["category"].reindex(known.index)).dropna()
    if both.empty:
        return
    same = clustered_rate((both["category"] == both["category_again"]).astype(float).tolist(), both["batch"].tolist())
    facts.note("self_agreement", same)
    if same.high is not None and same.high < facts.promised:
        what = f"--cascade {facts.promised:g} promises more than the model agrees with itself: {same}"
        feasible = max(0.5, math.floor(100 * same.value) / 100)
        hint = f"{asking.resume} --cascade {feasible:g}, or --cascade 0 to ask about every product"
        raise StageError(what, hint)


def _by_classifier(
    classifier: LineClassifier, threshold: Threshold, entries: Sequence[Entry], seed: int
) -> list[_Placed]:
    """Return the entries that the classifier is sure of; some of them, drawn at random, are to be audited."""
    names, scores = classifier.placed([entry.line for entry in entries])
    sure = [i for i, score in enumerate(scores) if score > 0 and score >= threshold.score]
    audited = set(random.Random(seed).sample(sure, math.ceil(AUDITED * len(sure))))  # noqa: S311 (no secret)
    return [_Placed(entries[i], names[i], float(scores[i]), i in audited) for i in sure]


def _audit(audited: Sequence[_Placed], answers: pd.DataFrame, facts: CascadeFacts) -> None:
    """Compare what the classifier says of some entries with what the model says."""
    stated = answers["category"]
    known = [each for each in audited if each.entry.products[0] in stated.index]
    same = sum(each.category == stated[each.entry.products[0]] for each in known)
    facts.audited = len(known)
    if known:
        facts.note("audit_agreement", clopper_pearson(same, len(known), "lines"))
