"""Answers under the contract: what is literally stated counts, everything else is told as a fault."""

import json
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.core.models import OUT_OF_SCOPE, CheckedAnswer
from segkit.core.questions import consolidate_schema, extract_schema, refine_schema
from segkit.core.text import fold_name
from segkit.core.validation import BatchFindings, MergedCategories, check_consolidate, check_extract, check_refine

IDS = [f"P_{i}" for i in range(4)]
ROTARY = {"id": "C_0", "name": "Rotary Dimmers", "definition": "Turned by a knob, e.g. a round dimmer"}
SLIDE = {"id": "C_1", "name": "Slide Dimmers", "definition": "Pushed along a slot, e.g. a slider"}


def extract_answer(count: int = 4, **changes: Any) -> dict[str, Any]:
    """A valid answer for `count` products: they alternate between two categories, the last is out of scope."""
    names = [("C_0", "C_1")[i % 2] for i in range(count - 1)] + [OUT_OF_SCOPE]
    assignments = {f"P_{i}": {"category": name, "confidence": 0.9} for i, name in enumerate(names)}
    return {"categories": [ROTARY, SLIDE], "assignments": assignments} | changes


def extract(answer: Any, ids: Sequence[str] = IDS, before: CheckedAnswer | None = None, **more: Any) -> CheckedAnswer:
    """Check an answer that is given as text or as a value."""
    content = answer if isinstance(answer, str) else json.dumps(answer)
    return check_extract(content, ids, "key", before, **more)


def with_item(product: str, entry: Any) -> str:
    """The valid answer as text, but with another entry for P_0 under another key; `entry` may be raw JSON."""
    answer = extract_answer()
    rest = {key: value for key, value in answer["assignments"].items() if key != "P_0"}
    text = json.dumps({**answer, "assignments": {product: "HERE", **rest}})
    return text.replace('"HERE"', entry if isinstance(entry, str) else json.dumps(entry))


def with_category(**changes: Any) -> str:
    """The valid answer as text, its first category changed."""
    return json.dumps(extract_answer(categories=[{**ROTARY, **changes}, SLIDE]))


def placed(checked: CheckedAnswer) -> dict[str, str]:
    return {product: item.category for product, item in checked.value.assignments.items()}


def told(checked: CheckedAnswer) -> str:
    return "\n".join(f"{fault.kind}: {fault.text}" for fault in checked.faults)


GOOD = {"category": "C_0", "confidence": 0.9}
VALID = {"P_0": "rotary dimmers", "P_1": "slide dimmers", "P_2": "rotary dimmers", "P_3": OUT_OF_SCOPE}
REST = {key: VALID[key] for key in IDS[1:]}


def test_a_valid_answer() -> None:
    """What was stated is stored, with its confidence and the interaction that stated it."""
    checked = extract(extract_answer())
    assert checked.valid
    assert placed(checked) == VALID
    assert [c.name for c in checked.value.categories.values()] == ["Rotary Dimmers", "Slide Dimmers"]
    assert checked.value.assignments["P_0"].confidence == 0.9
    assert checked.sources == dict.fromkeys(IDS, "key")
    assert checked.warnings == ()


@given(st.randoms(use_true_random=False))
def test_order_never_matters(chance: random.Random) -> None:
    """Keys, categories and products in any order say the same."""
    answer = extract_answer()
    pairs = list(answer["assignments"].items())
    categories = list(answer["categories"])
    chance.shuffle(pairs)
    chance.shuffle(categories)
    turned = {"assignments": dict(pairs), "categories": categories}
    assert placed(extract(turned)) == VALID
    assert extract(turned).valid


@pytest.mark.parametrize(
    "assignments",
    [
        ["C_0", "C_1", "C_0", "C_1"],
        [{"category": "C_0"}] * 4,
        [["P_0", "C_0"], ["P_1", "C_0"]],
        [{"product": "P_0", "category": "C_0"}],
        "C_0",
        None,
        4,
    ],
)
def test_position_is_never_trusted(assignments: Any) -> None:
    """Assignments without ids as keys fail, however plausible their order is."""
    checked = extract(extract_answer(assignments=assignments))
    assert placed(checked) == {}
    assert checked.missing == tuple(IDS)
    assert "assignments is not an object" in told(checked)


@pytest.mark.parametrize(
    "identifier",
    [
        "0",
        "p_0",
        "P_00",
        "P_1.0",
        "P_０",
        "Ｐ_0",
        "#P_0",
        "P-0",
        "P 0",
        "[P_0]",
        "P_0:",
        "true",
        "null",
        "",
        "P_\u200b0",
    ],
)
def test_only_the_spelling_of_the_prompt_is_an_id(identifier: str) -> None:
    """Nothing like P_0 is P_0; the rest of the answer counts."""
    checked = extract(with_item(identifier, GOOD))
    assert placed(checked) == REST
    assert checked.missing == ("P_0",)
    assert "ids that are not of this batch" in told(checked)


@pytest.mark.parametrize("identifier", [" P_0", "P_0 ", "\tP_0\\n", "\u00a0P_0\u3000"])
def test_white_space_around_an_id_is_forgiven(identifier: str) -> None:
    """Surrounding white space is the only thing that is."""
    assert extract(with_item(identifier.replace("\\n", "\n"), GOOD)).valid


@pytest.mark.parametrize("category", ["c_0", "C_00", "0", 0, True, None, "C_2", "Rotary Dimmers", "out_of_scope", ""])
def test_a_category_is_one_of_the_answer(category: Any) -> None:
    """An id that is not among the answer's categories, or is only like one, is refused and told."""
    checked = extract(with_item("P_0", {"category": category, "confidence": 1}))
    assert placed(checked) == REST
    assert checked.missing == ("P_0",)
    assert "validation" in told(checked)


@pytest.mark.parametrize(
    "entry", ['"C_0"', '["C_0", 1]', "null", "0", '[{"category": "C_0"}]', "{}", '{"id": "C_0"}']
)
def test_an_entry_of_another_shape_is_refused(entry: str) -> None:
    """Only the documented shape is an assignment."""
    checked = extract(with_item("P_0", entry))
    assert placed(checked) == REST
    assert "assignments" in told(checked)


@pytest.mark.parametrize("category", [["C_0"], {"id": "C_0"}, 1.5])
def test_a_category_as_list_object_or_number_is_refused(category: Any) -> None:
    """No list of one is declared, so none is accepted."""
    assert placed(extract(with_item("P_0", {"category": category, "confidence": 1}))) == REST


def test_an_invented_id_is_told_and_not_stored() -> None:
    """An extra id is refused and told, and spoils nothing else."""
    answer = extract_answer()
    answer["assignments"]["P_9"] = GOOD
    checked = extract(answer)
    assert placed(checked) == VALID
    assert not checked.valid
    assert "ids that are not of this batch: P_9" in told(checked)


def test_a_missing_id_is_told_and_waits() -> None:
    """What the answer leaves out is missing, by its id."""
    answer = extract_answer()
    del answer["assignments"]["P_2"]
    checked = extract(answer)
    assert checked.missing == ("P_2",)
    assert "completeness: products without a valid assignment: P_2" in told(checked)


@pytest.mark.parametrize("ids", [["P_7", "P_8"], ["A_0", "B_0"], ["<product id>"], ["C_0", "C_1"]])
def test_an_answer_to_another_question_is_none(ids: list[str]) -> None:
    """When no id was asked for, the whole answer fails and says so."""
    checked = extract(extract_answer(assignments=dict.fromkeys(ids, GOOD)))
    assert checked.value == BatchFindings()
    assert "answer to another question" in told(checked)


def doubled(first: str, second: str) -> str:
    """The valid answer with a second entry for P_0 under the same key, or the same key with a space."""
    text = json.dumps(extract_answer())
    return text.replace('"assignments": {', f'"assignments": {{{first}, ', 1).replace(
        '"P_3"', f'{second}, "P_3"' if second else '"P_3"'
    )


@pytest.mark.parametrize("again", ['"P_0"', '" P_0"'])
def test_an_exact_repetition_counts_once(again: str) -> None:
    """The same id twice with the same category is accepted once."""
    checked = extract(doubled(f'{again}: {{"category": "C_0", "confidence": 0.5}}', ""))
    assert placed(checked) == VALID
    assert checked.valid


@pytest.mark.parametrize("again", ['"P_0"', '"P_0 "'])
@pytest.mark.parametrize("category", ["C_1", OUT_OF_SCOPE, "C_9"])
@pytest.mark.parametrize("first", [True, False])
def test_a_contradiction_is_asked_again(again: str, category: str, first: bool) -> None:
    """The same id with two categories has none: neither the first nor the last wins."""
    entry = f'{again}: {{"category": "{category}", "confidence": 1}}'
    text = doubled(entry, "") if first else doubled('"x": 1', entry)
    checked = extract(text)
    assert "P_0" not in placed(checked)
    assert checked.missing == ("P_0",)


@pytest.mark.parametrize(
    "entry",
    [
        '{"category": "C_0", "category": "C_1", "confidence": 1}',
        '{"category": "C_0", "category": "C_0", "confidence": 1}',
        '{"category": "C_0", "confidence": 1, "why": {"a": 1, "a": 2}}',
    ],
)
def test_a_repeated_key_spoils_its_item(entry: str) -> None:
    """An object with a key twice is refused as an item, never read as the last."""
    checked = extract(with_item("P_0", entry))
    assert placed(checked) == REST
    assert "a key twice" in told(checked)


@pytest.mark.parametrize("field", ["categories", "assignments"])
def test_a_repeated_field_spoils_the_answer(field: str) -> None:
    """A whole field that stands twice leaves nothing to trust."""
    answer = extract_answer()
    text = json.dumps(answer)[:-1] + f', "{field}": {json.dumps(answer[field])}}}'
    checked = extract(text)
    assert checked.value == BatchFindings()
    assert "fields that stand more than once" in told(checked)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "9" * 5000])
@pytest.mark.parametrize("field", ["confidence", "note"])
def test_numbers_that_are_none_spoil_their_item(number: str, field: str) -> None:
    """NaN, Infinity and numbers beyond a float refuse the item, in any of its fields."""
    checked = extract(with_item("P_0", f'{{"category": "C_0", "confidence": 1, "{field}": {number}}}'))
    assert placed(checked) == REST
    assert checked.missing == ("P_0",)


@pytest.mark.parametrize("confidence", ["high", 150, -1, "95%", 1.01, None, True, [], {}, "0.9"])
def test_a_confidence_that_is_none_is_unknown(confidence: Any) -> None:
    """The assignment stays, its confidence is unknown, and a warning says so."""
    checked = extract(with_item("P_0", {"category": "C_0", "confidence": confidence}))
    assert checked.valid
    assert checked.value.assignments["P_0"].confidence is None
    assert "confidence of P_0" in checked.warnings[0]


@pytest.mark.parametrize("confidence", [0, 1, 0.0, 1.0, 0.5])
def test_a_confidence_from_0_to_1_is_kept(confidence: float) -> None:
    """Both ends belong to it."""
    checked = extract(with_item("P_0", {"category": "C_0", "confidence": confidence}))
    assert checked.value.assignments["P_0"].confidence == confidence
    assert not checked.warnings


def test_a_missing_confidence_is_unknown() -> None:
    """Leaving it out is the same as not knowing."""
    assert extract(with_item("P_0", {"category": "C_0"})).value.assignments["P_0"].confidence is None


def test_extra_fields_are_passed_over() -> None:
    """A reason, however long, changes nothing."""
    assert extract(with_item("P_0", {**GOOD, "reason": "because " * 5000})).valid
    assert extract(extract_answer(notes=["so"], version=2)).valid


BAD_NAMES = {
    "empty": "",
    "blank": "   ",
    "null": None,
    "evasive": "Other",
    "N/A": "N/A",
    "unknown": "unknown",
    "reserved": OUT_OF_SCOPE,
    "too long": "x" * 256,
    "control": "Dim\x07mers",
    "NUL": "Dimmers\0",
    "surrogate": "Dimmers\ud800",
    "number": 5,
    "list": ["Rotary Dimmers"],
}


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES)
def test_a_bad_name_spoils_its_category_and_those_in_it(name: Any) -> None:
    """The category is refused, its products wait, the others count."""
    checked = extract(with_category(name=name))
    assert placed(checked) == {"P_1": "slide dimmers", "P_3": OUT_OF_SCOPE}
    assert checked.missing == ("P_0", "P_2")
    assert "category 'C_0'" in told(checked)
    told(checked).encode()


@pytest.mark.parametrize("definition", [None, "", " ", 7, "Dims\udfff", []])
def test_a_category_needs_a_definition(definition: Any) -> None:
    """Without a definition that can be stored there is no category."""
    assert "P_0" not in placed(extract(with_category(definition=definition)))


@pytest.mark.parametrize("identifier", [None, "", " ", 0, ["C_0"]])
def test_a_category_needs_an_id(identifier: Any) -> None:
    """A category without a text as its id cannot be meant by anything."""
    checked = extract(with_category(id=identifier))
    assert "it has no id" in told(checked)
    assert "P_0" not in placed(checked)


@pytest.mark.parametrize("categories", [{"C_0": ROTARY}, "C_0", None, [ROTARY["name"], None, 4]])
def test_categories_are_a_list_of_objects(categories: Any) -> None:
    """Any other shape states no category; OUT_OF_SCOPE needs none."""
    assert placed(extract(extract_answer(categories=categories))) == {"P_3": OUT_OF_SCOPE}


@pytest.mark.parametrize(
    "name", ["ROTARY  dimmers", "Rotary\u00a0Dimmers", "Ｒotary Dimmers", "Rotary Dim\u200bmers"]
)
def test_two_names_equal_after_folding(name: str) -> None:
    """Both are refused, and both are told."""
    checked = extract(extract_answer(categories=[ROTARY, {**SLIDE, "name": name}]))
    assert placed(checked) == {"P_3": OUT_OF_SCOPE}
    assert "categories with the same name: C_0 'Rotary Dimmers', C_1" in told(checked)


def test_two_categories_with_one_id() -> None:
    """An id that means two things means none."""
    checked = extract(extract_answer(categories=[ROTARY, {**SLIDE, "id": "C_0"}]))
    assert "category ids that stand more than once: C_0" in told(checked)
    assert placed(checked) == {"P_3": OUT_OF_SCOPE}


def test_a_name_is_stored_as_cleaned() -> None:
    """Cleaned for storing, but text stays text: no markup is read or removed."""
    checked = extract(with_category(name="  <b>=cmd()</b>\t\u200b'; drop table  "))
    assert checked.valid
    assert next(iter(checked.value.categories.values())).name == "<b>=cmd()</b> '; drop table"


def test_half_characters_are_told_without_them() -> None:
    """What goes into logs and prompts can be stored, wherever a lone surrogate stood."""
    text = (
        '{"categories": [{"id": "C_\\ud800", "name": "\\ud801", "definition": ""}, "\\ud802"], "\\ud803": 1,'
        ' "assignments": {"P_\\ud804": {"category": "OUT_OF_SCOPE", "confidence": "\\ud805"},'
        ' "P_0": {"category": "\\ud806"}, "P_1": {"category": "OUT_OF_SCOPE", "confidence": 7}, "P_\\udfff": {}}}'
    )
    answers = [
        extract(text),
        extract('{"\\ud800": 1, "categories": []}'),
        extract('{"assignments": {"P_\\ud804": {"category": "OUT_OF_SCOPE"}}}'),
        check_consolidate('{"categories": [], "members": {"A_\\ud800": "M_\\ud801"}}', ["A_0"], "key"),
        check_refine(
            '{"reassignments": [{"product": "\\ud800"}, {"product": "P_0", "category": "\\ud801"}]}', IDS, [], "k"
        ),
    ]
    for checked in answers:
        assert checked.faults
        json.dumps([told(checked), *checked.warnings], ensure_ascii=False).encode()


@pytest.mark.parametrize("content", ["", "no", "[]", "{}", '{"result": {}}', "null"])
def test_no_answer_leaves_everything_missing(content: str) -> None:
    """What is no answer states nothing and says so."""
    checked = extract(content)
    assert checked.value == BatchFindings()
    assert checked.missing == tuple(IDS)
    assert checked.faults


def test_a_second_answer_is_joined_with_the_first() -> None:
    """The missing ids come from the second answer, under the names of the first."""
    first = extract_answer()
    del first["assignments"]["P_2"]
    before = extract(first)
    second = {"categories": [{**ROTARY, "id": "C_5"}], "assignments": {"P_2": {"category": "C_5", "confidence": 1}}}
    after = check_extract(json.dumps(second), ["P_2"], "second", before, frozenset(IDS))
    assert after.valid
    assert placed(after) == VALID
    assert after.sources == {"P_0": "key", "P_1": "key", "P_3": "key", "P_2": "second"}


def test_a_category_keeps_the_wording_it_had_first() -> None:
    """A later definition of the same name changes nothing."""
    first = extract_answer()
    del first["assignments"]["P_2"]
    second = {
        "categories": [{**ROTARY, "name": "ROTARY DIMMERS", "definition": "Else"}],
        "assignments": {"P_2": GOOD},
    }
    after = extract(second, ["P_2"], extract(first))
    assert after.value.categories["rotary dimmers"].definition == ROTARY["definition"]


def test_a_contradiction_to_an_accepted_item_is_a_warning() -> None:
    """The accepted item stays, and the contradiction is told."""
    first = extract_answer()
    del first["assignments"]["P_2"]
    second = extract_answer(assignments={"P_2": GOOD, "P_0": {"category": "C_1", "confidence": 1}})
    after = extract(second, ["P_2"], extract(first), others=frozenset(IDS))
    assert after.valid
    assert placed(after) == VALID
    assert "P_0 was 'rotary dimmers' and is now 'slide dimmers'" in after.warnings[0]


def test_ids_of_the_prompt_that_were_not_asked_again_are_passed_over() -> None:
    """They are no strangers, and they state nothing new."""
    after = extract(extract_answer(), ["P_2"], CheckedAnswer(BatchFindings()), others=frozenset(IDS))
    assert after.valid
    assert placed(after) == {"P_2": "rotary dimmers"}


def test_unused_categories_are_dropped() -> None:
    """A category without a product says nothing about the products."""
    answer = extract_answer(assignments=dict.fromkeys(IDS, GOOD))
    assert list(extract(answer).value.categories) == ["rotary dimmers"]


# --- consolidate ----------------------------------------------------------------------------------

INPUTS = ["A_0", "A_1", "B_0", "B_1"]
MERGED = {
    "categories": [{**ROTARY, "id": "M_0"}, {**SLIDE, "id": "M_1"}],
    "members": {"A_0": "M_0", "B_0": "M_0", "A_1": "M_1", "B_1": "M_1"},
}


def consolidate(answer: Any) -> CheckedAnswer:
    content = answer if isinstance(answer, str) else json.dumps(answer)
    return check_consolidate(content, INPUTS, "key")


def test_a_valid_merge() -> None:
    """Every input is a member of one category, whatever the order."""
    checked = consolidate(MERGED)
    assert checked.valid
    assert checked.value.members == MERGED["members"]
    assert [c.name for c in checked.value.categories] == ["Rotary Dimmers", "Slide Dimmers"]


BAD_MERGES: dict[str, tuple[Any, str]] = {
    "missing": ({"A_0": "M_0", "B_0": "M_0", "A_1": "M_1"}, "input categories that are no member: B_1"),
    "invented": ({**MERGED["members"], "C_0": "M_0"}, "ids that were not asked for: C_0"),
    "other spelling": ({**MERGED["members"], "a_0": "M_0"}, "ids that were not asked for: a_0"),
    "unknown category": ({**MERGED["members"], "A_0": "M_7"}, "not among the answer's valid categories: A_0"),
    "list": ({**MERGED["members"], "A_0": ["M_0"]}, "not among the answer's valid categories: A_0"),
    "reserved": ({**MERGED["members"], "A_0": OUT_OF_SCOPE}, "not among the answer's valid categories: A_0"),
    "empty category": (dict.fromkeys(INPUTS, "M_0"), "categories without a member: M_1"),
    "no object": ([["A_0", "M_0"]], "members is not an object"),
    "turned around": ({"M_0": ["A_0", "B_0"], "M_1": ["A_1", "B_1"]}, "ids that were not asked for"),
}


@pytest.mark.parametrize(("members", "why"), BAD_MERGES.values(), ids=BAD_MERGES)
def test_a_merge_that_loses_or_invents_is_not_valid(members: Any, why: str) -> None:
    """Conservation of members is checked id by id."""
    checked = consolidate({**MERGED, "members": members})
    assert not checked.valid
    assert why in told(checked)


@pytest.mark.parametrize(("category", "valid"), [("M_0", True), ("M_1", False)])
def test_an_input_that_stands_twice(category: str, valid: bool) -> None:
    """An exact repetition counts once, a contradiction fails."""
    text = json.dumps(MERGED).replace('"members": {', f'"members": {{"A_0": "{category}", ')
    checked = consolidate(text)
    assert checked.valid is valid
    assert valid or "two different categories: A_0" in told(checked)


@pytest.mark.parametrize("end", range(1, len(json.dumps(MERGED))))
def test_a_cut_merge_is_never_valid(end: int) -> None:
    """A merge has a meaning only as a whole, so no cut of it states a member."""
    checked = consolidate(json.dumps(MERGED)[:end])
    assert not checked.valid
    assert checked.value == MergedCategories((), {})


# --- refine ---------------------------------------------------------------------------------------

CHANGE = {"product": "P_3", "category": "S_1", "confidence": 0.9}


def refine(*changes: Any, content: str = "") -> CheckedAnswer:
    return check_refine(content or json.dumps({"reassignments": changes}), IDS, ["S_0", "S_1"], "key")


def test_an_empty_list_is_a_valid_refinement() -> None:
    """Nothing to change is an answer."""
    assert refine().valid
    assert refine().value == {}


def test_a_valid_refinement() -> None:
    """Changes by product; an exact repetition counts once; white space is forgiven."""
    checked = refine(CHANGE, {**CHANGE, "product": " P_3 "}, {"product": "P_0", "category": OUT_OF_SCOPE})
    assert checked.valid
    assert {product: item.category for product, item in checked.value.items()} == {"P_3": "S_1", "P_0": OUT_OF_SCOPE}
    assert checked.sources == {"P_3": "key", "P_0": "key"}
    assert "confidence of P_0" in checked.warnings[0]


BAD_CHANGES: dict[str, tuple[Any, str]] = {
    "stranger": ({**CHANGE, "product": "P_4"}, "'P_4' is no product of this batch"),
    "other spelling": ({**CHANGE, "product": "p_3"}, "'p_3' is no product of this batch"),
    "number": ({**CHANGE, "product": 3}, "3 is no product of this batch"),
    "no product": ({"category": "S_1"}, "None is no product of this batch"),
    "unknown category": ({**CHANGE, "category": "S_2"}, "P_3: 'S_2' is no subcategory of the prompt"),
    "category of another stage": ({**CHANGE, "category": "C_0"}, "P_3: 'C_0' is no subcategory"),
    "name instead of id": ({**CHANGE, "category": "Dimmers"}, "P_3: 'Dimmers' is no subcategory"),
    "list": (["P_3", "S_1"], "not a valid reassignment: ['P_3', 'S_1']"),
    "text": ("P_3 → S_1", "not a valid reassignment"),
}


@pytest.mark.parametrize(("change", "why"), BAD_CHANGES.values(), ids=BAD_CHANGES)
def test_a_bad_change_is_told(change: Any, why: str) -> None:
    """Only products and subcategories of this prompt, in the documented shape."""
    checked = refine(CHANGE, change)
    assert not checked.valid
    assert why in told(checked)


def test_two_different_changes_of_one_product() -> None:
    """Neither the first nor the last wins."""
    checked = refine(CHANGE, {**CHANGE, "category": "S_0"})
    assert not checked.valid
    assert "two different categories: P_3" in told(checked)


@pytest.mark.parametrize(
    "content",
    [
        '{"reassignments": {}}',
        '{"reassignments": null}',
        '{"changes": []}',
        '{"reassignments": [{"product": "P_0", "category": "S_0", "category": "S_1"}]}',
        '{"reassignments": [{"product": "P_0", "category": "S_0", "confidence": NaN}]}',
        '{"reassignments": [{"product": "P_0", "category": "S_0"}',
    ],
)
def test_a_refinement_of_another_shape(content: str) -> None:
    """Another field or type, a key twice, NaN and half an answer change nothing."""
    checked = refine(content=content)
    assert checked.value == {}
    assert not checked.valid


# --- schemas --------------------------------------------------------------------------------------


def objects_of(schema: Any) -> list[dict[str, Any]]:
    """Every object schema inside a schema."""
    inner = (
        [o for value in (schema.values() if isinstance(schema, dict) else schema) for o in objects_of(value)]
        if (isinstance(schema, dict | list))
        else []
    )
    return [schema, *inner] if isinstance(schema, dict) and schema.get("type") == "object" else inner


SCHEMAS = {
    "extract": extract_schema(IDS),
    "consolidate": consolidate_schema(INPUTS),
    "refine": refine_schema(IDS, ["S_0", "S_1"]),
}


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_schemas_are_strict(schema: dict[str, Any]) -> None:
    """Every object is closed and needs all its fields, as strict decoding wants."""
    found = objects_of(schema)
    assert len(found) >= 2
    for part in found:
        assert part["additionalProperties"] is False
        assert part["required"] == list(part["properties"])


def test_schemas_spell_out_the_ids() -> None:
    """A server that decodes under the schema cannot leave an id out or invent one."""
    assert extract_schema(IDS)["properties"]["assignments"]["required"] == IDS
    assert consolidate_schema(INPUTS)["properties"]["members"]["required"] == INPUTS
    change = refine_schema(IDS, ["S_0"])["properties"]["reassignments"]["items"]["properties"]
    assert change["product"]["enum"] == IDS
    assert change["category"]["enum"] == ["S_0", OUT_OF_SCOPE]


# --- hostile answers ------------------------------------------------------------------------------

ENDLESS: dict[str, Callable[[], CheckedAnswer]] = {
    "reassignments": lambda: refine(content='{"reassignments": [' + ",".join(["1"] * 30_000) + "]}"),
    "categories": lambda: extract('{"categories": [' + ",".join(["1"] * 30_000) + "]}"),
    "equal names": lambda: extract(
        extract_answer(categories=[{"id": f"C{i}", "name": f"n{i // 2}", "definition": "d"} for i in range(5_000)])
    ),
    "foreign members": lambda: consolidate(
        {"categories": [], "members": dict.fromkeys((f"X_{i}" for i in range(30_000)), "M_0")}
    ),
    "odd confidences": lambda: extract(
        extract_answer(assignments={f"P_{i}": {"category": OUT_OF_SCOPE} for i in range(10_000)})
    ),
    "unknown categories": lambda: extract(
        extract_answer(assignments={f"P_{i}": {"category": f"C{i}"} for i in range(8_000)})
    ),
}


def seconds(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


@pytest.mark.parametrize("check", ENDLESS.values(), ids=ENDLESS)
def test_an_endless_answer_costs_little(check: Callable[[], CheckedAnswer]) -> None:
    """Its faults fit into the next prompt, and it is judged in less than a second."""
    assert any(seconds(check) < 1 for _ in range(3)), "a second and more, three times"
    checked = check()
    assert sum(len(fault.text) for fault in checked.faults) < 30_000
    assert len(checked.faults) + len(checked.warnings) <= 100


def stated_pairs(text: str) -> set[tuple[str, str]]:
    """Every (id, category id) that stands literally, as a closed item, anywhere in an extract answer's text."""
    found: set[tuple[str, str]] = set()
    decoder = json.JSONDecoder()
    for i in range(40):
        start = -1
        while (start := text.find(f'"P_{i}": {{', start + 1)) >= 0:
            try:
                entry, _ = decoder.raw_decode(text, start + len(f'"P_{i}": '))
            except ValueError:
                continue
            found.add((f"P_{i}", str(entry.get("category"))))
    return found


def assert_only_stated(text: str, count: int) -> CheckedAnswer:
    """Check a text that may be damaged: no exception, and no assignment that is not literally there."""
    checked = extract(text, [f"P_{i}" for i in range(count)])
    names = {fold_name(c["name"]): c["id"] for c in (ROTARY, SLIDE)} | {OUT_OF_SCOPE: OUT_OF_SCOPE}
    stored = {(product, names[category]) for product, category in placed(checked).items()}
    assert stored <= stated_pairs(text), f"invented {stored - stated_pairs(text)} from {text!r}"
    assert set(checked.missing) == {f"P_{i}" for i in range(count)} - {product for product, _ in stored}
    return checked


def byte_cuts(text: str) -> list[str]:
    data = text.encode()
    return [data[:end].decode(errors="replace") for end in range(len(data))]


ANSWERS = {
    "plain": json.dumps(extract_answer()),
    "indented": json.dumps(extract_answer(6), indent=2),
    "many": json.dumps(extract_answer(12)),
    "assignments first": json.dumps(dict(reversed(extract_answer(5).items()))),
    "fenced": f"```json\n{json.dumps(extract_answer())}\n```",
    "with prose and accents": "Voilà {ça} :\n"
    + json.dumps(extract_answer(note='é {"P_0": 1} 😀 ]}'), ensure_ascii=False),
}


@pytest.mark.parametrize("text", ANSWERS.values(), ids=ANSWERS)
def test_every_byte_cut_states_only_closed_items(text: str) -> None:
    """At every byte, no exception and no assignment that the answer did not state in a closed item."""
    count = text.count('"confidence"')
    assert assert_only_stated(text, count).valid, "the whole answer is not valid, so its cuts prove nothing"
    kept = [len(assert_only_stated(cut, count).value.assignments) for cut in byte_cuts(text)]
    if text.startswith('{"categories"'):
        assert kept == sorted(kept), "a longer part of an answer keeps less"
        assert kept[-1] == count, "closed items are thrown away"


@pytest.mark.long
@pytest.mark.parametrize("seed", range(400))
def test_every_byte_cut_of_400_answers(seed: int) -> None:
    """The same for 400 answers of different size, order and dress."""
    chance = random.Random(seed)
    answer = extract_answer(chance.randint(2, 8))
    pairs = list(answer["assignments"].items())
    chance.shuffle(pairs)
    answer["assignments"] = dict(pairs)
    text = json.dumps(answer, indent=chance.choice([None, None, 2]))
    text = chance.choice(["{}", "```json\n{}\n```", "Here:\n{}"]).replace("{}", text)
    for cut in byte_cuts(text):
        assert_only_stated(cut, len(pairs))


PIECES = [
    "{",
    "}",
    "[",
    "]",
    '"',
    ",",
    ":",
    "\\",
    "\n",
    " ",
    "null",
    "NaN",
    "1e999",
    "\ud800",
    "\0",
    "```",
    "P_1",
    "C_0",
]
PIECES += ['"P_0": ', OUT_OF_SCOPE, "0.5", "é", "</think>", '{"category": "C_1"}', "\u202e"]


def mutated(text: str, chance: random.Random) -> str:
    """Damage a text at one to four places: cut out, put in, repeat, exchange."""
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(text) + 1)
        end = min(len(text), start + chance.choice([0, 1, 1, 2, 5, 30]))
        piece = chance.choice([*PIECES, "", text[start:end] * 2, text[end : end + 20]])
        text = text[:start] + piece + text[end:]
    return text


def check_mutations(seed: int, count: int) -> None:
    chance = random.Random(seed)
    kept = 0
    for _ in range(count):
        text = mutated(ANSWERS[chance.choice(["plain", "indented", "assignments first", "fenced"])], chance)
        checked = extract(text, IDS)
        kept += len(checked.value.assignments)
        told(checked).encode()
        # A mutation may state something else, but what is stored stands in the text as a closed item.
        names = {fold: c.id for fold, c in checked.value.categories.items()} | {OUT_OF_SCOPE: OUT_OF_SCOPE}
        for product, item in checked.value.assignments.items():
            assert f"{product}" in text
            assert names[item.category] in text
        check_consolidate(text, INPUTS, "key")
        check_refine(text, IDS, ["S_0"], "key")
    assert kept > count // 4, "the mutations destroy everything, so they prove little"


@pytest.mark.parametrize("seed", range(4))
def test_mutated_answers(seed: int) -> None:
    """2,000 damaged answers raise nothing and state nothing that is not in their text."""
    check_mutations(seed, 500)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 200))
def test_100_000_mutated_answers(seed: int) -> None:
    """The same 100,000 times."""
    check_mutations(seed, 1000)


@given(st.text(max_size=200), st.sampled_from(["extract", "consolidate", "refine"]))
@settings(max_examples=100, deadline=None)
def test_any_text_is_judged(text: str, stage: str) -> None:
    """A check never raises, and random text states nothing."""
    checks: dict[str, Callable[[], CheckedAnswer]] = {
        "extract": lambda: extract(text),
        "consolidate": lambda: consolidate(text),
        "refine": lambda: refine(content=text or " "),
    }
    assert checks[stage]().faults
