"""What the REST service takes and returns: strict bodies, answers, and the examples of its page."""

from __future__ import annotations

import unicodedata
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    PlainValidator,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    field_validator,
    model_validator,
)

from segkit.core.catalogue.ids import MOST_CHARACTERS, is_integer
from segkit.core.prompts import SET_NAME
from segkit.core.taxonomy.sheet import EXAMPLES
from segkit.core.text import one_line
from segkit.runs import run
from segkit.settings import RANGES

RUN_ID = f"^{run.RUN_ID.pattern}$"
KEY = r"^[\x21-\x7e]{1,255}$"
MODEL = r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}$"
PROMPTS = f"^{SET_NAME.pattern}$"
MOST_PRODUCTS = 100_000
CATEGORY_KEY = r"^(C-[1-9][0-9]{0,8})?$"
MOST_CATEGORIES = 1000
_MOST_TEXT = 4000  # characters of a cell
EXAMPLE_RUN = "RUN_20250618T120301Z_8d24"


def _within(name: str, most: int | None = None, **more: Any) -> Any:
    """Return a field whose values lie in the permitted range of a parameter."""
    least, top = RANGES[name]
    return Field(ge=least, le=most or top, **more)


RunId = Annotated[str, Field(pattern=RUN_ID, examples=[EXAMPLE_RUN])]
ProductId = Annotated[int, Field(ge=1, le=2**63 - 1)]
Dollars = Annotated[float, _within("max_cost_usd", allow_inf_nan=False)]
Unassigned = Annotated[int, _within("max_unassigned", MOST_PRODUCTS)]
Action = Literal["", "rename", "redefine", "merge_into", "split", "delete", "lock", "unlock", "add", "accept"]
State = Literal["running", "completed", "failed", "cancelled"]
Phase = Literal["preparing", "extracting", "consolidating", "refining", "assigning", "reviewing", "syncing"]
Failure = Literal[
    "cancelled", "budget", "unassigned", "model_refused", "endpoint", "database", "storage", "stopped", "interrupted",
    "internal",
]  # fmt: skip


def given_id(value: Any) -> int | str:
    """Check an id as a client may give it: a positive integer, also as a text (an EAN), or a text (a SKU, `007`)."""
    if type(value) is int and 0 < value < 2**63:
        return value
    text = unicodedata.normalize("NFC", value).strip() if isinstance(value, str) else ""
    if text and len(text) <= MOST_CHARACTERS and not (is_integer(text) and int(text) <= 0):
        return text
    raise ValueError("it is neither an integer from 1 to 2^63 - 1 nor a text such as a SKU")


_ID_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": 1, "maximum": 2**63 - 1},
        {"type": "string", "minLength": 1, "maxLength": MOST_CHARACTERS, "pattern": r"^[0-9]{2,}$|^[1-9]$|[^0-9\s-]"},
    ]
}
GivenId = Annotated[int | str, PlainValidator(given_id), WithJsonSchema(_ID_SCHEMA)]


LISTED_TWICE = "ids are listed more than once"


class ProductIds(tuple[int | str, ...]):
    """Ids that were checked when the body was read."""


def _checked_before(ids: Any, check: ValidatorFunctionWrapHandler) -> Any:
    return ids if isinstance(ids, ProductIds) else check(ids)


def _unique(ids: list[int | str]) -> list[int | str]:
    if len(set(ids)) < len(ids):
        raise ValueError(LISTED_TWICE)
    return ids


ProductIdList = Annotated[
    list[GivenId],
    Field(min_length=1, max_length=MOST_PRODUCTS, fail_fast=True, json_schema_extra={"uniqueItems": True}),
    AfterValidator(_unique),
    WrapValidator(_checked_before),
]


class Body(BaseModel):
    """A body whose values must have their very types, and which holds nothing else."""

    model_config = ConfigDict(extra="forbid", strict=True)

    def is_null(self, name: str) -> bool:
        """Report whether a field was sent as null, and not left out."""
        return name in self.model_fields_set and getattr(self, name) is None


class StartBody(Body):
    """What to segment. No address, path or template is taken from a client: the operator sets those."""

    product_ids: ProductIdList
    category: Annotated[str, Field(min_length=1, max_length=200, pattern=r"\w", description="What the products are.")]
    model: Annotated[str | None, Field(pattern=MODEL, description="The operator's default, if absent.")] = None
    temperature: Annotated[
        Annotated[float, _within("temperature", allow_inf_nan=False)] | None,
        Field(description="The operator's default, if absent; null sends none to the model."),
    ] = None
    max_cost_usd: Annotated[Dollars | None, Field(description="The run never spends more than this.")] = None
    max_unassigned: Annotated[Unassigned | None, Field(description="Products that may stay unassigned.")] = None
    prompts: Annotated[
        str | None, Field(pattern=PROMPTS, description="A prompt set of the operator, like v0; no text of a prompt.")
    ] = None
    products_per_prompt: Annotated[
        Annotated[int, _within("products_per_prompt")] | None, Field(description="The operator's default, if absent.")
    ] = None
    ask_duplicates: Annotated[
        bool, Field(description="Ask about each product by itself, also where several have the same title.")
    ] = False
    extract_sample: Annotated[
        Annotated[int, Field(ge=1, le=MOST_PRODUCTS)] | Literal["auto"] | None,
        Field(
            description="Extract the categories from a random sample of so many products, or (`auto`) of as many as "
            "are needed, then put all products into them; all products are read, if absent."
        ),
    ] = None
    most_unseen: Annotated[
        Annotated[float, _within("most_unseen", allow_inf_nan=False)] | None,
        Field(description="With `auto`: the share of products that may be of a kind not met; 0.01, if absent."),
    ] = None
    cascade: Annotated[
        Annotated[float, Field(ge=0.5, lt=1, allow_inf_nan=False)] | None,
        Field(
            description="With `extract_sample`: a classifier puts products into the categories, if it agrees with "
            "the model in this share at least; the model is asked about every product, if absent."
        ),
    ] = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "product_ids": [123, 456, 789],
                    "category": "Dimmer Switches",
                    "model": "offline",
                    "temperature": 0.2,
                }
            ]
        }
    )

    @field_validator("category")
    @classmethod
    def _visible(cls, category: str) -> str:
        if not one_line(category):
            raise ValueError("it has no visible character")
        return category


class ResumeBody(Body):
    """The terms to continue on; what is absent stays as it was."""

    max_cost_usd: Annotated[Dollars | None, Field(description="In all, with what is already spent.")] = None
    max_unassigned: Unassigned | None = None

    model_config = ConfigDict(json_schema_extra={"examples": [{"max_unassigned": 2}]})


class DerivedBody(Body):
    """The terms of a run that is made from a completed one; the rest is as in that run."""

    max_cost_usd: Annotated[Dollars | None, Field(description="The run never spends more than this.")] = None
    max_unassigned: Unassigned | None = None


class ExtendBody(DerivedBody):
    """Products to add to a completed run; the rest is as in that run."""

    product_ids: ProductIdList

    model_config = ConfigDict(json_schema_extra={"examples": [{"product_ids": [790, 791]}]})


class SheetRow(Body):
    """A category and what a person wants of it. What is absent stays; `products`, `share` and `examples` are ignored.

    A row without a `key` is a new category.
    """

    key: Annotated[str, Field(pattern=CATEGORY_KEY, examples=["C-1"])] = ""
    name: Annotated[str | None, Field(max_length=_MOST_TEXT, description="Another name renames it.")] = None
    definition: Annotated[
        str | None, Field(max_length=_MOST_TEXT, description="Another one asks about its products again.")
    ] = None
    includes: Annotated[str | None, Field(max_length=_MOST_TEXT)] = None
    excludes: Annotated[str | None, Field(max_length=_MOST_TEXT)] = None
    action: Action = ""
    into: Annotated[
        str, Field(max_length=_MOST_TEXT, description="A key to merge into, or the names of the parts, split by `;`.")
    ] = ""
    note: Annotated[str, Field(max_length=_MOST_TEXT)] = ""
    state: Literal["active", "locked", "proposed", "retired"] | None = None
    products: Annotated[int | None, Field(ge=0)] = None
    share: Annotated[float | None, Field(ge=0, le=1, allow_inf_nan=False)] = None
    examples: Annotated[list[str] | None, Field(max_length=EXAMPLES, description="Titles of its products.")] = None


class TaxonomySheet(Body):
    """The categories of a run as a person edits them: the largest first, proposals after them, retired keys last."""

    run: Annotated[RunId | None, Field(description="If it is stated, the run of the path.")] = None
    product_category: Annotated[str, Field(max_length=_MOST_TEXT, description="What the products are.")] = ""
    # The first wrong row ends the check: thousands of faults would hold up the event loop.
    categories: Annotated[list[SheetRow], Field(min_length=1, max_length=MOST_CATEGORIES), FailFast()]

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"categories": [{"key": "C-1", "name": "Electric Kettles"}]}]}
    )

    @property
    def document(self) -> dict[str, Any]:
        """The sheet as `segkit taxonomy export` writes it; what is absent stays absent."""
        shown_only = {"products", "share", "examples"}
        return self.model_dump(exclude_none=True, exclude={"categories": {"__all__": shown_only}})


class AssignBody(DerivedBody):
    """Products to put into the categories of a completed run, edits of these, or both; the rest is as in that run."""

    product_ids: Annotated[ProductIdList | None, Field(description="Not needed with a taxonomy.")] = None
    taxonomy: TaxonomySheet | None = None
    model: Annotated[str | None, Field(pattern=MODEL, description="That of the run, if absent.")] = None

    model_config = ConfigDict(json_schema_extra={"examples": [{"product_ids": [792, 793]}]})

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if self.product_ids is None and self.taxonomy is None:
            raise ValueError("it needs product_ids, a taxonomy, or both")
        return self


class Started(BaseModel):
    run_id: RunId
    status: Literal["started"] = "started"
    total_products: int

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"run_id": EXAMPLE_RUN, "status": "started", "total_products": 3}]}
    )


class RunStatus(BaseModel):
    """How far a run is. `queued`, `phase` and `stopping` are there while it runs, the last ones if it failed."""

    run_id: RunId
    status: State
    total_products: int
    processed_products: Annotated[
        int,
        Field(
            description="Extraction and refinement count half each (after a sample, the assigned); all at the end."
        ),
    ]
    progress_percent: Annotated[float, Field(ge=0, le=100, description="100 only once it is completed.")]
    estimated_completion: Annotated[
        datetime | None, Field(description="When it was completed, once it is; null while it cannot be estimated.")
    ]
    queued: Annotated[bool | None, Field(description="It waits for its turn.")] = None
    phase: Phase | None = None
    stopping: Annotated[bool | None, Field(description="It was cancelled, and keeps the answers in flight.")] = None
    cost_usd: Annotated[
        float | None, Field(description="Spent so far, as far as prices are known; absent without calls and budget.")
    ] = None
    budget_usd: Annotated[float | None, Field(description="The most that the run may spend.")] = None
    budget_left_usd: Annotated[float | None, Field(description="What of the budget is neither spent nor lost.")] = (
        None
    )
    failure: Failure | None = None
    reason: Annotated[str | None, Field(description="What `failure` means, and how to continue.")] = None
    detail: Annotated[str | None, Field(description="What the run said; for tokens that see all runs.")] = None
    interrupted: Annotated[bool | None, Field(description="Its process ended without an error message.")] = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "run_id": EXAMPLE_RUN,
                    "status": "running",
                    "total_products": 100,
                    "processed_products": 45,
                    "progress_percent": 45.0,
                    "estimated_completion": "2025-06-18T12:15:00Z",
                }
            ]
        }
    )


class ListedRun(RunStatus):
    """The status of a run, and what it was started with."""

    category: str
    model: str
    created_at: datetime


class RunList(BaseModel):
    """Runs, the one created last first; `next` is the `before` of the following page, if there is one."""

    runs: list[ListedRun]
    next: RunId | None


class Accepted(BaseModel):
    """What was asked of a run; its status shows when it is done."""

    run_id: RunId
    status: Literal["stopping", "queued"]


class Taxonomy(BaseModel):
    """A category that holds products. `OUT_OF_SCOPE` is one too: the products that are not of the category at all."""

    id: Annotated[int, Field(description="Of `product_taxonomies` where `synced`, else its number in the run.")]
    category_name: str
    definition: str
    product_count: int
    key: Annotated[str, Field(description="Keeps its meaning in the runs that follow.", examples=["C-1"])]
    number: Annotated[int | None, Field(description="Its number in the run folder, where `synced`.")] = None


class Segment(BaseModel):
    """The category of a product; the `first_…` fields are there where refinement moved it."""

    product_id: int
    source_id: Annotated[str | None, Field(description="The id as it was given, where it is a text.")] = None
    taxonomy_id: int
    confidence: Annotated[float | None, Field(ge=0, le=1, description="Of this assignment; null if not stated.")]
    first_taxonomy_id: int | None = None
    first_confidence: Annotated[float | None, Field(ge=0, le=1)] = None


class UnassignedProduct(BaseModel):
    product_id: int
    source_id: str | None = None
    reason: str


class ProposedCategory(BaseModel):
    """A category for products that fitted none of the taxonomy; the edit `accept` makes it one of the taxonomy."""

    key: str
    category_name: str
    products: int


class Conflict(BaseModel):
    """A proposed category that an earlier edit speaks against: `conflict` says so in a sentence."""

    key: str
    category_name: str
    action: Annotated[str, Field(description="Of the edit.")]
    edited_key: Annotated[str, Field(description="The category that was edited.")]
    run: Annotated[str, Field(description="The run that began with the edit.")]
    note: Annotated[str, Field(description="The note of the edit.")]
    conflict: str


class Results(BaseModel):
    """The categories of a run and the category of each product; of a failed run what there is, marked `partial`."""

    run_id: RunId
    status: Literal["completed", "failed", "cancelled"]
    synced: Annotated[bool, Field(description="Whether ids of categories are those of the database.")]
    taxonomies: list[Taxonomy]
    proposed: list[ProposedCategory]
    conflicts: list[Conflict]
    segments: list[Segment]
    unassigned: list[UnassignedProduct]
    partial: bool | None = None
    failure: Failure | None = None
    reason: str | None = None


class Step(BaseModel):
    """One step on the way of a product to its category."""

    step: str
    category: Annotated[str | None, Field(description="The category of the product after this step.")]
    where: Annotated[str | None, Field(description="The batch or the merge, where there is one.")]
    confidence: Annotated[float | None, Field(ge=0, le=1)]
    prompt_line: Annotated[str | None, Field(description="The line of the prompt that shows the product.")]
    answer_line: Annotated[str | None, Field(description="The line of the answer that states it.")]


class Explanation(BaseModel):
    """How a product got its category: in sentences, and step by step with the lines behind them."""

    run_id: RunId
    product_id: int
    title: str | None
    category: str | None
    confidence: float | None
    sentences: list[str]
    steps: list[Step]
    second_category: Annotated[str | None, Field(description="Where it was placed when it was asked twice.")]


class Change(BaseModel):
    """One edit: what a category was called, and what it is then."""

    action: str
    key: str
    category_name: str
    now: str
    note: str


class TaxonomyCheck(BaseModel):
    """What the edits of a taxonomy change, and what a run that applies them asks; counts are of categories."""

    taxonomy: RunId
    renamed: int
    merged: int
    split: int
    deleted: int
    added: int
    redefined: int
    locked: int
    products_to_ask: Annotated[int, Field(description="Products that are asked about again.")]
    calls: Annotated[int, Field(description="If every answer is valid at once.")]
    cost_usd: Annotated[
        list[float | None], Field(min_length=2, max_length=2, description="From, to; null where a price is unknown.")
    ]
    changes: list[Change]
    remarks: Annotated[list[str], Field(description="What a person should know about the sheet.")]


class Link(BaseModel):
    url: str
    expires_at: datetime


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    """`checks` says for each thing that a run needs whether it is in order."""

    status: Literal["ready", "not ready"]
    checks: dict[str, Literal["ok", "failing"]]


class Problem(BaseModel):
    """Problem details of RFC 9457. `type` is one of the kinds in docs/rest.md; some kinds have more fields."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    hint: str | None = None
    errors: list[dict[str, str]] | None = None

    model_config = ConfigDict(extra="allow")
