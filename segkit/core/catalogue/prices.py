"""Prices as people write them: `1.299,00 €`, `$12.99`, `19.99 USD`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pandas as pd

from segkit.core.catalogue.lines import text_of

PRICE = "price_usd"
_CURRENCY = re.compile(r"[A-Za-z]{0,3}[$€£¥₹₺₽₩฿]?|[$€£¥₹₺₽₩฿]?[A-Za-z]{0,3}")
_AMOUNT = re.compile(r"(?P<minus>-?)(?P<digits>\d+(?:[.,'\u2019 ]\d+)*)")
_CENTS = re.compile(r"[.,](?=\d{1,2}$)")


def decimal_sign(prices: Iterable[Any]) -> str:
    """Return the decimal sign of a column: a comma where cents stand behind commas and nowhere behind points."""
    signs = {found[0] for price in prices if (found := _CENTS.search(_amount(text_of(price))))}
    return "," if signs == {","} else "."


def plain_price(price: Any, decimal: str) -> str | None:
    """Return a price as a plain decimal number, such as `1299.00`, or None if it cannot be read."""
    amount = _amount(text_of(price))
    whole, sign, cents = amount.rpartition(decimal) if decimal in amount else (amount, "", "")
    thousands = "." if decimal == "," else ","
    groups = re.split(rf"[{thousands}'\u2019 ]", whole)
    if not amount or not all(group.lstrip("-").isdecimal() for group in groups) or (sign and not cents.isdecimal()):
        return None
    if len(groups) > 1 and any(len(group) != 3 for group in groups[1:]):
        return None
    return "".join(groups) + (f".{cents}" if sign else "")


def unread_prices(products: pd.DataFrame) -> list[str]:
    """Return the prices in `price_usd` that cannot be read; they are missing in Postgres."""
    if PRICE not in products:
        return []
    texts = [text for text in map(text_of, products[PRICE]) if text.strip()]
    decimal = decimal_sign(texts)
    return [text for text in texts if plain_price(text, decimal) is None]


def _amount(text: str) -> str:
    """Return the digits and signs of a price without its currency; empty for what is no price."""
    text = text.replace("\u00a0", " ").replace("\u202f", " ").strip()
    found = _AMOUNT.search(text)
    if not found or not all(
        _CURRENCY.fullmatch(rest.strip()) for rest in (text[: found.start()], text[found.end() :])
    ):
        return ""
    return found["minus"] + found["digits"]
