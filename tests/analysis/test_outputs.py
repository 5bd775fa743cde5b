"""A hostile catalogue through every output of a finished run: nothing obeys, runs or bends what a title holds."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from page import Page
from typer.testing import CliRunner

from segkit.analysis import tables
from segkit.cli.main import app
from segkit.pipeline.stages import consolidate_taxonomy, extract_taxonomy, refine_assignments
from segkit.runs.run import Run

TITLES = [
    "kettle \x1b]52;c;ZXZpbA==\x07 red",
    "kettle \x1b[2J\x9b31m blue",
    "kettle \u202egpj.exe\u202c green",
    '=HYPERLINK("http://evil.example") ladle',
    "  +cmd|' /C calc'!A0 ladle",
    "<img src=x onerror=alert(1)> ladle",
    "Gift $50 ladle, was $100 \\(x\\) ladle",
    "خانه\u200cها ladle 日本語 👩\u200d🔬",
    "ladle " + "long " * 100,
]
IDS = [2**63 - 1 - i for i in range(len(TITLES))]
OBEYED = {
    *map(chr, range(0x20)),
    *map(chr, range(0x7F, 0xA0)),
    *"\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
}


@pytest.fixture
def run(new_run: Callable[..., Run]) -> Run:
    frame = pd.DataFrame({"product_id": IDS, "title": pd.array(TITLES, dtype="str"), "brand": TITLES})
    run = new_run(frame, model="offline")
    for stage in (extract_taxonomy, consolidate_taxonomy, refine_assignments):
        stage(run)
    return run


def output(*command: str) -> bytes:
    result = CliRunner().invoke(app, list(command))
    assert result.exit_code == 0, result.output
    return result.stdout_bytes


@pytest.mark.long
def test_every_command_prints_text_that_a_terminal_does_not_obey(run: Run) -> None:
    commands = [["show", run.id], ["runs"], ["logs", "FROM interactions"], ["logs", "FROM prompt_slots"]]
    commands += [["explain", run.id, str(id_)] for id_ in IDS]
    quoted = [title.replace("'", "''") for title in TITLES]
    commands += [["logs", f"SELECT '{title}' AS \"a\x1bb\""] for title in quoted]
    for command in commands:
        printed = output(*command).decode()
        assert not OBEYED & (set(printed) - {"\n"}), command
    audited = CliRunner().invoke(app, ["audit", run.id])
    assert audited.exit_code in (0, 1)
    assert not OBEYED & (set(audited.output) - {"\n"})


def test_every_export_holds_every_id_and_title(run: Run, place: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    titles = dict(zip(map(str, run.products["product_id"]), run.products["title"], strict=True))
    for name in ("a.csv", "a.jsonl", "a.parquet", "a.xlsx"):
        output("export", run.id, "--out", name, "--with-columns")
    rows = list(csv.DictReader(io.StringIO((place / "a.csv").read_text(encoding="utf-8-sig"), newline="")))
    assert {row["product_id"]: row["title"].replace("'", "") for row in rows} == {
        id_: title.replace("'", "") for id_, title in titles.items()
    }
    assert not any(row["title"].lstrip().startswith(("=", "+", "-", "@")) for row in rows)
    lines = [json.loads(line) for line in (place / "a.jsonl").read_text(encoding="utf-8").splitlines()]
    stored = pd.read_parquet(place / "a.parquet")
    assert {str(line["product_id"]): line["title"] for line in lines} == titles
    assert dict(zip(map(str, stored["product_id"]), stored["title"], strict=True)) == titles
    cells = list(openpyxl.load_workbook(place / "a.xlsx").active.iter_rows(min_row=2, max_col=2))
    assert {id_.value for id_, _ in cells} == set(titles)
    assert {title.data_type for _, title in cells} <= {"s", "inlineStr"}


def test_pages_and_notebooks_show_text_only(run: Run) -> None:
    from segkit.analysis.report import report_page

    table, page = Page(tables.show(run.assignments).to_html()), Page(report_page(run))
    results = [run.audit(), *(run.explain(id_) for id_ in IDS)]
    for found in results:
        shown = Page(found._repr_html_())
        assert [link for link in shown.remote if not link.startswith("data:")] == shown.events == []
        assert not {"script", "iframe", "form", "object"} & set(shown.tags)
        assert not OBEYED & (set(str(found) + repr(found)) - {"\n"})
    for shown in (table, page, Page(run._repr_html_())):
        assert shown.remote == shown.events == []
        assert not {"img", "iframe", "form", "object"} & set(shown.tags)
    assert "tex2jax_ignore mathjax_ignore" in table.html
    assert "Gift $50 ladle, was $100 \\(x\\) ladle" in table.text
    assert not OBEYED & (set(table.text) - {"\n", "\t"})
    assert not OBEYED & (set(repr(run)) | set(repr(tables.show(run.assignments))) - {"\n"})
