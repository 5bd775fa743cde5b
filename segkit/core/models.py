"""The nouns of segkit: categories, questions to a model, answers, tokens, and the parameters of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic

from typing_extensions import TypeVar

OUT_OF_SCOPE = "OUT_OF_SCOPE"
#: The answer of the stage `assign` for a product of the product category that no category covers.
NONE_FITS = "NONE_FITS"
#: Where the lineage names the part of a batch, for a product that a classifier placed: it stood in none.
BY_CLASSIFIER = "classifier"
#: What a stage reads out of an answer: BatchFindings, MergedCategories, or reassignments by local id.
T = TypeVar("T", default=Any)
#: How the reason begins why a product is unassigned, where its question has no answer yet.
NO_ANSWER = "endpoint: "

#: Each stage and the folder (and `interaction_type`) of its interactions.
STAGES = {
    "extract_taxonomy": "segmentation",
    "consolidate_taxonomy": "consolidate_taxonomy",
    "refine_assignments": "refine_assignments",
    "assign_products": "assign_products",
}
#: The folders of all interactions: those of the stages, and of proposals of prompts, which are in no run.
FOLDERS = {**STAGES, "propose_prompts": "propose_prompts"}


@dataclass(frozen=True, slots=True)
class Category:
    """A name and a definition; `id` is local to the prompt or the run that holds it."""

    id: str
    name: str
    definition: str


@dataclass(frozen=True, slots=True)
class Placement:
    """A local category name (folded) or OUT_OF_SCOPE, and the confidence that was stated with it.

    `probabilities` holds that of every choice by its id, where a decision endpoint stated them.
    """

    category: str
    confidence: float | None
    probabilities: Mapping[str, float] | None = None


#: The products that a refine answer moves, by `P_i`.
Reassignments = dict[str, Placement]


@dataclass(frozen=True, slots=True)
class BatchFindings:
    """What the answers to an extract question state: categories by folded name, assignments by `P_i`."""

    categories: dict[str, Category] = field(default_factory=dict)
    assignments: dict[str, Placement] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MergedCategories:
    """What a consolidate answer states: its categories, and the category of each input id."""

    categories: tuple[Category, ...]
    members: dict[str, str]


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with an answer: its kind (`format`, `validation`, `completeness`) and a sentence."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class CheckedAnswer(Generic[T]):
    """What is valid in the answers to one question so far.

    `value` holds the stage's own result, `faults` what the last answer did wrong, `missing` the local ids that
    no valid item covers yet, `warnings` what was accepted all the same. `sources` holds for each local id the
    `cache_key` of the interaction that stated its category.
    """

    value: T
    faults: tuple[Fault, ...] = ()
    missing: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    sources: dict[str, str] = field(default_factory=dict)

    @property
    def valid(self) -> bool:
        return not self.faults and not self.missing


@dataclass(frozen=True, slots=True)
class Prompt:
    """One wording of a question: the text sent to the model, and the JSON schema made for its answer."""

    text: str
    schema: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """What an answer keeps of its question: no prompt, which takes a hundred times as much room."""

    batch: int
    part: str = ""
    products: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Question(Generic[T]):
    """What a stage wants to know about one batch, with pure functions around the answer.

    `check(content, cache_key, before)` validates an answer, `again(checked, content)` makes the prompt of the next
    attempt, and `cut(checked, trouble)` returns smaller questions about what is still missing (none if none is left).
    `part` is the path of a cut question below its batch; with `itemwise`, an item that is valid by itself counts.
    `products` holds for each `P_i` the ids of the products that it stands for.
    """

    stage: str
    batch: int
    prompt: Prompt
    context: dict[str, Any]
    check: Callable[[str, str, CheckedAnswer[T] | None], CheckedAnswer[T]]
    again: Callable[[CheckedAnswer[T], str], Prompt]
    cut: Callable[[CheckedAnswer[T] | None, str], Sequence[Question[T]]]
    part: str = ""
    itemwise: bool = False
    products: tuple[tuple[int, ...], ...] = ()

    @property
    def label(self) -> str:
        return f"{FOLDERS[self.stage]} b{self.batch}{'/' + self.part if self.part else ''}"

    @property
    def asked(self) -> Asked:
        return Asked(self.batch, self.part, self.products)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the server reported them; None is unknown, never zero."""

    input: int | None = None
    cached: int | None = None
    output: int | None = None
    reasoning: int | None = None
    written: int | None = None


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """The result of one question: what is valid, and the reason if there is no more.

    `reason` is empty when the question was answered in full; otherwise it is the reason why the ids in
    `checked.missing` have no answer.
    """

    question: Asked
    checked: CheckedAnswer[T] | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Parameters:
    """Whatever shapes the result of a run; stored in `run.json` and in `segmentation_runs`.

    A `repeat` other than 0 asks anew where the cache would answer, once for each number; `consensus` is the number of
    runs that a run was made from without asking a model. `ask_twice` is how many products are asked twice at most, to
    see how far the run repeats itself (0 in runs of earlier releases). `ask_duplicates` asks about each product by
    itself, also where its line is that of another one (as runs of earlier releases did).

    `extract_sample` is how many products the taxonomy is extracted from: all where it is empty, so many, or `auto`:
    batch after batch until at most a share of `most_unseen` of the products belongs to a kind that was not met.

    `language` is that of the names, and `target_categories` how many there should be in the end, like `12` or `8-15`;
    they fill the placeholders of these names, where the prompts have them.

    `cascade` is the agreement that a classifier, trained on the run's own answers, has to keep with the model: it
    puts the products that it is sure of into the taxonomy, and the model is asked about the others; 0 is off.

    With `decisions` the stage `assign` asks the decision endpoint, which states a probability for each choice.
    """

    category: str
    model: str
    temperature: float | None
    endpoint: str
    prompts: str = "v0"
    seed: int = 0
    product_line: str = "$title"
    products_per_prompt: int = 40
    taxonomies_per_consolidation: int = 20
    products_per_refinement: int = 40
    max_retries: int = 3
    response_format: str = "json_schema"
    max_output_tokens: int | None = None
    max_unassigned: int = 0
    extends: str = ""
    repeat: int = 0
    consensus: int = 0
    taxonomy: str = ""
    products_per_assignment: int = 40
    smallest_proposal: int = 5
    ask_twice: int = 0
    ask_duplicates: bool = True
    extract_sample: str = ""
    most_unseen: float = 0.01
    language: str = ""
    target_categories: str = ""
    cascade: float = 0.0
    decisions: bool = False

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of the run, in their order."""
        if self.taxonomy:
            return ("assign_products",)
        last = "assign_products" if self.extract_sample else "refine_assignments"
        return ("extract_taxonomy", "consolidate_taxonomy", last)
