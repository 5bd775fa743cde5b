"""The report: one file that loads nothing, shows no code, and holds hostile names as text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbformat import v4
from page import Page

from segkit.analysis import tables
from segkit.analysis.report import write_report
from segkit.runs.run import Run
from segkit.runs.status import update_status

HOSTILE = [
    "<script>alert(1)</script> kettle",
    "![x](http://evil.example/x.png) kettle",
    '"><img src=http://evil.example/y.png onerror=alert(1)> ladle',
    "</td></table><iframe src=//evil.example></iframe> ladle",
    "[click](javascript:alert(1)) &lt;b&gt; ladle",
]


def executed(run: Run, *frames: pd.DataFrame) -> Path:
    """Write a review notebook as papermill leaves it, with tables as outputs."""
    cells = [v4.new_markdown_cell("# 40 · Review the run\n\nThe first cell."), v4.new_markdown_cell("## Products")]
    for number, frame in enumerate(frames, start=1):
        output = v4.new_output(
            "execute_result", {"text/html": tables.show(frame)._repr_html_(), "text/plain": "<Styler>"}
        )
        cells.append(v4.new_code_cell("secret_code(run)", outputs=[output], execution_count=number))
    image = v4.new_output("display_data", {"image/png": "aGVsbG8=", "text/plain": "<Figure>"})
    cells.append(v4.new_code_cell("", outputs=[image], execution_count=9))
    path = run.folder / "notebooks" / "40_review_run.ipynb"
    nbformat.write(v4.new_notebook(cells=cells), path)
    return path


@pytest.fixture
def run(new_run: Callable[..., Run]) -> Run:
    titles = pd.array(HOSTILE, dtype="str")
    frame = pd.DataFrame({"product_id": range(1, 6), "title": titles, "<i>brand</i>": HOSTILE})
    run = new_run(frame, model="offline")
    run.document["parameters"]["category"] = "<b>Kettles</b> & <script>x</script>"
    return run


@pytest.fixture
def page(run: Run) -> Page:
    path = write_report(run, executed(run, run.products))
    assert path == run.folder / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def test_the_report_loads_nothing(page: Page) -> None:
    assert page.remote == []
    assert page.links == ["data:image/png;base64,aGVsbG8="]
    assert not {"script", "link", "iframe", "object", "embed", "base", "form", "svg"} & set(page.tags)
    assert "default-src 'none'" in page.html


def test_hostile_names_are_text(page: Page) -> None:
    assert page.events == []
    assert page.tags.count("img") == 1
    assert not {"b", "i"} & set(page.tags)
    for title in HOSTILE:
        assert title in page.text
    assert "Market segments of <b>Kettles</b> & <script>x</script>" in page.text


def test_the_report_shows_no_code_and_no_names_of_objects(page: Page) -> None:
    for text in ("secret_code", "Styler", "<Figure>", "In [", "Out[", "40 · Review"):
        assert text not in page.text


def test_the_head_says_which_run_it_is_and_what_offline_means(run: Run, page: Page) -> None:
    for text in (run.id, "model offline", "prompts v0", "5 products", "running", "it is no language model"):
        assert text in page.text
    assert page.tags.count("h1") == 1


def test_a_run_with_a_language_model_has_no_such_note(run: Run) -> None:
    run.document["parameters"]["model"] = "gpt-4o"
    page = Page(write_report(run, executed(run)).read_text(encoding="utf-8"))
    assert "no language model" not in page.text


def test_a_failed_run_says_why(run: Run) -> None:
    update_status(run.folder, state="failed", reason="3 products are <unassigned>")
    page = Page(write_report(run, executed(run)).read_text(encoding="utf-8"))
    assert "failed: 3 products are <unassigned>" in page.text


def test_the_same_notebook_gives_the_same_report(run: Run) -> None:
    notebook = executed(run)
    first = write_report(run, notebook).read_bytes()
    assert write_report(run, notebook).read_bytes() == first
