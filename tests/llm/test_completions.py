"""The envelope of a completion: whatever the body holds, the result says it and nothing is raised."""

import json
import random
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkit.core.models import STAGES, Parameters, Prompt, Usage
from segkit.core.questions import consolidate_schema, refine_schema
from segkit.llm.completions import (
    LIMIT_NAMES,
    LONGEST_ANSWER,
    Completion,
    RequestShape,
    read_completion,
    shape_for,
)
from segkit.llm.meanings import keywords_in

TOKENS = {
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "prompt_tokens_details": {"cached_tokens": 64},
    "completion_tokens_details": {"reasoning_tokens": 5},
}


def envelope(message: Any = None, finish_reason: Any = "stop", **changes: Any) -> dict[str, Any]:
    choice = {
        "index": 0,
        "message": {"content": "text"} if message is None else message,
        "finish_reason": finish_reason,
    }
    return {"id": "req-1", "model": "gpt-4o-2024", "choices": [choice], "usage": TOKENS} | changes


def completion(value: Any) -> Completion:
    return read_completion(value if isinstance(value, bytes) else json.dumps(value).encode())


def test_a_whole_completion() -> None:
    """The text, why it ended, the model that really answered, and the tokens."""
    assert completion(envelope()) == Completion(
        "text", "", "", "stop", "gpt-4o-2024", "req-1", Usage(input=100, cached=64, output=20, reasoning=5)
    )


@pytest.mark.parametrize(
    "choices", [[], None, "no", 5, {}, [None], ["text"], [[]], {"index": 0, "message": {"content": "text"}}]
)
def test_no_choices(choices: Any) -> None:
    """Paid for and empty; the tokens are told all the same."""
    found = completion(envelope(choices=choices))
    assert found.trouble == "empty"
    assert found.usage.input == 100


def test_choices_are_missing() -> None:
    """The same where the field is not there at all."""
    assert completion({"id": "x"}).trouble == "empty"


BODIES = {
    "empty": b"",
    "half": json.dumps(envelope()).encode()[:-20],
    "html": b"<html></html>",
    "list": b"[]",
    "text": b'"text"',
    "null": b"null",
    "UTF-16": json.dumps(envelope()).encode("utf-16"),
    "UTF-32": json.dumps(envelope()).encode("utf-32-le"),
    "Latin-1": '{"choices": [{"message": {"content": "é"}}]}'.encode("latin-1"),
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "5,000 digits and half a character": b'{"a": "\\ud800", "b": ' + b"1" * 5000 + b"}",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_body_that_is_no_envelope(body: bytes) -> None:
    """Told as malformed, never raised, and nothing is read out of another encoding."""
    found = completion(body)
    assert found.trouble == "malformed"
    assert found.content == ""
    assert found.why


def test_every_cut_of_an_envelope_is_malformed() -> None:
    """Half an envelope is no answer at any byte."""
    data = json.dumps(envelope()).encode()
    assert {completion(data[:end]).trouble for end in range(len(data))} == {"malformed"}


def test_a_byte_order_mark_is_stripped() -> None:
    """UTF-8 with a mark is UTF-8."""
    assert completion(b"\xef\xbb\xbf" + json.dumps(envelope()).encode()).content == "text"


@pytest.mark.parametrize("content", ["", '{"categories": [', None])
def test_an_answer_that_was_cut(content: Any) -> None:
    """`length` is told, with the text that came before."""
    found = completion(envelope({"content": content}, "length"))
    assert found.trouble == "truncated"
    assert found.content == (content or "")


def test_a_filtered_answer() -> None:
    """What a filter let through is no answer."""
    assert completion(envelope({"content": "some"}, "content_filter")).trouble == "filtered"


@pytest.mark.parametrize("content", [None, "", "I will not"])
def test_a_refusal(content: Any) -> None:
    """Refused, with the reason, cut."""
    found = completion(envelope({"content": content, "refusal": "I cannot " * 100}))
    assert found.trouble == "refused"
    assert "I cannot" in found.why
    assert len(found.why) < 400


@pytest.mark.parametrize("refusal", [None, "", 5, []])
def test_no_refusal(refusal: Any) -> None:
    """The field alone refuses nothing."""
    assert completion(envelope({"content": "text", "refusal": refusal})).trouble == ""


def call(name: Any, arguments: Any = '{"categories": []}') -> dict[str, Any]:
    return {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize("name", STAGES)
def test_a_call_of_segkits_own_tool_is_an_answer(name: str) -> None:
    """Its arguments are the text, like that of any answer."""
    message = {"content": None, "tool_calls": [call("search"), call(name)]}
    assert completion(envelope(message, "tool_calls")).content == '{"categories": []}'


@pytest.mark.parametrize(
    "calls",
    [
        [call("search")],
        [call(None)],
        [call("extract_taxonomy", {"a": 1})],
        [{}],
        [None],
        [{"function": "x"}],
        {},
        "x",
        [],
    ],
)
def test_a_call_of_any_other_tool_is_none(calls: Any) -> None:
    """Nobody else's tool, and no arguments that are not text, are an answer."""
    assert completion(envelope({"content": None, "tool_calls": calls}, "tool_calls")).trouble == "empty"


@pytest.mark.parametrize(
    ("message", "content"),
    [
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "ab"),
        ({"content": [{"type": "output_text", "text": "a"}, {"type": "image_url", "text": "b"}, "c", None]}, "a"),
        ({"content": [{"type": "thinking", "text": "hm"}, {"type": "text", "text": "a"}]}, "a"),
        ({"content": [{"type": "text", "text": None}, {"type": "text"}, {"type": "text", "text": "a"}]}, "a"),
        ({"reasoning_content": "hm", "content": "a"}, "a"),
        ({"reasoning": "hm", "content": "a"}, "a"),
    ],
)
def test_parts_are_joined_and_reasoning_is_passed_over(message: Any, content: str) -> None:
    """The text of an answer is its text parts, in order."""
    assert completion(envelope(message)).content == content


@pytest.mark.parametrize(
    "message",
    [{"content": ""}, {"content": " \n"}, {"content": None}, {}, None or [], "text", {"content": 5}, {"content": []}],
)
def test_an_empty_answer(message: Any) -> None:
    """No text with `stop` is empty, and is told so."""
    assert completion(envelope(message)).trouble == "empty"


@pytest.mark.parametrize(
    ("indexes", "first"),
    [([1, 0], 1), ([2, 1], 1), ([0, 0], 0), ([None, 3], 0), (["a", 5], 0), ([3], 0), ([1, -1], 1)],
)
def test_the_first_choice_by_index(indexes: list[Any], first: int) -> None:
    """Several choices, in any order: the one with the lowest index."""
    choices = [{"index": index, "message": {"content": str(i)}} for i, index in enumerate(indexes)]
    assert completion(envelope(choices=choices)).content == str(first)


@pytest.mark.parametrize("usage", [None, "many", [], 5, {}, {"prompt_tokens": None}])
def test_missing_usage_is_unknown(usage: Any) -> None:
    """Unknown is None, never zero."""
    assert completion(envelope(usage=usage)).usage == Usage()
    without = envelope()
    del without["usage"]
    assert completion(without).usage == Usage()


@pytest.mark.parametrize("count", [-1, "100", 1.5, 1e30, True, None, [], {}, 10**30])
def test_a_count_that_is_none_is_unknown(count: Any) -> None:
    """Negative, text, fractions and numbers that no log can hold."""
    told = {**TOKENS, "prompt_tokens": count, "prompt_tokens_details": {"cached_tokens": count}}
    expected = Usage(input=None, cached=None, output=20, reasoning=5)
    assert completion(envelope(usage=told)).usage == expected
    # Half a character elsewhere sends the body through another parser.
    assert completion(envelope(usage=told, note="\ud800")).usage == expected


@pytest.mark.parametrize("details", [None, [], "x", {"cached_tokens": None}])
def test_missing_details_leave_the_rest(details: Any) -> None:
    """Each figure stands for itself."""
    told = {**TOKENS, "prompt_tokens_details": details, "completion_tokens_details": details}
    assert completion(envelope(usage=told)).usage == Usage(input=100, output=20)


@pytest.mark.parametrize("field", ["model", "id"])
@pytest.mark.parametrize("value", [None, 5, [], {}])
def test_odd_names_are_unknown(field: str, value: Any) -> None:
    """A model or request id that is no text is not told."""
    found = completion(envelope(**{field: value}))
    assert (found.model, found.request_id).count(None) == 1
    assert found.content == "text"


def test_half_a_character_anywhere_leaves_a_completion_that_can_be_logged() -> None:
    """The answer is read, and what goes into the log beside it can be stored."""
    body = envelope({"content": "ok \ud800"}, "st\ud800op", id="r\ud801", model="\udfffm")
    found = completion(body)
    assert found.content == "ok \ud800", "the text is judged later, as it is"
    orjson.dumps([found.finish_reason, found.model, found.request_id, found.why])
    refused = completion(envelope({"refusal": "no \ud800"}))
    assert refused.trouble == "refused"
    orjson.dumps(refused.why)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["choices", "usage", "model", "id"]), ANYTHING) | ANYTHING, st.randoms())
def test_any_json_is_read(value: Any, chance: random.Random) -> None:
    """No envelope raises; what has no text says what its trouble is."""
    if isinstance(value, dict) and chance.random() < 0.5:
        value["choices"] = [{"message": value.get("choices"), "finish_reason": value.get("model")}]
    found = completion(value)
    assert found.content.strip() or found.trouble


@given(st.binary(max_size=200))
def test_any_bytes_are_read(body: bytes) -> None:
    """Nor do any bytes."""
    assert completion(body).trouble or completion(body).content


def parameters(**changes: Any) -> Parameters:
    given = {"category": "Things", "model": "gpt-4o", "temperature": 0.2, "endpoint": "https://api.openai.com/v1"}
    return Parameters(**{**given, **changes})


OPENAI = shape_for("gpt-4o", "https://api.openai.com/v1")


def test_a_request_asks_under_the_schema_of_its_prompt() -> None:
    """The whole body that is sent, and nothing that the contract does not name."""
    asking = Prompt("Sort these.", {"type": "object"})
    assert OPENAI.body(asking, "extract_taxonomy", parameters(max_output_tokens=500), 3) == {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": "Sort these."}],
        "stream": False,
        "temperature": 0.2,
        "max_completion_tokens": 500,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "extract_taxonomy", "strict": True, "schema": {"type": "object"}},
        },
    }


@pytest.mark.parametrize("kind", ["json_object", "text"])
def test_a_server_without_schemas_is_asked_without(kind: str) -> None:
    """The format is the one that was chosen, and an unset temperature is left out."""
    asked = OPENAI.body(Prompt("x", {}), "extract_taxonomy", parameters(temperature=None, response_format=kind), 3)
    assert set(asked) == {"model", "messages", "stream", "max_completion_tokens", "response_format"}
    assert asked["response_format"] == {"type": kind}


@pytest.mark.parametrize(
    ("endpoint", "names"),
    [
        ("https://api.openai.com/v1", ("max_completion_tokens",)),
        ("https://eu.api.openai.com/v1", ("max_completion_tokens",)),
        ("https://mine.openai.azure.com/openai/v1", ("max_completion_tokens",)),
        ("https://api.mistral.ai/v1", ("max_tokens",)),
        ("https://notopenai.com/v1", ("max_tokens",)),
        ("http://127.0.0.1:8000/v1", ("max_completion_tokens", "max_tokens")),
        ("http://10.1.2.3:8000/v1", ("max_completion_tokens", "max_tokens")),
        ("http://ollama:11434/v1", ("max_completion_tokens", "max_tokens")),
    ],
)
def test_a_limit_has_the_name_that_its_endpoint_knows(endpoint: str, names: tuple[str, ...]) -> None:
    """Local servers know the one or the other and pass over the rest, so they get both."""
    assert shape_for("m", endpoint).limits == names
    assert shape_for("m", endpoint, "max_tokens").limits == ("max_tokens",)


def test_the_limit_grows_with_the_question_and_is_never_larger_than_what_is_reserved() -> None:
    sizes = [OPENAI.output_limit("extract_taxonomy", parameters(), items) for items in (1, 5, 40, 1000)]
    assert sizes == sorted(set(sizes))
    assert sizes[0] > 300
    assert sizes[-1] == LONGEST_ANSWER
    assert OPENAI.output_limit("extract_taxonomy", parameters(max_output_tokens=77), 1000) == 77
    assert (
        shape_for("o3-mini", "https://api.openai.com/v1").output_limit("extract_taxonomy", parameters(), 5) > sizes[1]
    )


BOTH = shape_for("m", "http://127.0.0.1:8000/v1")
SCHEMA = {
    "type": "object",
    "properties": {
        "maxItems": {"type": "array", "items": {"type": "string", "maxLength": 9}, "minItems": 1, "maxItems": 3},
        "kind": {"type": "string", "enum": [f"C_{i}" for i in range(40)]},
    },
}


@pytest.mark.parametrize(
    ("parameter", "text", "changed"),
    [
        ("output_limit", "max_completion_tokens: extra fields not permitted", {"limits": ("max_tokens",)}),
        ("output_limit", "'max_tokens' is unsupported, use 'max_completion_tokens'", {"limits": LIMIT_NAMES[:1]}),
        (
            "output_limit",
            "max_tokens is too large: this model gives at most 4096 completion tokens",
            {"ceiling": 4096},
        ),
        ("response_format", "'maxLength' is not permitted", {"without": frozenset({"maxLength"})}),
        ("response_format", "minItems and maxItems: unknown", {"without": frozenset({"minItems", "maxItems"})}),
        ("response_format", "the schema has too many states", {"slim": True}),
        ("stream", "stream is not known here", {"no_field": frozenset({"stream"})}),
        ("stream", "unknown field stream_options", {"no_field": frozenset({"stream_options"})}),
    ],
)
def test_what_an_endpoint_refuses_by_name_is_left_out(parameter: str, text: str, changed: dict[str, Any]) -> None:
    """Once: a second refusal in the same words is the user's to mend."""
    adapted = BOTH.adapted(parameter, text, keywords_in(text), 7000)
    assert adapted == replace(BOTH, **changed)
    if parameter not in ("output_limit", "stream"):
        assert adapted.adapted(parameter, text, keywords_in(text), 7000) is None


def test_a_limit_of_the_users_own_is_not_lowered() -> None:
    assert BOTH.adapted("output_limit", "max_tokens is too large: at most 4096", (), None) is None


def test_a_limit_is_left_out_where_neither_name_is_known() -> None:
    shape, seen = BOTH, []
    while shape.limits:
        shape = shape.adapted("output_limit", f"unknown field {shape.limits[0]}", (), 7000) or pytest.fail(str(shape))
        seen.append(shape.limits)
    assert seen == [("max_tokens",), ()]


def test_keywords_and_long_enums_are_left_out_of_a_schema_but_no_property_of_the_same_name() -> None:
    shape = replace(BOTH, without=frozenset({"maxItems", "maxLength"}), slim=True)
    asked = shape.body(Prompt("x", SCHEMA), "extract_taxonomy", parameters(), 3)
    assert asked["response_format"]["json_schema"]["schema"] == {
        "type": "object",
        "properties": {
            "maxItems": {"type": "array", "items": {"type": "string"}, "minItems": 1},
            "kind": {"type": "string"},
        },
    }


def asked_schema(shape: RequestShape, stage: str, prompt: Prompt) -> Any:
    body = shape.body(prompt, stage, parameters(), 3)
    return body["response_format"].get("json_schema", {}).get("schema")


def enums_in(schema: Any) -> list[list[str]]:
    if isinstance(schema, list):
        return [found for inner in schema for found in enums_in(inner)]
    if not isinstance(schema, dict):
        return []
    own = [schema["enum"]] if "enum" in schema else []
    return own + [found for inner in schema.values() for found in enums_in(inner)]


def ids(letter: str, count: int) -> list[str]:
    return [f"{letter}_{i}" for i in range(count)]


@pytest.mark.parametrize(
    ("products", "categories", "kept"),
    [
        (40, 25, [40, 26]),
        (400, 599, [400, 600]),
        (400, 600, [400]),
        (999, 300, [999]),
        (1001, 300, []),
    ],
)
def test_a_schema_stays_within_a_thousand_enum_values(products: int, categories: int, kept: list[int]) -> None:
    """The ids of categories are dropped first, then those of products; a schema at the limit keeps both."""
    schema = refine_schema(ids("P", products), ids("S", categories))
    text = "".join(f"\n[{name}] x" for name in (*ids("P", products), *ids("S", categories)))
    sent = asked_schema(shape_for("m", "https://api.example.com/v1"), "refine_assignments", Prompt(text, schema))
    assert [len(enum) for enum in enums_in(sent)] == kept
    assert len(enums_in(schema)) == 2, "the schema of the prompt itself is not changed"


@pytest.mark.parametrize(
    ("endpoint", "count", "is_asked"),
    [
        ("https://me.openai.azure.com/openai/v1", 80, True),
        ("https://me.openai.azure.com/openai/v1", 120, False),
        ("https://api.openai.com/v1", 120, True),
        ("https://api.openai.com/v1", 5100, False),
    ],
)
def test_what_has_too_many_properties_is_asked_without_a_schema(endpoint: str, count: int, is_asked: bool) -> None:
    text = "".join(f"\n[{name}] x" for name in ids("A", count))
    prompt, shape = Prompt(text, consolidate_schema(ids("A", count))), shape_for("m", endpoint)
    assert (asked_schema(shape, "consolidate_taxonomy", prompt) is not None) == is_asked
    assert shape.has_too_many_properties(prompt, parameters()) != is_asked


TEXT = '{"reassignments": []}'
DELTAS = [{"role": "assistant"}, {"content": TEXT[:9]}, {"reasoning_content": "hm"}, {"content": TEXT[9:]}]
STREAMS = {
    "deltas": [{"model": "m", "choices": [{"index": 0, "delta": delta}]} for delta in DELTAS]
    + [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, {"choices": [], "usage": TOKENS}],
    "whole": [{"model": "m", "choices": [{"delta": {"content": TEXT}, "finish_reason": "stop"}], "usage": TOKENS}],
    "parts": [{"model": "m", "choices": [{"delta": {"content": [{"type": "text", "text": TEXT}]}}], "usage": TOKENS}],
}


@pytest.mark.parametrize("chunks", STREAMS.values(), ids=STREAMS)
@pytest.mark.parametrize("line", ["data: {}\n\n", "event: message\r\ndata: {}\r\n\r\n", ": ping\n\ndata: {}\n\n"])
def test_a_stream_is_read_like_a_whole_answer(chunks: list[dict[str, Any]], line: str) -> None:
    body = "".join(line.format(json.dumps(chunk)) for chunk in chunks) + "data: [DONE]\n\n"
    found = read_completion(body.encode())
    assert (found.content, found.trouble, found.model, found.usage.input) == (TEXT, "", "m", 100)


def test_a_stream_of_lines_of_json_is_read() -> None:
    """As Ollama sends it outside of its OpenAI-compatible door."""
    lines = [{"model": "m", "message": {"content": TEXT[:5]}, "done": False}]
    lines += [{"model": "m", "message": {"content": TEXT[5:]}, "done": True, "done_reason": "stop"}]
    assert read_completion("\n".join(map(json.dumps, lines)).encode()).content == TEXT


def test_a_stream_that_breaks_off_is_no_answer() -> None:
    chunk = json.dumps({"choices": [{"index": 0, "delta": {"content": TEXT}}]})
    found = read_completion(f"data: {chunk}\n\n".encode())
    assert (found.trouble, found.content) == ("malformed", "")
    assert "the stream breaks off" in found.why


@pytest.mark.parametrize(
    ("message", "content"),
    [
        ({"content": {"reassignments": []}}, TEXT),
        ({"content": [TEXT]}, TEXT),
        ({"content": [TEXT[:4], TEXT[4:]]}, TEXT),
        ({"content": [{"type": "output_text", "text": {"value": TEXT}}]}, TEXT),
        ({"content": None, "function_call": {"name": "refine_assignments", "arguments": TEXT}}, TEXT),
        ({"content": None, "function_call": {"name": "other", "arguments": TEXT}}, ""),
        ({"content": None, "parsed": {"reassignments": []}}, TEXT),
    ],
)
def test_an_answer_in_another_place_of_the_message_is_found(message: dict[str, Any], content: str) -> None:
    assert completion(envelope(message)).content == content


@pytest.mark.parametrize("place", ["reasoning_content", "reasoning", "thinking"])
def test_an_answer_among_the_thoughts_is_reported_and_not_taken(place: str) -> None:
    found = completion(envelope({"content": None, place: TEXT}))
    assert (found.content, found.trouble) == ("", "empty")
    assert f"all text stands in {place}" in found.why
