"""How a value is shown: in a terminal, in HTML and Jupyter, in CSV and Excel, in JSON. No other module decides it.

Titles come from shops and names from models: wherever they are shown they are text, and nothing obeys them.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import cache
from html import escape
from typing import Any

import orjson

#: Classes that keep every version of MathJax in Jupyter away from dollars and backslashes in a text.
PLAIN_TEXT = "tex2jax_ignore mathjax_ignore"
#: The most characters that a spreadsheet holds in a cell.
MOST_IN_CELL = 32_767

_MISSING = "–"  # in HTML; a terminal leaves the cell empty
_LONG = 300  # characters of a text that HTML shows before it is expanded
_FEW = 6  # columns whose names need not be broken
_UNBROKEN = 22  # characters of a text that stay on one line in any table
_EXACT = 10**15  # a spreadsheet holds integers below this exactly
# Directions, isolates and line separators: they reorder or break what stands around them.
_REORDERING = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x2028, 0x2029, 0x061C, 0x200E, 0x200F}
# A spreadsheet takes a cell for a formula that begins so, in each of its lines and behind blanks of any kind.
_FORMULA = re.compile(r"(^|[\r\n])(?=[^\S\t\r\n]*[=+\-@\t\r＝＋－＠])")

_APOSTROPHE = re.compile(r"(^|[\r\n])'(?=[^\S\t\r\n]*[=+\-@\t\r＝＋－＠])")


def is_missing(value: Any) -> bool:
    """Return whether a cell has no value: None, NaN, or pandas' NA and NaT."""
    if isinstance(value, Decimal):
        return value.is_nan()
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def visible(text: str, *, keep: str = "") -> str:
    r"""Return a text whose control characters are written out, like `\x1b`, so that a terminal does not obey them.

    Also marks that reorder a line, line separators and lone surrogates; `keep` names characters that stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char in keep else _visible(char) for char in text)


def plain(value: Any) -> str:
    """Return a value as text for people, without regard to where it is shown; a missing one is empty."""
    if is_missing(value):
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return r"\x" + bytes(value).hex()
    if hasattr(value, "tolist"):  # numpy's arrays and numbers
        return plain(value.tolist())
    if isinstance(value, (Mapping, list, tuple, set, frozenset)):
        return json_text(value)
    return str(value)


def terminal_text(value: Any) -> str:
    """Return a value as one line for a terminal, which obeys nothing in it."""
    return visible(plain(value))


def json_text(value: Any) -> str:
    """Return a value as JSON in one line."""
    return orjson.dumps(json_value(value), default=str).decode()


def json_value(value: Any) -> Any:
    """Return a value as JSON can hold it: integers and counts stay exact, what is missing is None.

    What JSON does not have becomes text, as do decimals and integers of more than 64 bits, which readers would round.
    """
    if is_missing(value):
        return None
    if isinstance(value, Mapping):
        return {_encodable(str(key)): json_value(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # numpy's arrays and numbers
        return json_value(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [json_value(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return value if -(2**63) <= value < 2**64 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return _encodable(value)
    return value if isinstance(value, bool | orjson.Fragment) else plain(value)


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def spreadsheet_text(value: Any) -> Any:
    """Return a value for CSV: an apostrophe keeps a spreadsheet from running a text as a formula."""
    if isinstance(value, str):
        return _FORMULA.sub(r"\1'", value)
    return value if is_missing(value) or isinstance(value, (int, float, Decimal)) else plain(value)


def typed_text(text: str) -> str:
    """Return a text that was read from CSV without the apostrophes of `spreadsheet_text`."""
    return _APOSTROPHE.sub(r"\1", text)


def excel_value(value: Any) -> Any:
    """Return a value for a cell of an .xlsx file: numbers that Excel holds exactly, and texts for all else."""
    if is_missing(value):
        return None
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    if isinstance(value, bool) or (isinstance(value, int) and abs(value) < _EXACT):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return visible(plain(value), keep="\n\t")[:MOST_IN_CELL]


def html_text(value: Any, most: int = _LONG) -> str:
    """Return a value as HTML: escaped, and a text of more than `most` characters cut, to be expanded by a click."""
    text = visible(plain(value), keep="\n\t")
    if len(text) <= most:
        return escape(text)
    start, rest = escape(text[:most].rstrip()), escape(text)
    return f"<details><summary>{start}…</summary>{rest}</details>"


def html_table(columns: Mapping[Any, Sequence[Any]], caption: str = "") -> str:
    """Return columns as an HTML table: whole texts to the left, numbers to the right, nothing typeset as formulas."""
    named = {str(name): list(values) for name, values in columns.items()}
    right = {name for name, values in named.items() if is_numeric(values)}
    heads = "".join(_head(name, values, name in right, len(named)) for name, values in named.items())
    writers = [(name, cell_writer(name)) for name in named]
    rows = (
        "<tr>"
        + "".join(_cell(write(value), name in right) for (name, write), value in zip(writers, row, strict=True))
        for row in zip(*named.values(), strict=True)
    )
    bottom = (
        f'<caption style="caption-side: bottom; text-align: left">{html_text(caption)}</caption>' if caption else ""
    )
    body = "</tr>".join(rows)
    return f'<table class="{PLAIN_TEXT}">{bottom}<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'


def cell_writer(column: str) -> Callable[[Any], str]:
    """Return the function that writes the values of a column for people.

    Money has four decimals, other fractions two; counts are grouped in thousands, ids are not.
    """
    decimals = 4 if "cost" in column or "usd" in column else 2

    def write(value: Any) -> str:
        if is_missing(value):
            return _MISSING
        if isinstance(value, (float, Decimal)):
            return f"{value:,.{decimals}f}"
        if hasattr(value, "item") and not isinstance(value, str):
            return write(value.item())
        if isinstance(value, int) and not isinstance(value, bool) and not column.endswith("id"):
            return f"{value:,}"
        return plain(value)

    return write


def is_numeric(values: Iterable[Any]) -> bool:
    """Return whether a column has numbers and nothing else, apart from missing values."""
    known = [value for value in values if not is_missing(value)]
    return bool(known) and all(_is_number(value) for value in known)


def _is_number(value: Any) -> bool:
    if hasattr(value, "item") and not getattr(value, "shape", None):  # numpy's
        value = value.item()
    return isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)


def _head(name: str, values: Sequence[Any], is_right: bool, columns: int) -> str:
    space = "nowrap" if columns <= _FEW else "normal"
    longest = 0 if is_right else max((len(plain(value)) for value in values), default=0)
    style = f"text-align: {'right' if is_right else 'left'}; white-space: {space}"
    style += f"; min-width: {min(longest, _UNBROKEN)}ch" if longest else ""
    return f'<th scope="col" style="{style}">{html_text(name.replace("_", " "))}</th>'


def _cell(text: str, is_right: bool) -> str:
    side = "right" if is_right else "left"
    return f'<td dir="auto" style="text-align: {side}; vertical-align: top">{html_text(text)}</td>'


@cache
def _visible(char: str) -> str:
    is_obeyed = unicodedata.category(char) in ("Cc", "Cs") or ord(char) in _REORDERING
    return char.encode("unicode_escape").decode() if is_obeyed else char
