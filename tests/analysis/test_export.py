"""Exports hold what the run holds, and nothing in them runs in a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pandas as pd
import pytest
from catalogues import catalogue
from hypothesis import given
from hypothesis import strategies as st

from segkit.analysis.export import as_csv, as_jsonl, as_parquet, exported
from segkit.pipeline.prepare import prepare_run
from segkit.pipeline.stages import consolidate_taxonomy, extract_taxonomy, refine_assignments
from segkit.runs.run import Run

FORMULAS = [
    "=1+1",
    "+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "  =1",
    "\u00a0=cmd()",
    "a\n=1",
    "a\r\n  +1",
    "＝1",
    "a\n\t=1",
]
HARMLESS = ["a=b", "a - b", "mail@example", "12-cup", "", "a\nb", "'=1"]


@pytest.fixture
def run(place: Path) -> Run:
    frame = catalogue(12)
    frame.loc[3, "title"] = ""
    frame.loc[4, "title"] = '=HYPERLINK("http://evil.example")'
    run = prepare_run(frame, "Kitchen Things", model="offline", products_per_prompt=6)
    for stage in (extract_taxonomy, consolidate_taxonomy, refine_assignments):
        stage(run)
    return run


def test_every_product_stands_in_it_once(run: Run) -> None:
    frame = exported(run)
    assert list(frame) == ["product_id", "title", "category", "first_category", "confidence", "state", "reason"]
    assert list(frame["product_id"]) == list(run.products["product_id"])
    names = run.result("taxonomies").set_index("id")["category_name"]
    refined = run.result("refined_segments").set_index("product_id")["taxonomy_id"].map(names)
    assert frame.set_index("product_id")["category"].loc[refined.index].tolist() == refined.tolist()
    assert frame.loc[3, ["category", "state", "reason"]].tolist() == ["", "unassigned", "no title"]


def test_the_formats_hold_the_same(run: Run) -> None:
    frame = exported(run)
    read = pd.read_csv(io.BytesIO(as_csv(frame, raw=True)), keep_default_na=False)
    assert read["title"].tolist() == frame["title"].tolist()
    lines = [json.loads(line) for line in as_jsonl(frame).splitlines()]
    assert [line["category"] for line in lines] == frame["category"].tolist()
    assert lines[3]["confidence"] is None
    pd.testing.assert_frame_equal(pd.read_parquet(io.BytesIO(as_parquet(frame))), frame)


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_becomes_a_text(text: str) -> None:
    """Also behind blanks, and in each line of a cell."""
    ((_,), (cell,)) = csv.reader(io.StringIO(as_csv(pd.DataFrame({"title": [text]})).decode(), newline=""))
    assert cell.replace("'", "") == text
    assert all(not line.lstrip(" \u00a0").startswith(("=", "+", "-", "@", "\t", "＝")) for line in cell.splitlines())


@pytest.mark.parametrize("text", HARMLESS)
def test_other_texts_stay_as_they_are(text: str) -> None:
    rows = csv.reader(io.StringIO(as_csv(pd.DataFrame({"n": [1], "title": [text]})).decode(), newline=""))
    assert list(rows)[1] == ["1", text]


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=1))
def test_a_raw_export_is_read_back_as_it_was(texts: list[str]) -> None:
    data = as_csv(pd.DataFrame({"n": 1, "title": texts}), raw=True).decode()
    assert [row[1] for row in csv.reader(io.StringIO(data, newline=""))][1:] == texts
