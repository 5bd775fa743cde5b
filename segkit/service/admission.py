"""What a token may start or go on with: its products, its model, its money; refused before anything is asked."""

from __future__ import annotations

from decimal import Decimal

import pandas as pd

from segkit.core.models import Parameters, Usage
from segkit.core.products import untitled
from segkit.core.prompts import load_prompts
from segkit.errors import ProductsError, RequestError
from segkit.llm.prices import cost_usd
from segkit.pipeline.plan import plan_run
from segkit.runs.run import Run
from segkit.service.tokens import Token
from segkit.settings import Settings


def check_token(model: str, products: int, token: Token) -> None:
    """Raise RequestError 422 for more products than a token may have, or a model that is not one of its own."""
    if products > token.max_products:
        raise RequestError(422, f"{products:,} products are too many", f"{token.max_products:,} are allowed a run")
    if token.models is not None and model not in token.models:
        raise RequestError(422, f"the model {model} is not allowed", f"one of: {', '.join(token.models)}")


def check_titles(products: pd.DataFrame, allowed: int) -> None:
    """Raise ProductsError for more products without a title than a run allows."""
    count = int(untitled(products).sum())
    if count > allowed:
        ids = ", ".join(map(str, products.loc[untitled(products), "product_id"].head(5)))
        raise ProductsError(f"{count} products have no title: {ids}", f"allow them with max_unassigned = {count}")


def choose_budget(model: str, wished: Decimal | None, token: Token, settings: Settings) -> Decimal | None:
    """Choose what a run may cost: the least of what the client, the token and the settings say; 402 where none is."""
    if model == "offline":
        return None
    limits = [limit for limit in (wished, token.max_cost_usd, settings.segkit_max_cost_usd) if limit is not None]
    if not token.unpriced_models:
        needed(model, min(limits, default=None))
    if wished is not None and wished > min(limits):
        raise RequestError(402, f"max_cost_usd is {wished}", f"at most {min(limits)} are allowed a run")
    return min(limits, default=None)


def needed(model: str, budget: Decimal | None) -> Decimal | None:
    """Give the budget of a run; raise RequestError 402 where its model costs money and it has none."""
    if budget is None and model != "offline":
        raise RequestError(402, "a run with this model needs a budget", "give max_cost_usd")
    return budget


def check_price(
    products: pd.DataFrame, chosen: Parameters, budget: Decimal | None, token: Token, settings: Settings
) -> int | None:
    """Raise RequestError 402 for a run whose plan goes beyond its budget.

    Where the price is not known, only a token with `unpriced_models` may go on, within the calls that are given.
    """
    if chosen.model == "offline":
        return None
    total = plan_run(products, load_prompts(chosen.prompts), chosen, settings).iloc[-1]
    if pd.isna(total["cost_usd_high"]):
        _check_unpriced(chosen.model, token)
        return _most_calls(total)
    if Decimal(str(total["cost_usd_high"])) > (needed(chosen.model, budget) or 0):
        what = f"the run may cost ${float(total['cost_usd_high']):.4f}, its budget is ${budget}"
        raise RequestError(402, what, "take fewer products, or a larger max_cost_usd")
    return None


def calls_without_price(run: Run, token: Token, settings: Settings) -> int | None:
    """Tell how many calls a run may make in all where its price is not known; None where it is.

    Raises RequestError 402 when the token may not start such a run, and so may not go on with one.
    """
    chosen = run.parameters
    if cost_usd(Usage(1, 0, 1), chosen.model, chosen.endpoint, settings.segkit_prices) is not None:
        return None
    _check_unpriced(chosen.model, token)
    return _most_calls(plan_run(run.products, run.prompts, chosen, settings).iloc[-1])


def _check_unpriced(model: str, token: Token) -> None:
    if not token.unpriced_models:
        raise RequestError(402, f"the price of {model} is not known, so no budget can be kept")


def _most_calls(total: pd.Series) -> int:
    """Allow twice the planned calls, since answers are corrected and batches cut; and some for very few products."""
    return 2 * int(total["calls"]) + 10
