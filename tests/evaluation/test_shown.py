"""What the results of an evaluation show of themselves: sentences in a terminal, tables and figures in Jupyter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from page import Page

from segkit import compare, evaluate
from segkit.core.prompts import prompt_hash
from segkit.evaluation.pages import Readable
from segkit.evaluation.stability import stability_of
from segkit.runs.run import Run, open_run, prompt_path

EVIL = "<img src=http://evil.example/x onerror=a()> costs $5 or $6"


@pytest.fixture(scope="module")
def shown(sample_runs: list[Run]) -> dict[str, Readable]:
    return {
        "comparison": compare(sample_runs[0], sample_runs[4]),
        "evaluation": evaluate(sample_runs[0], label_column="segment_label"),
        "stability": stability_of(sample_runs[:3]),
        "audit": sample_runs[0].audit(),
        "explanation": sample_runs[0].explain(int(sample_runs[0].products["product_id"][0])),
    }


@pytest.mark.parametrize("name", ["comparison", "evaluation", "stability", "audit", "explanation"])
def test_jupyter_shows_sentences_tables_and_figures_that_need_no_network(
    shown: dict[str, Readable], name: str
) -> None:
    found = shown[name]
    page = Page(found._repr_html_())
    assert page.remote == page.events == []
    assert found.sentences()[-1].split()[0] in page.text
    assert page.barriers == []
    assert {"table", "img"} & set(page.tags)
    assert repr(found) == str(found) == "\n".join(found.sentences())


def test_a_title_in_a_sentence_is_text_and_nothing_is_typeset() -> None:
    class Hostile(Readable):
        def sentences(self) -> list[str]:
            return [f"{EVIL}\x1b[31m"]

    html = Hostile()._repr_html_()
    assert Page(html).tags == ["p"]
    assert "mathjax_ignore" in html
    assert "\x1b" not in html
    assert "\x1b" not in repr(Hostile())


def test_the_page_of_a_comparison_shows_the_prompts_that_differ(sample_runs: list[Run], tmp_path: Path) -> None:
    """They stand below their heading, before where products went."""
    place = shutil.copytree(sample_runs[4].folder, tmp_path / sample_runs[4].id)
    text = sample_runs[4].prompts["extract_taxonomy"].replace("products", "new <b>", 1)
    prompt_path(place, "extract_taxonomy").write_text(text, encoding="utf-8")
    document = json.loads((place / "run.json").read_bytes())
    document["prompts"]["extract_taxonomy"] = prompt_hash(text)
    (place / "run.json").write_text(json.dumps(document), encoding="utf-8")
    comparison = compare(sample_runs[0], open_run(place.name, tmp_path))
    assert list(comparison.prompts) == ["extract_taxonomy"]
    body = comparison._body()
    words = body.index("<del>products</del><ins>new &lt;b&gt;</ins>")
    assert body.index("What differs in the prompts") < words < body.index("Where products went")
    assert "<b>" not in body
