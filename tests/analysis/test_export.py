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

from segkit.analysis.export import as_csv, as_jsonl, as_parquet, as_xlsx, exported
from segkit.display import visible
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
    assert list(frame) == [
        "product_id", "title", "category", "confidence", "first_category", "first_confidence", "state", "reason",
        "category_key",
    ]  # fmt: skip
    assert list(frame["product_id"]) == list(run.products["product_id"])
    names = run.result("taxonomies").set_index("id")["category_name"]
    refined = run.result("refined_segments").set_index("product_id")["taxonomy_id"].map(names)
    assert frame.set_index("product_id")["category"].loc[refined.index].tolist() == refined.tolist()
    assert frame.loc[3, ["category", "state", "reason"]].tolist() == ["", "unassigned", "no title"]
    keys = run.result("taxonomies").set_index("category_name")["key"]
    placed = frame[frame["category"] != ""]
    assert placed["category_key"].tolist() == keys.loc[placed["category"]].tolist()
    assert pd.isna(frame.loc[3, "category_key"])


def test_a_run_of_before_keys_is_exported_without_them(run: Run) -> None:
    run.save_result("taxonomies", run.result("taxonomies").drop(columns="key"))
    frame = exported(run)
    assert frame["category_key"].isna().all()
    read = pd.read_parquet(io.BytesIO(as_parquet(frame)))
    assert read["category_key"].isna().all()


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


def test_other_columns_of_the_input_come_along(place: Path) -> None:
    frame = catalogue(12).assign(brand="Ladle & Co", state="new")
    run = prepare_run(frame, "Kitchen Things", model="offline")
    for stage in (extract_taxonomy, consolidate_taxonomy, refine_assignments):
        stage(run)
    full = exported(run, with_columns=True)
    assert (full["brand"] == "Ladle & Co").all()
    assert set(full["input_state"]) == {"new"}
    assert set(full["state"]) == {"assigned"}
    assert list(full.columns)[: len(exported(run).columns)] == list(exported(run).columns)


def test_a_moved_product_has_the_confidence_of_its_move(place: Path) -> None:
    """Also for a run whose lineage was written before moves kept theirs: then it is not known."""
    run = prepare_run(catalogue(12), "Kitchen Things", model="offline", products_per_prompt=6)
    for stage in (extract_taxonomy, consolidate_taxonomy, refine_assignments):
        stage(run)
    lineage = run.result("lineage")
    lineage.loc[0, ["refined_category", "refined_by", "confidence", "refined_confidence"]] = ["X", "k" * 32, 0.9, 0.4]
    run.save_result("lineage", lineage)
    moved = exported(run).set_index("product_id").loc[lineage.loc[0, "product_id"]]
    assert moved[["category", "confidence", "first_confidence"]].tolist() == ["X", 0.4, 0.9]
    run.save_result("lineage", lineage.drop(columns="refined_confidence"))
    moved = exported(run).set_index("product_id").loc[lineage.loc[0, "product_id"]]
    assert pd.isna(moved["confidence"])
    assert moved["first_confidence"] == 0.9


@pytest.mark.parametrize("text", [*FORMULAS, *HARMLESS, "00712345", "x\x1b[2J", "a" * 40_000])
def test_a_text_is_a_text_in_excel(text: str) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    frame = pd.DataFrame({"product_id": [2**52 + 1], "count": [12], "title": [text]})
    sheet = openpyxl.load_workbook(io.BytesIO(as_xlsx(frame))).active
    id_, count, cell = (sheet.cell(2, column) for column in (1, 2, 3))
    assert (id_.value, count.value) == (str(2**52 + 1), 12)
    assert cell.data_type in ("s", "inlineStr")
    assert (cell.value or "").replace("\r\n", "\n")[:1000] == visible(text, keep="\n\t")[:1000].replace("\r\n", "\n")


@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.none(), min_size=1))
def test_ids_are_exact_in_every_format(ids: list[int | None]) -> None:
    frame = pd.DataFrame({"n": 1, "product_id": pd.array(ids, dtype="Int64")})
    lines = [json.loads(line)["product_id"] for line in as_jsonl(frame).splitlines()]
    rows = [row[1] for row in csv.reader(io.StringIO(as_csv(frame).decode(), newline=""))][1:]
    stored = pd.read_parquet(io.BytesIO(as_parquet(frame)))["product_id"].astype(object)
    assert lines == ids
    assert rows == ["" if id_ is None else str(id_) for id_ in ids]
    assert [None if pd.isna(id_) else id_ for id_ in stored] == ids
