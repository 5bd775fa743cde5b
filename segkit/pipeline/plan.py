"""What a run will take, before anything is asked: calls, tokens, money and time of each stage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal

import pandas as pd

from segkit.core.batching import asked_twice, batches_by_first_run, consolidation_rounds, refinement_calls
from segkit.core.catalogue.titles import untitled
from segkit.core.extract import extract_questions
from segkit.core.models import Category, Parameters, Usage
from segkit.core.taxonomy.assign import assign_questions
from segkit.core.taxonomy.keys import choices
from segkit.llm.prices import call_cost_usd
from segkit.runs.run import Run
from segkit.settings import Settings, load_settings

# Characters a token: few in titles full of numbers, many in plain English.
_DENSE, _PLAIN = 2.8, 4.5
# What answers hold, as (least, most): categories of a batch and of a merge, tokens of a category and an assignment,
# the share of products that a refinement moves, tokens of a reassignment.
_OF_BATCH, _OF_MERGE = (3, 12), (5, 25)
_CATEGORY, _ASSIGNMENT = (12, 90), (12, 24)
_MOVED, _REASSIGNMENT = (0.0, 0.25), (18, 28)
_TOKENS_A_SECOND = (120.0, 30.0)
_FIRST_TOKEN_SECONDS = (0.3, 2.0)

Interval = tuple[float, float]


def plan_run(
    products: pd.DataFrame,
    prompts: Mapping[str, str],
    parameters: Parameters,
    settings: Settings,
    taxonomy: Sequence[Category] = (),
) -> pd.DataFrame:
    """Plan a run: a row a stage and one for all, with exact `calls` and `low`/`high` of tokens, cost and seconds.

    Calls are exact when every answer is valid at once. Tokens of the first stage come from its rendered prompts, the
    others from how many categories batches usually have. Cost is None where the price is not known.
    """
    if parameters.taxonomy:
        rows = [_assign(products, prompts, parameters, taxonomy)]
    else:
        rows = [
            _extract(products, prompts, parameters),
            _consolidate(products, prompts, parameters),
            _refine(products, prompts, parameters),
        ]
    frame = pd.DataFrame([{**row, **_money_and_time(row, parameters, settings)} for row in rows])
    total = {"stage": "all", **{name: _total(frame[name]) for name in frame.columns if name != "stage"}}
    return pd.concat([frame, pd.DataFrame([total])], ignore_index=True)


def estimate_run(run: Run, settings: Settings | None = None) -> pd.DataFrame:
    """Return the plan of a run for reading: calls, tokens, dollars and seconds of each stage, and of all."""
    return readable_plan(plan_of(run, settings or load_settings()))


def plan_of(run: Run, settings: Settings) -> pd.DataFrame:
    """Plan what a run that is made already will take, as `plan_run` does."""
    taxonomy = choices(run.archived("taxonomy")) if run.parameters.taxonomy else []
    return plan_run(run.new_products, run.prompts, run.parameters, settings, taxonomy)


def readable_plan(plan: pd.DataFrame) -> pd.DataFrame:
    """Return a plan with what lies between two ends in one column."""
    return pd.DataFrame(
        {
            "stage": plan["stage"],
            "calls": plan["calls"],
            "input tokens": _between(plan, "input"),
            "output tokens": _between(plan, "output"),
            "cost": [dollars(row) for _, row in plan.iterrows()],
            "time": [
                f"{low:,.0f}-{high:,.0f} s"
                for low, high in zip(plan["seconds_low"], plan["seconds_high"], strict=True)
            ],
        }
    )


def dollars(row: pd.Series) -> str:
    """Write the cost of a planned stage, from its low to its high end."""
    if pd.isna(row["cost_usd_low"]):
        return "unknown cost"
    return f"${float(row['cost_usd_low']):,.2f}-${float(row['cost_usd_high']):,.2f}"


def _between(plan: pd.DataFrame, name: str) -> list[str]:
    return [f"{low:,}-{high:,}" for low, high in zip(plan[f"{name}_low"], plan[f"{name}_high"], strict=True)]


def _assign(
    products: pd.DataFrame, prompts: Mapping[str, str], parameters: Parameters, taxonomy: Sequence[Category]
) -> dict[str, float | str]:
    questions = assign_questions(products, taxonomy, prompts, parameters)
    text = sum(len(question.prompt.text) for question in questions)
    titled = sum(len(question.context["expected_ids"]) for question in questions)
    return _row("assign_products", len(questions), (text, text), (titled * _ASSIGNMENT[0], titled * _ASSIGNMENT[1]))


def _extract(products: pd.DataFrame, prompts: Mapping[str, str], parameters: Parameters) -> dict[str, float | str]:
    questions = extract_questions(products, prompts, parameters)
    text = sum(len(question.prompt.text) for question in questions)
    titled = sum(len(question.context["expected_ids"]) for question in questions)
    answers = [len(questions) * _OF_BATCH[i] * _CATEGORY[i] + titled * _ASSIGNMENT[i] for i in (0, 1)]
    return _row("segmentation", len(questions), (text, text), (answers[0], answers[1]))


def _consolidate(
    products: pd.DataFrame, prompts: Mapping[str, str], parameters: Parameters
) -> dict[str, float | str]:
    batches = batches_by_first_run(products, parameters.products_per_prompt)
    rounds = consolidation_rounds(batches, parameters.taxonomies_per_consolidation)
    sizes = [size for groups in rounds for size in groups if size > 1]
    template = len(prompts["consolidate_taxonomy"])
    text, answer = [0.0, 0.0], [0.0, 0.0]
    for i in (0, 1):
        # Equal names are shown once, so the least is little more than one taxonomy.
        shown = [_OF_BATCH[i] * (size if i else 1 + 0.3 * size) for size in sizes]
        text[i] = len(sizes) * template + sum(shown) * _CATEGORY[i] * _PLAIN
        answer[i] = len(sizes) * _OF_MERGE[i] * _CATEGORY[i] + sum(shown) * 8
    return _row("consolidate_taxonomy", len(sizes), (text[0], text[1]), (answer[0], answer[1]))


def _refine(products: pd.DataFrame, prompts: Mapping[str, str], parameters: Parameters) -> dict[str, float | str]:
    titled = int((~untitled(products)).sum())
    calls = refinement_calls(products, parameters)
    titles = float(products.loc[~untitled(products), "title"].str.len().sum())
    twice = 1 + asked_twice(titled, parameters) / max(1, titled)
    titled, titles = round(titled * twice), titles * twice
    text = [
        calls * (len(prompts["refine_assignments"]) + _OF_MERGE[i] * _CATEGORY[i] * _PLAIN) + titles + titled * 40
        for i in (0, 1)
    ]
    answer = [calls * 8 + titled * _MOVED[i] * _REASSIGNMENT[i] for i in (0, 1)]
    return _row("refine_assignments", calls, (text[0], text[1]), (answer[0], answer[1]))


def _row(stage: str, calls: int, characters: Interval, answer: Interval) -> dict[str, float | str]:
    return {
        "stage": stage,
        "calls": calls,
        "input_low": math.floor(characters[0] / _PLAIN),
        "input_high": math.ceil(characters[1] / _DENSE),
        "output_low": math.floor(answer[0]),
        "output_high": math.ceil(answer[1]),
    }


def _money_and_time(
    row: Mapping[str, float | str], parameters: Parameters, settings: Settings
) -> dict[str, Decimal | float | None]:
    told: dict[str, Decimal | float | None] = {}
    for i, end in enumerate(("low", "high")):
        usage = Usage(input=int(row[f"input_{end}"]), cached=0, output=int(row[f"output_{end}"]))
        told[f"cost_usd_{end}"] = call_cost_usd(usage, parameters.model, parameters.endpoint, settings)
        told[f"seconds_{end}"] = round(_seconds(int(row["calls"]), usage, i, parameters, settings), 1)
    return told


def _seconds(calls: int, usage: Usage, end: int, parameters: Parameters, settings: Settings) -> float:
    """Take the slowest of what binds: the answers themselves, at once as allowed, or a limit a minute."""
    if parameters.model == "offline" or not calls:
        return calls * (0.01, 0.05)[end]
    output = usage.output or 0
    one = _FIRST_TOKEN_SECONDS[end] + output / calls / _TOKENS_A_SECOND[end]
    answers = math.ceil(calls / settings.segkit_concurrency) * one
    limits = (
        (calls, settings.segkit_requests_per_minute),
        (usage.input or 0, settings.segkit_input_tokens_per_minute),
        (output, settings.segkit_output_tokens_per_minute),
    )
    # The first minute's worth goes at once.
    return max(answers, *(60 * max(0.0, amount / most - 1) for amount, most in limits if most), 0.0)


def _total(values: pd.Series) -> Decimal | float | None:
    return None if values.isna().any() else sum(values.tolist())
