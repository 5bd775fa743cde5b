"""Admission: may this token start or resume this run? Pure checks of products, model and money, before any call."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import pandas as pd

from segkit.core.catalogue.titles import lacks_titles, untitled
from segkit.core.models import Usage
from segkit.core.text import quantity
from segkit.errors import RequestError
from segkit.llm.prices import call_cost_usd
from segkit.pipeline.plan.estimate import plan_of
from segkit.runs.run import Run
from segkit.service.tokens import Token
from segkit.settings import RANGES, Settings

_NAMED = 20  # ids that a refusal lists


@dataclass(frozen=True, slots=True)
class Caps:
    """What a run must fit into: active runs (at work or waiting) in all and of its owner, dollars of its owner."""

    active: int
    active_of_owner: int
    total_usd: Decimal | None


@dataclass(frozen=True, slots=True)
class InUse:
    """What other runs take of the caps; `usd` is what those of the owner have spent or reserved."""

    active: int
    active_of_owner: int
    usd: Decimal


def check_caps(in_use: InUse, wanted_usd: Decimal | None, caps: Caps) -> None:
    """Raise RequestError 429 where no further run may be active, 402 where the owner's money does not suffice."""
    if in_use.active >= caps.active:
        raise RequestError(
            "queue-full", f"the queue is full: {quantity(in_use.active, 'run', 'are')} active", retry_after=30
        )
    if in_use.active_of_owner >= caps.active_of_owner:
        what = (
            f"{quantity(in_use.active_of_owner, 'run', 'are')} active with this token, {caps.active_of_owner} allowed"
        )
        raise RequestError("too-many-runs", what, "wait until one has ended", retry_after=30)
    if caps.total_usd is not None and wanted_usd and in_use.usd + wanted_usd > caps.total_usd:
        what = f"${in_use.usd:.2f} of ${caps.total_usd} are spent or reserved, this run may take ${wanted_usd}"
        left = max(Decimal(0), caps.total_usd - in_use.usd)
        facts = {"needed_usd": float(wanted_usd), "allowed_usd": float(left)}
        raise RequestError("total-budget-used", what, "set a smaller max_cost_usd", **facts)


def check_token(model: str, products: int, token: Token) -> None:
    """Raise RequestError 422 for more products than a token may have, or a model that is not one of its own."""
    if products > token.max_products:
        what = f"{quantity(products, 'product', 'are')} too many, {token.max_products:,} are allowed a run"
        raise RequestError("too-many-products", what, "send fewer products", allowed=token.max_products)
    if token.models is not None and model not in token.models:
        what = f"the model {model} is not allowed for this token"
        raise RequestError(
            "model-not-allowed", what, f"one of: {', '.join(token.models)}", allowed=list(token.models)
        )


def check_titles(products: pd.DataFrame, allowed: int) -> None:
    """Raise RequestError 422 where more than 5 % of the products have no title, and more than the run allows."""
    if lacks_titles(products, allowed):
        missing = products.loc[untitled(products), "product_id"]
        ids = [int(product_id) for product_id in missing.head(_NAMED)]
        what = (
            f"{quantity(len(missing), 'product', 'have')} no title, {allowed} allowed: {', '.join(map(str, ids[:5]))}"
        )
        hint = f"leave them out, or allow them with max_unassigned = {len(missing)}"
        raise RequestError("untitled-products", what, hint, product_ids=ids)


def choose_budget(model: str, wanted: Decimal | None, token: Token, settings: Settings) -> Decimal | None:
    """Return the dollars a run may cost: the least of what the client, the token and the settings allow.

    Raises RequestError 402 where a model that costs money has no budget, or the client wants more than is allowed.
    """
    if model == "offline":
        return None
    limits = [limit for limit in (wanted, token.max_cost_usd, settings.segkit_max_cost_usd) if limit is not None]
    if not token.unpriced_models:
        require_budget(model, min(limits, default=None))
    if wanted is not None and wanted > min(limits):
        what = f"max_cost_usd is {wanted}, at most {min(limits)} are allowed a run"
        raise RequestError("budget-above-limit", what, "set a smaller max_cost_usd", allowed_usd=float(min(limits)))
    return min(limits, default=None)


def require_budget(model: str, budget: Decimal | None) -> Decimal | None:
    """Return the budget of a run; raise RequestError 402 where its model costs money and it has none."""
    if budget is None and model != "offline":
        raise RequestError("budget-needed", "a run with this model needs a budget", "set max_cost_usd")
    return budget


def check_price(plan: pd.DataFrame, model: str, budget: Decimal | None, token: Token) -> int | None:
    """Raise RequestError 402 for a run whose plan goes beyond its budget.

    Where the price is not known, only a token with `unpriced_models` may start; returns the calls it may make then.
    """
    if model == "offline":
        return None
    total = plan.iloc[-1]
    if pd.isna(total["cost_usd_high"]):
        _check_unpriced(model, token)
        return _most_calls(total)
    planned = Decimal(str(total["cost_usd_high"]))
    if planned > (require_budget(model, budget) or 0):
        what = f"the run may cost ${planned:.4f}, its budget is ${budget}"
        facts = {"needed_usd": float(planned), "allowed_usd": float(budget or 0)}
        raise RequestError("plan-above-budget", what, "send fewer products, or a larger max_cost_usd", **facts)
    return None


def check_left(spent: Decimal, budget: Decimal | None) -> None:
    """Raise RequestError 402 for a run that has spent the budget it is to be resumed with."""
    if budget is not None and spent and spent >= budget:
        what = f"the run has spent ${spent:.4f}, its budget is ${budget}"
        facts = {"needed_usd": float(spent), "allowed_usd": float(budget)}
        raise RequestError("plan-above-budget", what, "resume it with a larger max_cost_usd", **facts)


def calls_without_price(run: Run, token: Token, settings: Settings) -> int | None:
    """Return how many calls a run may make in all where its price is not known; None where it is.

    Raises RequestError 402 when the token may not start such a run, and so may not resume one.
    """
    chosen = run.parameters
    if call_cost_usd(Usage(1, 0, 1), chosen.model, chosen.endpoint, capped(settings)) is not None:
        return None
    _check_unpriced(chosen.model, token)
    return _most_calls(plan_of(run, capped(settings), whole=True).iloc[-1])


def capped(settings: Settings) -> Settings:
    """Return settings under which a price is as a run with a budget takes it: a server of one's own is not free."""
    cap = Decimal(RANGES["max_cost_usd"][1]) if settings.segkit_max_cost_usd is None else settings.segkit_max_cost_usd
    return settings.model_copy(update={"segkit_max_cost_usd": cap})


def _check_unpriced(model: str, token: Token) -> None:
    if not token.unpriced_models:
        what = f"the price of {model} is not known, so no budget can be kept"
        raise RequestError("price-unknown", what, "use another model, or ask the operator to set its price")


def _most_calls(total: pd.Series) -> int:
    """Allow twice the planned calls, since answers are corrected and batches cut; and some for very few products."""
    return 2 * int(total["calls"]) + 10
