"""Whole stages against endpoints that are not OpenAI's: what each costs, and how it ends."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
from endpoint import Endpoint

from segkit.errors import EndpointError, RefusedError
from segkit.llm.breaker import Breaker
from segkit.pipeline.parameters import change_requests
from segkit.pipeline.stages import consolidate_taxonomy, extract_taxonomy, refine_assignments
from segkit.runs.events import read_events
from segkit.runs.interactions import scan
from segkit.runs.run import Run, open_run
from segkit.settings import load_settings

NewRun = Callable[..., Run]


def placed(run: Run) -> int:
    """Run the first stage; return how many products have a category or are out of scope."""
    extract_taxonomy(run)
    return int((run.result("batch_assignments")["reason"] == "").sum())


def error(message: str = "no", **facts: Any) -> dict[str, Any]:
    return {"error": {"message": message, **facts}}


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, error("prompt is too long: 9 > 8")),
        (429, error("on tokens per minute: Limit 300, Requested 800", code="rate_limit_exceeded")),
        (400, error("zorgle")),
        (422, {"detail": "zorgle"}),
    ],
    ids=["too long", "above the limit itself", "unknown", "unknown, of FastAPI"],
)
def test_a_question_that_does_not_fit_is_cut(status: int, body: Any, endpoint: Endpoint, new_run: NewRun) -> None:
    """Where the endpoint says so, and where nobody knows what it says: then one half is tried first."""
    endpoint.rule("reply", status=status, body=body, above=3)
    run = new_run(12, products_per_prompt=12)
    assert placed(run) == 12
    answered = sorted(len(entry["asked"]) for entry in endpoint.ledger() if entry["status"] == 200)
    assert [size for size in answered if size > 1] == [3, 3, 3, 3]
    assert len(answered) <= 5  # one product may have been asked about to find out what an unknown refusal means


@pytest.mark.parametrize("position", range(4))
def test_one_title_that_an_endpoint_refuses_in_unknown_words_is_found(
    position: int, endpoint: Endpoint, new_run: NewRun
) -> None:
    """In whichever half it stands, the run goes on without it."""
    endpoint.rule("reply", status=400, body=error("zorgle"), contains=f"number {position * 3} ")
    run = new_run(12, products_per_prompt=12)
    assert placed(run) == 11


def test_a_refusal_of_every_request_is_given_up_soon(endpoint: Endpoint, new_run: NewRun) -> None:
    endpoint.rule("reply", status=400, body=error("zorgle"))
    with pytest.raises(RefusedError, match="zorgle"):
        extract_taxonomy(new_run(60))
    assert endpoint.count() <= 3


EMPTY = {"id": "x", "model": "m", "usage": {"prompt_tokens": 900, "completion_tokens": 0}}
ALIKE: dict[str, dict[str, Any]] = {
    "empty": {"name": "content_empty"},
    "no choices": {"name": "choices_empty"},
    "thoughts only": {"name": "dressed", "message": {"content": None, "reasoning_content": "$TEXT"}},
    "cut in the thoughts": {
        "name": "reply",
        "body": {**EMPTY, "choices": [{"message": {"content": None, "reasoning": "hm"}, "finish_reason": "length"}]},
    },
    "a broken stream": {"name": "body", "text": 'data: {"choices": [{"delta": {"content": "{"}}]}', "status": 200},
    "a page": {"name": "html"},
}


@pytest.mark.parametrize("concurrency", [2, 8])
@pytest.mark.parametrize("fault", ALIKE.values(), ids=ALIKE)
def test_an_endpoint_whose_answers_all_fail_alike_is_given_up(
    fault: dict[str, Any],
    concurrency: int,
    endpoint: Endpoint,
    new_run: NewRun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At most three calls for each question that may be asked at once, however many products there are."""
    monkeypatch.setenv("SEGKIT_CONCURRENCY", str(concurrency))
    monkeypatch.setenv("SEGKIT_BACKOFF_SECONDS", "0.01")
    endpoint.rule(**fault)
    with pytest.raises(EndpointError):
        extract_taxonomy(new_run(300, products_per_prompt=10))
    assert endpoint.count() <= 3 * concurrency


def test_one_batch_alone_is_given_up_with_the_reason(endpoint: Endpoint, new_run: NewRun) -> None:
    endpoint.rule(**ALIKE["thoughts only"])
    with pytest.raises(EndpointError, match="all text stands in reasoning_content"):
        extract_taxonomy(new_run(6))
    assert endpoint.count() == 3


def test_a_batch_that_gets_nothing_is_cut_once_others_have_answers(endpoint: Endpoint, new_run: NewRun) -> None:
    """A title that makes a model fall silent is found, since the endpoint answers everything else."""
    endpoint.rule("content_empty", contains="number 3 whisk")
    assert placed(new_run(24)) == 23


def test_cutting_is_capped(endpoint: Endpoint, new_run: NewRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that places one product of each question, whatever its size, does not cost twice the products."""
    monkeypatch.setenv("SEGKIT_MAX_EXTRA_CALLS", "4")
    endpoint.queue("drop_id")  # the stage has valid items before all others fail
    endpoint.rule("not_json", contains="whisk")
    run = new_run(24)
    extract_taxonomy(run)
    assert "cutting_ended" in {event["event"] for event in read_events(run.folder)}
    reasons = run.result("batch_assignments")["reason"]
    assert reasons.str.contains("extra questions were asked").any()


def test_the_cap_of_a_stage_grows_with_its_plan() -> None:
    assert Breaker("RUN", 16, 10, None).most_extra == 64
    assert Breaker("RUN", 16, 1000, None).most_extra == 2000
    assert Breaker("RUN", 16, 1000, 7).most_extra == 7


DRAFT = 'A draft: {"categories": [], "assignments": {}}, no. '
THOUGHTS = {
    "both tags": ("<think>", "</think>"),
    "closing tag only": ("", "</think>\n"),
    "two blocks": ("<think>a</think><think>", "</think>"),
    "a word before": ("Well. <think>", "</think>"),
    "thought": ("<thought>", "</thought>"),
    "reasoning": ("<reasoning>", "</reasoning>"),
    "brackets": ("[THINK]", "[/THINK]"),
    "diamonds": ("◁think▷", "◁/think▷"),
    "channels": ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    "a final channel with a format": (
        "<|channel|>analysis<|message|>",
        "<|channel|>final <|constrain|>json<|message|>",
    ),
    "a megabyte": ("hm " * 350_000, "</think>"),
}


@pytest.mark.parametrize(("before", "after"), THOUGHTS.values(), ids=THOUGHTS)
def test_thoughts_before_an_answer_are_passed_over(
    before: str, after: str, endpoint: Endpoint, new_run: NewRun
) -> None:
    endpoint.rule("dressed", before=before + DRAFT + after)
    assert placed(new_run(6)) == 6
    assert endpoint.count() == 1


def test_a_mark_of_thoughts_inside_of_an_answer_is_text(endpoint: Endpoint, new_run: NewRun) -> None:
    """A title may hold one, and the model may repeat it in a definition."""
    run = new_run(6)
    endpoint.rule("dressed", before=" ", after=" ")
    text = '{"categories": [{"id": "C_0", "name": "A </think> B", "definition": "x"}], "assignments": {'
    text += ", ".join(f'"P_{i}": {{"category": "C_0", "confidence": 1}}' for i in range(6)) + "}}"
    endpoint.queue("content", text=text)
    assert placed(run) == 6
    assert endpoint.count() == 1


@pytest.mark.parametrize("code", [429, 502])
def test_an_error_inside_a_choice_is_the_status_it_names(code: int, endpoint: Endpoint, new_run: NewRun) -> None:
    choice = {
        "index": 0,
        "finish_reason": "error",
        "message": {"content": ""},
        "error": {"code": code, "message": "busy"},
    }
    endpoint.queue("reply", body={"model": "m", "choices": [choice]}, times=2)
    run = new_run(6)
    assert placed(run) == 6
    waits = [event for event in read_events(run.folder) if event["event"] == "waits"]
    assert len(waits) == 2
    assert "busy" in waits[0]["why"]


@pytest.mark.parametrize("reason", ["SAFETY", "content_filter: PROHIBITED_CONTENT", "sensitive"])
def test_a_filter_by_the_finish_reason_costs_no_second_attempt(
    reason: str, endpoint: Endpoint, new_run: NewRun
) -> None:
    choice = {"index": 0, "finish_reason": reason, "message": {"role": "assistant"}}
    endpoint.rule("reply", body={"model": "m", "choices": [choice]}, contains="number 3 whisk")
    assert placed(new_run(6)) == 5
    assert max(len([e for e in endpoint.ledger() if e["asked"] == ids["asked"]]) for ids in endpoint.ledger()) <= 2


@pytest.mark.parametrize("reason", ["model_length", "MAX_TOKENS"])
def test_an_answer_cut_at_its_length_is_never_asked_for_again_as_it_was(
    reason: str, endpoint: Endpoint, new_run: NewRun
) -> None:
    endpoint.rule("dressed", finish_reason=reason, fraction=0.5, above=3)
    assert placed(new_run(6)) == 6
    digests = [entry["sha256"] for entry in endpoint.ledger()]
    assert len(set(digests)) == len(digests)


def test_the_providers_own_check_of_an_answer_is_a_bad_answer(endpoint: Endpoint, new_run: NewRun) -> None:
    endpoint.queue("reply", status=400, body=error("no valid JSON", code="json_validate_failed"))
    run = new_run(6)
    assert placed(run) == 6
    assert endpoint.count() == 2
    endpoint.reset()
    assert placed(run) == 6
    assert endpoint.count() == 0


UNKNOWN_FIELDS: dict[str, tuple[str, Any]] = {
    "the newer name": ("max_completion_tokens", error("extra fields not permitted", param="max_completion_tokens")),
    "the older name": ('"max_tokens"', error("unsupported, use max_completion_tokens", param="max_tokens")),
    "a keyword": ("maxLength", error("schema: 'maxLength' is not permitted", code="invalid_json_schema")),
    "stream": ('"stream"', error("unknown field stream", code="unknown_parameter", param="stream")),
}


@pytest.mark.parametrize(("where", "body"), UNKNOWN_FIELDS.values(), ids=UNKNOWN_FIELDS)
def test_a_field_that_an_endpoint_does_not_know_is_left_out(
    where: str, body: Any, endpoint: Endpoint, new_run: NewRun
) -> None:
    """One refusal, at no cost, and the stage remembers it."""
    endpoint.rule("reply", status=400, body=body, where=where)
    run = new_run(60)
    assert placed(run) == 60
    statuses = [entry["status"] for entry in endpoint.ledger()]
    assert statuses.count(200) == 10
    assert statuses[0] == 400
    assert "request_reworded" in {event["event"] for event in read_events(run.folder)}
    consolidate_taxonomy(run)
    refine_assignments(run)
    later = [entry["status"] for entry in endpoint.ledger()][len(statuses) :]
    assert set(later) == {200}, "a later stage of the run remembers what was refused"
    assert run.status.stages["segmentation"].calls == 10


@pytest.mark.parametrize("status", [400, 500])
def test_a_model_without_a_system_message_gets_one_message(status: int, endpoint: Endpoint, new_run: NewRun) -> None:
    """Gemma's chat template knows none; llama.cpp answers 500 to that.."""
    body = error("Jinja Exception: System role not supported", code=status, type="server_error")
    endpoint.rule("reply", status=status, body=body, where='"system"')
    run = new_run(24, prompts="v1")
    assert placed(run) == 24
    statuses = [entry["status"] for entry in endpoint.ledger()]
    assert statuses.count(200) == 4
    sent = [asked["messages"] for asked in endpoint.bodies() if asked and len(asked["messages"]) == 1]
    assert all("=== DATA ===" not in messages[0]["content"] for messages in sent)
    assert placed(run) == 24
    assert endpoint.count() == len(statuses)


def test_a_resume_words_the_requests_anew_and_asks_nothing_twice(endpoint: Endpoint, new_run: NewRun) -> None:
    """The change stands in run.json with its time; what is answered stays answered."""
    endpoint.queue("ok")
    endpoint.rule("reply", status=400, body=error("only 1 is taken", param="temperature"), where='"temperature"')
    run = new_run(24)
    with pytest.raises(RefusedError, match=f"segkit resume {run.id} --temperature none"):
        extract_taxonomy(run)
    answered = [entry["asked"] for entry in endpoint.ledger() if entry["status"] == 200]
    changed = change_requests(run, load_settings(), temperature="none", max_output_tokens=900)
    assert open_run(run.id, run.folder.parent).parameters == changed.parameters
    assert changed.document["request_changes"][0]["to"] == {"temperature": None, "max_output_tokens": 900}
    endpoint.reset(configuration=False)
    assert placed(changed) == 24
    bodies = [body for body in endpoint.bodies() if body]
    assert len(bodies) == 4 - len(answered)
    assert all("temperature" not in body and body["max_tokens"] == 900 for body in bodies)


def test_a_resume_with_fewer_products_a_prompt_cuts_what_is_not_answered(endpoint: Endpoint, new_run: NewRun) -> None:
    run = new_run(12)
    endpoint.queue("ok")
    endpoint.queue("reply", status=401, body=error("later", code="invalid_api_key"))
    with pytest.raises(RefusedError):
        extract_taxonomy(run)
    endpoint.reset()
    assert placed(change_requests(run, load_settings(), products_per_prompt=3)) == 12
    assert [len(entry["asked"]) for entry in endpoint.ledger()] == [3, 3]


def test_a_prompt_that_the_server_cut_stops_the_run(endpoint: Endpoint, new_run: NewRun) -> None:
    """Its tokens were far fewer than what was sent, so the model cannot have seen all products."""
    endpoint.rule("usage", value={"prompt_tokens": 150, "completion_tokens": 50})
    run = new_run(6)
    with pytest.raises(EndpointError, match="the server cut the prompt: it read 150 tokens") as stopped:
        extract_taxonomy(run)
    assert "--products-per-prompt" in str(stopped.value)
    endpoint.reset()
    assert placed(run) == 6
    assert endpoint.count() == 1
    outcomes = [log.metadata["outcome"] for log in scan(run.stage_folder("extract_taxonomy"))[0]]
    assert sorted(outcomes) == ["prompt_cut", "valid"]


def test_a_server_that_loads_for_longer_than_the_tries_take_is_waited_for(
    endpoint: Endpoint, new_run: NewRun
) -> None:
    endpoint.queue("503", times=9)
    assert placed(new_run(6)) == 6
    assert endpoint.count() == 10


def test_questions_without_the_endpoint_end_the_stage_before_a_later_one_is_paid(
    endpoint: Endpoint, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGKIT_MAX_WAIT_SECONDS", "0")
    endpoint.rule("503", contains="number 3 whisk")
    run = new_run(24)
    with pytest.raises(EndpointError, match="1 of 4 questions had no answer from the endpoint"):
        extract_taxonomy(run)
    assert not run.has_result("batch_assignments")
    endpoint.reset()
    assert placed(run) == 24
    assert endpoint.count() == 1


def test_a_time_out_names_the_setting_and_never_sends_the_same_again(
    endpoint: Endpoint, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGKIT_TIMEOUT_SECONDS", "0.3")
    endpoint.rule("hang")
    with pytest.raises(EndpointError, match="SEGKIT_TIMEOUT_SECONDS"):
        extract_taxonomy(new_run(60))
    digests = [entry["sha256"] for entry in endpoint.ledger()]
    assert len(set(digests)) == len(digests) <= 16


def test_what_ran_out_of_time_is_asked_again_once_there_is_more_of_it(
    endpoint: Endpoint, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGKIT_TIMEOUT_SECONDS", "0.3")
    endpoint.rule("hang")
    run = new_run(6)
    for sizes in ({6, 3}, {2, 1}):  # what ran out of time is not asked again as it was
        with pytest.raises(EndpointError, match="SEGKIT_TIMEOUT_SECONDS"):
            extract_taxonomy(run)
        assert {len(entry["asked"]) for entry in endpoint.ledger()} <= sizes
        endpoint.reset(configuration=False)
    endpoint.reset()
    monkeypatch.setenv("SEGKIT_TIMEOUT_SECONDS", "20")
    assert placed(run) == 6


def test_thoughts_that_take_the_whole_limit_get_a_larger_one_once(endpoint: Endpoint, new_run: NewRun) -> None:
    choice = {"message": {"content": "", "reasoning_content": "hm"}, "finish_reason": "length"}
    endpoint.queue("reply", body={"model": "m", "choices": [choice], "usage": {"completion_tokens": 99}})
    assert placed(new_run(6)) == 6
    first, second = endpoint.bodies()
    assert first
    assert second
    assert second["max_tokens"] == 4 * first["max_tokens"]
    assert first["messages"] == second["messages"]


class LeavingServer(http.server.ThreadingHTTPServer):
    """Answers, says that the connection stays open, and closes it: a moment later, or `late`, at the next request."""

    late = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), LeavingHandler)
        self.answered = self.dropped = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()


class LeavingHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LeavingServer
    has_answered = False

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        if self.has_answered:
            self.server.dropped += 1
            self.close_connection = True
            return
        message = {"role": "assistant", "content": '{"reassignments": []}'}
        usage = {"prompt_tokens": 1000, "completion_tokens": 10}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        data = orjson.dumps({"model": "m", "choices": [choice], "usage": usage})
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()
        self.server.answered += 1
        self.has_answered = self.server.late
        self.close_connection = not self.server.late
        time.sleep(0.003)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def leaving(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[LeavingServer]:
    with LeavingServer() as server:
        yield server
        server.shutdown()


def refined_at(server: LeavingServer, new_run: NewRun) -> Run:
    """A run whose forty questions of the last stage are all answered by this server, each paid once."""
    run = new_run(120, products_per_refinement=3)
    extract_taxonomy(run)
    consolidate_taxonomy(run)
    moved = change_requests(run, load_settings(), endpoint=f"http://127.0.0.1:{server.server_port}/v1")
    refine_assignments(moved)
    stage = moved.status.stages["refine_assignments"]
    assert (stage.calls, stage.unpriced, stage.failed) == (40, 0, 0)
    return moved


@pytest.mark.parametrize("transport", ["http", "sdk"])
def test_a_request_into_a_connection_that_was_closed_costs_nothing(
    transport: str,
    endpoint: Endpoint,
    leaving: LeavingServer,
    new_run: NewRun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is sent again on a fresh one, weighs nothing in the budget, and leaves no call that may have been paid."""
    monkeypatch.setenv("SEGKIT_TRANSPORT", transport)
    monkeypatch.setenv("SEGKIT_CONCURRENCY", "2")
    monkeypatch.setenv("SEGKIT_MAX_COST_USD", "2")
    refined_at(leaving, new_run)
    assert leaving.answered == 40


@pytest.mark.parametrize("transport", ["http", "sdk"])
def test_the_second_try_has_a_connection_of_its_own(
    transport: str,
    endpoint: Endpoint,
    leaving: LeavingServer,
    new_run: NewRun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of eight idle connections that are all gone, a question meets one at most: it never fails or waits."""
    monkeypatch.setenv("SEGKIT_TRANSPORT", transport)
    monkeypatch.setenv("SEGKIT_CONCURRENCY", "8")
    leaving.late = True
    moved = refined_at(leaving, new_run)
    events = [event for event in read_events(moved.folder) if event["event"] in ("no_answer", "waits")]
    assert leaving.dropped == len(events) <= 40
    assert {event["event"] for event in events} == {"no_answer"}
