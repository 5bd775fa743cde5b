"""Answers that come token by token: over real HTTP, with all that streams of real servers do."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from catalogues import KEY
from endpoint import Endpoint

from segkit.errors import SettingsError
from segkit.llm.completions import read_completion
from segkit.llm.transports.base import LostError
from segkit.llm.transports.stream import Deadlines, IncomingAnswer, joined_stream, nobody, whole_body
from segkit.pipeline.parameters import change_requests
from segkit.pipeline.prepare import prepare_run
from segkit.pipeline.stages import consolidate_taxonomy, extract_taxonomy
from segkit.runs.events import read_events
from segkit.runs.interactions import Interaction, intents, scan
from segkit.runs.run import Run, open_run
from segkit.runs.status import as_status
from segkit.settings import load_settings

NewRun = Callable[..., Run]
STAGE = "extract_taxonomy"


def reasons(run: Run) -> set[str]:
    extract_taxonomy(run)
    return set(run.result("batch_assignments")["reason"])


def logs(run: Run) -> list[Interaction]:
    found, damaged = scan(run.stage_folder(STAGE))
    assert not damaged
    assert not intents(run.stage_folder(STAGE))
    return found


def outcomes(run: Run) -> list[str]:
    return sorted(log.metadata["outcome"] for log in logs(run))


def asked_once(endpoint: Endpoint) -> bool:
    return max(Counter(entry["sha256"] for entry in endpoint.ledger()).values()) == 1


# --- which requests ask for a stream --------------------------------------------------------------------------


def streams(endpoint: Endpoint) -> list[Any]:
    return [(body or {}).get("stream") for body in endpoint.bodies()]


def test_servers_of_ones_own_are_asked_for_streams(endpoint: Endpoint, new_run: NewRun) -> None:
    """The log holds the whole answer, its usage and its cost, as without a stream."""
    run = new_run(6)
    assert reasons(run) == {""}
    (body,) = endpoint.bodies()
    assert body is not None
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})
    (log,) = logs(run)
    kept = json.loads(log.body)
    assert kept["choices"][0]["message"]["content"] == log.log["response"]
    assert kept["choices"][0]["finish_reason"] == "stop"
    usage = kept["usage"]
    facts = log.metadata
    assert (facts["usage"]["input"], facts["usage"]["output"]) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert float(facts["cost_usd"]) > 0
    assert facts["outcome"] == "valid"


@pytest.mark.parametrize("chosen", ["setting", "parameter", "resume"])
def test_streams_can_be_turned_off(
    chosen: str, endpoint: Endpoint, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the setting, for one run, and for one that goes on; what was chosen is kept in `run.json`."""
    if chosen == "setting":
        monkeypatch.setenv("SEGKIT_STREAM", "0")
    run = new_run(6, **({"stream": "false"} if chosen == "parameter" else {}))
    if chosen == "resume":
        run = change_requests(run, load_settings(), stream=False)
        assert run.document["request_changes"][0]["to"] == {"stream": False}
    assert reasons(open_run(run.id, run.folder.parent)) == {""}
    assert streams(endpoint) == [False]


def test_a_choice_of_a_run_outlives_the_settings(
    endpoint: Endpoint, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(6, stream=True)
    monkeypatch.setenv("SEGKIT_STREAM", "0")
    assert reasons(run) == {""}
    assert streams(endpoint) == [True]


def test_a_choice_that_is_none_is_refused(new_run: NewRun) -> None:
    with pytest.raises(SettingsError, match="stream is 'perhaps'"):
        prepare_run("sample", model="offline", stream="perhaps")


def test_answers_of_a_stream_are_in_the_cache_of_all(
    endpoint: Endpoint, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reasons(new_run(6)) == {""}
    monkeypatch.setenv("SEGKIT_STREAM", "0")
    assert reasons(new_run(6)) == {""}
    assert endpoint.count() == 1


def test_an_endpoint_that_refuses_streams_is_asked_once(endpoint: Endpoint, new_run: NewRun) -> None:
    """The run remembers it, also in its later stages."""
    endpoint.configure(streams=False)
    run = new_run(12)
    assert reasons(run) == {""}
    consolidate_taxonomy(run)
    assert streams(endpoint) == [True, None, None, None]


def test_an_endpoint_that_refuses_the_options_of_streams_gets_none(endpoint: Endpoint, new_run: NewRun) -> None:
    refusal = {"error": {"message": "unknown field stream_options", "code": "unknown_parameter"}}
    endpoint.rule("reply", status=400, body=refusal, where="stream_options")
    run = new_run(6)
    assert reasons(run) == {""}
    first, second = endpoint.bodies()
    assert first is not None
    assert second is not None
    assert {name: value for name, value in first.items() if name != "stream_options"} == second
    assert logs(run)[0].metadata["usage"]["input"] is None


# --- what comes ---------------------------------------------------------------------------------------------


def test_a_slow_answer_is_waited_for(endpoint: Endpoint, new_run: NewRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes five times as long as the deadline, but is never silent for so long."""
    monkeypatch.setenv("SEGKIT_TIMEOUT_SECONDS", "0.8")
    endpoint.rule("stream_slow", interval=0.15, pieces=25)
    run = new_run(6)
    assert reasons(run) == {""}
    assert endpoint.count() == 1
    assert logs(run)[0].metadata["duration_ms"] > 3000


def test_comments_keep_an_answer_alive(endpoint: Endpoint, new_run: NewRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGKIT_TIMEOUT_SECONDS", "0.8")
    endpoint.rule("stream_comments", comments=5, interval=0.3, pieces=1)
    run = new_run(2)
    assert reasons(run) == {""}
    assert endpoint.count() == 1


def test_after_silence_the_same_request_is_never_sent_again(
    endpoint: Endpoint, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The question is cut; what came of the answer is in the log, as far as it came."""
    monkeypatch.setenv("SEGKIT_TIMEOUT_SECONDS", "0.5")
    endpoint.queue("stream_silence")
    run = new_run(6)
    assert reasons(run) == {""}
    assert asked_once(endpoint)
    assert outcomes(run) == ["timeout", "valid", "valid"]
    (lost,) = [log for log in logs(run) if log.metadata["outcome"] == "timeout"]
    assert "the stream was silent for 0.5 s after 12 tokens" in lost.metadata["why"]
    assert json.loads(lost.body)["choices"][0]["message"]["content"].startswith('{"categories"')


def test_silence_about_a_single_product_names_the_setting(
    endpoint: Endpoint, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGKIT_TIMEOUT_SECONDS", "0.3")
    endpoint.rule("stream_silence", contains="number 3 whisk")
    run = new_run(6)
    (reason,) = reasons(run) - {""}
    assert reason.startswith("timeout: 127.0.0.1: the stream was silent for 0.3 s")
    assert "SEGKIT_TIMEOUT_SECONDS" in reason
    assert asked_once(endpoint)


MIDDLE = {
    "stream_error": ["no_answer", "valid"],
    "cut": ["no_answer", "valid"],
    "stream_ends": ["malformed", "valid"],
}


@pytest.mark.parametrize("fault", MIDDLE)
def test_an_answer_that_breaks_off_is_asked_for_again(fault: str, endpoint: Endpoint, new_run: NewRun) -> None:
    """Whether by an error event, a lost connection, or an end that is none."""
    endpoint.queue(fault)
    run = new_run(6)
    assert reasons(run) == {""}
    assert outcomes(run) == MIDDLE[fault]


def test_an_error_event_in_the_middle_means_what_it_says(endpoint: Endpoint, new_run: NewRun) -> None:
    endpoint.queue("stream_error", status=429)
    run = new_run(6)
    assert reasons(run) == {""}
    (waits,) = [event for event in read_events(run.folder) if event["event"] == "waits"]
    assert "The engine was overloaded" in waits["why"]


def test_the_queue_of_a_server_is_no_silence(
    endpoint: Endpoint, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One place, five questions at once: the last answer begins long after the deadline, and no question is cut."""
    monkeypatch.setenv("SEGKIT_TIMEOUT_SECONDS", "1.5")
    monkeypatch.setenv("SEGKIT_CONCURRENCY", "5")
    endpoint.configure(slots=1)
    endpoint.rule("stream_slow", interval=0.1, pieces=10)
    run = new_run(30)
    began = time.monotonic()
    assert reasons(run) == {""}
    assert (endpoint.count(), time.monotonic() - began > 4) == (5, True)


def test_a_request_that_others_overtake_is_lost(
    endpoint: Endpoint, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hangs while later requests are answered: that is no queue, and it is not waited for longer."""
    monkeypatch.setenv("SEGKIT_TIMEOUT_SECONDS", "1")
    monkeypatch.setenv("SEGKIT_CONCURRENCY", "2")
    endpoint.queue("hang")
    endpoint.rule("stream_slow", interval=0.1, pieces=8)
    run = new_run(30)
    assert reasons(run) == {""}
    hung = next(entry for entry in endpoint.ledger() if entry["fault"] == "hang")
    assert hung["seconds"] < 2


def test_a_key_in_pieces_is_written_nowhere(
    endpoint: Endpoint, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider that repeats the key does so token by token."""
    monkeypatch.setenv("SEGKIT_TIMEOUT_SECONDS", "1")
    endpoint.queue("stream_silence", silent_after=1.0)
    endpoint.rule("dressed", after=f" {KEY}")
    run = new_run(6)
    assert reasons(run) == {""}
    pieces = [KEY[:8], KEY[-8:], KEY]
    for path in run.folder.rglob("*"):
        if path.is_file():
            text = path.read_bytes().decode(errors="replace")
            assert not [piece for piece in pieces if piece in text], path


def test_what_is_in_flight_is_in_the_status(endpoint: Endpoint, new_run: NewRun) -> None:
    """Which request is the oldest, since when, and the tokens so far; nothing of it once the stage has ended."""
    endpoint.rule("stream_slow", interval=0.25, pieces=16)
    run = new_run(6)
    seen: list[Any] = []

    async def work() -> None:
        stage = asyncio.create_task(asyncio.to_thread(extract_taxonomy, run))
        while not stage.done():
            seen.append(run.status.activity)
            await asyncio.sleep(0.1)
        await stage

    asyncio.run(work())
    busy = [activity for activity in seen if activity.in_flight]
    assert {(activity.in_flight, activity.oldest) for activity in busy} == {(1, "b1")}
    assert 0 <= time.time() - busy[0].since < 60
    assert max(activity.tokens for activity in busy) >= 8
    assert run.status.activity == as_status({}).activity


def test_the_places_of_a_server_are_found(
    endpoint: Endpoint, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of them, for eight questions at once."""
    monkeypatch.setenv("SEGKIT_CONCURRENCY", "8")
    endpoint.configure(slots=2, latency=0.2)
    run = new_run(60, products_per_prompt=2)
    assert reasons(run) == {""}
    told = [event["answers_at_once"] for event in read_events(run.folder) if event["event"] == "endpoint_width"]
    assert told
    assert {1, 2, 3} >= set(told)


# --- the pieces themselves ----------------------------------------------------------------------------------


def chunks(*deltas: dict[str, Any], **last: Any) -> bytes:
    lines = [{"id": "x", "model": "m", "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    lines += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, {"choices": [], **last}]
    return b"".join(b"data: %b\n\n" % orjson.dumps(line) for line in lines) + b"data: [DONE]\n\n"


def test_all_parts_of_a_message_are_joined() -> None:
    call = {"index": 0, "id": "c", "function": {"name": "extract_taxonomy", "arguments": '{"a"'}}
    more = {"index": 0, "function": {"arguments": ":1}"}}
    body = chunks(
        {"role": "assistant", "content": "he"},
        {"content": "llo", "reasoning_content": "hm"},
        {"reasoning_content": "m", "refusal": "no"},
        {"tool_calls": [call]},
        {"tool_calls": [more]},
        usage={"prompt_tokens": 5, "completion_tokens": 2, "cost": 0.5},
        service_tier="flex",
    )
    joined = json.loads(whole_body(body))
    message = joined["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"], message["refusal"]) == ("hello", "hmm", "no")
    assert message["tool_calls"][0]["function"] == {"name": "extract_taxonomy", "arguments": '{"a":1}'}
    assert (joined["object"], joined["service_tier"], joined["usage"]["cost"]) == ("chat.completion", "flex", 0.5)


def test_the_last_usage_counts_and_a_missing_one_is_unknown() -> None:
    running = {"content": "a"}
    body = chunks(running, usage={"prompt_tokens": 5, "completion_tokens": 9})
    early = b'data: {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 1}}\n\n'
    assert read_completion(early + body).usage.output == 9
    assert read_completion(chunks(running)).usage.output is None


@pytest.mark.parametrize(
    "line",
    [
        b'error: {"code": 503, "message": "Loading model"}',
        b'data: {"error": {"code": 503, "message": "Loading model"}}',
        b'event: error\ndata: {"type": "error", "error": {"code": 503, "message": "Loading model"}}',
    ],
    ids=["llama.cpp", "OpenAI", "Anthropic"],
)
def test_an_error_ends_a_stream(line: bytes) -> None:
    assert joined_stream(b": ping\n\n" + line + b"\n\n")["error"]["message"] == "Loading model"


def test_a_stream_that_breaks_off_stays_as_it_came() -> None:
    body = chunks({"content": "hello"}).partition(b'data: {"choices":[{"index":0,"delta":{},')[0]
    assert whole_body(body) == body
    assert json.loads(whole_body(body + b'data: {"cho', ended=False))["choices"][0]["message"]["content"] == "hello"


@pytest.mark.parametrize("body", [b"", b"{}", b"data", b"<html>", b'{"choices": []}', b"\xff\xfe", b"data: nonsense"])
def test_what_is_no_stream_is_left_alone(body: bytes) -> None:
    assert whole_body(body) == body


def test_comments_alone_keep_no_answer_alive_for_ever() -> None:
    """A proxy that pings for ever is waited for ten times as long as one that is silent."""

    async def ping(deadlines: Deadlines) -> None:
        async with deadlines.answer(nobody) as incoming:
            while True:
                deadlines.take(incoming, b": ping\n\n")
                await asyncio.sleep(0.01)

    began = time.monotonic()
    with pytest.raises(LostError) as lost:
        asyncio.run(asyncio.wait_for(ping(Deadlines(0.1)), 20))
    assert lost.value.timed_out
    assert 0.9 < time.monotonic() - began < 5


def test_a_body_has_an_end() -> None:
    async def receive() -> None:
        async with asyncio.timeout(5) as timeout:
            incoming = IncomingAnswer(1, 5, timeout, nobody)
            for _ in range(21):
                incoming.add(b"x" * 1_000_000)

    with pytest.raises(LostError, match="the body exceeds"):
        asyncio.run(receive())
