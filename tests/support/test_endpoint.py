"""The fake endpoint keeps the contract, its ledger and its word about faults, as the real client sees it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from http.client import HTTPConnection, IncompleteRead, RemoteDisconnected
from pathlib import Path
from typing import Any

import openai
import pytest
from endpoint import Endpoint
from endpoint_faults import FAULTS

pytestmark = pytest.mark.long

EXTRACT_PROMPT = """Sort these.
[P_0] Rotary dimmer switch
[P_1] Slide Dimmer SWITCH, 600 W
[P_2] Ceiling fan control 2-pack
[P_3] An unrelated beach towel
"""
CONSOLIDATE_PROMPT = """Merge these.
[A_0] Dimmers: Dims light, e.g. a dimmer
[A_1] Fan Controls: Turns fans
[B_0]  DIMMERS: Also dims light
"""
REFINE_PROMPT = """Look again.
[S_0] Dimmers: Dims light
[S_1] Fan Controls: Turns fans
[P_0] A dimmer → S_0 (Dimmers)
[P_1] moveme please → S_0 (Dimmers)
[P_2] moveme is there → S_1 (Fan Controls)
"""
STAGES = ("extract_taxonomy", "consolidate_taxonomy", "refine_assignments")
PROMPTS = dict(zip(STAGES, (EXTRACT_PROMPT, CONSOLIDATE_PROMPT, REFINE_PROMPT), strict=True))


@pytest.fixture(scope="module")
def started() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        yield endpoint


@pytest.fixture
def endpoint(started: Endpoint) -> Endpoint:
    started.reset()
    return started


def with_client(endpoint: Endpoint, work: Callable[[openai.AsyncOpenAI], Awaitable[Any]], **options: Any) -> Any:
    """Run some work with a real client whose own retries are off."""

    async def run() -> Any:
        given = {"api_key": "sk-test", "timeout": 5, **options}
        async with openai.AsyncOpenAI(base_url=endpoint.url, max_retries=0, **given) as client:
            return await work(client)

    return asyncio.run(run())


def ask(endpoint: Endpoint, prompt: str = EXTRACT_PROMPT, schema: dict | None = None, **options: Any) -> Any:
    """One completion, as the client gives it."""
    extra: dict[str, Any] = {"response_format": schema} if schema else {}
    messages = [{"role": "system", "content": "You sort."}, {"role": "user", "content": prompt}]
    return with_client(
        endpoint, lambda client: client.chat.completions.create(model="gpt-4o", messages=messages, **extra), **options
    )


def answer(endpoint: Endpoint, prompt: str = EXTRACT_PROMPT, schema: dict | None = None) -> dict[str, Any]:
    """The JSON in the content of one completion."""
    return json.loads(ask(endpoint, prompt, schema).choices[0].message.content)


def raw(endpoint: Endpoint, prompt: str = EXTRACT_PROMPT, timeout: float = 5.0) -> tuple[int, dict[str, str], bytes]:
    """One request without a client between: status, headers and body as sent."""
    connection = HTTPConnection("127.0.0.1", endpoint.port, timeout=timeout)
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": prompt}]}
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"authorization": "Bearer sk-raw"})
        response = connection.getresponse()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
    finally:
        connection.close()


def content_of(endpoint: Endpoint, fault: str, stage: str, **chosen: Any) -> str:
    """The content that a fault makes of the right answer to a stage's prompt."""
    endpoint.queue(fault, **chosen)
    return json.loads(raw(endpoint, PROMPTS[stage])[2])["choices"][0]["message"]["content"]


def extract_schema(ids: list[str]) -> dict[str, Any]:
    """A response format that spells out the ids, as the contract wants it."""
    placed = {"type": "object", "properties": {"category": {"type": "string"}, "confidence": {"type": "number"}}}
    named = {"type": "object", "properties": {key: {"type": "string"} for key in ("id", "name", "definition")}}
    shape = {
        "categories": {"type": "array", "items": {**named, "required": ["id", "name", "definition"]}},
        "assignments": {
            "type": "object",
            "properties": {local_id: {"$ref": "#/$defs/placed"} for local_id in ids},
            "required": ids,
            "additionalProperties": False,
        },
    }
    schema = {"type": "object", "properties": shape, "required": list(shape), "$defs": {"placed": placed}}
    return {"type": "json_schema", "json_schema": {"name": "extract_taxonomy", "strict": True, "schema": schema}}


# --- right answers ---------------------------------------------------------------------------------


def test_extract_groups_by_last_word(endpoint: Endpoint) -> None:
    got = answer(endpoint)
    assert [c["id"] for c in got["categories"]] == ["C_0", "C_1", "C_2"]
    assert [c["name"] for c in got["categories"]] == ["Switchs", "Ws", "Packs"]
    assert "e.g. Rotary dimmer switch" in got["categories"][0]["definition"]
    assert got["assignments"]["P_0"] == {"category": "C_0", "confidence": 0.9}
    assert got["assignments"]["P_3"]["category"] == "OUT_OF_SCOPE"


def test_extract_names_at_most_eight_categories(endpoint: Endpoint) -> None:
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "Lambda", "mu"]
    prompt = "\n".join(f"[P_{i}] A {word}" for i, word in enumerate(words))
    got = answer(endpoint, prompt)
    assert len(got["categories"]) == 8
    assert set(got["assignments"]) == {f"P_{i}" for i in range(len(words))}
    assert {a["category"] for a in got["assignments"].values()} == {c["id"] for c in got["categories"]}


def test_consolidate_merges_equal_names(endpoint: Endpoint) -> None:
    got = answer(endpoint, CONSOLIDATE_PROMPT)
    assert got["members"] == {"A_0": "M_0", "A_1": "M_1", "B_0": "M_0"}
    assert [c["name"] for c in got["categories"]] == ["Dimmers", "Fan Controls"]


def test_consolidate_keeps_at_most_forty_and_knows_its_stage_by_a_0(endpoint: Endpoint) -> None:
    letters = "ABCDEFGHIJKLMNOPQRST"
    prompt = "\n".join(f"[{letter}_{i}] {letter}{i} things: d" for letter in letters for i in range(3))
    got = answer(endpoint, prompt)
    assert endpoint.ledger()[0]["stage"] == "consolidate_taxonomy"
    assert (len(got["members"]), len(got["categories"])) == (60, 40)
    assert set(got["members"].values()) == {c["id"] for c in got["categories"]}


def test_refine_moves_what_asks_for_it(endpoint: Endpoint) -> None:
    assert answer(endpoint, REFINE_PROMPT)["reassignments"] == [
        {"product": "P_1", "category": "S_1", "confidence": 0.9}
    ]


def test_a_schema_that_lists_fewer_ids_is_obeyed(endpoint: Endpoint) -> None:
    prompt = EXTRACT_PROMPT + "\nNamed already:\n[C_4] Switchs: known\n"
    got = answer(endpoint, prompt, extract_schema(["P_0", "P_2"]))
    assert {i: a["category"] for i, a in got["assignments"].items()} == {"P_0": "C_4", "P_2": "C_5"}
    entry = endpoint.ledger()[0]
    assert (entry["schema_ok"], entry["asked"]) == (True, ["P_0", "P_2"])
    assert entry["ids"] == ["P_0", "P_1", "P_2", "P_3", "C_4"]


def test_a_schema_that_the_right_answer_breaks_is_told(endpoint: Endpoint) -> None:
    schema = extract_schema(["P_0"])
    schema["json_schema"]["schema"]["properties"]["categories"]["maxItems"] = 0
    answer(endpoint, EXTRACT_PROMPT, schema)
    assert endpoint.ledger()[0]["schema_ok"] is False


def test_usage_counts_four_characters_a_token(endpoint: Endpoint) -> None:
    got = ask(endpoint)
    assert got.usage.completion_tokens == -(-len(got.choices[0].message.content) // 4)
    assert got.usage.prompt_tokens == pytest.approx(len(EXTRACT_PROMPT) / 4, abs=5)
    assert got.usage.prompt_tokens_details.cached_tokens == 0


# --- ledger ----------------------------------------------------------------------------------------


def test_ledger_tells_each_request_and_never_the_key(endpoint: Endpoint) -> None:
    before = time.monotonic()
    ask(endpoint, api_key="sk-canary-77")
    ask(endpoint, REFINE_PROMPT)
    first, second = endpoint.ledger()
    assert (first["n"], first["method"], first["path"]) == (1, "POST", "/v1/chat/completions")
    assert (first["model"], first["stage"], first["status"]) == ("gpt-4o", "extract_taxonomy", 200)
    assert (first["fault"], first["finished"], first["authorized"]) == (None, True, True)
    assert first["headers"]["content-type"] == "application/json"
    assert before < first["monotonic"] < second["monotonic"] < time.monotonic()
    assert first["sha256"] != second["sha256"]
    assert endpoint.count() == 2
    assert endpoint.count("refine_assignments") == 1
    assert endpoint.bodies()[1]["messages"][1]["content"] == REFINE_PROMPT
    assert "sk-canary-77" not in json.dumps([endpoint.ledger(), endpoint.bodies()])


def test_reset_forgets_and_goes_back_to_the_first_options() -> None:
    with Endpoint(faults=["500"], keep_bodies=False) as endpoint:
        for _ in range(2):
            assert [raw(endpoint)[0] for _ in range(2)] == [500, 200]
            assert endpoint.bodies() == [None, None]
            endpoint.queue("503")
            endpoint.reset()
            assert (endpoint.count(), endpoint.ledger(), endpoint.queued()) == (0, [], 1)


def test_only_the_configured_key_is_let_in(endpoint: Endpoint) -> None:
    endpoint.configure(api_key="sk-right")
    with pytest.raises(openai.AuthenticationError):
        ask(endpoint)
    ask(endpoint, api_key="sk-right")
    assert [(e["authorized"], e["status"]) for e in endpoint.ledger()] == [(False, 401), (True, 200)]


def test_in_flight_peak_and_order_under_latency(endpoint: Endpoint) -> None:
    endpoint.configure(latency=0.3)

    async def many(client: openai.AsyncOpenAI) -> None:
        messages = [{"role": "user", "content": EXTRACT_PROMPT}]
        await asyncio.gather(*(client.chat.completions.create(model="m", messages=messages) for _ in range(12)))

    with_client(endpoint, many)
    assert (endpoint.in_flight_peak(), endpoint.in_flight()) == (12, 0)
    assert all(entry["seconds"] >= 0.299 for entry in endpoint.ledger())


# --- how faults are chosen -------------------------------------------------------------------------


def test_queue_is_first_in_first_out_and_minds_stage_and_text(endpoint: Endpoint) -> None:
    endpoint.queue("503", stage="refine_assignments")
    endpoint.queue("502", contains="beach TOWEL")
    endpoint.queue("500", times=2)
    asked = [REFINE_PROMPT, CONSOLIDATE_PROMPT, EXTRACT_PROMPT, CONSOLIDATE_PROMPT, EXTRACT_PROMPT]
    assert [raw(endpoint, prompt)[0] for prompt in asked] == [503, 500, 502, 500, 200]
    assert [entry["fault"] for entry in endpoint.ledger()] == ["503", "500", "502", "500", None]


def test_a_rule_stays_and_the_queue_goes_before_it(endpoint: Endpoint) -> None:
    endpoint.rule("drop_id", contains="ceiling fan")
    endpoint.rule("500", stage="refine_assignments", times=1)
    endpoint.queue("ok")
    kept = [sorted(answer(endpoint)["assignments"]) for _ in range(3)]
    assert kept == [["P_0", "P_1", "P_2", "P_3"], ["P_0", "P_1", "P_3"], ["P_0", "P_1", "P_3"]]
    assert [raw(endpoint, REFINE_PROMPT)[0] for _ in range(2)] == [500, 200]


def test_rates_hang_on_seed_and_body_and_not_on_order(endpoint: Endpoint) -> None:
    prompts = [f"[P_0] thing number {i}" for i in range(60)]

    def statuses(asked: list[str]) -> dict[str, int]:
        endpoint.reset()
        endpoint.configure(rates={"500": 0.3, "429": {"rate": 0.1, "retry_after": "0"}}, seed=7)
        return {prompt: raw(endpoint, prompt)[0] for prompt in asked}

    first = statuses(prompts)
    assert statuses(prompts[::-1]) == first
    counts = Counter(first.values())
    assert 8 <= counts[500] <= 28
    assert 1 <= counts[429] <= 14
    assert counts[200] == 60 - counts[500] - counts[429]


def test_limits_refuse_beyond_a_sliding_window(endpoint: Endpoint) -> None:
    endpoint.configure(limits={"requests_per_minute": 3, "seconds": 2.0})
    assert [raw(endpoint)[0] for _ in range(4)] == [200, 200, 200, 429]
    assert endpoint.ledger()[3]["fault"] == "limit"
    time.sleep(2)
    assert raw(endpoint)[0] == 200


def test_unknown_faults_and_parameters_are_refused_at_once(endpoint: Endpoint) -> None:
    with pytest.raises(ValueError, match="no fault is named '430'"):
        endpoint.queue("430")
    with pytest.raises(TypeError):
        endpoint.queue("429", retryafter="7")
    with pytest.raises(ValueError, match="unknown options"):
        endpoint.configure(latencies=3)


# --- the faults on the wire ------------------------------------------------------------------------

STATUSES = [
    ("400", openai.BadRequestError, "invalid_value"),
    ("context_length", openai.BadRequestError, "context_length_exceeded"),
    ("response_format", openai.BadRequestError, "unsupported_parameter"),
    ("401", openai.AuthenticationError, "invalid_api_key"),
    ("403", openai.PermissionDeniedError, "unsupported_country_region_territory"),
    ("404", openai.NotFoundError, "model_not_found"),
    ("408", openai.APIStatusError, None),
    ("409", openai.ConflictError, None),
    ("413", openai.APIStatusError, "request_too_large"),
    ("422", openai.UnprocessableEntityError, None),
    ("429", openai.RateLimitError, "rate_limit_exceeded"),
    ("credit_balance_exhausted", openai.RateLimitError, "credit_balance_exhausted"),
    ("429_text", openai.RateLimitError, None),
    ("500", openai.InternalServerError, None),
    ("502", openai.InternalServerError, None),
    ("503", openai.InternalServerError, None),
    ("529", openai.InternalServerError, None),
]


@pytest.mark.parametrize(("name", "error", "code"), STATUSES, ids=[name for name, *_ in STATUSES])
def test_refusals_reach_the_client_as_named(endpoint: Endpoint, name: str, error: type, code: str | None) -> None:
    endpoint.queue(name)
    with pytest.raises(error) as caught:
        ask(endpoint)
    assert caught.value.code == code
    assert (
        caught.value.status_code
        == endpoint.ledger()[0]["status"]
        == (int(name) if name.isdigit() else caught.value.status_code)
    )


@pytest.mark.parametrize("wish", ["7", "-1", "NaN", "1e400", "Wed, 21 Oct 2015 07:28:00 GMT", "soon", ""])
def test_retry_after_says_what_it_was_told(endpoint: Endpoint, wish: str) -> None:
    endpoint.queue("429", retry_after=wish, retry_after_ms="1500", headers={"x-ratelimit-reset-requests": "1s"})
    status, headers, _ = raw(endpoint)
    got = headers["retry-after"], headers["retry-after-ms"], headers["x-ratelimit-reset-requests"]
    assert (status, *got) == (429, wish, "1500", "1s")


def test_quota_is_told_by_type_and_both_can_be_given(endpoint: Endpoint) -> None:
    endpoint.queue("insufficient_quota")
    endpoint.queue("429", type="credit_balance_exhausted", code="insufficient_quota")
    errors = [json.loads(raw(endpoint)[2])["error"] for _ in range(2)]
    assert [(e["type"], e["code"]) for e in errors] == [
        ("insufficient_quota", None),
        ("credit_balance_exhausted", "insufficient_quota"),
    ]


@pytest.mark.parametrize(
    ("name", "error", "status"),
    [
        ("reset", ConnectionResetError, None),
        ("close", RemoteDisconnected, None),
        ("hang", TimeoutError, None),
        ("cut", IncompleteRead, 200),
    ],
)
def test_connections_break_as_named(endpoint: Endpoint, name: str, error: type, status: int | None) -> None:
    endpoint.queue(name)
    with pytest.raises(error):
        raw(endpoint, timeout=0.5 if name == "hang" else 60)
    while endpoint.in_flight():
        time.sleep(0.01)
    entry = endpoint.ledger()[0]
    assert (entry["fault"], entry["finished"], entry["status"]) == (name, False, status)


def test_cut_can_end_with_a_reset(endpoint: Endpoint) -> None:
    endpoint.queue("cut", fraction=0.25, reset=True)
    with pytest.raises((ConnectionResetError, IncompleteRead)):
        raw(endpoint)


def test_drip_and_slow_take_their_time(endpoint: Endpoint) -> None:
    endpoint.queue("drip", interval=0.01, step=40)
    endpoint.queue("slow", seconds=0.2)
    bodies = [json.loads(raw(endpoint)[2])["choices"][0]["message"]["content"] for _ in range(6)]
    assert len(set(bodies)) == 1
    drip, slow, *usual = (entry["seconds"] for entry in endpoint.ledger())
    assert drip > 0.1
    assert slow >= 0.199
    assert min(usual) < 0.1


def test_a_hanging_client_timeout_is_seen_as_unfinished(endpoint: Endpoint) -> None:
    endpoint.queue("hang")
    with pytest.raises(openai.APITimeoutError):
        ask(endpoint, timeout=0.3)
    ask(endpoint)
    assert [entry["finished"] for entry in endpoint.ledger()] == [False, True]


def test_odd_envelopes(endpoint: Endpoint) -> None:
    endpoint.configure(faults=["choices_empty", "choices_missing", "error_200", "choices_many", "content_empty"])
    empty, missing, error, many, silent = (json.loads(raw(endpoint)[2]) for _ in range(5))
    assert empty["choices"] == []
    assert "choices" not in missing
    assert error.keys() == {"error"}
    assert [choice["index"] for choice in many["choices"]] == [2, 0, 1]
    assert silent["choices"][0]["message"]["content"] == ""


def test_odd_bodies(endpoint: Endpoint) -> None:
    endpoint.configure(faults=["html", "truncated_envelope", "redirect", {"name": "huge", "megabytes": 2}])
    (_, head, page), (_, _, half), (moved, target, _), (_, _, huge) = (raw(endpoint) for _ in range(4))
    assert head["content-type"] == "text/html"
    assert page.startswith(b"<!doctype html>")
    with pytest.raises(json.JSONDecodeError):
        json.loads(half)
    assert (moved, target["location"].split(":")[1]) == (307, "//localhost")
    assert len(huge) > 2 << 20
    assert json.loads(huge)["choices"]


def test_a_followed_redirect_stands_in_the_ledger(endpoint: Endpoint) -> None:
    endpoint.queue("redirect")
    ask(endpoint)
    assert [entry["path"] for entry in endpoint.ledger()] == [
        "/v1/chat/completions",
        "/v1/elsewhere/chat/completions",
    ]


def test_gzip_bomb_is_small_on_the_wire(endpoint: Endpoint) -> None:
    endpoint.queue("gzip_bomb", megabytes=8)
    endpoint.queue("gzip_bomb", megabytes=8)
    _, headers, body = raw(endpoint)
    assert (headers["content-encoding"], len(body) < 100_000) == ("gzip", True)
    assert len(ask(endpoint).choices[0].message.content) > 8 << 20


def test_odd_messages(endpoint: Endpoint) -> None:
    right = content_of(endpoint, "ok", "extract_taxonomy")
    endpoint.configure(faults=["content_parts", "reasoning", "think", "refusal", "content_filter", "tool_calls"])
    choices = [json.loads(raw(endpoint)[2])["choices"][0] for _ in range(6)]
    parts, reasoning, think, refusal, filtered, tool = (choice["message"] for choice in choices)
    assert "".join(part["text"] for part in parts["content"]) == reasoning["content"] == right
    assert reasoning["reasoning_content"]
    assert think["content"].startswith("<think>")
    assert think["content"].endswith(right)
    assert (refusal["content"], bool(refusal["refusal"])) == (None, True)
    assert (filtered["content"], choices[4]["finish_reason"]) == ("", "content_filter")
    called = tool["tool_calls"][0]["function"]
    assert (called["name"], called["arguments"]) == ("extract_taxonomy", right)


def test_length_cuts_where_told(endpoint: Endpoint) -> None:
    right = content_of(endpoint, "ok", "extract_taxonomy")
    assert content_of(endpoint, "length", "extract_taxonomy", at=17) == right[:17]
    assert content_of(endpoint, "truncated", "extract_taxonomy", fraction=0.5) == right[: len(right) // 2]
    endpoint.queue("length")
    assert ask(endpoint).choices[0].finish_reason == "length"


def test_odd_usage(endpoint: Endpoint) -> None:
    endpoint.configure(faults=["usage_missing", "usage_null", "usage_negative", "usage_string", "other_model"])
    missing, null, negative, text, other = (json.loads(raw(endpoint)[2]) for _ in range(5))
    assert "usage" not in missing
    assert null["usage"] is None
    assert negative["usage"]["prompt_tokens"] < 0
    assert text["usage"]["prompt_tokens"] == "many"
    assert other["model"] != "gpt-4o"


# --- bad answers -----------------------------------------------------------------------------------


def test_text_around_the_answer(endpoint: Endpoint) -> None:
    right = content_of(endpoint, "ok", "extract_taxonomy")
    assert content_of(endpoint, "fence", "extract_taxonomy") == f"```json\n{right}\n```"
    assert content_of(endpoint, "fence_open", "extract_taxonomy") == f"```json\n{right}"
    assert right in content_of(endpoint, "prose", "extract_taxonomy")[5:-5]


@pytest.mark.parametrize("stage", STAGES)
def test_placements_are_spoiled_in_every_stage(endpoint: Endpoint, stage: str) -> None:
    letter = {"extract_taxonomy": "C", "consolidate_taxonomy": "M", "refine_assignments": "S"}[stage]
    assert "_9999" in content_of(endpoint, "invent_id", stage)
    assert f"{letter}_9999" in content_of(endpoint, "unknown_category", stage)
    assert "p_0" in content_of(endpoint, "rename_id", stage)
    assert "_100" in content_of(endpoint, "other_batch", stage)
    assert isinstance(json.loads(content_of(endpoint, "list", stage)), list)
    with pytest.raises(json.JSONDecodeError):
        json.loads(content_of(endpoint, "not_json", stage))


def test_drop_id_takes_a_count_a_share_or_a_title(endpoint: Endpoint) -> None:
    def left(**chosen: Any) -> list[str]:
        return list(json.loads(content_of(endpoint, "drop_id", "extract_taxonomy", **chosen))["assignments"])

    assert left() == ["P_0", "P_1", "P_2"]
    assert left(count=3) == ["P_0"]
    assert left(share=0.5) == ["P_0", "P_1"]
    assert left(contains="dimmer") == ["P_2", "P_3"]


def test_an_id_stands_twice(endpoint: Endpoint) -> None:
    text = content_of(endpoint, "duplicate_key", "extract_taxonomy", contains="Rotary")
    pairs = [dict(value) for key, value in pairs_of(text, "assignments") if key == "P_0"]
    assert [pair["category"] for pair in pairs] == ["C_1", "C_0"]
    text = content_of(endpoint, "repeat_id", "consolidate_taxonomy", contains="Fan")
    assert [value for key, value in pairs_of(text, "members") if key == "A_1"] == ["M_1", "M_1"]
    moved = json.loads(content_of(endpoint, "duplicate_key", "refine_assignments"))["reassignments"]
    assert len({entry["category"] for entry in moved if entry["product"] == "P_2"}) == 2


def pairs_of(text: str, key: str) -> list[tuple[str, Any]]:
    """The pairs of an inner object, repeated keys included."""
    return dict(json.loads(text, object_pairs_hook=list))[key]


@pytest.mark.parametrize("stage", STAGES[:2])
def test_names_are_spoiled(endpoint: Endpoint, stage: str) -> None:
    def names(fault: str) -> list[str]:
        return [entry["name"] for entry in json.loads(content_of(endpoint, fault, stage))["categories"]]

    folded = [" ".join(name.casefold().split()) for name in names("duplicate_names")]
    assert len(folded) == len(set(folded)) + 1
    assert names("name_empty")[0] == ""
    assert names("name_other")[0] == "Other"
    assert len(names("name_long")[0]) == 300
    assert "\x00" in names("name_nul")[0]
    assert "\u202e" in names("name_bidi")[0]


@pytest.mark.parametrize("stage", STAGES)
def test_values_no_writer_would_write(endpoint: Endpoint, stage: str) -> None:
    assert "NaN" in content_of(endpoint, "nan", stage)
    assert r"\ud800" in content_of(endpoint, "surrogate", stage)
    assert "9" * 5_000 in content_of(endpoint, "big_int", stage)
    assert "[" * 100_000 in content_of(endpoint, "deep_nesting", stage)


def test_a_fault_without_meaning_leaves_the_right_answer(endpoint: Endpoint) -> None:
    assert content_of(endpoint, "name_empty", "refine_assignments") == content_of(
        endpoint, "ok", "refine_assignments"
    )
    assert [(e["fault"], e["skipped"]) for e in endpoint.ledger()] == [(None, "name_empty"), (None, None)]
    assert json.loads(content_of(endpoint, "confidence_high", "extract_taxonomy"))["assignments"]["P_3"] == {
        "category": "OUT_OF_SCOPE",
        "confidence": "high",
    }


@pytest.mark.parametrize("name", sorted(FAULTS.keys() - {"hang", "gzip_bomb", "huge", "drip", "slow"}))
def test_no_fault_breaks_the_endpoint(endpoint: Endpoint, name: str) -> None:
    """Every fault is told in the ledger, for every stage and for a prompt of none, and the next request passes."""
    needed = {"content": {"text": "x"}, "body": {"text": "x"}, "choices": {"choices": 3}, "usage": {"value": 3}}
    needed |= {fault: {"text": "x"} for fault in ("name", "definition", "raw_value")}
    needed |= {"confidence": {"value": 3}, "reply": {"body": {}}}
    for prompt in [*PROMPTS.values(), "Are you there?"]:
        endpoint.queue(name, **needed.get(name, {}))
        try:
            raw(endpoint, prompt)
        except (OSError, IncompleteRead):
            assert name in {"reset", "close", "cut"}
        entry = endpoint.ledger()[-1]
        assert name == "ok" or name in (entry["fault"], entry["skipped"])
    assert raw(endpoint)[0] == 200


# --- the process -----------------------------------------------------------------------------------


def test_plain_mode_answers_a_constant_body() -> None:
    with Endpoint(fixed_answer_bytes=1024) as endpoint:
        assert len(raw(endpoint)[2]) == 1024
        assert answer(endpoint, REFINE_PROMPT) == {"reassignments": []}
        assert [entry["status"] for entry in endpoint.ledger()] == [200, 200]


def test_plain_mode_keeps_its_latency_for_512_connections() -> None:
    async def one(port: int) -> float:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        begun = time.monotonic()
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}")
        await reader.readuntil(b"\r\n\r\n")
        writer.close()
        return time.monotonic() - begun

    async def all_of_them(port: int) -> list[float]:
        return await asyncio.gather(*(one(port) for _ in range(512)))

    with Endpoint(fixed_answer_bytes=1024, latency=0.5) as endpoint:
        taken = asyncio.run(all_of_them(endpoint.port))
        inside = [entry["seconds"] for entry in endpoint.ledger()]
    assert min(taken) >= 0.499
    assert min(inside) < 0.6, "it adds nothing of its own; the machine may"


def test_pipelined_requests_are_answered_in_order(endpoint: Endpoint) -> None:
    async def both() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", endpoint.port)
        wire = b"GET /v1/models HTTP/1.1\r\n\r\nGET /v1/nothing HTTP/1.1\r\n\r\n"
        writer.write(wire[:30])
        await asyncio.sleep(0.05)
        writer.write(wire[30:])
        await asyncio.sleep(0.2)
        got = await reader.read(10_000)
        writer.close()
        return got

    endpoint.configure(latency=0.01)
    got = asyncio.run(both())
    assert got.index(b"200 OK") < got.index(b"404 Not Found")


def test_endpoint_ends_with_its_parent() -> None:
    code = "from endpoint import Endpoint; import time; e = Endpoint().__enter__(); print(e.process.pid, flush=True)"
    parent = subprocess.Popen(
        [sys.executable, "-c", f"{code}; time.sleep(60)"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent,
    )
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 5
    while alive(child):
        assert time.monotonic() < end, "the endpoint outlived its parent"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not yet collected does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
