"""Repeats of a run: the same products and settings again, each paid once and found again by its settings."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from segkit.core.models import Parameters
from segkit.core.prompts import load_prompts, prompt_hash, prompt_keys
from segkit.core.results import final_tables
from segkit.errors import SettingsError
from segkit.evaluation.agreement import OF_REPEATS, is_repeat
from segkit.evaluation.stability import Stability, consensus_of, stability_of
from segkit.pipeline.parameters import choose_parameters
from segkit.pipeline.plan import estimate
from segkit.pipeline.prepare import prepare_run
from segkit.pipeline.segment import run_stages
from segkit.pipeline.summary import decide_state, finish
from segkit.runs.create import create_run, new_run_id
from segkit.runs.integrity import is_finished
from segkit.runs.mirror import discard
from segkit.runs.run import Run, open_run, run_ids
from segkit.settings import Settings, load_settings

VARIABLE = ("seed", "temperature", "prompts", "model")
Watch = Callable[[Run], AbstractContextManager[None]]


def first_run(products: str | Path | pd.DataFrame, category: str, settings: Settings, **given: Any) -> Run:
    """Make the run that is repeated; one with the same products and parameters that is there already is taken."""
    made = prepare_run(products, category, settings=settings, **given)
    earlier = find_run(made.folder.parent, made.parameters, made.document, {made.id})
    if earlier is None:
        return made
    discard(made.folder)  # made a moment ago, and nothing is in it that was asked
    return earlier


def find_run(
    folder: Path, parameters: Parameters, document: Mapping[str, Any], but: Collection[str] = ()
) -> Run | None:
    """Find the newest run of these products with these very parameters and prompts, finished or not."""
    for run_id in reversed(run_ids(folder)):
        run = open_run(run_id, folder)
        same = run.document["input"]["sha256"] == document["input"]["sha256"]
        if (
            run_id not in but
            and same
            and run.parameters == parameters
            and run.document["prompts"] == document["prompts"]
        ):
            return run
    return None


def read_variation(text: str) -> dict[str, list[str]]:
    """Read what varies between repeats, such as `seed,temperature=0:0.7,prompts=v0:v1`; raise SettingsError."""
    chosen: dict[str, list[str]] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, values = part.partition("=")
        if name not in VARIABLE:
            raise SettingsError(f"{name!r} cannot be varied", f"--vary takes {', '.join(VARIABLE)}")
        chosen[name] = [value for value in values.split(":") if value]
        if name != "seed" and not chosen[name]:
            raise SettingsError(f"--vary {name} has no values", f"--vary seed,{name}=ONE:TWO")
    return chosen


def make_repeats(
    first: Run, count: int, settings: Settings, vary: Mapping[str, Sequence[str]] | None = None, fresh: bool = False
) -> list[Run]:
    """Make `count` runs of the products of a run, that one included; those that are there already are taken.

    By default they differ in their seed, so that other products share a prompt. Values of what else varies take
    turns. `fresh` asks anew where the cache would answer, once for each repeat.
    """
    if first.parameters.consensus:
        raise SettingsError(f"{first.id} was made from other runs", "repeat one of those: segkit runs")
    if first.parameters.taxonomy:
        raise SettingsError(f"{first.id} has the taxonomy of another run", "repeat that one: segkit runs")
    vary = {"seed": []} if vary is None else vary
    if vary == {"seed": []}:
        runs = _other_seeds(first, count, fresh)
        wanted = _next_seeds(runs, count - len(runs), fresh)
    else:
        runs = [first]
        wanted = [_varied(first.parameters, number, settings, vary, fresh) for number in range(1, count)]
    for parameters in wanted:
        runs.append(_found_or_made(first, parameters, settings, but={run.id for run in runs}))
    return runs


def _other_seeds(first: Run, count: int, fresh: bool) -> list[Run]:
    """Return a run and those of its repeats that are there, finished or not, each with a seed of its own."""
    folder, runs = first.folder.parent, [first]
    for other in (open_run(run_id, folder) for run_id in run_ids(folder)):
        taken = {run.parameters.repeat if fresh else run.parameters.seed for run in runs}
        number = other.parameters.repeat if fresh else other.parameters.seed
        if is_repeat(first, other) and number not in taken and (fresh or not other.parameters.repeat):
            runs.append(other)
    return runs[:count]


def _next_seeds(runs: Sequence[Run], count: int, fresh: bool) -> list[Parameters]:
    """Return the parameters of more repeats, with the next seeds (and the next numbers of repeats)."""
    first = runs[0].parameters
    seed, repeat = (max(getattr(run.parameters, name) for run in runs) for name in OF_REPEATS)
    return [
        replace(first, seed=seed + number, repeat=repeat + number if fresh else first.repeat)
        for number in range(1, count + 1)
    ]


def _found_or_made(first: Run, parameters: Parameters, settings: Settings, but: set[str]) -> Run:
    folder, prompts = first.folder.parent, first.prompts
    if parameters.prompts != first.parameters.prompts:
        prompts = load_prompts(parameters.prompts, keys=prompt_keys(parameters))
    document = {**first.document, "prompts": {key: prompt_hash(text) for key, text in prompts.items()}}
    run = find_run(folder, parameters, document, but)
    return run or create_run(folder, new_run_id(), parameters, first.products, prompts, _source(first), settings)


def _varied(
    parameters: Parameters, number: int, settings: Settings, vary: Mapping[str, Sequence[str]], fresh: bool
) -> Parameters:
    """Return the parameters of one repeat; several lists of values are combined in turn."""
    changes: dict[str, Any] = {"repeat": parameters.repeat + number} if fresh else {}
    stride = 1
    for name, values in vary.items():
        if not values:
            changes[name] = parameters.seed + number
            continue
        changes[name] = values[number // stride % len(values)]
        stride *= len(values)
    if "seed" in changes:
        changes["seed"] = int(changes["seed"])
    if "temperature" in changes:
        changes["temperature"] = float(changes["temperature"])
    given = {**asdict(parameters), **changes}
    given.pop("endpoint")
    chosen = choose_parameters(given.pop("category"), settings, **given)
    return replace(chosen, temperature=given["temperature"], max_output_tokens=given["max_output_tokens"])


def plan_of(runs: Sequence[Run], settings: Settings) -> pd.DataFrame:
    """Plan the runs that are not finished: one row with `runs`, `calls` and the ends of cost and seconds."""
    left = [run for run in runs if not is_finished(run)]
    totals = [estimate.plan_of(run, settings).iloc[-1] for run in left]
    names = ["calls", "cost_usd_low", "cost_usd_high", "seconds_low", "seconds_high"]
    columns = {name: [row[name] for row in totals] for name in names}
    return pd.DataFrame(
        [
            {
                "runs": len(left),
                **{n: None if any(v is None for v in values) else sum(values) for n, values in columns.items()},
            }
        ]
    )


def complete(runs: Sequence[Run], settings: Settings, *, watch: Watch | None = None) -> None:
    """Work on runs until all are finished; what is answered already is not asked again."""
    for run in runs:
        if not is_finished(run):
            with watch(run) if watch else nullcontext():
                run_stages(run, settings=settings)


def stability(
    products: Run | str | Path | pd.DataFrame,
    category: str = "",
    *,
    repeats: int = 5,
    vary: str = "seed",
    fresh: bool = False,
    settings: Settings | None = None,
    **parameters: Any,
) -> Stability:
    """Run the same products several times and report how far the runs agree.

    `products` is a run, or products as `prepare_run` takes them with the same `parameters`. Repeats that are there
    already are taken, begun ones are continued: calling it again costs nothing.
    """
    settings = settings or load_settings()
    first = products if isinstance(products, Run) else first_run(products, category, settings, **parameters)
    runs = make_repeats(first, repeats, settings, read_variation(vary), fresh)
    complete(runs, settings)
    return stability_of(runs)


def make_consensus(runs: Sequence[Run], settings: Settings) -> Run:
    """Make a run of its own from what finished runs agree on, with the agreement as confidence; no model is asked."""
    assignments, taxonomy = consensus_of(runs)
    first = runs[0]
    parameters = replace(first.parameters, consensus=len(runs))
    source = {**_source(first), "consensus_of": [run.id for run in runs]}
    run = create_run(first.folder.parent, new_run_id(), parameters, first.products, first.prompts, source, settings)
    lineage = _lineage(assignments)
    for name, table in {"lineage": lineage, **final_tables(first.products, lineage, taxonomy)}.items():
        run.save_result(name, table)
    decide_state(run)
    finish(run, 0.0)
    return run


def _source(run: Run) -> dict[str, Any]:
    return {name: value for name, value in run.document["input"].items() if name not in ("products", "sha256")}


def _lineage(assignments: pd.DataFrame) -> pd.DataFrame:
    """Return a lineage without batches: no interaction of this run stated anything."""
    category = assignments["category"].astype("str")
    reason = category.map(lambda name: "" if name else "most runs did not place it").astype("str")
    return pd.DataFrame(
        {
            "product_id": assignments["product_id"],
            "batch": 0,
            "part": pd.array([""] * len(category), dtype="str"),
            "batch_category": category,
            "category": category,
            "confidence": assignments["confidence"].astype("float64"),
            "reason": reason,
            "cache_key": pd.array([""] * len(category), dtype="str"),
            "refined_category": category,
            "refined_confidence": assignments["confidence"].astype("float64"),
            "refined_by": pd.array([""] * len(category), dtype="str"),
        }
    )
