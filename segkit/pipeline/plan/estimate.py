"""What a run will take, before anything is asked: questions, calls, tokens, money and time of each stage."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pandas as pd

from segkit.core.models import Parameters, Usage
from segkit.core.taxonomy.assign import StartingPoint
from segkit.core.text import quantity
from segkit.llm.prices import BATCH_PRICE, call_cost_usd
from segkit.pipeline.plan.durations import NOTHING_MEASURED, Durations, measured_durations
from segkit.pipeline.plan.known import KnownAnswers, nothing_known
from segkit.pipeline.plan.walk import PLAIN, Interval, LookUp, StageQuestions, walk_run
from segkit.runs.run import Run
from segkit.runs.taxonomy import starting_point
from segkit.settings import Settings, load_settings

DENSE = 2.8  # characters a token: few in titles full of numbers
_TOKENS_A_SECOND = (120.0, 30.0)
_FIRST_TOKEN_SECONDS = (0.3, 2.0)


def plan_run(
    products: pd.DataFrame,
    prompts: Mapping[str, str],
    parameters: Parameters,
    settings: Settings,
    start: StartingPoint | None = None,
    look_up: LookUp = nothing_known,
    durations: Durations = NOTHING_MEASURED,
) -> pd.DataFrame:
    """Plan a run: a row a stage and one for all, with `questions`, `answered`, `calls` and what these calls take.

    `start` is what a run with a given taxonomy starts from; `products` are then those that it places. `look_up` finds
    the answers that are there already (see `KnownAnswers`); without it no answer is known. Calls are exact when every
    answer is valid at once; where a stage is `estimated`, its prompts depend on answers that are not there yet, and
    it may need fewer. A sample that is read until it is enough takes `calls_low` at least, and `calls` at most.
    Tokens, cost and seconds have a `low` and a `high` end; cost is None where the price is not known.
    `batch_cost_usd` is that through the provider's Batch API: half, and no further discount. `saved_usd` is the price
    of the answers from the cache. Seconds come from `durations` of calls that were measured (`measured_calls`), or,
    where that is 0, from what models usually take.
    """
    stages = walk_run(products, prompts, parameters, look_up, start or StartingPoint())
    frame = pd.DataFrame([_row(stage, parameters, settings, durations) for stage in stages])
    total = {"stage": "all", **{name: _total(frame[name]) for name in frame.columns if name != "stage"}}
    total["measured_calls"] = durations.calls
    total["estimated"] = bool(frame["estimated"].any())
    return pd.concat([frame, pd.DataFrame([total])], ignore_index=True)


def estimate_run(run: Run, settings: Settings | None = None) -> pd.DataFrame:
    """Return the plan of a run for reading: questions, those answered already, and what the others take."""
    return readable_plan(plan_of(run, settings or load_settings()))


def plan_of(run: Run, settings: Settings, *, whole: bool = False) -> pd.DataFrame:
    """Plan what is left of a run that is made already, as `plan_run` does, with the answers that are there.

    With `whole` no answer counts as known: that is the most the run takes, wherever it works.
    """
    start = starting_point(run)
    look_up = nothing_known if whole else KnownAnswers(run, settings).look_up
    durations = NOTHING_MEASURED if whole else measured_durations(run.parameters, run.folder.parent, settings)
    return plan_run(run.new_products, run.prompts, run.parameters, settings, start, look_up, durations)


def readable_plan(plan: pd.DataFrame) -> pd.DataFrame:
    """Return a plan with what lies between two ends in one column."""
    return pd.DataFrame(
        {
            "stage": plan["stage"],
            "questions": plan["questions"],
            "answered": plan["answered"],
            "calls": [_calls(row) for _, row in plan.iterrows()],
            "input tokens": _between(plan, "input"),
            "output tokens": _between(plan, "output"),
            "cost": [dollars(row) for _, row in plan.iterrows()],
            **_batch_column(plan),
            "time": [
                f"{low:,.0f}-{high:,.0f} s"
                for low, high in zip(plan["seconds_low"], plan["seconds_high"], strict=True)
            ],
        }
    )


def dollars(row: pd.Series, name: str = "cost_usd") -> str:
    """Write the cost of a planned stage, from its low to its high end; or another one, as that in batches."""
    if pd.isna(row[f"{name}_low"]):
        return "unknown cost"
    return f"${float(row[f'{name}_low']):,.2f}-${float(row[f'{name}_high']):,.2f}"


def _batch_column(plan: pd.DataFrame) -> dict[str, list[str]]:
    """Return the cost with `--batch` as a column, where it is known and there is any."""
    most = plan["batch_cost_usd_high"].iloc[-1]
    known = pd.notna(most) and most > 0
    return {"with --batch": [dollars(row, "batch_cost_usd") for _, row in plan.iterrows()]} if known else {}


def sentence(total: pd.Series) -> str:
    """Write the last row of a plan as a sentence: what is answered, what will be asked, and what it costs."""
    answered, calls, questions = int(total["answered"]), int(total["calls"]), int(total["questions"])
    if not calls:
        return f"{quantity(questions, 'question', 'are')} answered already; nothing is sent{_saved(total)}"
    known = f"{answered:,} answered already, " if answered else ""
    price = dollars(total)
    if _batch_column(total.to_frame().T):
        price += f" ({dollars(total, 'batch_cost_usd')} with --batch)"
    noun = "call" if calls == 1 else "calls"
    return f"{quantity(questions, 'question')}, {known}{_calls(total)} {noun} to make, {price}{_saved(total)}"


def _saved(total: pd.Series) -> str:
    return f" (the answers that are there cost ${float(total['saved_usd']):,.4f})" if total["saved_usd"] else ""


def _calls(row: pd.Series) -> str:
    """Write a number of calls; what depends on answers that are not there may turn out to be known."""
    if row["calls_low"] < row["calls"]:
        return f"{row['calls_low']:,} to {row['calls']:,}"
    return f"at most {row['calls']:,}" if row["estimated"] and row["answered"] else f"{row['calls']:,}"


def _between(plan: pd.DataFrame, name: str) -> list[str]:
    return [f"{low:,}-{high:,}" for low, high in zip(plan[f"{name}_low"], plan[f"{name}_high"], strict=True)]


def _row(stage: StageQuestions, parameters: Parameters, settings: Settings, durations: Durations) -> dict[str, Any]:
    row: dict[str, Any] = {
        "stage": stage.stage,
        "questions": stage.questions,
        "answered": stage.answered,
        "calls": stage.calls,
        "calls_low": stage.calls - stage.fewer_calls,
        "estimated": stage.estimated,
        "input_low": math.floor(stage.characters[0] / PLAIN),
        "input_high": math.ceil(stage.characters[1] / DENSE),
        "output_low": math.floor(stage.answers[0]),
        "output_high": math.ceil(stage.answers[1]),
    }
    measured = {"measured_calls": durations.calls if stage.stage in durations.seconds else 0}
    money_and_time = _money_and_time(row, parameters, settings, durations.seconds.get(stage.stage))
    return {**row, **money_and_time, "saved_usd": stage.saved_usd, **measured}


def _money_and_time(
    row: Mapping[str, Any], parameters: Parameters, settings: Settings, measured: Interval | None
) -> dict[str, Decimal | float | None]:
    figures: dict[str, Decimal | float | None] = {}
    for i, end in enumerate(("low", "high")):
        usage = Usage(input=int(row[f"input_{end}"]), cached=0, output=int(row[f"output_{end}"]))
        cost = call_cost_usd(usage, parameters.model, parameters.endpoint, settings)
        cost = Decimal(0) if cost is not None and not row["calls"] else cost
        figures[f"cost_usd_{end}"] = cost
        # Batches take no requests for decisions.
        figures[f"batch_cost_usd_{end}"] = None if cost is None or parameters.decisions else cost * BATCH_PRICE
        calls = int(row["calls_low" if end == "low" else "calls"])
        figures[f"seconds_{end}"] = round(_seconds(calls, usage, i, parameters, settings, measured), 1)
    return figures


def _seconds(
    calls: int, usage: Usage, end: int, parameters: Parameters, settings: Settings, measured: Interval | None
) -> float:
    """Take the slowest of what binds: the answers themselves, at once as allowed, or a limit a minute."""
    if parameters.model == "offline" or not calls:
        return calls * (0.01, 0.05)[end]
    output = usage.output or 0
    one = measured[end] if measured else _FIRST_TOKEN_SECONDS[end] + output / calls / _TOKENS_A_SECOND[end]
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
