"""The third stage: every placed product is reviewed once, and only stated changes change anything."""

import json
from typing import Any

import pandas as pd
import pytest

from segkit.core.models import OUT_OF_SCOPE, Answer, Category, Parameters, Question
from segkit.core.prompts import load_prompts
from segkit.core.refine import refine_questions, refined

TAXONOMY = [Category("S_0", "Rotary Dimmers", "turned"), Category("S_1", "Slide Dimmers", "pushed")]
PRODUCTS = pd.DataFrame({"product_id": range(10, 17), "title": [f"Dimmer {i} kind" for i in range(10, 17)]})
NAMES = ["Rotary Dimmers", "Slide Dimmers", OUT_OF_SCOPE, "Rotary Dimmers", "Rotary Dimmers", "Slide Dimmers"]
ASSIGNED = pd.DataFrame({"product_id": range(10, 16), "category": NAMES, "confidence": 0.5})
PARAMETERS = Parameters("Dimmer Switches", "gpt-4o", 0.2, "http://localhost/v1", products_per_refinement=3)


def questions() -> list[Question]:
    return refine_questions(PRODUCTS, ASSIGNED, TAXONOMY, load_prompts(), PARAMETERS)


def answered(question: Question, *changes: tuple[str, str], reason: str = "") -> Answer:
    listed = [{"product": product, "category": category, "confidence": 0.9} for product, category in changes]
    return Answer(question, question.check(json.dumps({"reassignments": listed}), f"k{question.batch}", None), reason)


def final(*answers: Answer) -> dict[int, str]:
    frame = refined(answers, ASSIGNED, TAXONOMY)
    return dict(zip(frame["product_id"], frame["refined_category"], strict=True))


BEFORE = dict(zip(range(10, 16), NAMES, strict=True))


def test_every_placed_product_is_shown_once_with_its_category() -> None:
    """Products without a category are not asked, the others stand in even batches."""
    asked = questions()
    assert sorted(p for q in asked for p in q.context["product_ids"]) == list(range(10, 16))
    assert [q.context["batch_size"] for q in asked] == [3, 3]
    for question in asked:
        lines = question.prompt.text.splitlines()
        assert "[S_0] Rotary Dimmers: turned" in lines
        for i, product in enumerate(question.context["product_ids"]):
            name = BEFORE[product]
            number = {"Rotary Dimmers": "S_0", "Slide Dimmers": "S_1"}.get(name, OUT_OF_SCOPE)
            assert lines[-3 + i] == f"[P_{i}] Dimmer {product} kind → {number} ({name})"


def test_the_taxonomy_comes_before_the_products() -> None:
    """What all prompts share comes first, so that a provider's prompt cache serves it."""
    first, second = (q.prompt.text for q in questions())
    shared = first[: first.index("[P_0]")]
    assert second.startswith(shared)
    assert "[S_1]" in shared


def test_a_moved_product_has_the_confidence_of_its_move() -> None:
    """The first confidence was stated for another category."""
    first, second = questions()
    moved, _, again = first.context["product_ids"]
    same = {"Rotary Dimmers": "S_0", "Slide Dimmers": "S_1"}.get(BEFORE[again], OUT_OF_SCOPE)
    other = "S_1" if BEFORE[moved] == "Rotary Dimmers" else "S_0"
    frame = refined([answered(first, ("P_0", other), ("P_2", same)), answered(second)], ASSIGNED, TAXONOMY)
    confidences = dict(zip(frame["product_id"], frame["refined_confidence"], strict=True))
    assert confidences == {product: 0.9 if product == moved else 0.5 for product in BEFORE}


def test_nothing_stated_changes_nothing() -> None:
    """An empty list is an answer, and no answer leaves the first assignments."""
    first, second = questions()
    assert final() == BEFORE
    assert final(answered(first), Answer(second, None, "endpoint: down")) == BEFORE


def test_a_stated_change_moves_just_its_product() -> None:
    """Into a subcategory or out of scope, with the interaction that stated it."""
    first, second = questions()
    answers = [answered(first, ("P_2", "S_1")), answered(second, ("P_0", OUT_OF_SCOPE))]
    moved = {first.context["product_ids"][2]: "Slide Dimmers", second.context["product_ids"][0]: OUT_OF_SCOPE}
    assert final(*answers) == BEFORE | moved
    frame = refined(answers, ASSIGNED, TAXONOMY).set_index("product_id")
    keys = {product: frame["refined_by"][product] for product in moved}
    assert list(keys.values()) == ["k1", "k2"]
    assert (frame["refined_by"] != "").sum() == 2
    assert frame["category"].tolist() == NAMES, "the first assignment is kept beside"


@pytest.mark.parametrize(
    "changes",
    [
        [("P_0", "S_1"), ("P_9", "S_0")],
        [("P_0", "S_1"), ("P_0", "S_0")],
        [("P_0", "S_7")],
        [("P_0", "Slide Dimmers")],
    ],
)
def test_a_bad_answer_changes_nothing(changes: list[tuple[str, str]]) -> None:
    """Not even its good parts, since a review is one judgement."""
    (first, _) = questions()
    answer = answered(first, *changes)
    assert answer.checked is not None
    assert not answer.checked.valid
    assert final(answer) == BEFORE


def test_a_second_attempt_tells_the_faults() -> None:
    """The original prompt, the errors, and all lines of the batch."""
    first, _ = questions()
    checked = first.check('{"reassignments": [{"product": "P_9", "category": "S_0"}]}', "k", None)
    again = first.again(checked, "previous")
    assert again.text.startswith(first.prompt.text)
    added = again.text[len(first.prompt.text) :]
    assert "'P_9' is no product of this batch" in added
    assert added.count("\n[P_") == 3
    assert again.schema == first.prompt.schema


@pytest.mark.parametrize("trouble", ["too_long", "truncated", "filtered", "refused"])
def test_a_question_is_halved(trouble: str) -> None:
    """Down to single products, which then keep their first assignment."""
    first, _ = questions()
    ids = first.context["product_ids"]
    parts = first.cut(None, trouble)
    assert [part.context["product_ids"] for part in parts] == [ids[:2], ids[2:]]
    assert [part.label for part in parts] == ["refine_assignments b1/1", "refine_assignments b1/2"]
    assert parts[1].cut(None, trouble) == []
    moved: Any = answered(parts[1], ("P_0", OUT_OF_SCOPE))
    assert final(moved) == BEFORE | {ids[2]: OUT_OF_SCOPE}


def test_an_invalid_review_is_not_cut() -> None:
    """It keeps its first assignments; more questions would only cost more."""
    first, _ = questions()
    assert first.cut(None, "invalid") == []
