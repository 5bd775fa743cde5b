"""Costs: exact money for known tokens and prices, None for everything else."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkit.core.models import Usage
from segkit.errors import SettingsError
from segkit.llm.prices import cost_usd

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
    assert cost_usd(usage, "my-own-model-7b", LOCAL) is None
    assert cost_usd(usage, "my-own-model-7b", LOCAL, prices(tmp_path, {"m": {"input": 1, "output": 1}})) is None


def test_a_known_model_is_priced_by_its_tokens() -> None:
    """The model gpt-4o at its list price, cached input cheaper than fresh; reasoning is part of the output."""
    fresh = cost_usd(Usage(input=1_000_000, output=0), "gpt-4o", OPENAI)
    cached = cost_usd(Usage(input=1_000_000, cached=1_000_000, output=0), "gpt-4o", OPENAI)
    answer = cost_usd(Usage(input=0, output=1_000_000, reasoning=500_000), "gpt-4o", OPENAI)
    assert (fresh, cached, answer) == (Decimal("2.5"), Decimal("1.25"), Decimal(10))


def test_a_gateway_is_priced_like_the_provider_of_the_model() -> None:
    """An endpoint without a price list of its own costs what the model costs elsewhere."""
    usage = Usage(input=1000, output=1000)
    assert cost_usd(usage, "gpt-4o", "https://gateway.example/v1") == cost_usd(usage, "gpt-4o", OPENAI)


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
