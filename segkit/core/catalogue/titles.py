"""Titles of products: what is one, and what only stands where a title should be."""

from __future__ import annotations

import unicodedata
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

import pandas as pd

from segkit.core.catalogue.lines import is_missing
from segkit.core.text import MAX_TITLE, one_line, without_surrogates

# fmt: off
PLACEHOLDERS = frozenset([
    "null", "(null)", "<null>", "none", "nil", "nan", "n/a", "#n/a", "#n/a!", "n.a.", "not available",
    "not applicable", "tbd", "tba", "t.b.d.", "to be determined", "undefined", "unknown", "untitled", "no title",
    "no name", "(blank)", "blank", "empty", "missing", "#ref!", "#value!", "#name?", "#null!", "#div/0!",
])
# fmt: on
#: The share of products without a title up to which a catalogue is taken as it is.
MOST_UNTITLED = 0.05
_SEEN = {"Lu", "Ll", "Lt", "Lm", "Lo", "Nd", "Nl", "No", "So", "Sc"}  # letters, digits, pictures, currencies


def is_placeholder(text: str) -> bool:
    """Report whether a text is a word that says that there is nothing, such as `N/A`, `null` or `TBD`."""
    return unicodedata.normalize("NFKC", text).casefold().strip() in PLACEHOLDERS


def is_title(title: str) -> bool:
    """Report whether a title shows a model anything: a letter, a digit or a symbol that can be seen."""
    line = one_line(title)
    return not is_placeholder(line) and any(unicodedata.category(sign)[:2] in _SEEN for sign in line)


def untitled(products: pd.DataFrame) -> pd.Series:
    """Mark the products that have no title to show a model (boolean, aligned with `products`)."""
    return ~products["title"].map(is_title).astype(bool)


def lacks_titles(products: pd.DataFrame, allowed: int) -> bool:
    """Report whether so many products have no title that somebody should look first: more than 5 %, and than allowed.

    Often the wrong column was taken for the title.
    """
    return int(untitled(products).sum()) > max(allowed, MOST_UNTITLED * len(products))


def cut_titles(products: pd.DataFrame) -> int:
    """Count the titles that are longer than what a prompt shows of them (1,000 characters)."""
    return int((products["title"].str.len() > MAX_TITLE).sum())


def title_of(value: Any) -> tuple[str, str]:
    """Return a title as a text, and a reason if it cannot be used; numbers and bytes are written out."""
    if isinstance(value, str):
        return without_surrogates(value), ""
    if is_missing(value):
        return "", ""
    if isinstance(value, bytes):
        try:
            return value.decode(), ""
        except UnicodeDecodeError:
            return "", "the title is bytes that are not UTF-8"
    if isinstance(value, Integral) and not isinstance(value, bool):
        return str(int(value)), ""
    if isinstance(value, Real | Decimal) and not isinstance(value, bool):
        return f"{value:.0f}" if float(value).is_integer() else str(value), ""
    return "", f"the title is no text but a value of type {type(value).__name__}"
