"""The tokens of a call as a dozen providers state them, and what they cost, in US dollars as Decimal.

What is not known is None, never zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from segkit.core.models import Usage
from segkit.errors import SettingsError
from segkit.llm.transports.choose import is_private
from segkit.settings import Settings

#: What a call in a batch of the provider costs, as a share of the price online.
BATCH_PRICE = Decimal("0.5")
_MILLION = Decimal(1_000_000)
# Names of each figure, in the order in which they are believed; a dot goes into an object.
_PROMPT = ("prompt_tokens", "promptTokenCount", "prompt_eval_count")
_FRESH = ("input_tokens", "inputTokens")  # without what came from the cache or went into it
_OUTPUT = ("completion_tokens", "output_tokens", "outputTokens", "candidatesTokenCount", "eval_count")
_TOTAL = ("total_tokens", "totalTokens", "totalTokenCount")
_CACHED = (
    "prompt_tokens_details.cached_tokens",
    "input_tokens_details.cached_tokens",
    "cache_read_input_tokens",
    "prompt_cache_hit_tokens",
    "cacheReadInputTokens",
    "cachedContentTokenCount",
    "cached_tokens",
    "num_cached_tokens",
)
_WRITTEN = (
    "cache_write_tokens",
    "prompt_tokens_details.cache_write_tokens",
    "input_tokens_details.cache_write_tokens",
    "prompt_tokens_details.cache_creation_tokens",
    "cache_creation_input_tokens",
    "cacheWriteInputTokens",
    "cacheWriteInputTokenCount",
)
_REASONING = (
    "completion_tokens_details.reasoning_tokens",
    "output_tokens_details.reasoning_tokens",
    "reasoning_tokens",
    "thoughtsTokenCount",
)
_LARGEST = 2**63
_COST_HEADER = "x-litellm-response-cost"


def read_usage(envelope: Mapping[str, Any]) -> Usage:
    """Return the tokens of a completion.

    Some providers leave thoughts out of the completion's tokens and bill them all the same: output is then what the
    total has beyond the prompt.
    """
    usage = _usage_of(envelope)
    cached, written = _first(usage, _CACHED), _first(usage, _WRITTEN)
    prompt = _first(usage, _PROMPT)
    if prompt is None and (fresh := _first(usage, _FRESH)) is not None:
        native = usage.get("input_tokens_details") is None  # OpenAI's own form counts the cached ones
        prompt = fresh + ((cached or 0) + (written or 0) if native else 0)
    output, reasoning = _first(usage, _OUTPUT), _first(usage, _REASONING)
    total = _first(usage, _TOTAL)
    if output is not None and prompt is not None and total is not None:
        output = max(output, total - prompt)
    elif output is not None and reasoning is not None and "candidatesTokenCount" in usage:
        output += reasoning
    return Usage(input=prompt, cached=cached, output=output, reasoning=reasoning, written=written)


def stated_cost(body: bytes, headers: Mapping[str, str]) -> Decimal | None:
    """Return the dollars that a proxy or a router states for a call: LiteLLM in a header, OpenRouter in the usage."""
    stated = _dollars(headers.get(_COST_HEADER))
    if stated is None and b'"cost"' in body:
        try:
            envelope = orjson.loads(body)
        except orjson.JSONDecodeError:
            return None
        usage = envelope.get("usage") if isinstance(envelope, dict) else None
        stated = _dollars(usage.get("cost")) if isinstance(usage, dict) else None
    return stated


def call_cost_usd(
    usage: Usage, model: str, endpoint: str, settings: Settings, *, in_batch: bool = False
) -> Decimal | None:
    """Return the price of the tokens of one call under the user's settings; see `cost_usd`.

    Answers that came `in_batch` cost half. The discount of the prompt cache is not taken off again: which of both a
    provider grants differs, and a price must not be believed too low.
    """
    capped = settings.segkit_max_cost_usd is not None
    if in_batch:
        usage = replace(usage, cached=0)
    cost = cost_usd(
        usage, model, endpoint, settings.segkit_prices, prices_of=settings.segkit_prices_of, capped=capped
    )
    return cost * BATCH_PRICE if in_batch and cost is not None else cost


def cost_usd(
    usage: Usage,
    model: str,
    endpoint: str,
    prices: Path | None = None,
    *,
    prices_of: str = "",
    capped: bool = False,
) -> Decimal | None:
    """Return the price of the tokens of one call, or None when the tokens or the price are unknown.

    A price table of the user (`SEGKIT_PRICES`: JSON, model to `input`, `cached`, `written` and `output` dollars a
    million tokens) comes first, then genai-prices: for the provider's own hosts, for the provider that `prices_of`
    names, and for any host where the cost is capped, since a cap must not be kept by a belief that is too small.
    Without one of these a call to this machine or to a private network costs nothing, and to others it is unknown.
    """
    if model == "offline":
        return Decimal(0)
    if usage.input is None or usage.output is None:
        return None
    if prices and has_own_price(model, prices):
        return _own_cost(usage, _own_prices(prices)[model])
    if provider := _provider_of(model, endpoint, prices_of, capped):
        rates = _flat_rates(model, provider)
        return _own_cost(usage, rates) if rates else _priced(usage, model, provider)
    own_server = is_private(urlsplit(endpoint).hostname or "") and not prices_of and not capped
    return Decimal(0) if own_server else None


def largest_cost_usd(
    input_tokens: int, output_tokens: int, model: str, endpoint: str, settings: Settings
) -> Decimal | None:
    """Return the most that a call may cost: all input at the dearest of fresh and written, all output used."""
    fresh = Usage(input=input_tokens, cached=0, output=output_tokens)
    written = Usage(input=input_tokens, cached=0, output=output_tokens, written=input_tokens)
    costs = [call_cost_usd(usage, model, endpoint, settings) for usage in (fresh, written)]
    return None if None in costs else max(cost for cost in costs if cost is not None)


def require_price(model: str, endpoint: str, settings: Settings) -> None:
    """Raise SettingsError where the cost of a run is capped and the price of its model is not known."""
    capped = settings.segkit_max_cost_usd is not None
    if capped and call_cost_usd(Usage(input=1, output=1), model, endpoint, settings) is None:
        hint = "give its price in the file that SEGKIT_PRICES names, or cap the calls: --max-calls N"
        raise SettingsError(f"the price of {model} is not known, so no cap can be kept", hint)


def has_own_price(model: str, prices: Path | None) -> bool:
    """Report whether the user's price table has a model."""
    return bool(prices) and model in _own_prices(prices)


def check_prices(prices: Path | None) -> None:
    """Raise SettingsError when the user's price table cannot be used, before anything is paid."""
    if prices:
        _own_prices(prices)


def _own_cost(usage: Usage, price: Mapping[str, Any]) -> Decimal:
    cached = min(usage.cached or 0, usage.input or 0)
    written = min(usage.written or 0, (usage.input or 0) - cached)
    fresh = (usage.input or 0) - cached - written
    money = fresh * _price(price["input"]) + cached * _price(price.get("cached", price["input"]))
    money += written * _price(price.get("written", price["input"]))
    return (money + (usage.output or 0) * _price(price["output"])) / _MILLION


def _priced(usage: Usage, model: str, provider: str) -> Decimal:
    from genai_prices import Usage as Tokens
    from genai_prices import calc_price

    cached = min(usage.cached or 0, usage.input or 0)
    written = min(usage.written or 0, (usage.input or 0) - cached)
    tokens = Tokens(
        input_tokens=usage.input,
        cache_read_tokens=cached,
        cache_write_tokens=written,
        output_tokens=usage.output,
    )
    total: Decimal = calc_price(tokens, model_ref=model, provider_id=provider).total_price
    return total


@cache
def _flat_rates(model: str, provider: str) -> dict[str, Decimal] | None:
    """Return the dollars a million tokens where they do not depend on the amount, since asking takes long."""
    most = 10**6
    probes = {
        "input": Usage(most, 0, 0),
        "cached": Usage(most, most, 0),
        "written": Usage(most, 0, 0, written=most),
        "output": Usage(0, 0, most),
    }
    rates = {name: _priced(probe, model, provider) for name, probe in probes.items()}
    few = Usage(1000, 500, 100, written=200)
    return rates if _own_cost(few, rates) == _priced(few, model, provider) else None


def price_note(model: str, endpoint: str, settings: Settings) -> str:
    """Return what to know about the price of a model before a run is made; empty where a list has its price."""
    host = urlsplit(endpoint).hostname or ""
    cost = call_cost_usd(Usage(input=1, cached=0, output=1), model, endpoint, settings)
    if model == "offline" or (cost is not None and not is_private(host)) or cost:
        return ""
    if cost is not None:
        free = not has_own_price(model, settings.segkit_prices)
        return f"calls to {host} count as free; SEGKIT_PRICES_OF=openai would count list prices" * free
    if not settings.segkit_prices_of and _known(model):
        return f"the price of {model} at {host} is not known; SEGKIT_PRICES_OF names the provider behind it"
    near = similar_model(model, endpoint)
    asked = f"; did you mean {near}?" if near else ""
    return f"no price list has a model {model}, so its cost is not known (SEGKIT_PRICES names a list){asked}"


def similar_model(model: str, endpoint: str) -> str:
    """Return the model of a price list whose name is closest to one that no list knows; empty if there is none.

    Models of this machine or a private network have names of their own.
    """
    if model == "offline" or is_private(urlsplit(endpoint).hostname or "") or _known(model):
        return ""
    from genai_prices.data_snapshot import get_snapshot

    names = {each.id for provider in get_snapshot().providers for each in provider.models} | {"offline"}
    return next(iter(get_close_matches(model, sorted(names), n=1, cutoff=0.75)), "")


def _provider_of(model: str, endpoint: str, prices_of: str, capped: bool) -> str | None:
    """Return whose price list holds for an endpoint."""
    if prices_of:
        return _known(model, provider=prices_of)
    if own := _known(model, url=endpoint):
        return own
    # A proxy may stand behind any address, and a cap is kept by the dearer belief.
    return _known(model) if capped else None


@cache
def _known(model: str, *, url: str | None = None, provider: str | None = None) -> str | None:
    from genai_prices import Usage as Tokens
    from genai_prices import calc_price

    tokens = Tokens(input_tokens=1)
    try:
        if url:
            price = calc_price(tokens, model_ref=model, provider_api_url=url)
        else:
            price = calc_price(tokens, model_ref=model, provider_id=provider)
    except LookupError:
        return None
    return str(price.provider.id)


@cache
def _own_prices(path: Path) -> dict[str, dict[str, Any]]:
    try:
        table: dict[str, dict[str, Any]] = orjson.loads(path.read_bytes())
        for price in table.values():
            for value in (price["input"], price.get("cached", 0), price.get("written", 0), price["output"]):
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


def _usage_of(envelope: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in ("usage", "usageMetadata", "x_groq"):
        found = envelope.get(name)
        if isinstance(found, dict):
            inner = found.get("usage")
            return inner if name == "x_groq" and isinstance(inner, dict) else found
    return envelope if "prompt_eval_count" in envelope else {}


def _first(usage: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    return next((count for name in names if (count := _count(_at(usage, name))) is not None), None)


def _at(usage: Mapping[str, Any], path: str) -> Any:
    value: Any = usage
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _count(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LARGEST else None


def _dollars(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        cost = Decimal(str(value))
    except InvalidOperation:
        return None
    return cost if cost.is_finite() and 0 <= cost < 10**6 else None
