"""The questions of a run, walked stage by stage as far as the answers to them are known, and estimated beyond."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import pairwise

import orjson
import pandas as pd

from segkit.core.batching import (
    asked_twice,
    assignment_calls,
    consolidation_rounds,
    extraction_batches,
    least_assignment_calls,
    looks,
    refinement_calls,
    sample_rounds,
)
from segkit.core.catalogue.entries import product_entries
from segkit.core.catalogue.gate import first_runs
from segkit.core.catalogue.titles import untitled
from segkit.core.consolidate import (
    Merge,
    Taxonomy,
    categories_frame,
    consolidated,
    count_by_first_run,
    merge_round,
    merge_steps,
    merged,
    numbered,
    steps_frame,
    taxonomies_of,
)
from segkit.core.extract import extract_questions, extracted
from segkit.core.models import STAGES, Answer, Category, Parameters, Question
from segkit.core.questions import Questions, wording_of
from segkit.core.refine import refine_questions, second_questions
from segkit.core.taxonomy.assign import StartingPoint, assign_questions, assigned
from segkit.core.taxonomy.unseen import least_batches, reading
from segkit.llm.transports.decisions import decision_questions
from segkit.pipeline.plan.known import Lookup
from segkit.pipeline.taxonomy.cascade import place_in_cascade

# Characters a token in plain English; what a prompt holds of later stages is estimated in tokens.
PLAIN = 4.5
# What answers hold, as (least, most): categories of a batch and of a merge, tokens of a category and an assignment,
# the share of products that a refinement moves, tokens of a reassignment.
_OF_BATCH, _OF_MERGE = (3, 12), (5, 25)
_CATEGORY, _ASSIGNMENT = (12, 90), (12, 24)
_MOVED, _REASSIGNMENT = (0.0, 0.25), (18, 28)
# Characters of a typed question without its choices, and of a choice.
_TYPED_QUESTION, _CHOICE = 150, 16

Interval = tuple[float, float]
LookUp = Callable[[str, Sequence[Question]], Lookup]


@dataclass(frozen=True, slots=True)
class StageQuestions:
    """The questions of one stage: how many, how many are answered, the calls for the rest, and the size of these.

    `characters` of prompts and tokens of `answers` lie between two ends. `estimated` says that prompts of the stage
    depend on answers that are not there yet; `saved_usd` is the price of the answers from the cache.
    """

    stage: str
    questions: int
    calls: int
    characters: Interval
    answers: Interval
    answered: int = 0
    estimated: bool = False
    saved_usd: Decimal = Decimal(0)
    fewer_calls: int = 0  # by so many the calls may fall short: where a sample is enough at once

    def at_least(self, least: StageQuestions) -> StageQuestions:
        """Return these questions as the most of a stage, which has `least` at least."""
        characters = least.characters[0], self.characters[1]
        answers = least.answers[0], self.answers[1]
        return replace(self, characters=characters, answers=answers, fewer_calls=self.calls - least.calls)

    def fewer(self, calls: int) -> StageQuestions:
        """Return these questions as the most of a stage, which may take so many calls less."""
        share = 1 - calls / self.calls if self.calls else 1.0
        characters = self.characters[0] * share, self.characters[1]
        answers = self.answers[0] * share, self.answers[1]
        return replace(self, characters=characters, answers=answers, fewer_calls=calls)


def _of_prompt(question: Question) -> Interval:
    return (len(question.prompt.text),) * 2


@dataclass
class _Counted:
    """What is counted of a stage while it is walked."""

    questions: int = 0
    answered: int = 0
    calls: int = 0
    characters: list[float] = field(default_factory=lambda: [0.0, 0.0])
    answers: list[float] = field(default_factory=lambda: [0.0, 0.0])
    estimated: bool = False
    saved_usd: Decimal = Decimal(0)

    def add(
        self,
        questions: Sequence[Question],
        found: Lookup,
        answer: Callable[[Question], Interval],
        size: Callable[[Question], Interval] = _of_prompt,
    ) -> None:
        """Count questions whose prompts are known."""
        asked = [number for number, answers in enumerate(found.answers) if answers is None]
        self.questions += len(questions)
        self.answered += len(questions) - len(asked)
        self.calls += found.calls
        self.saved_usd += found.saved_usd
        share = found.calls / len(asked) if asked else 0  # equal questions are asked once
        for question in map(questions.__getitem__, asked):
            for sums, ends in ((self.characters, size(question)), (self.answers, answer(question))):
                sums[0], sums[1] = sums[0] + share * ends[0], sums[1] + share * ends[1]

    def add_unknown(self, calls: int, characters: Interval, answers: Interval) -> None:
        """Count questions whose prompts depend on answers that are not there yet."""
        self.questions += calls
        self.calls += calls
        self.estimated |= calls > 0
        for i in (0, 1):
            self.characters[i] += characters[i]
            self.answers[i] += answers[i]

    def of(self, stage: str) -> StageQuestions:
        pairs = (self.characters[0], self.characters[1]), (self.answers[0], self.answers[1])
        return StageQuestions(
            STAGES[stage], self.questions, self.calls, *pairs, self.answered, self.estimated, self.saved_usd
        )


@dataclass(frozen=True, slots=True)
class _Consolidation:
    """The taxonomy of a run and the way to it; the taxonomy is None where it depends on answers not there yet."""

    taxonomy: tuple[Category, ...] | None
    categories: pd.DataFrame
    assignments: pd.DataFrame
    steps: list[dict[str, object]]


def walk_run(
    products: pd.DataFrame,
    prompts: Mapping[str, str],
    parameters: Parameters,
    look_up: LookUp,
    start: StartingPoint,
) -> list[StageQuestions]:
    """Return the questions of each stage of a run.

    `start` is what a run with a given taxonomy starts from, `products` are then those that it places.
    """
    if parameters.taxonomy:
        return _walk_assignment(products, prompts, parameters, look_up, start)
    if parameters.extract_sample:
        return _walk_sampled(products, prompts, parameters, look_up)
    first, second, found = _walk_extraction(products, prompts, parameters, look_up)
    if found.taxonomy is None:
        return [first, second, _estimated_refinement(products, prompts, parameters)]
    return [first, second, _walk_refinement(products, prompts, parameters, look_up, found)]


def batches_read(products: pd.DataFrame, parameters: Parameters) -> tuple[int, int]:
    """Return how many batches of a sample are read, at least and at most."""
    batches, total = len(extraction_batches(products, parameters)), int((~untitled(products)).sum())
    if parameters.extract_sample != "auto":
        return batches, batches
    return least_batches(total, batches, parameters.most_unseen), batches


def _walk_sampled(
    products: pd.DataFrame, prompts: Mapping[str, str], parameters: Parameters, look_up: LookUp
) -> list[StageQuestions]:
    """Walk a run that extracts its taxonomy from a sample: with the most that may be read, and with the least."""
    least, most = batches_read(products, parameters)
    if least == most:
        walked = _walk_extraction(products, prompts, parameters, look_up, most)
    elif (found := _walk_known_sample(products, prompts, parameters, look_up)) is not None:
        walked = found
    else:
        more, fewer = (_walk_extraction(products, prompts, parameters, look_up, n) for n in (most, least))
        ends = more[0].at_least(fewer[0]), more[1].at_least(fewer[1])
        return [*ends, _estimated_assignment(products, prompts, parameters)]
    first, second, consolidation = walked
    if consolidation.taxonomy is None:
        return [first, second, _estimated_assignment(products, prompts, parameters)]
    taxonomy = numbered(categories_frame(consolidation.taxonomy))
    return [first, second, _walk_placing(products, taxonomy, prompts, parameters, look_up)[0]]


def _walk_known_sample(
    products: pd.DataFrame, prompts: Mapping[str, str], parameters: Parameters, look_up: LookUp
) -> tuple[StageQuestions, StageQuestions, _Consolidation] | None:
    """Read a growing sample as the run will, as far as it is enough; None where an answer is not there yet."""
    total, batches = int((~untitled(products)).sum()), len(extraction_batches(products, parameters))
    for number, end in enumerate(looks(batches, parameters), start=1):
        walked = _walk_extraction(products, prompts, parameters, look_up, end)
        found = walked[2]
        if found.taxonomy is None:
            return None
        placed = consolidated(found.assignments, found.categories, steps_frame(found.steps))
        if (
            reading(number, end, placed.loc[placed["batch"] > 0, "category"], total)["bound"]
            <= parameters.most_unseen
        ):
            return walked
    return walked


def _estimated_assignment(
    products: pd.DataFrame, prompts: Mapping[str, str], parameters: Parameters, counted: _Counted | None = None
) -> StageQuestions:
    """Estimate what is asked beyond the questions `counted` so far; a cascade may ask about fewer products."""
    counted, entries = counted or _Counted(), product_entries(products, parameters)
    calls = max(0, assignment_calls(entries, parameters) - counted.questions)
    least = max(0, least_assignment_calls(entries, parameters) - counted.questions)
    entries = entries[len(entries) - calls * parameters.products_per_assignment :] if counted.questions else entries
    titles = sum(len(entry.line) for entry in entries) + 8.0 * len(entries)
    text = [calls * (len(prompts["assign_products"]) + _OF_MERGE[i] * _CATEGORY[i] * PLAIN) + titles for i in (0, 1)]
    if parameters.decisions:  # the questions beside the prompt may count, or not
        text[1] += len(entries) * (_TYPED_QUESTION + _OF_MERGE[1] * _CHOICE)
    answers = len(entries) * _ASSIGNMENT[0], len(entries) * _ASSIGNMENT[1]
    counted.add_unknown(calls, (text[0], text[1]), answers)
    return counted.of("assign_products").fewer(calls - least)


class _UnknownError(Exception):
    """What is asked next depends on answers that are not there yet."""


def _walk_placing(
    products: pd.DataFrame,
    taxonomy: Sequence[Category],
    prompts: Mapping[str, str],
    parameters: Parameters,
    look_up: LookUp,
) -> tuple[StageQuestions, pd.DataFrame | None]:
    """Walk the placing of products into a taxonomy; the assignments are None where an answer is not there yet."""
    counted = _Counted()

    def ask(questions: Sequence[Question], planned: int = 0, done: int = 0) -> Sequence[Answer]:
        found = look_up("assign_products", questions)
        if parameters.decisions:
            counted.add(questions, found, _of_decisions, _of_typed_questions)
        else:
            counted.add(questions, found, _of_assignments)
        if None in found.answers:
            raise _UnknownError
        return _flat(found.answers)

    try:
        if parameters.cascade and taxonomy:
            placed, _ = place_in_cascade(products, taxonomy, prompts, parameters, ask)
        else:
            questions = assign_questions(products, taxonomy, prompts, parameters) if taxonomy else []
            placed = assigned(ask(questions), products, taxonomy)
    except _UnknownError:
        if parameters.cascade:
            return _estimated_assignment(products, prompts, parameters, counted), None
        return counted.of("assign_products"), None
    return counted.of("assign_products"), placed


def _walk_assignment(
    products: pd.DataFrame,
    prompts: Mapping[str, str],
    parameters: Parameters,
    look_up: LookUp,
    start: StartingPoint,
) -> list[StageQuestions]:
    """Walk the placing of products; those that fit no category are known once every answer is."""
    asked = start.asked(products)
    stage, placed = _walk_placing(asked, start.categories, prompts, parameters, look_up)
    known = assigned([], asked, start.categories) if placed is None else placed
    wanted = start.to_extract(products, known, parameters.smallest_proposal)
    more = _walk_extraction(wanted, prompts, parameters, look_up)[:2] if len(wanted) else ()
    return [stage, *more]


def _walk_extraction(
    products: pd.DataFrame,
    prompts: Mapping[str, str],
    parameters: Parameters,
    look_up: LookUp,
    sample: int = 0,
) -> tuple[StageQuestions, StageQuestions, _Consolidation]:
    """Walk the first two stages; of a `sample` so many batches are read."""
    questions = extract_questions(products, prompts, parameters, 0, sample or None)
    found, counted = look_up("extract_taxonomy", questions), _Counted()
    counted.add(questions, found, _of_batch)
    categories, assignments = extracted(_flat(found.answers), products)
    unknown = {q.batch for q, answers in zip(questions, found.answers, strict=True) if answers is None}
    taxonomies = [Taxonomy(batch, batch, ()) for batch in unknown]
    taxonomies += [taxonomy for taxonomy in taxonomies_of(categories) if taxonomy.first not in unknown]
    batches = {q.batch: int(q.context["product_ids"][0]) for q in questions}
    counts = count_by_first_run(taxonomies, batches, first_runs(products))
    rounds = consolidation_rounds(counts, parameters.taxonomies_per_consolidation, apart=bool(parameters.taxonomy))
    if sample:
        ends = [0, *looks(sample, parameters)]
        added = [sum(a < taxonomy.first <= b for taxonomy in taxonomies) for a, b in pairwise(ends)]
        rounds = sample_rounds(added, parameters.taxonomies_per_consolidation)
    walk = _Merging(prompts, parameters, look_up, unknown)
    taxonomy = walk.merge(sorted(taxonomies, key=lambda each: each.first), rounds)
    consolidation = _Consolidation(taxonomy, categories, assignments, walk.steps)
    return counted.of("extract_taxonomy"), walk.counted.of("consolidate_taxonomy"), consolidation


class _Merging:
    """Walks the rounds of the consolidation: a merge is known where all of its members and its answer are."""

    def __init__(
        self, prompts: Mapping[str, str], parameters: Parameters, look_up: LookUp, unknown: set[int]
    ) -> None:
        self._wording, self._look_up = wording_of(prompts, parameters), look_up
        self._unknown = unknown  # the first batches of the taxonomies that are not known
        self.counted = _Counted()
        self.steps: list[dict[str, object]] = []

    def merge(self, taxonomies: Sequence[Taxonomy], rounds: Sequence[Sequence[int]]) -> tuple[Category, ...] | None:
        """Return the last taxonomy; None where it depends on answers that are not there yet."""
        for number, sizes in enumerate(rounds, start=1):
            merges = merge_round(taxonomies, sizes, 0, self._wording)
            taxonomies = self._merged(number, merges)
        if taxonomies and taxonomies[0].first in self._unknown:
            return None
        return taxonomies[0].categories if taxonomies else ()

    def _merged(self, number: int, merges: Sequence[Merge]) -> list[Taxonomy]:
        known = [merge for merge in merges if not self._unknown & {member.first for member in merge.members}]
        questions = [merge.question for merge in known if merge.question]
        found = self._look_up("consolidate_taxonomy", questions)
        self.counted.add(questions, found, _of_merge)
        answers = {q.batch: answer for q, answer in zip(questions, found.answers, strict=True)}
        after: list[Taxonomy] = []
        place = 0
        for position, merge in enumerate(merges, start=1):
            answer = answers.get(merge.question.batch) if merge.question else None
            if merge not in known or (merge.question and answer is None):
                after.append(self._unknown_taxonomy(merge, merge in known))
            else:
                taxonomy, ends = merged(merge, answer[0] if answer else None)
                after.append(taxonomy)
                self.steps += merge_steps(number, position, place, merge, ends)
            place += len(merge.members)
        return after

    def _unknown_taxonomy(self, merge: Merge, has_known_members: bool) -> Taxonomy:
        if merge.question and not has_known_members:
            size, template = len(merge.members), len(self._wording.prompts["consolidate_taxonomy"])
            # Equal names are shown once, so the least is little more than one taxonomy.
            shown = _OF_BATCH[0] * (1 + 0.3 * size), _OF_BATCH[1] * size
            characters = [template + shown[i] * _CATEGORY[i] * PLAIN for i in (0, 1)]
            answers = [_OF_MERGE[i] * _CATEGORY[i] + shown[i] * 8 for i in (0, 1)]
            self.counted.add_unknown(1, (characters[0], characters[1]), (answers[0], answers[1]))
        first, last = merge.members[0].first, merge.members[-1].last
        self._unknown.add(first)
        return Taxonomy(first, last, ())


def _walk_refinement(
    products: pd.DataFrame,
    prompts: Mapping[str, str],
    parameters: Parameters,
    look_up: LookUp,
    found: _Consolidation,
) -> StageQuestions:
    """Walk the last stage, whose prompts are known with the taxonomy."""
    counted = _Counted()
    if found.taxonomy:
        taxonomy = numbered(categories_frame(found.taxonomy))
        assignments = consolidated(found.assignments, found.categories, steps_frame(found.steps))
        placed = assignments[assignments["category"] != ""]
        given = (products, placed, taxonomy, prompts, parameters)
        questions = refine_questions(*given)
        questions += second_questions(*given, len(questions) + 1) if questions else Questions()
        counted.add(questions, look_up("refine_assignments", questions), _of_refinement)
    return counted.of("refine_assignments")


def _estimated_refinement(
    products: pd.DataFrame, prompts: Mapping[str, str], parameters: Parameters
) -> StageQuestions:
    entries = product_entries(products, parameters)
    calls = refinement_calls(entries, parameters)
    twice = 1 + asked_twice(len(entries), parameters) / max(1, len(entries))
    titled, titles = round(len(entries) * twice), sum(len(entry.line) for entry in entries) * twice
    text = [
        calls * (len(prompts["refine_assignments"]) + _OF_MERGE[i] * _CATEGORY[i] * PLAIN) + titles + titled * 40
        for i in (0, 1)
    ]
    answer = [calls * 8 + titled * _MOVED[i] * _REASSIGNMENT[i] for i in (0, 1)]
    counted = _Counted()
    counted.add_unknown(calls, (text[0], text[1]), (answer[0], answer[1]))
    return counted.of("refine_assignments")


def _items(question: Question) -> int:
    return len(question.context["expected_ids"])


def _of_batch(question: Question) -> Interval:
    low, high = (_OF_BATCH[i] * _CATEGORY[i] + _items(question) * _ASSIGNMENT[i] for i in (0, 1))
    return low, high


def _of_merge(question: Question) -> Interval:
    low, high = (_OF_MERGE[i] * _CATEGORY[i] + _items(question) * 8 for i in (0, 1))
    return low, high


def _of_refinement(question: Question) -> Interval:
    low, high = (8 + _items(question) * _MOVED[i] * _REASSIGNMENT[i] for i in (0, 1))
    return low, high


def _of_assignments(question: Question) -> Interval:
    return _items(question) * _ASSIGNMENT[0], _items(question) * _ASSIGNMENT[1]


def _of_decisions(question: Question) -> Interval:
    """Return the tokens of a decision: a choice a product, at most what a chat model would write."""
    return _items(question), _of_assignments(question)[1]


def _of_typed_questions(question: Question) -> Interval:
    """Return the characters of a request for decisions: the questions beside the prompt may count, or not."""
    prompt = len(question.prompt.text)
    return prompt, prompt + len(orjson.dumps(decision_questions(question.prompt.schema)))


def _flat(answers: Sequence[list[Answer] | None]) -> list[Answer]:
    return [answer for some in answers for answer in some or ()]
