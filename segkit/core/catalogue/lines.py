"""The one line that a model sees of a product, from a template over its columns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from html import unescape
from numbers import Real
from typing import Any

import pandas as pd

from segkit.core.text import MAX_TITLE, one_line, shortened
from segkit.errors import ProductsError

#: `$name`, `${name}`, `{any column}`, and `$$`, `{{`, `}}` for the signs themselves.
_FIELD = re.compile(
    r"\$\$|\{\{|\}\}|\$\{(?P<braced>[^{}]*)\}|\$(?P<named>[A-Za-z_][A-Za-z0-9_]*)|\{(?P<any>[^{}]+)\}|(?P<wrong>[${}])"
)
_SIGNS = {"$$": "$", "{{": "{", "}}": "}"}
_TAG = re.compile(r"<(?:/?[A-Za-z][^<>]*|!--.*?--)>", re.DOTALL)


def product_lines(products: pd.DataFrame, product_line: str = "$title") -> list[str]:
    """Render each product as one line from the template `product_line`.

    `$title` and `{Regular price}` stand for columns. Tags of HTML are removed. A line has at most 1,000 characters,
    and where it would be longer, each column keeps its share of them. Raises ProductsError for an unknown column.
    """
    parts = _parts(product_line, [str(name) for name in products.columns])
    names = [name for _, name in parts if name]
    if product_line == "$title":
        return [one_line(title) for title in products["title"]]
    columns = [[_plain(value) for value in products[name]] for name in names]
    return [_line(parts, values) for values in zip(*columns, strict=True)]


def cut_columns(products: pd.DataFrame, product_line: str = "$title") -> dict[str, int]:
    """Count for each column of a template the products in whose line it lost text, for want of room."""
    parts = _parts(product_line, [str(name) for name in products.columns])
    names = [name for _, name in parts if name]
    counts = dict.fromkeys(names, 0)
    for values in zip(*([_plain(value) for value in products[name]] for name in names), strict=True):
        for name, value, shown in zip(names, values, _shared(values, _room(parts)), strict=True):
            counts[name] += value != shown
    return {name: count for name, count in counts.items() if count}


def renamed_line(product_line: str, names: Mapping[str, str]) -> str:
    """Return a template in which columns go by the names that they have in a run, such as `title` for `Item name`."""

    def rename(match: re.Match[str]) -> str:
        name = match["braced"] or match["named"] or match["any"]
        return f"{{{names[name]}}}" if name in names else match.group()

    return _FIELD.sub(rename, product_line)


def text_of(value: Any) -> str:
    """Return a value of a catalogue as a text; what is missing is empty."""
    return "" if is_missing(value) else str(value)


def is_missing(value: Any) -> bool:
    """Report whether a cell holds nothing: None, NaN, or the marks of pandas for it."""
    return (
        value is None or value is pd.NA or value is pd.NaT or (isinstance(value, Real | Decimal) and value != value)
    )


def _parts(template: str, columns: Sequence[str]) -> list[tuple[str, str]]:
    """Cut a template into pairs of a text and the column that follows it (empty at the end)."""
    parts, text, start = [], "", 0
    for match in _FIELD.finditer(template):
        text += template[start : match.start()] + _SIGNS.get(match.group(), "")
        start = match.end()
        if match.group() in _SIGNS:
            continue
        name = match["braced"] or match["named"] or match["any"] or ""
        if name not in columns:
            what = f"unknown column {match.group()}" if name else f"{match.group()} stands for no column"
            raise _refused(template, what, columns)
        parts.append((text, name))
        text = ""
    if not parts:
        raise _refused(template, "no column in it", columns)
    return [*parts, (text + template[start:], "")]


def _refused(template: str, what: str, columns: Sequence[str]) -> ProductsError:
    shown = shortened([f"${name}" if name.isidentifier() else f"{{{name}}}" for name in columns], most=20)
    return ProductsError(f"product line {template!r}: {what}", f"columns are {shown}")


def _line(parts: Sequence[tuple[str, str]], values: Sequence[str]) -> str:
    """Fill a template; values go in once and are never read as templates themselves."""
    shown = _shared(values, _room(parts))
    texts = [text + value for (text, _), value in zip(parts, [*shown, ""], strict=True)]
    return one_line("".join(texts))


def _room(parts: Sequence[tuple[str, str]]) -> int:
    """Return how many characters of a line are left for the values of the columns."""
    return max(0, MAX_TITLE - sum(len(text) for text, _ in parts))


def _shared(values: Sequence[str], room: int) -> list[str]:
    """Cut the longest values so that all of them fit: short ones keep all of theirs."""
    if sum(map(len, values)) <= room:
        return list(values)
    left, kept = room, dict.fromkeys(range(len(values)), 0)
    for rank, position in enumerate(sorted(kept, key=lambda i: len(values[i]))):
        kept[position] = min(len(values[position]), left // (len(values) - rank))
        left -= kept[position]
    return [one_line(value, kept[i]) if kept[i] > 1 else "" for i, value in enumerate(values)]


def _plain(value: Any) -> str:
    """Return a value on one line, without the tags of HTML."""
    text = text_of(value)
    if "<" in text:
        text = unescape(_TAG.sub(" ", text))
    return one_line(text, most=20_000)
