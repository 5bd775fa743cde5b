"""What the edits of a taxonomy change, and what applying them would take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd

from segkit.core.catalogue.gate import Catalogue
from segkit.core.models import Parameters
from segkit.errors import ProductsError
from segkit.llm.transports.decisions import require_categories
from segkit.pipeline.parameters import run_prompts
from segkit.pipeline.plan.durations import NOTHING_MEASURED, Durations
from segkit.pipeline.plan.estimate import plan_run
from segkit.pipeline.plan.known import known_before
from segkit.pipeline.taxonomy.start import assign_parameters, begin
from segkit.runs.taxonomy import Taxonomy
from segkit.settings import Settings, load_settings

_COUNTED = {
    "renamed": "rename", "merged": "merge_into", "split": "split", "deleted": "delete", "added": "add",
    "redefined": "redefine", "locked": "lock",
}  # fmt: skip


def taxonomy_check(given: Taxonomy, settings: Settings | None = None, **parameters: Any) -> dict[str, Any]:
    """Report what the edits of a taxonomy change, how many products they make a run ask about, and at what price.

    `renamed`, `merged`, `split`, `deleted`, `added`, `redefined` and `locked` count categories, `changes` lists them.
    `products_to_ask` are the products that a run without further ones asks about, `calls` the calls that it makes if
    every answer is valid at once; answers in the cache take none. Without an earlier run both are None: all products
    are asked about.
    """
    settings = settings or load_settings()
    counts = Counter(edit.action for edit in given.result.changes)
    calls = products = cost = None
    if given.run:
        calls, products, cost = _price_of(given, settings, parameters)
    return {
        "taxonomy": given.origin,
        **{name: counts[action] for name, action in _COUNTED.items()},
        "products_to_ask": products,
        "calls": calls,
        "cost_usd": cost,
        "changes": given.changes.to_dict("records"),
        "remarks": list(given.remarks),
    }


def _price_of(
    given: Taxonomy, settings: Settings, parameters: Mapping[str, Any]
) -> tuple[int, int, list[float | None]]:
    """Return the calls, the products asked about, and the least and most dollars of applying edits."""
    try:
        asked, plan = plan_assignment(given, None, assign_parameters(given, settings, parameters), settings)
    except ProductsError:  # nothing changes, and every product is placed
        return 0, 0, [0.0, 0.0]
    total = plan.iloc[-1]
    cost = [None if pd.isna(total[name]) else float(total[name]) for name in ("cost_usd_low", "cost_usd_high")]
    return int(total["calls"]), len(asked), cost


def plan_assignment(
    given: Taxonomy,
    catalogue: Catalogue | None,
    chosen: Parameters,
    settings: Settings,
    *,
    only: bool = False,
    durations: Durations = NOTHING_MEASURED,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the products that a run with a given taxonomy would ask about, and the plan of the run."""
    beginning = begin(given, catalogue, "", only)
    start = beginning.starting_point(given.frame)
    if chosen.decisions:
        require_categories(len(start.categories))
    prompts = run_prompts(chosen)
    with known_before(chosen, settings) as known:
        plan = plan_run(beginning.new, prompts, chosen, settings, start, known.look_up, durations)
    return beginning.new, plan
