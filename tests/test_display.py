"""Whatever a title holds is text in a terminal, in HTML, in a spreadsheet and in JSON."""

from __future__ import annotations

import json
import unicodedata
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from page import Page

from segkit.display import excel_value, html_table, html_text, json_text, plain, spreadsheet_text, terminal_text

texts = st.text(st.characters(exclude_categories=[]))
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.decimals(allow_nan=True) | texts | st.binary()
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
CLIPBOARD, TITLE, CLEAR = "\x1b]52;c;ZXZpbA==\x07", "\x1b]0;owned\x07", "\x1b[2J\x9b2J"


@given(values)
@example(CLIPBOARD + TITLE + CLEAR)
@example("a\u202egpj.exe\u2066 \r\n\t\x00 \u2028")
def test_a_terminal_obeys_nothing(value: Any) -> None:
    shown = terminal_text(value)
    assert not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in shown)
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")
    shown.encode()


@pytest.mark.parametrize("text", ["خانه\u200cها", "👩\u200d🔬", "日本語", "Café", "नमस्ते", "\\x1b stays"])
def test_what_belongs_to_a_spelling_stays(text: str) -> None:
    assert terminal_text(text) == text


@given(values)
@example("<script>alert(1)</script>")
@example('"><img src=x onerror=alert(1)>' * 100)
def test_html_shows_text_only(value: Any) -> None:
    page = Page(html_text(value))
    assert set(page.tags) <= {"details", "summary"}
    assert page.events == page.remote == []


@given(texts.filter(lambda text: len(text) > 400))
@example("<&>" * 400)
@example("x" * 20_000)
def test_a_long_text_is_cut_and_can_be_expanded(text: str) -> None:
    html = html_text(text)
    assert html.startswith("<details><summary>")
    assert html.count("<details>") == html.count("</details>") == 1


def test_mathjax_leaves_tables_alone() -> None:
    html = html_table({"title": ["Gift Card $50 for Home Switches, was $100 value", r"\(x\)"]})
    assert html.startswith('<table class="tex2jax_ignore mathjax_ignore">')
    assert "Gift Card $50 for Home Switches, was $100 value" in html


def test_a_table_writes_money_counts_ids_and_what_is_missing() -> None:
    columns = {"product_id": [4503599627370497], "calls": [12345], "cost_usd": [0.05], "share": [0.5], "why": [None]}
    cells = [cell.split(">")[1].split("<")[0] for cell in html_table(columns).split("<td")[1:]]
    assert cells == ["4503599627370497", "12,345", "0.0500", "0.50", "–"]


@given(values)
def test_json_is_json_and_integers_are_exact(value: Any) -> None:
    parsed = json.loads(json_text({"value": value}))["value"]
    if isinstance(value, int) and not isinstance(value, bool):
        assert int(parsed) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.array([1, 2]), "[1,2]"),
        (np.int64(2**53 + 1), "9007199254740993"),
        ([], "[]"),
        (Decimal("0.0000001"), '"0.0000001"'),
        (pd.NA, "null"),
        (pd.NaT, "null"),
        (float("nan"), "null"),
        ({"a": {1}}, '{"a":[1]}'),
    ],
)
def test_values_of_readers_become_json(value: Any, text: str) -> None:
    assert json_text(value) == text


@given(texts)
def test_a_spreadsheet_runs_nothing(text: str) -> None:
    shown = spreadsheet_text(text)
    assert shown.replace("'", "") == text.replace("'", "")
    for line in shown.replace("\r", "\n").split("\n"):
        assert not line.strip().startswith(("=", "+", "-", "@", "＝", "＋", "－", "＠"))


@given(values)
def test_excel_takes_every_value(value: Any) -> None:
    shown = excel_value(value)
    if isinstance(shown, str):
        assert len(shown) <= 32_767
        assert all(ord(char) >= 32 or char in "\n\t" for char in shown)
    assert not isinstance(shown, int) or abs(shown) < 10**15


def test_bytes_and_lists_are_readable_text() -> None:
    assert [plain(value) for value in (b"\x01\xff", ["a", None], (1, 2))] == [r"\x01ff", '["a",null]', "[1,2]"]
