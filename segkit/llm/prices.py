"""What a call costs, in US dollars as Decimal; what is not known is None, never zero."""

from __future__ import annotations

from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from segkit.core.models import Usage
from segkit.errors import SettingsError

_MILLION = Decimal(1_000_000)


def cost_usd(usage: Usage, model: str, endpoint: str, prices: Path | None = None) -> Decimal | None:
    """Price the tokens of one call, or give None when the tokens or the price are unknown.

    A price table of the user (`SEGKIT_PRICES`: JSON, model to `input`, `cached` and `output` dollars a million
    tokens) comes first, then genai-prices.
    """
    if model == "offline":
        return Decimal(0)
    if usage.input is None or usage.output is None:
        return None
    own = _own_prices(prices).get(model) if prices else None
    return _own_cost(usage, own) if own else _known_cost(usage, model, endpoint)


def check_prices(prices: Path | None) -> None:
    """Raise SettingsError when the user's price table cannot be used, before anything is paid."""
    if prices:
        _own_prices(prices)


def _own_cost(usage: Usage, price: dict[str, Any]) -> Decimal:
    cached = min(usage.cached or 0, usage.input or 0)
    fresh = (usage.input or 0) - cached
    money = fresh * _price(price["input"]) + cached * _price(price.get("cached", price["input"]))
    return (money + (usage.output or 0) * _price(price["output"])) / _MILLION


def _known_cost(usage: Usage, model: str, endpoint: str) -> Decimal | None:
    provider = _provider(model, endpoint)
    if provider is None:
        return None
    rates = _flat_rates(model, provider)
    return _own_cost(usage, rates) if rates else _priced(usage, model, provider)


def _priced(usage: Usage, model: str, provider: str) -> Decimal:
    from genai_prices import Usage as Tokens
    from genai_prices import calc_price

    cached = min(usage.cached or 0, usage.input or 0)
    tokens = Tokens(input_tokens=usage.input, cache_read_tokens=cached, output_tokens=usage.output)
    total: Decimal = calc_price(tokens, model_ref=model, provider_id=provider).total_price
    return total


@cache
def _flat_rates(model: str, provider: str) -> dict[str, Decimal] | None:
    """Find the dollars a million tokens where they do not depend on the amount, since asking takes long."""
    probes = {"input": Usage(10**6, 0, 0), "cached": Usage(10**6, 10**6, 0), "output": Usage(0, 0, 10**6)}
    rates = {name: _priced(probe, model, provider) for name, probe in probes.items()}
    few = Usage(1000, 500, 100)
    return rates if _own_cost(few, rates) == _priced(few, model, provider) else None


@cache
def _provider(model: str, endpoint: str) -> str | None:
    """Find who is paid: the endpoint's own price list, else whoever is known to offer the model."""
    from genai_prices import Usage as Tokens
    from genai_prices import calc_price

    for url in (endpoint, None):
        try:
            found: str = calc_price(Tokens(input_tokens=1), model_ref=model, provider_api_url=url).provider.id
        except LookupError:
            continue
        return found
    return None


@cache
def _own_prices(path: Path) -> dict[str, dict[str, Any]]:
    try:
        table: dict[str, dict[str, Any]] = orjson.loads(path.read_bytes())
        for price in table.values():
            for value in (price["input"], price.get("cached", 0), price["output"]):
                _price(value)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise SettingsError(
            f"SEGKIT_PRICES = {path}: {type(error).__name__}: {error}",
            'write {"model": {"input": 2.5, "cached": 1.25, "output": 10}}, in dollars a million tokens',
        ) from None
    return table


def _price(value: Any) -> Decimal:
    price = Decimal(str(value))
    if not 0 <= price < _MILLION:  # NaN compares with an ArithmeticError
        raise ValueError(f"{value!r} is no price")
    return price
