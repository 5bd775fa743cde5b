"""Costs: exact money for known tokens and prices, None for everything else."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkit.core.models import Usage
from segkit.errors import SettingsError
from segkit.llm.prices import cost_usd, largest_cost_usd, read_usage, require_price, similar_model, stated_cost
from segkit.settings import Settings

OPENAI = "https://api.openai.com/v1"
LOCAL = "http://localhost:8000/v1"


def prices(folder: Path, table: Any) -> Path:
    path = folder / "prices.json"
    path.write_bytes(table if isinstance(table, bytes) else orjson.dumps(table))
    return path


def test_the_embedded_model_costs_nothing() -> None:
    """Offline is free, also where it tells no tokens."""
    assert cost_usd(Usage(), "offline", "offline") == 0


@pytest.mark.parametrize("usage", [Usage(), Usage(input=5), Usage(output=5), Usage(cached=5, reasoning=1)])
def test_unknown_tokens_cost_an_unknown_amount(usage: Usage, tmp_path: Path) -> None:
    """Cost unknown is None, never 0, with a price table too."""
    assert cost_usd(usage, "gpt-4o", OPENAI) is None
    assert cost_usd(usage, "m", LOCAL, prices(tmp_path, {"m": {"input": 1, "output": 1}})) is None


def test_an_unknown_model_costs_an_unknown_amount(tmp_path: Path) -> None:
    """No price, no number, also where the user's table has other models."""
    usage = Usage(input=1000, output=1000)
    assert cost_usd(usage, "my-own-model-7b", GATEWAY) is None
    assert cost_usd(usage, "my-own-model-7b", GATEWAY, prices(tmp_path, {"m": {"input": 1, "output": 1}})) is None


def test_a_known_model_is_priced_by_its_tokens() -> None:
    """The model gpt-4o at its list price, cached input cheaper than fresh; reasoning is part of the output."""
    fresh = cost_usd(Usage(input=1_000_000, output=0), "gpt-4o", OPENAI)
    cached = cost_usd(Usage(input=1_000_000, cached=1_000_000, output=0), "gpt-4o", OPENAI)
    answer = cost_usd(Usage(input=0, output=1_000_000, reasoning=500_000), "gpt-4o", OPENAI)
    assert (fresh, cached, answer) == (Decimal("2.5"), Decimal("1.25"), Decimal(10))


GATEWAY, PRIVATE = (
    "https://gateway.example/v1",
    ("http://127.0.0.1:8000/v1", "http://192.168.1.7/v1", "http://vllm/v1"),
)


def test_a_price_list_holds_for_the_providers_own_hosts() -> None:
    """Elsewhere the cost is unknown, on an own server it is nothing, unless the user says who is behind it."""
    usage = Usage(input=1000, output=1000)
    listed = cost_usd(usage, "gpt-4o", OPENAI)
    assert listed
    assert cost_usd(usage, "gpt-4o", GATEWAY) is None
    assert [cost_usd(usage, "gpt-4o", endpoint) for endpoint in PRIVATE] == [0, 0, 0]
    for endpoint in (GATEWAY, *PRIVATE):
        assert cost_usd(usage, "gpt-4o", endpoint, prices_of="openai") == listed
        assert cost_usd(usage, "gpt-4o", endpoint, capped=True) == listed
        assert cost_usd(usage, "llama-of-mine", endpoint, capped=True) is None


def test_what_is_written_to_a_prompt_cache_is_priced_as_that() -> None:
    """Dearer than fresh input at some providers; the largest cost of a call assumes the dearest."""
    anthropic = "https://api.anthropic.com/v1"
    fresh, written = (
        cost_usd(Usage(input=10**5, output=0, written=count), "claude-sonnet-4-5", anthropic) for count in (0, 10**5)
    )
    assert fresh is not None
    assert written is not None
    assert written > fresh
    settings = Settings(_env_file=None)
    assert largest_cost_usd(10**5, 0, "claude-sonnet-4-5", anthropic, settings) == written


def test_a_cap_needs_a_price_before_a_run_is_made() -> None:
    capped = Settings(_env_file=None, segkit_max_cost_usd=Decimal(1))
    require_price("gpt-4o", GATEWAY, capped)
    require_price("my-own-model-7b", GATEWAY, Settings(_env_file=None))
    with pytest.raises(SettingsError, match="price of my-own-model-7b is not known"):
        require_price("my-own-model-7b", GATEWAY, capped)


# Usage as providers state it, and the tokens that are billed: input, of it cached and written, output.
USAGES: dict[str, tuple[dict[str, Any], tuple[int, int | None, int | None, int]]] = {
    "openai": (
        {
            "prompt_tokens": 1000,
            "completion_tokens": 300,
            "total_tokens": 1300,
            "prompt_tokens_details": {"cached_tokens": 400},
            "completion_tokens_details": {"reasoning_tokens": 120},
        },
        (1000, 400, None, 300),
    ),
    "gemini": ({"prompt_tokens": 900, "completion_tokens": 40, "total_tokens": 4940}, (900, None, None, 4040)),
    "xai": (
        {
            "prompt_tokens": 700,
            "completion_tokens": 30,
            "total_tokens": 1030,
            "completion_tokens_details": {"reasoning_tokens": 300},
        },
        (700, None, None, 330),
    ),
    "anthropic": (
        {
            "input_tokens": 100,
            "output_tokens": 50,
            "cache_creation_input_tokens": 600,
            "cache_read_input_tokens": 300,
        },
        (1000, 300, 600, 50),
    ),
    "litellm": (
        {
            "prompt_tokens": 1000,
            "completion_tokens": 50,
            "total_tokens": 1050,
            "cache_creation_input_tokens": 600,
            "cache_read_input_tokens": 300,
        },
        (1000, 300, 600, 50),
    ),
    "openrouter": (
        {
            "prompt_tokens": 1000,
            "completion_tokens": 50,
            "total_tokens": 1050,
            "prompt_tokens_details": {"cached_tokens": 100, "cache_write_tokens": 200},
        },
        (1000, 100, 200, 50),
    ),
    "deepseek": (
        {
            "prompt_tokens": 800,
            "completion_tokens": 60,
            "total_tokens": 860,
            "prompt_cache_hit_tokens": 512,
            "prompt_cache_miss_tokens": 288,
        },
        (800, 512, None, 60),
    ),
    "mistral": ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}, (10, None, None, 5)),
    "bedrock": (
        {"inputTokens": 100, "outputTokens": 20, "totalTokens": 420, "cacheReadInputTokens": 300},
        (400, 300, None, 20),
    ),
    "responses": (
        {
            "input_tokens": 500,
            "output_tokens": 20,
            "input_tokens_details": {"cached_tokens": 100},
            "total_tokens": 520,
        },
        (500, 100, None, 20),
    ),
    "groq": ({"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12, "total_time": 0.1}, (5, None, None, 7)),
    "moonshot": ({"prompt_tokens": 50, "completion_tokens": 7, "cached_tokens": 20}, (50, 20, None, 7)),
    "no total": ({"prompt_tokens": 50, "completion_tokens": 7, "total_tokens": 0}, (50, None, None, 7)),
    "floats": ({"prompt_tokens": 50.0, "completion_tokens": 7.0}, (50, None, None, 7)),
}


@pytest.mark.parametrize(("usage", "tokens"), USAGES.values(), ids=USAGES)
def test_usage_is_read_as_each_provider_states_it(
    usage: dict[str, Any], tokens: tuple[int, int | None, int | None, int]
) -> None:
    found = read_usage({"usage": usage})
    assert (found.input, found.cached, found.written, found.output) == tokens


def test_usage_of_geminis_own_door_counts_thoughts() -> None:
    metadata = {"promptTokenCount": 100, "candidatesTokenCount": 10, "thoughtsTokenCount": 90}
    found = read_usage({"usageMetadata": metadata})
    assert (found.input, found.output, found.reasoning) == (100, 100, 90)


@pytest.mark.parametrize(
    ("headers", "usage", "cost"),
    [
        ({"x-litellm-response-cost": "0.0125"}, {}, Decimal("0.0125")),
        ({"x-litellm-response-cost": "1.5e-05"}, {}, Decimal("0.000015")),
        ({}, {"cost": 0.25}, Decimal("0.25")),
        ({}, {"cost": 0}, Decimal(0)),
        ({"x-litellm-response-cost": "nan"}, {"cost": -1}, None),
        ({"x-litellm-response-cost": "free"}, {"cost": True}, None),
        ({}, {}, None),
    ],
)
def test_the_cost_that_a_proxy_states_is_read(headers: dict[str, str], usage: dict[str, Any], cost: Any) -> None:
    assert stated_cost(json.dumps({"usage": usage}).encode(), headers) == cost


TABLE = {
    "m": {"input": 2.5, "cached": 1.25, "output": 10},
    "n": {"input": "0.1", "output": "0.2"},
    "gpt-4o": {"input": 1, "output": 2},
}


@pytest.mark.parametrize(
    ("model", "usage", "money"),
    [
        ("m", Usage(input=1000, output=100), "0.0035"),
        ("m", Usage(input=1000, cached=400, output=100), "0.0030"),
        ("m", Usage(input=100, cached=400, output=0), "0.000125"),
        ("m", Usage(input=0, output=0), "0"),
        ("n", Usage(input=3, cached=3, output=0), "0.0000003"),
        ("gpt-4o", Usage(input=10**6, output=10**6), "3"),
    ],
)
def test_the_users_own_prices_come_first(tmp_path: Path, model: str, usage: Usage, money: str) -> None:
    """Exact decimals; cached tokens at their own price, or at that of input where none is given."""
    assert cost_usd(usage, model, OPENAI, prices(tmp_path, TABLE)) == Decimal(money)


@given(
    st.integers(0, 10**9), st.integers(0, 10**9) | st.none(), st.integers(0, 10**9), st.integers(0, 10**9) | st.none()
)
def test_money_is_never_negative(
    tmp_path_factory: pytest.TempPathFactory, tokens: int, cached: int | None, output: int, reasoning: int | None
) -> None:
    """Whatever a server tells, also more cached tokens than there were."""
    usage = Usage(tokens, cached, output, reasoning)
    table = tmp_path_factory.getbasetemp() / "money.json"
    table.write_bytes(orjson.dumps(TABLE))
    for money in (cost_usd(usage, "m", LOCAL, table), cost_usd(usage, "gpt-4o", OPENAI)):
        assert money is not None
        assert money >= 0


@pytest.mark.parametrize(
    "table",
    [
        b"",
        b"{",
        [],
        {"m": 5},
        {"m": {}},
        {"m": {"input": 1}},
        {"m": {"input": "free", "output": 1}},
        {"m": {"input": 1, "output": None}},
        {"m": {"input": 1, "cached": "free", "output": 1}},
        {"m": {"input": "NaN", "output": 1}},
        {"m": {"input": 1, "output": "Infinity"}},
        {"m": {"input": -1, "output": 1}},
    ],
)
def test_a_price_table_that_cannot_be_used_is_told(tmp_path: Path, table: Any) -> None:
    """The error names the variable and shows the form, and no price is taken from half a table."""
    with pytest.raises(SettingsError, match="SEGKIT_PRICES") as caught:
        cost_usd(Usage(input=1, cached=1, output=1), "m", LOCAL, prices(tmp_path, table))
    assert '"cached": 1.25' in caught.value.hint


def test_a_missing_price_table_is_told(tmp_path: Path) -> None:
    """A wrong path is not the same as no prices."""
    with pytest.raises(SettingsError, match=r"no\.json"):
        cost_usd(Usage(input=1, output=1), "m", LOCAL, tmp_path / "no.json")


def test_a_misspelt_model_is_asked_about() -> None:
    """Models that a list knows, and those of one's own server, are left alone."""
    public = "https://api.openai.com/v1"
    assert similar_model("gpt4o", public) == "gpt-4o"
    assert similar_model("ofline", public) == "offline"
    assert similar_model("gpt-4o", public) == similar_model("offline", public) == ""
    assert similar_model("zzzzzzzz", public) == similar_model("gpt4o", "http://127.0.0.1:8080/v1") == ""
