"""Finding the one JSON object in a model's text: strictly, quickly, and without an exception but its own."""

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.core.json_text import MOST_CHARACTERS, Found, MalformedError, find_object, holds_invalid

KEYS = ("categories", "assignments")
ANSWER = {"categories": [{"id": "C_0"}], "assignments": {"P_0": {"category": "C_0", "confidence": 0.9}}}
TEXT = json.dumps(ANSWER)
OTHER = TEXT.replace("0.9", "0.8")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


def found(text: str) -> Found | str:
    """What stands in a text, or why nothing does."""
    try:
        return find_object(text, KEYS)
    except MalformedError as error:
        return str(error)


WRAPPED = {
    "bare": TEXT,
    "indented": json.dumps(ANSWER, indent=4),
    "spaces around": f" \n\t{TEXT}\r\n ",
    "fence": f"```\n{TEXT}\n```",
    "json fence": f"```json\n{TEXT}\n```\n",
    "fence on one line": f"```json {TEXT} ```",
    "fence never closed": f"```json\n{TEXT}",
    "fence only closed": f"{TEXT}\n```",
    "two equal fences": f"```json\n{TEXT}\n```\nonce more:\n```json\n{TEXT}\n```",
    "prose before": f"Here is the answer:\n{TEXT}",
    "prose after": f"{TEXT}\nI hope this helps!",
    "prose with braces": f"I looked at {{all}} of {{}} them: {TEXT} {{done}}",
    "prose and fence": f"Sure!\n```json\n{TEXT}\n```\nAnything else?",
    "byte order mark": f"\ufeff{TEXT}",
    "thinking": f"<think>{{maybe}} {OTHER}</think>\n{TEXT}",
    "no-break space in prose": f"Answer\u00a0: {TEXT}",
}


@pytest.mark.parametrize("text", WRAPPED.values(), ids=WRAPPED)
def test_one_object_is_found_in_its_wrapping(text: str) -> None:
    """Fences, prose, a byte order mark and thinking do not hide the one object."""
    assert found(text) == Found(ANSWER)


REFUSED = {
    "two objects": (f"{TEXT}\n{OTHER}", "different JSON objects"),
    "two fences": (f"```json\n{TEXT}\n```\n```json\n{OTHER}\n```", "different JSON objects"),
    "empty": ("", "empty"),
    "blank": ("\ufeff \n", "empty"),
    "empty fence": ("```json\n```", "empty"),
    "only thinking": ("<think>hm</think>", "empty"),
    "prose": ("I cannot do that.", "not JSON"),
    "prose with braces": ("I saw {many} {things}.", "not JSON"),
    "list": (f"[{TEXT}]", "a list"),
    "pairs": ('[["P_0", "C_0"]]', "a list"),
    "number": ("12", "a number"),
    "NaN": ("NaN", "a number"),
    "null": ("null", "null"),
    "truth": ("true", "a truth value"),
    "JSON in a string": (json.dumps(TEXT), "a text"),
    "JSON lines without a key": ('{"P_0": {"c": 1}}\n{"P_1": {"c": 1}}', "not JSON"),
    "single quotes": (TEXT.replace('"', "'"), "not JSON"),
    "comment": (TEXT.replace(" ", " /* see */ ", 1), "not JSON"),
    "UTF-16 read as Latin-1": (TEXT.encode("utf-16").decode("latin-1"), "not JSON"),
}


@pytest.mark.parametrize(("text", "why"), REFUSED.values(), ids=REFUSED)
def test_anything_else_is_malformed_and_says_why(text: str, why: str) -> None:
    """Two values, no value and values of another shape are failures, never a guess."""
    assert why in str(found(text)), "refused for another reason than the one it has"


def test_a_wrapping_object_is_given_as_it_is() -> None:
    """`{"result": …}` is not looked into; the check tells the fields that are missing."""
    assert found('{"result": {}}') == Found({"result": {}})


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1" * 5000, "1" * 5000 + ".5"])
def test_numbers_that_are_none_are_seen(number: str) -> None:
    """What JSON or a float cannot hold marks its item and is no number anywhere."""
    item = find_object(TEXT.replace("0.9", number), KEYS).value["assignments"]["P_0"]
    assert holds_invalid(item)
    assert not isinstance(item["confidence"], int | float)


@pytest.mark.parametrize("item", ['{"a": "\\ud800"}', '{"\\udc00": 1}', '[[{"a": ["\\ud83d"]}]]'])
def test_half_a_character_is_seen(item: str) -> None:
    """A lone surrogate marks its item, as value and as key."""
    assert holds_invalid(find_object(f'{{"assignments": {item}}}', KEYS).value["assignments"])


def test_repeated_keys_are_kept_with_all_their_values() -> None:
    """The last one never wins silently, at any depth."""
    value = find_object('{"assignments": {"P_0": {"c": 1, "c": 2}, "P_1": 1, "P_1": 1, "P_2": 3}}', KEYS).value
    assert value["assignments"].repeated == {"P_1": [1, 1]}
    assert value["assignments"]["P_0"].repeated == {"c": [1, 2]}
    assert holds_invalid(value["assignments"]["P_0"])
    assert not holds_invalid(value["assignments"]["P_2"])


def deep(sign: str, depth: int, inside: str = "") -> str:
    closing = {"[": "]", '{"a":': "}"}[sign]
    return sign * depth + inside + closing * depth


BIG = MOST_CHARACTERS - 100
HEAVY = {
    "5,000 digits": "1" * 5000,
    "100,000 open lists": "[" * 100_000,
    "100,000 open objects": '{"a":' * 100_000,
    "100,000 closed lists": deep("[", 100_000),
    "50 MB string": '{"assignments": "' + "x" * 50_000_000 + '"}',
    "string that never ends": '{"assignments": "' + "x" * BIG,
    "quotes that never end": '{"' + '\\"' * (BIG // 2),
    "spaces": "{" + " " * BIG + "x",
    "tabs before no fence": "\t" * BIG + "x",
    "broken inside many objects": '{"a":' * 60 + "[" + "1," * (BIG // 2 - 200),
    "many small objects, broken": '{"assignments": {' + '"P_0": {"c": [1, 1, 1]},' * (BIG // 25),
    "many repeated keys": '{"assignments": {' + ",".join(f'"{i % 50_000}":1' for i in range(100_000)) + "}}",
    "only braces": "{" * BIG,
    "only closing braces": "{" + "}" * (BIG // 2),
}


def seconds(text: str) -> float:
    began = time.process_time()
    found(text)
    return time.process_time() - began


@pytest.mark.parametrize("text", HEAVY.values(), ids=HEAVY)
def test_hopeless_texts_take_less_than_a_second(text: str) -> None:
    """An absurd text is malformed or found, in less than a second, without a RecursionError."""
    assert any(seconds(text) < 1 for _ in range(3)), "a second and more, three times"


@pytest.mark.parametrize("depth", [40, 300, 600, 900, 990, 5000])
@pytest.mark.parametrize("sign", ["[", '{"a":'])
def test_deep_nesting_is_told(depth: int, sign: str) -> None:
    """What the parser just gets through would break whoever walks over it, so it is refused here."""
    inside = "1" if sign != "[" else ""
    text = f'{{"categories": [], "assignments": {{"P_0": {deep(sign, depth, inside)}}}}}'
    assert "nested too deeply" in str(found(text))


def test_an_object_of_usual_depth_is_not_too_deep() -> None:
    """There is room for more levels than any answer has."""
    assert isinstance(found(f'{{"assignments": {deep("[", 20)}}}'), Found)


@given(st.text() | JSON.map(json.dumps) | st.text('{}[]",:\\ \n`P_0', max_size=60))
@settings(max_examples=100, deadline=None)
def test_no_text_raises_anything_else(text: str) -> None:
    """Malformed is the only exception, whatever the text."""
    value = found(text)
    assert isinstance(value, str | Found)


@given(st.dictionaries(st.sampled_from(KEYS), JSON, min_size=1), st.sampled_from(sorted(WRAPPED)))
@settings(max_examples=100, deadline=None)
def test_any_object_survives_its_wrapping(value: dict[str, Any], wrapping: str) -> None:
    """What was written is what is read, byte order marks, fences and prose or not."""
    text = json.dumps(value)
    expected = found(text)
    if isinstance(expected, str):  # deeper than any answer
        return
    wrapped = WRAPPED[wrapping]
    around = wrapped.replace(json.dumps(ANSWER, indent=4), TEXT).replace(TEXT, text)
    assert repr(found(around)) == repr(expected)


def test_a_broken_text_gives_only_closed_items() -> None:
    """Half an item is no item, and the rest is told as broken off."""
    text = '{"categories": [{"id": "C_0"}], "assignments": {"P_0": {"c": "C_0"}, "P_1": {"c": "C_0"'
    given_back = find_object(text, KEYS)
    assert given_back.value == {"categories": [{"id": "C_0"}], "assignments": {"P_0": {"c": "C_0"}}}
    assert not given_back.closed
    assert given_back.why


@pytest.mark.parametrize(
    "text",
    ['{"assignments"', '{"assignments": {', '{"assignments": {"P_0": {"c": "C_0"', '{"assignments": {"P_0": {]'],
)
def test_a_text_broken_before_its_first_item_gives_nothing(text: str) -> None:
    """Without a closed item there is nothing to keep."""
    assert "not JSON" in str(found(text))


@pytest.mark.parametrize("end", range(1, len(TEXT)))
def test_a_cut_object_is_never_taken_for_a_whole_one(end: int) -> None:
    """At every cut the text is malformed, or told as not closed."""
    given_back = found(TEXT[:end])
    assert isinstance(given_back, str) or not given_back.closed, f"closed after {end} characters"
