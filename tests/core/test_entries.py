"""Products with the same line: one entry of a prompt, one answer, and a row each."""

from collections.abc import Sequence

import orjson
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from segkit.core.batching import planned_calls
from segkit.core.catalogue.entries import product_entries, shared_entries
from segkit.core.catalogue.gate import FIRST_RUN
from segkit.core.extract import extract_questions, extracted
from segkit.core.models import Answer, Category, CheckedAnswer, Parameters
from segkit.core.prompts import ASSIGNING, EXTRACTING, load_prompts
from segkit.core.refine import refine_questions, refined
from segkit.core.taxonomy.assign import assign_questions, assigned

PROMPTS = load_prompts("v0", keys=tuple({*EXTRACTING, *ASSIGNING}))
PARAMETERS = Parameters("Tools", "offline", 0.2, "offline@4", products_per_prompt=4, ask_duplicates=False)


def products(titles: Sequence[str], first: int = 10, **columns: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame({"product_id": range(first, first + len(titles)), "title": titles, **columns})


TITLES = ["saw", "saw ", " saw\n", "Saw", "axe", "awl", "", "N/A"]


@given(st.lists(st.sampled_from(TITLES), max_size=30), st.booleans())
def test_every_titled_product_stands_in_one_entry(titles: list[str], ask_duplicates: bool) -> None:
    parameters = Parameters("Tools", "offline", 0.2, "offline@4", ask_duplicates=ask_duplicates)
    entries = product_entries(products(titles), parameters)
    ids = [product for entry in entries for product in entry.products]
    assert sorted(ids) == [i for i, title in enumerate(titles, 10) if title not in ("", "N/A")]
    lines = [entry.line for entry in entries]
    assert ask_duplicates or len(set(lines)) == len(lines)
    assert not ask_duplicates or len(entries) == len(ids)


def test_lines_are_compared_as_a_model_sees_them() -> None:
    """Of two brands with one title, the line decides: with the brand in it they are two entries."""
    frame = products(["Claw hammer", "Claw hammer", "Claw\thammer"], brand=["Ox", "Elk", "Ox"])
    assert len(product_entries(frame, PARAMETERS)) == 1
    branded = Parameters("Tools", "offline", 0.2, "offline@4", product_line="$title | $brand", ask_duplicates=False)
    assert shared_entries(product_entries(frame, branded)) == {12: 10}


def test_an_answer_is_given_to_all_who_share_the_line() -> None:
    frame = products(["Pry bar", "Mallet", "Pry bar", "", "Pry bar"])
    (question,) = extract_questions(frame, PROMPTS, PARAMETERS)
    assert question.context["batch_size"] == 2
    bar, mallet = (f"P_{question.context['batch_products'].index(title)}" for title in ("Pry bar", "Mallet"))
    content = orjson.dumps(
        {
            "categories": [{"id": "C_0", "name": "Levers", "definition": "Bars to pry with."}],
            "assignments": {bar: {"category": "C_0", "confidence": 0.8}},
        }
    ).decode()
    checked = question.check(content, "a" * 32, None)
    assert checked.missing == (mallet,)
    _, rows = extracted([Answer(question, checked, "invalid: it was left out")], frame)
    rows = rows.set_index("product_id")
    assert rows["category"].to_dict() == {10: "Levers", 11: "", 12: "Levers", 13: "", 14: "Levers"}
    assert set(rows.loc[[10, 12, 14], "cache_key"]) == {"a" * 32}
    assert rows.loc[13, "reason"] == "no title"


def test_a_cut_question_keeps_what_its_lines_stand_for() -> None:
    frame = products(["Pry bar", "Mallet", "Pry bar", "Chisel"])
    (question,) = extract_questions(frame, PROMPTS, PARAMETERS)
    parts = question.cut(None, "too_long")
    assert sorted(product for part in parts for ids in part.products for product in ids) == [10, 11, 12, 13]


def test_a_move_moves_all_who_share_line_and_category() -> None:
    """Where somebody has put one of two equal lines elsewhere by hand, each is asked about by itself."""
    frame = products(["Pry bar", "Pry bar", "Pry bar"])
    placed = pd.DataFrame({"product_id": [10, 11, 12], "category": ["Levers", "Levers", "Saws"], "confidence": 0.5})
    taxonomy = [Category("S_0", "Levers", "To pry."), Category("S_1", "Saws", "To saw.")]
    (question,) = refine_questions(frame, placed, taxonomy, PROMPTS, PARAMETERS)
    assert sorted(question.products) == [(10, 11), (12,)]
    moved = f"P_{question.products.index((10, 11))}"
    answer = {"reassignments": [{"product": moved, "category": "S_1", "confidence": 0.9}]}
    checked = question.check(orjson.dumps(answer).decode(), "b" * 32, None)
    rows = refined([Answer(question, checked)], placed, taxonomy)
    assert rows["refined_category"].tolist() == ["Saws", "Saws", "Saws"]
    assert rows["refined_by"].tolist() == ["b" * 32, "b" * 32, ""]


def test_assigning_asks_once_too() -> None:
    frame = products(["Pry bar", "Pry bar", "Mallet"])
    taxonomy = [Category("S_0", "Levers", "To pry.")]
    (question,) = assign_questions(frame, taxonomy, PROMPTS, PARAMETERS)
    assert len(question.products) == 2
    rows = assigned([Answer(question, None, "endpoint: it is down")], frame, taxonomy)
    assert (rows["reason"] == "endpoint: it is down").all()
    assert rows["product_id"].tolist() == [10, 11, 12]
    full = {i: {"category": "S_0", "confidence": 0.7} for i in question.context["expected_ids"]}
    checked: CheckedAnswer = question.check(orjson.dumps({"assignments": full}).decode(), "c" * 32, None)
    assert assigned([Answer(question, checked)], frame, taxonomy)["category"].tolist() == ["Levers"] * 3


def test_an_added_product_with_the_line_of_an_earlier_one_changes_no_batch() -> None:
    """It has the smaller id; all the same the product that came first is the one that is asked about."""
    earlier = products(["Pry bar", "Mallet", "Chisel"]).assign(**{FIRST_RUN: "RUN_1"})
    added = products(["Pry bar", "Awl"], first=1).assign(**{FIRST_RUN: "RUN_2"})
    before = extract_questions(earlier, PROMPTS, PARAMETERS)
    after = extract_questions(pd.concat([added, earlier]), PROMPTS, PARAMETERS)
    assert [question.prompt for question in after[:1]] == [question.prompt for question in before]
    assert after[0].products[after[0].context["batch_products"].index("Pry bar")] == (10, 1)
    assert [question.products for question in after[1:]] == [((2,),)]


def test_a_catalogue_without_equal_lines_is_asked_about_as_before() -> None:
    """Prompts are what the cache goes by: they must not depend on the option where it changes nothing."""
    frame = products([f"Drill bit, {i} mm" for i in range(30)])
    each = Parameters("Tools", "offline", 0.2, "offline@4", products_per_prompt=4)
    prompts = [[q.prompt for q in extract_questions(frame, PROMPTS, p)] for p in (PARAMETERS, each)]
    assert prompts[0] == prompts[1]
    assert planned_calls(frame, PARAMETERS) == planned_calls(frame, each)
