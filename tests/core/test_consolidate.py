"""The second stage: every category of every batch ends in one taxonomy, and none is lost or invented on its way."""

import json
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.core.batching import consolidation_rounds
from segkit.core.consolidate import Taxonomy, distinct_categories, merge_round, merged, taxonomies_of
from segkit.core.models import Answer, Category, Question
from segkit.core.prompts import load_prompts
from segkit.core.questions import Wording
from segkit.core.text import fold_name

PROMPTS = load_prompts()


CATEGORY = "Dimmer Switches"


def taxonomy(batch: int, *names: str) -> Taxonomy:
    return Taxonomy(batch, batch, tuple(Category("", name, f"{name} of {batch}") for name in names))


GROUP = [
    taxonomy(1, "Rotary Dimmers", "Slides"),
    taxonomy(2, "ROTARY  dimmers", "Knobs"),
    taxonomy(3, "Smart Dimmers"),
]


def question_of(group: list[Taxonomy]) -> Question:
    (merge,) = merge_round(group, [len(group)], 0, Wording(PROMPTS, CATEGORY))
    assert merge.question
    return merge.question


def answer(members: dict[str, str], **names: str) -> str:
    listed = [{"id": i, "name": name, "definition": "d, e.g. e"} for i, name in names.items()]
    return json.dumps({"categories": listed, "members": members})


def test_the_taxonomy_of_a_batch_joins_its_parts() -> None:
    """Equal folded names of one batch are one category, with the first wording; batches stay in order."""
    rows = [(2, "", "Knobs"), (10, "1", "Rotary Dimmers"), (10, "2", "rotary\u00a0DIMMERS"), (10, "2", "Slides")]
    frame = pd.DataFrame(
        [(*row, f"d{i}") for i, row in enumerate(rows)], columns=["batch", "part", "name", "definition"]
    )
    first, second = taxonomies_of(frame)
    assert [(c.name, c.definition) for c in first.categories] == [("Knobs", "d0")]
    assert [(c.name, c.definition) for c in second.categories] == [("Rotary Dimmers", "d1"), ("Slides", "d3")]
    assert (first.span, second.span) == ("batch 2", "batch 10")
    assert taxonomies_of(frame.head(0)) == []


def test_equal_names_are_shown_once() -> None:
    """Merged by folding before a model is asked; each id tells its taxonomy and its place in it."""
    shown = {category.id: category.name for category in distinct_categories(GROUP)}
    assert shown == {"A_0": "Rotary Dimmers", "A_1": "Slides", "B_1": "Knobs", "C_0": "Smart Dimmers"}


def test_a_question_shows_and_expects_the_same_ids() -> None:
    """Every distinct category on its own line, and as a required member."""
    question = question_of(GROUP)
    ids = ["A_0", "A_1", "B_1", "C_0"]
    assert question.context["expected_ids"] == ids
    assert question.prompt.schema["properties"]["members"]["required"] == ids
    lines = [line for line in question.prompt.text.splitlines() if line.startswith("[")]
    assert lines[0] == "[A_0] Rotary Dimmers: Rotary Dimmers of 1"
    assert [line[1:4] for line in lines] == ids
    assert question.label == "consolidate_taxonomy b1"


def test_more_than_26_taxonomies_have_letters() -> None:
    """Z is followed by AA."""
    shown = distinct_categories([taxonomy(i, f"Name {i}") for i in range(28)])
    assert [category.id for category in shown][24:] == ["Y_0", "Z_0", "AA_0", "AB_0"]


def test_a_valid_answer_decides_where_each_name_goes() -> None:
    """Names that were shown once go together, all others as stated."""
    (merge,) = merge_round(GROUP, [len(GROUP)], 0, Wording(PROMPTS, CATEGORY))
    members = {"A_0": "M_0", "B_1": "M_0", "A_1": "M_1", "C_0": "M_1"}
    checked = question_of(GROUP).check(answer(members, M_0="Turned", M_1="Others Again"), "k", None)
    assert checked.valid, checked.faults
    result, ends = merged(merge, Answer(question_of(GROUP), checked))
    assert [category.name for category in result.categories] == ["Turned", "Others Again"]
    assert (result.first, result.last, result.span) == (1, 3, "batches 1 to 3")
    assert ends == {
        "rotary dimmers": "Turned",
        "knobs": "Turned",
        "slides": "Others Again",
        "smart dimmers": "Others Again",
    }


@pytest.mark.parametrize("content", ["", "{}", answer({"A_0": "M_0"}, M_0="Turned"), answer({}, M_0="Turned")])
def test_without_a_valid_answer_names_decide(content: str) -> None:
    """The merge by name conserves everything and states nothing new."""
    (merge,) = merge_round(GROUP, [len(GROUP)], 0, Wording(PROMPTS, CATEGORY))
    question = question_of(GROUP)
    for failed in (None, Answer(question, None, "down"), Answer(question, question.check(content, "k", None), "bad")):
        result, ends = merged(merge, failed)
        assert [category.name for category in result.categories] == [
            "Rotary Dimmers",
            "Slides",
            "Knobs",
            "Smart Dimmers",
        ]
        assert ends == {fold_name(category.name): category.name for category in result.categories}


def test_a_second_attempt_tells_the_faults_and_asks_for_all() -> None:
    """A merge has a meaning only as a whole."""
    question = question_of(GROUP)
    checked = question.check(answer({"A_0": "M_0"}, M_0="Turned"), "k", None)
    again = question.again(checked, "previous")
    added = again.text[len(question.prompt.text) :]
    assert again.text.startswith(question.prompt.text)
    assert "input categories that are no member: A_1, B_1, C_0" in added
    assert [line[1:4] for line in added.splitlines() if line.startswith("[")] == ["A_0", "A_1", "B_1", "C_0"]
    assert question.cut(checked, "invalid") == []


def test_questions_are_numbered_on() -> None:
    """The batches of a later round have the numbers after those of the earlier ones."""
    merges = merge_round([taxonomy(i, f"Name {i}") for i in range(1, 8)], [3, 2, 2], 5, Wording(PROMPTS, CATEGORY))
    assert [merge.question.batch for merge in merges if merge.question] == [6, 7, 8]
    assert [len(merge.members) for merge in merges] == [3, 2, 2]


def test_a_group_of_one_needs_no_question() -> None:
    """It passes on as it is."""
    *_, last = merge_round([taxonomy(i, f"Name {i}") for i in range(3)], [2, 1], 0, Wording(PROMPTS, CATEGORY))
    assert last.question is None
    result, ends = merged(last, None)
    assert [category.name for category in result.categories] == ["Name 2"]
    assert ends == {"name 2": "Name 2"}


NAMES = st.lists(
    st.sampled_from(["Rotary", "rotary ", "Slide", "Smart", "Knob", "Timer", "Fan"]), max_size=5, unique_by=fold_name
)


@given(st.lists(NAMES, min_size=1, max_size=12), st.integers(2, 5), st.data())
@settings(max_examples=60, deadline=None)
def test_every_name_has_one_path_through_the_tree(batches: list[list[str]], most: int, data: Any) -> None:
    """Whatever valid or failed answers come, each category of each batch ends in the final taxonomy."""
    level = [taxonomy(i, *names) for i, names in enumerate(batches, start=1)]
    ends = [{fold_name(c.name): c.name for c in t.categories} for t in level]
    owners = [[i] for i in range(len(level))]
    for sizes in consolidation_rounds([len(level)], most):
        merges = merge_round(level, sizes, 0, Wording(PROMPTS, CATEGORY))
        assert [len(merge.members) for merge in merges] == sizes
        after, groups, place = [], [], 0
        for merge in merges:
            result, went = merged(merge, drawn_answer(merge.question, data))
            group = [i for k in range(place, place + len(merge.members)) for i in owners[k]]
            place += len(merge.members)
            for i in group:
                ends[i] = {name: went[fold_name(current)] for name, current in ends[i].items()}
            after.append(result)
            groups.append(group)
        level, owners = after, groups
    (final,) = level
    names = {category.name for category in final.categories}
    assert {end for some in ends for end in some.values()} == names
    assert len({fold_name(name) for name in names}) == len(names)


def drawn_answer(question: Question | None, data: Any) -> Answer | None:
    """A valid merge drawn at random, or none."""
    if question is None or data.draw(st.booleans()):
        return None
    ids = question.context["expected_ids"]
    members = {i: f"M_{data.draw(st.integers(0, 2))}" for i in ids}
    names = {m: f"Merged {m} of {question.batch}-{len(ids)}" for m in sorted(set(members.values()))}
    checked = question.check(answer(members, **names), "k", None)
    assert checked.valid or not ids, checked.faults
    return Answer(question, checked)
