"""The first stage: every titled product in one batch, every answer to its own product, nothing guessed."""

import json
import random
from typing import Any

import pandas as pd
import pytest
from catalogues import data
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.core.catalogue.load import load_products
from segkit.core.extract import NO_TITLE, extract_questions, extracted
from segkit.core.models import OUT_OF_SCOPE, Answer, CheckedAnswer, Parameters, Question
from segkit.core.prompts import load_prompts
from segkit.core.questions import consolidate_schema, extract_schema, refine_schema

PROMPTS = load_prompts()


def parameters(**changes: Any) -> Parameters:
    return Parameters(
        "Dimmer Switches", "gpt-4o", 0.2, "http://localhost/v1", **{"products_per_prompt": 4, **changes}
    )


def catalogue(count: int) -> pd.DataFrame:
    return pd.DataFrame({"product_id": range(100, 100 + count), "title": [f"Dimmer {i} kind" for i in range(count)]})


def questions(count: int = 4, **changes: Any) -> list[Question]:
    return extract_questions(catalogue(count), PROMPTS, parameters(**changes))


def reply(places: dict[str, str], names: tuple[str, ...] = ("Rotary Dimmers", "Slide Dimmers")) -> str:
    """An answer that puts local ids into categories C_0, C_1, … of these names."""
    categories = [{"id": f"C_{i}", "name": name, "definition": "d, e.g. e"} for i, name in enumerate(names)]
    stated = {product: {"category": category, "confidence": 0.5} for product, category in places.items()}
    return json.dumps({"categories": categories, "assignments": stated})


@given(st.integers(0, 130), st.integers(1, 50), st.integers(0, 5), st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_every_product_stands_in_one_batch(count: int, most: int, seed: int, chance: random.Random) -> None:
    """Conservation, evenness, and prompts that the order of the input never changes."""
    frame = catalogue(count)
    asked = extract_questions(frame, PROMPTS, parameters(products_per_prompt=most, seed=seed))
    ids = [product for question in asked for product in question.context["product_ids"]]
    assert sorted(ids) == frame["product_id"].tolist()
    sizes = [question.context["batch_size"] for question in asked]
    assert not sizes or max(sizes) - min(sizes) <= 1 <= max(sizes) <= most
    order = list(range(count))
    chance.shuffle(order)
    again = extract_questions(frame.iloc[order], PROMPTS, parameters(products_per_prompt=most, seed=seed))
    assert [q.prompt for q in again] == [q.prompt for q in asked]


def test_a_question_says_all_there_is_to_know() -> None:
    """Ids from 0 in each prompt, the schema made for them, and whom they mean."""
    for number, question in enumerate(questions(8), start=1):
        assert (question.batch, question.label) == (number, f"segmentation b{number}")
        assert question.context["expected_ids"] == ["P_0", "P_1", "P_2", "P_3"]
        shown = [f"[P_{i}] Dimmer {product - 100} kind" for i, product in enumerate(question.context["product_ids"])]
        assert question.prompt.text.splitlines()[-4:] == shown
        assert question.prompt.schema["properties"]["assignments"]["required"] == question.context["expected_ids"]


def test_products_without_a_title_are_not_asked() -> None:
    """They cost nothing and are told as unassigned."""
    frame = catalogue(5).assign(title=["Dimmer", "", " ", "N/A", "Slide"])
    (question,) = extract_questions(frame, PROMPTS, parameters())
    assert sorted(question.context["product_ids"]) == [100, 104]
    _, assignments = extracted([], frame)
    assert assignments["product_id"].tolist() == [101, 102, 103]
    assert set(assignments["reason"]) == {NO_TITLE}
    assert set(assignments["category"]) == {""}


def test_no_titled_product_means_no_question() -> None:
    """No call for nothing, and frames with all their columns."""
    assert list(extract_questions(catalogue(0), PROMPTS, parameters())) == []
    categories, assignments = extracted([], catalogue(0))
    assert list(categories.columns) == ["batch", "part", "name", "definition"]
    assert len(assignments) == 0


def test_answers_become_assignments_of_their_products() -> None:
    """The local id leads to its own product, whatever order the answer has."""
    first, second = questions(8)
    answers = [
        Answer(
            first, first.check(reply({"P_3": "C_1", "P_0": "C_0", "P_2": OUT_OF_SCOPE, "P_1": "C_0"}), "k1", None)
        ),
        Answer(
            second, second.check(reply(dict.fromkeys(["P_0", "P_1", "P_2", "P_3"], "C_0"), ("Slides",)), "k2", None)
        ),
    ]
    categories, assignments = extracted(answers, catalogue(8))
    assert categories[["batch", "name"]].values.tolist() == [
        [1, "Rotary Dimmers"],
        [1, "Slide Dimmers"],
        [2, "Slides"],
    ]
    stated = dict(zip(assignments["product_id"], assignments["category"], strict=True))
    names = ["Rotary Dimmers", "Rotary Dimmers", OUT_OF_SCOPE, "Slide Dimmers"]
    assert stated == dict(zip(first.context["product_ids"], names, strict=True)) | dict.fromkeys(
        second.context["product_ids"], "Slides"
    )
    assert assignments["product_id"].is_monotonic_increasing
    keys = dict(zip(assignments["batch"], assignments["cache_key"], strict=True))
    assert keys == {1: "k1", 2: "k2"}
    assert set(assignments["confidence"]) == {0.5}


def test_a_question_without_an_answer_leaves_its_products_unassigned() -> None:
    """With the reason, and never with a guess."""
    (question,) = questions()
    _, assignments = extracted([Answer(question, None, "endpoint: down")], catalogue(4))
    assert assignments[["category", "reason"]].drop_duplicates().values.tolist() == [["", "endpoint: down"]]
    assert len(assignments) == 4
    partial = question.check(reply({"P_1": "C_0"}), "k", None)
    _, assignments = extracted([Answer(question, partial, "invalid: no")], catalogue(4))
    known = assignments.set_index("product_id")["category"]
    assert known[question.context["product_ids"][1]] == "Rotary Dimmers"
    assert (known == "").sum() == 3


def test_a_second_attempt_asks_only_for_what_is_missing() -> None:
    """The original prompt, the errors, the categories already named, and the missing lines."""
    (question,) = questions()
    before = question.check(reply({"P_0": "C_0", "P_2": "C_9"}), "k1", None)
    again = question.again(before, "previous")
    assert again.text.startswith(question.prompt.text)
    added = again.text[len(question.prompt.text) :]
    assert "not among the answer's valid categories: P_2" in added
    assert "use them where they fit: Rotary Dimmers" in added
    assert [line[:5] for line in added.splitlines() if line.startswith("[")] == ["[P_1]", "[P_2]", "[P_3]"]
    assert again.schema["properties"]["assignments"]["required"] == ["P_1", "P_2", "P_3"]
    after = question.check(reply({"P_1": "C_0", "P_2": "C_0", "P_3": OUT_OF_SCOPE}), "k2", before)
    assert after.valid
    assert after.sources == {"P_0": "k1", "P_1": "k2", "P_2": "k2", "P_3": "k2"}


def test_a_second_attempt_after_nothing_names_no_categories() -> None:
    """There are none to name, and all is asked again."""
    (question,) = questions()
    again = question.again(question.check("no", "k", None), "no")
    assert "already named" not in again.text
    assert again.schema == question.prompt.schema


def products_of(parts: Any) -> list[list[int]]:
    return [part.context["product_ids"] for part in parts]


@pytest.mark.parametrize("trouble", ["too_long", "filtered", "refused", "invalid", "truncated"])
def test_a_question_is_halved_down_to_single_products(trouble: str) -> None:
    """Never the same question again, until the culprit stands alone and nothing is left to cut."""
    (question,) = questions()
    ids = question.context["product_ids"]
    halves = question.cut(None, trouble)
    assert products_of(halves) == [ids[:2], ids[2:]]
    assert [half.label for half in halves] == ["segmentation b1/1", "segmentation b1/2"]
    singles = [single for half in halves for single in half.cut(None, trouble)]
    assert products_of(singles) == [[product] for product in ids]
    assert [single.part for single in singles] == ["1.1", "1.2", "2.1", "2.2"]
    assert all(single.cut(None, trouble) == [] for single in singles)
    assert singles[3].prompt.text.rstrip().endswith(f"[P_0] Dimmer {ids[3] - 100} kind")


@pytest.mark.parametrize(("trouble", "parts"), [("truncated", [3]), ("invalid", [2, 1]), ("filtered", [2, 1])])
def test_what_is_valid_already_is_not_cut_again(trouble: str, parts: list[int]) -> None:
    """Closed items are kept; a broken-off answer's rest is one smaller question, all else is halved."""
    (question,) = questions()
    checked = question.check(reply({"P_1": "C_0"}), "k", None)
    smaller = question.cut(checked, trouble)
    ids = question.context["product_ids"]
    assert [len(part) for part in products_of(smaller)] == parts
    assert [p for part in products_of(smaller) for p in part] == [ids[0], ids[2], ids[3]]


def test_parts_of_a_batch_are_gathered() -> None:
    """What the whole and its parts state comes together, each product once."""
    (question,) = questions()
    partial = question.check(reply({"P_0": "C_0"}), "k", None)
    parts = question.cut(partial, "invalid")
    answers = [Answer(question, partial)] + [
        Answer(
            part, part.check(reply(dict.fromkeys(part.context["expected_ids"], "C_0"), ("Slides",)), part.part, None)
        )
        for part in parts
    ]
    categories, assignments = extracted(answers, catalogue(4))
    assert assignments["product_id"].tolist() == [100, 101, 102, 103]
    assert sorted(assignments["part"]) == ["", "1", "1", "2"]
    assert categories["batch"].tolist() == [1, 1, 1]


def test_an_answer_to_another_batch_states_nothing_for_this_one() -> None:
    """Ids beyond this batch are strangers."""
    (question,) = questions(2)
    checked: CheckedAnswer = question.check(reply({"P_2": "C_0", "P_3": "C_0"}), "k", None)
    assert checked.missing == ("P_0", "P_1")
    assert "another question" in checked.faults[0].text


def test_a_real_catalogue_in_even_batches() -> None:
    """286 dimmers at 40 are eight batches of 35 or 36, and the same ones from a file in reverse."""
    frame = load_products(data("amazon_switches.csv"), where={"category": "Dimmer Switches"})
    given_parameters = parameters(products_per_prompt=40)
    asked = extract_questions(frame, PROMPTS, given_parameters)
    assert [question.context["batch_size"] for question in asked] == [36] * 6 + [35] * 2
    assert [q.prompt for q in extract_questions(frame[::-1], PROMPTS, given_parameters)] == [q.prompt for q in asked]


def test_the_schema_of_an_answer_has_an_end() -> None:
    """A small model that decodes under a schema repeats itself in any list and any text that has none."""
    product_ids, category_ids = [f"P_{i}" for i in range(7)], ["S_0", "S_1"]
    for schema in (
        extract_schema(product_ids),
        consolidate_schema(["A_0"]),
        refine_schema(product_ids, category_ids),
    ):
        waiting = [schema]
        while waiting:
            node = waiting.pop()
            waiting += [inner for inner in node.values() if isinstance(inner, dict)]
            if node.get("type") == "array":
                assert node["maxItems"] in (1, 7)
            if node.get("type") == "string" and "enum" not in node:
                assert 0 < node["maxLength"] <= 500
            if node.get("type") == "number":
                assert (node["minimum"], node["maximum"]) == (0, 1)
