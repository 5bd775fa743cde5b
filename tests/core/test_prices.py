"""Prices as shops write them become plain numbers, or are named as unread."""

from __future__ import annotations

import pandas as pd
import pytest

from segkit.core.catalogue.prices import decimal_sign, plain_price, unread_prices

COLUMNS: dict[str, tuple[list[object], list[str | None]]] = {
    "plain": (["12.99", "5", "-3.5", "1299"], ["12.99", "5", "-3.5", "1299"]),
    "numbers": ([12.99, 5, 1299.0], ["12.99", "5", "1299.0"]),
    "dollars": (["$12.99", "$1,299.00", "$ 5"], ["12.99", "1299.00", "5"]),
    "euros": (["12,99 €", "1.299,00 €", "EUR 5"], ["12.99", "1299.00", "5"]),
    "with the currency": (["19.99 USD", "1 299.00 USD", "USD19"], ["19.99", "1299.00", "19"]),
    "Swiss": (["1'299.00", "CHF 5.50"], ["1299.00", "5.50"]),
    "thousands alone": (["1,299", "12,345,678"], ["1299", "12345678"]),
    "both kinds of cents": (["12,99", "12.99"], [None, "12.99"]),
    "no prices": (["free", "on request", "", None, "12-15", "1,2,3", "5 pcs each"], [None] * 7),
}


@pytest.mark.parametrize(("prices", "plain"), COLUMNS.values(), ids=COLUMNS)
def test_a_column_of_prices(prices: list[object], plain: list[str | None]) -> None:
    """The decimal sign is that of the whole column; nothing is guessed."""
    decimal = decimal_sign(prices)
    assert [plain_price(price, decimal) for price in prices] == plain


def test_unread_prices_are_named() -> None:
    frame = pd.DataFrame({"price_usd": ["12,99", "free", None, "1.299,00", " "]})
    assert unread_prices(frame) == ["free"]
    assert unread_prices(frame.rename(columns={"price_usd": "price"})) == []
