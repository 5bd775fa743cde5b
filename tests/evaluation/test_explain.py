"""What `explain` says of a product, against the logs and the results that it rests on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from segkit import explain
from segkit.cli.main import app
from segkit.errors import ProductsError
from segkit.evaluation.explain.evidence import answer_items, answer_line, prompt_line
from segkit.pipeline.prepare import SAMPLE
from segkit.pipeline.segment import segment
from segkit.runs.run import Run, open_run
from segkit.settings import Settings


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of the sample without repeats, in which a fifth of the products was asked twice."""
    folder = tmp_path_factory.mktemp("alone")
    settings = Settings(segkit_home=folder / "home", _env_file=None)
    return segment(SAMPLE, "Coffee Makers", model="offline", runs_dir=folder, ask_twice=200, settings=settings)


def moved_product(run: Run) -> pd.Series:
    lineage = run.result("lineage")
    return lineage[(lineage["refined_by"] != "") & (lineage["batch_category"] != "OUT_OF_SCOPE")].iloc[0]


def test_each_step_of_a_moved_product_is_a_sentence_with_the_lines_behind_it(alone: Run) -> None:
    moved = moved_product(alone)
    found = explain(alone, int(moved["product_id"]))
    text = "\n".join(found.lines)
    batch = alone.result("batch_assignments").query(f"batch == {moved['batch']}")
    alike = (batch["category"] == moved["batch_category"]).sum()
    assert f"Batch {moved['batch']} stated it as {moved['batch_category']} ({moved['confidence']:.2f})" in text
    assert f"one of {alike} there among {len(batch)} products" in text
    assert f"Refinement moved it to {moved['refined_category']} ({moved['refined_confidence']:.2f}) because" in text
    title = alone.products.set_index("product_id")["title"][moved["product_id"]]
    stated, last = found.steps.iloc[0], found.steps.iloc[-1]
    assert title in stated["prompt_line"]
    assert title in last["prompt_line"]
    answer, _ = json.JSONDecoder().raw_decode(stated["answer_line"])
    assert next(iter(answer.values()))["confidence"] == moved["confidence"]
    assert json.loads(last["answer_line"])["confidence"] == moved["refined_confidence"]
    for line in (stated["prompt_line"], last["prompt_line"]):
        assert any(line in json.loads(log.read_text())["prompt"] for log in alone.folder.rglob("*_b*_a1_*.json"))


def test_every_product_can_be_explained(alone: Run) -> None:
    """All but those without a category name it, and the evidence of their first step is in a log."""
    assignments = alone.assignments.set_index("product_id")
    for product in assignments.index[::12]:
        found = explain(alone, int(product))
        assert assignments["category"][product] in " ".join(found.lines)
        assert found.steps["answer_line"].iloc[0]
        assert (found.similar["category"] != assignments["category"][product]).all()


def test_a_product_asked_twice_says_where_it_was_placed_then(alone: Run) -> None:
    twice = alone.result("asked_twice")
    differs = twice[twice["category"] != twice["second_category"]]
    same = twice[twice["category"] == twice["second_category"]].iloc[0]
    assert "in the same category again" in " ".join(explain(alone, int(same["product_id"])).lines)
    for product, second in differs[["product_id", "second_category"]].itertuples(index=False):
        assert f"the model placed it in {second}" in " ".join(explain(alone, int(product)).lines)


@pytest.mark.long
def test_repeats_say_how_stable_the_place_is_and_what_the_next_best_is(sample_runs: list[Run]) -> None:
    run = sample_runs[0]
    found = [explain(run, int(product)) for product in run.products["product_id"].head(30)]
    assert {len(each.repeats) for each in found} == {3}
    assert any(each.repeats.count(each.product["category"]) == 3 for each in found)
    unstable = next(each for each in found if set(each.repeats) != {each.product["category"]})
    assert unstable.next_best is not None
    assert unstable.next_best["by"] == "repeats"
    assert unstable.next_best["category"] in unstable.repeats


def test_the_command_and_the_method_give_the_same(alone: Run) -> None:
    product = int(moved_product(alone)["product_id"])
    result = CliRunner().invoke(
        app, ["explain", alone.id, str(product), "--runs-dir", str(alone.folder.parent), "--json"]
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    here = alone.explain(product)
    assert found["sentences"] == here.lines
    assert [step["prompt_line"] for step in found["steps"]] == here.steps["prompt_line"].tolist()
    assert {"run", "title", "category", "confidence", "first_category", "first_confidence", "sentences"} <= set(found)
    assert len(found["similar_elsewhere"]) == 2
    assert found["confidence"] != found["first_confidence"]


def test_it_shows_itself_as_text(alone: Run) -> None:
    html = alone.explain(int(alone.products["product_id"][0]))._repr_html_()
    assert "<h2" in html
    assert "tex2jax_ignore" in html
    assert "Evidence" in html


def test_an_unknown_product_is_refused(alone: Run) -> None:
    with pytest.raises(ProductsError, match="product 5 is not in RUN_"):
        explain(alone, 5)


def test_a_lost_log_leaves_the_sentence_without_its_lines(alone: Run, tmp_path: Path) -> None:
    shutil.copytree(alone.folder, tmp_path / alone.id)
    run = open_run(alone.id, tmp_path)
    for log in (run.folder / "segmentation").glob("*.json"):
        log.unlink()
    found = run.explain(int(run.products["product_id"][0]))
    assert found.lines[0].startswith("Batch ")
    assert found.steps["answer_line"].iloc[0] == ""


def test_a_reason_that_an_answer_states_is_the_reason() -> None:
    move = {"product": "P_1", "category": "S_2", "reason": "it has no lid"}
    log = {"prompt": "[P_1] Pot\n[P_11] Pan", "response": f"Thinking.\n{json.dumps({'reassignments': [move]})}"}
    items = answer_items(log, "P_1")
    assert items["stated"]["reason"] == "it has no lid"
    assert json.loads(answer_line(items, "P_1")) == move
    assert prompt_line(log, "P_1") == "[P_1] Pot"
    assert answer_items({"response": "no JSON"}, "P_1") == {}
