"""The report: one file that loads nothing, runs only its own script, and holds hostile names as text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable

import pandas as pd
import pytest
from catalogues import catalogue
from page import Page

from segkit.analysis.report import UNMEASURED, doubt_of_category, report_page, write_report
from segkit.core.models import OUT_OF_SCOPE
from segkit.errors import RunError
from segkit.pipeline.stages import consolidate_taxonomy, extract_taxonomy, refine_assignments
from segkit.runs.run import Run
from segkit.runs.status import update_status

HOSTILE = [
    "<script>alert(1)</script> kettle",
    "![x](http://evil.example/x.png) kettle",
    '"><img src=http://evil.example/y.png onerror=alert(1)> ladle',
    "</td></table><iframe src=//evil.example></iframe> ladle",
    "[click](javascript:alert(1)) &lt;b&gt; </script><!-- ladle",
    "$50 gift \\(x\\) \x1b[2J ladle",
]


def finished(run: Run) -> Run:
    for stage in (extract_taxonomy, consolidate_taxonomy, refine_assignments):
        stage(run)
    return run


@pytest.fixture
def run(new_run: Callable[..., Run]) -> Run:
    frame = pd.DataFrame({"product_id": range(2**52, 2**52 + 6), "title": pd.array(HOSTILE, dtype="str")})
    run = finished(new_run(frame, model="offline"))
    run.document["parameters"]["category"] = "<b>Kettles</b> & <script>x</script>"
    return run


@pytest.fixture
def sure(new_run: Callable[..., Run]) -> Run:
    """A run of 12 harmless products, of which refinement moved one out of scope, and one has no title."""
    frame = catalogue(12)
    frame.loc[3, "title"] = ""
    run = finished(new_run(frame, model="offline"))
    lineage, ledger = run.result("lineage"), run.result("ledger")
    lineage.loc[0, ["refined_category", "refined_by", "refined_confidence"]] = [OUT_OF_SCOPE, "k" * 32, 0.41]
    ledger.loc[ledger["product_id"] == lineage.loc[0, "product_id"], "state"] = "out_of_scope"
    run.save_result("lineage", lineage)
    run.save_result("ledger", ledger)
    return run


def data_of(html: str) -> dict[str, object]:
    """The products that the page holds for its search."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found
    held: dict[str, object] = json.loads(found[1])
    return held


def test_the_report_loads_nothing_and_runs_only_its_own_script(run: Run) -> None:
    html = write_report(run).read_text(encoding="utf-8")
    page = Page(html)
    assert page.remote == page.events == page.barriers == []
    assert not {"link", "iframe", "object", "embed", "base", "form", "img"} & set(page.tags)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert len(digests) == 1
    assert f"script-src 'sha256-{digests[0]}'" in policy
    assert policy.startswith("default-src 'none'")
    assert page.tags.count("script") == 2


def test_hostile_names_are_text(run: Run) -> None:
    page = Page(report_page(run))
    assert not {"i", "iframe", "img"} & set(page.tags)
    for title in HOSTILE[:3]:
        assert title in page.text
    assert "Market segments of <b>Kettles</b> & <script>x</script>" in page.text
    rows = data_of(report_page(run))["rows"]
    assert sorted(title for _, title, _, _ in rows) == sorted(title.replace("\x1b", "\x1b") for title in HOSTILE)
    assert {id_ for id_, *_ in rows} == {str(2**52 + i) for i in range(6)}


def test_the_first_screen_says_what_was_found_and_how_far_to_trust_it(sure: Run) -> None:
    page = Page(report_page(sure))
    before = page.text[: page.text.index("Segments")]
    sizes = sure.assignments["category"].value_counts()
    named = sizes.drop(["", OUT_OF_SCOPE], errors="ignore")
    assert f"12 products, {named.sum()} of them in {len(named)} segment" in before
    for sentence in ("Out of scope, no Kitchen Things: 1 product (8.3\u00a0%)", "no title", UNMEASURED):
        assert sentence in before
    assert page.tags.count("h1") == 1


def test_the_numbers_of_a_segment_are_the_same_everywhere(sure: Run) -> None:
    html = report_page(sure)
    held = data_of(html)
    counts = pd.Series([held["segments"][number] for _, _, number, _ in held["rows"]]).value_counts()
    for name, count in counts.items():
        assert re.search(rf'class="name" dir="auto">{name}.*?class="number">{count}</td>', html, re.DOTALL), name
    assert counts.sum() == 12


def test_a_category_that_many_products_are_not_of_is_doubted() -> None:
    assert not doubt_of_category(0, 0)
    assert not doubt_of_category(30, 100)
    assert "the category may not fit" in doubt_of_category(31, 100)


def test_doubts_come_with_the_confidence_of_the_last_assignment(sure: Run) -> None:
    html = report_page(sure)
    doubts = html[html.index('id="doubts"') : html.index('id="products"')]
    assert doubts.index("no title") < doubts.index("0.41")
    assert "Out of scope" in doubts


def test_what_was_measured_of_the_run_is_said_instead(sure: Run) -> None:
    page = Page(report_page(sure, trust=["Five repeats agree with AMI 0.91 <sic>."]))
    assert "Five repeats agree with AMI 0.91 <sic>." in page.text
    assert UNMEASURED not in page.text


def test_prompts_parameters_and_costs_stand_at_the_end(sure: Run) -> None:
    page = Page(report_page(sure))
    end = page.text[page.text.index("What it took") :]
    assert sure.prompts["extract_taxonomy"].splitlines()[0] in end
    assert "products per prompt" in end
    assert sure.id in page.text


def test_a_failed_run_says_why(sure: Run) -> None:
    update_status(sure.folder, state="failed", reason="3 products are <unassigned>")
    assert "failed: 3 products are <unassigned>" in Page(report_page(sure)).text


def test_a_run_with_a_language_model_has_no_note_about_offline(sure: Run) -> None:
    assert "no language model" in Page(report_page(sure)).text
    sure.document["parameters"]["model"] = "gpt-4o"
    assert "no language model" not in Page(report_page(sure)).text


def test_the_same_run_gives_the_same_report(sure: Run) -> None:
    assert write_report(sure).read_bytes() == write_report(sure).read_bytes()


def test_a_run_without_results_has_no_report(new_run: Callable[..., Run]) -> None:
    with pytest.raises(RunError, match="has no results"):
        report_page(new_run(3, "offline"))
