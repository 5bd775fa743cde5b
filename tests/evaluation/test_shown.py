"""What the results of an evaluation show of themselves: sentences in a terminal, tables and figures in Jupyter."""

from __future__ import annotations

from dataclasses import replace

import pytest
from page import Page

from segkit import compare, evaluate
from segkit.evaluation.pages import Readable
from segkit.evaluation.stability import stability_of
from segkit.runs.run import Run

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


def test_the_page_of_a_comparison_shows_the_prompts_that_differ(shown: dict[str, Readable]) -> None:
    """They stand below their heading, before where products went."""
    differing = replace(
        shown["comparison"], prompt_words={"extract_taxonomy": [("removed", "old <b>"), ("added", "new")]}
    )
    body = differing._body()
    assert (
        body.index("What differs in the prompts") < body.index("<ins>new</ins>") < body.index("Where products went")
    )
    assert "<del>old &lt;b&gt;</del>" in body
    assert "<b>" not in body
