"""Asking over real HTTP, through both transports, with every kind of trouble the fake endpoint knows."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from collections.abc import Callable
from email.utils import formatdate

import orjson
import pandas as pd
import pytest
from catalogues import KEY, catalogue
from endpoint import Endpoint

from segkit.core.extract import extract_questions
from segkit.core.models import Prompt
from segkit.errors import EndpointError, RefusedError, SegkitError, StoppedError
from segkit.llm.ask import ask_all
from segkit.pipeline.stages import consolidate_taxonomy, extract_taxonomy, refine_assignments
from segkit.runs.events import read_events
from segkit.runs.interactions import begin, intents, keep_raw, scan
from segkit.runs.run import Run
from segkit.settings import load_settings

NewRun = Callable[..., Run]
STAGE = "extract_taxonomy"


@pytest.fixture(params=["http", "http streamed", "sdk", "sdk streamed"])
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name, _, streamed = request.param.partition(" ")
    monkeypatch.setenv("SEGKIT_TRANSPORT", name)
    monkeypatch.setenv("SEGKIT_STREAM", "1" if streamed else "0")
    return name


def extracted(run: Run) -> pd.DataFrame:
    """Run the first stage and give its assignments."""
    extract_taxonomy(run)
    return run.result("batch_assignments")


def reasons(run: Run) -> set[str]:
    return set(extracted(run)["reason"])


def outcomes(run: Run) -> list[str]:
    logs, damaged = scan(run.stage_folder(STAGE))
    assert not damaged
    return sorted(log.log["metadata"]["outcome"] for log in logs)


def all_stated(run: Run) -> None:
    """Every assignment was stated by the model for that product: its kind is the last word of its title."""
    titles = run.products.set_index("product_id")["title"]
    for row in run.result("batch_assignments").itertuples():
        assert row.category in ("", titles[row.product_id].split()[-1].title() + "s")


def test_an_answer_keeps_no_prompt(endpoint: Endpoint, new_run: NewRun) -> None:
    """A prompt exists while it is asked: those of a million products take gigabytes."""

    def prompts() -> int:
        gc.collect()
        return sum(isinstance(each, Prompt) for each in gc.get_objects())

    run, before = new_run(24), prompts()
    questions = extract_questions(run.products, run.prompts, run.parameters)
    assert prompts() == before
    answers = ask_all(run, STAGE, questions, load_settings())
    assert [answer.question.batch for answer in answers] == [1, 2, 3, 4]
    assert prompts() == before


def test_a_clean_run_asks_each_batch_once(endpoint: Endpoint, new_run: NewRun, transport: str) -> None:
    run = new_run(12)
    frame = extracted(run)
    assert list(frame["reason"]) == [""] * 12
    assert endpoint.count() == 2
    assert all(entry["schema_ok"] for entry in endpoint.ledger())
    assert outcomes(run) == ["valid", "valid"]


# What one fault at the first request leads to: requests sent, and the outcomes of the logs that are kept.
MENDED = {
    "500": (2, ["no_answer", "valid"]),
    "502": (2, ["no_answer", "valid"]),
    "503": (2, ["no_answer", "valid"]),
    "529": (2, ["no_answer", "valid"]),
    "408": (2, ["no_answer", "valid"]),
    "409": (2, ["no_answer", "valid"]),
    "429": (2, ["valid"]),
    "429_text": (2, ["valid"]),
    "429_html": (2, ["valid"]),
    "reset": (2, ["no_answer", "valid"]),
    "close": (2, ["no_answer", "valid"]),
    "cut": (2, ["no_answer", "valid"]),
    "error_200": (2, ["no_answer", "valid"]),
    "html": (2, ["no_answer", "valid"]),
    "truncated_envelope": (2, ["malformed", "valid"]),
    "choices_empty": (2, ["empty", "valid"]),
    "choices_missing": (2, ["empty", "valid"]),
    "content_empty": (2, ["empty", "valid"]),
    "content_null": (2, ["empty", "valid"]),
    "tool_calls": (1, ["valid"]),
    "not_json": (2, ["invalid", "valid"]),
    "list": (2, ["invalid", "valid"]),
    "json_in_string": (2, ["invalid", "valid"]),
    "drop_id": (2, ["invalid", "valid"]),
    "duplicate_key": (2, ["invalid", "valid"]),
    "invent_id": (2, ["invalid", "valid"]),
    "unknown_category": (2, ["invalid", "valid"]),
    "other_batch": (2, ["invalid", "valid"]),
    "other_stage": (2, ["invalid", "valid"]),
    "duplicate_names": (2, ["invalid", "valid"]),
    "name_other": (2, ["invalid", "valid"]),
    "name_long": (2, ["invalid", "valid"]),
    "name_nul": (2, ["invalid", "valid"]),
    "name_bidi": (2, ["invalid", "valid"]),
    "nan": (2, ["invalid", "valid"]),
    "big_int": (2, ["invalid", "valid"]),
    "deep_nesting": (2, ["invalid", "valid"]),
    "surrogate": (2, ["invalid", "valid"]),
    "truncated": (2, ["invalid", "valid"]),
    "length": (3, ["truncated", "valid", "valid"]),
    "fence": (1, ["valid"]),
    "fence_open": (1, ["valid"]),
    "prose": (1, ["valid"]),
    "bom": (1, ["valid"]),
    "think": (1, ["valid"]),
    "reasoning": (1, ["valid"]),
    "content_parts": (1, ["valid"]),
    "choices_many": (1, ["valid"]),
    "usage_missing": (1, ["valid"]),
    "usage_negative": (1, ["valid"]),
    "usage_string": (1, ["valid"]),
    "other_model": (1, ["valid"]),
    "confidence_high": (1, ["valid"]),
    "extra_field": (1, ["valid"]),
}


@pytest.mark.parametrize("fault", MENDED)
def test_one_fault_is_mended(fault: str, endpoint: Endpoint, new_run: NewRun, transport: str) -> None:
    """It costs the fewest requests and no product; a stage done again sends nothing and changes no log."""
    endpoint.queue(fault)
    run = new_run(6)
    frame = extracted(run)
    requests, kept = MENDED[fault]
    assert set(frame["reason"]) == {""}
    all_stated(run)
    assert (endpoint.count(), outcomes(run)) == (requests, kept), read_events(run.folder)
    assert not intents(run.stage_folder(STAGE))
    files = {path.name: path.read_bytes() for path in run.stage_folder(STAGE).iterdir()}
    pd.testing.assert_frame_equal(extracted(run), frame)
    assert endpoint.count() == requests
    assert {path.name: path.read_bytes() for path in run.stage_folder(STAGE).iterdir()} == files


def test_only_the_own_tool_is_an_answer(endpoint: Endpoint, new_run: NewRun) -> None:
    """The arguments of another tool are no answer."""
    endpoint.queue("tool_calls", tool="get_weather")
    run = new_run(6)
    assert reasons(run) == {""}
    assert outcomes(run) == ["empty", "valid"]


HOPELESS = {
    "401": "OPENAI_API_KEY",
    "403": "gpt-4o",
    "404": "gpt-4o",
    "400": "refuses the request",
    "422": "refuses the request",
    "response_format": "--response-format",
    "insufficient_quota": "no credit",
    "credit_balance_exhausted": "no credit",
    "redirect": "redirects to",
}


@pytest.mark.parametrize("fault", HOPELESS)
def test_hopeless_errors_cost_one_request(fault: str, endpoint: Endpoint, new_run: NewRun, transport: str) -> None:
    """One request, an end within two seconds, and a line that says what to do."""
    endpoint.rule(fault)
    seconds = []
    while not seconds or (min(seconds) >= 2 and len(seconds) < 3):  # the machine may be busy once or twice
        run, began = new_run(60), time.monotonic()
        with pytest.raises(RefusedError) as refused:
            extract_taxonomy(run)
        seconds.append(time.monotonic() - began)
        # What nobody knows is tried with one half, and with one product of the other half.
        assert endpoint.count() == len(seconds) * (3 if fault == "422" else 1)
        assert HOPELESS[fault] in str(refused.value)
        assert f"segkit resume {run.id}" in str(refused.value)
    assert min(seconds) < 2
    assert KEY not in str(refused.value)


def test_a_redirect_is_never_followed(endpoint: Endpoint, new_run: NewRun, transport: str) -> None:
    """The key does not travel to another host."""
    endpoint.queue("redirect")
    with pytest.raises(RefusedError, match=r"redirects to .*elsewhere"):
        extract_taxonomy(new_run(6))
    assert [entry["path"] for entry in endpoint.ledger()] == ["/v1/chat/completions"]


@pytest.mark.parametrize("wish", ["seconds", "date"])
def test_a_refusal_holds_back_every_worker(wish: str, endpoint: Endpoint, new_run: NewRun) -> None:
    """After a 429 nobody sends before the server's wish is over; one request more than without it."""
    run = new_run(60)
    until = int(time.time()) + 4  # a date has whole seconds
    endpoint.queue("ok")
    endpoint.queue("429", retry_after="2" if wish == "seconds" else formatdate(until, usegmt=True))
    extract_taxonomy(run)
    ledger = endpoint.ledger()
    refused = next(entry for entry in ledger if entry["status"] == 429)
    answered_at = refused["wall"] + refused["seconds"]
    # What arrived within the first moments had left before the refusal was read.
    later = [entry["wall"] for entry in ledger if entry["wall"] > answered_at + 0.3]
    assert len(ledger) == 11
    assert min(later) >= (answered_at + 2 if wish == "seconds" else until) - 0.1


def test_others_wait_for_the_servers_wish_only(
    endpoint: Endpoint, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question that was refused twice backs off by itself; nobody else waits longer than the server asked."""
    monkeypatch.setenv("SEGKIT_BACKOFF_SECONDS", "1.5")
    monkeypatch.setenv("SEGKIT_CONCURRENCY", "2")
    run = new_run(60)
    second = extract_questions(run.products, run.prompts, run.parameters)[1].context["product_ids"][0]
    endpoint.configure(latency=0.05)
    endpoint.queue("429", contains=f"Solid number {second - 100} ", times=2, retry_after="0.1")
    extract_taxonomy(run)
    ledger = endpoint.ledger()
    refused = [number for number, entry in enumerate(ledger) if entry["sha256"] == ledger[-1]["sha256"]]
    assert [ledger[number]["status"] for number in refused] == [429, 429, 200]
    assert refused[-1] - refused[-2] > 5, f"the others were not answered meanwhile: {refused}"


def test_a_long_wait_pauses_the_run(endpoint: Endpoint, new_run: NewRun) -> None:
    """Ten minutes are not waited for; the run stops, says until when, and can be resumed."""
    endpoint.queue("ok")
    endpoint.queue("429", retry_after="600")
    run = new_run(12)
    with pytest.raises(StoppedError, match=r"paused until \d\d:\d\d"):
        extract_taxonomy(run)
    endpoint.reset()
    assert reasons(run) == {""}
    assert endpoint.count() == 1


def test_a_server_that_always_fails_opens_the_circuit(endpoint: Endpoint, new_run: NewRun) -> None:
    """At most 1 + retries requests a question, and an end after five questions in a row."""
    endpoint.rule("500")
    with pytest.raises(EndpointError, match="5 questions in a row"):
        extract_taxonomy(new_run(60))
    per_question = pd.Series([entry["sha256"] for entry in endpoint.ledger()]).value_counts()
    assert per_question.max() <= 4


def test_one_batch_that_always_fails_does_not_stop_the_others(endpoint: Endpoint, new_run: NewRun) -> None:
    """The batch is given up, its products are unassigned with the reason, the run goes on."""
    endpoint.rule("500", contains="number 3 whisk")
    run = new_run(24)
    frame = extracted(run)
    lost = frame[frame["reason"] != ""]
    assert len(lost) == 6
    assert lost["reason"].str.contains("HTTP 500").all()


def test_an_unreachable_host_says_that_nothing_was_paid(new_run: NewRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connection refused is told with the host; it is surely not paid, so no log is left."""
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("SEGKIT_MAX_WAIT_SECONDS", "0")
    monkeypatch.setenv("SEGKIT_BACKOFF_SECONDS", "0.01")
    run = new_run(60)
    with pytest.raises(EndpointError, match=r"127\.0\.0\.1 cannot be reached, nothing was paid"):
        extract_taxonomy(run)
    assert list(run.stage_folder(STAGE).iterdir()) == []


def test_a_time_out_may_have_been_paid(
    endpoint: Endpoint, new_run: NewRun, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deadline for the whole answer; the call is kept as one that may have been paid, and cut, not repeated."""
    monkeypatch.setenv("SEGKIT_TIMEOUT_SECONDS", "2")
    endpoint.queue("drip", interval=0.2, step=1)
    run = new_run(6)
    assert reasons(run) == {""}
    assert [len(entry["ids"]) for entry in endpoint.ledger()] == [6, 3, 3]
    logs, _ = scan(run.stage_folder(STAGE))
    assert sorted(log.log["metadata"]["money"] for log in logs) == ["paid", "paid", "unknown"]
    assert run.status.stages["segmentation"].unpriced == 1


def test_a_stage_that_reached_nobody_ends(new_run: NewRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one question as with many, no later stage begins, and nobody is advised to allow what is missing."""
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("SEGKIT_MAX_WAIT_SECONDS", "0")
    monkeypatch.setenv("SEGKIT_BACKOFF_SECONDS", "0.01")
    run = new_run(5)
    with pytest.raises(EndpointError, match=r"127\.0\.0\.1 cannot be reached") as failed:
        extract_taxonomy(run)
    assert f"when it is mended: segkit resume {run.id}" in str(failed.value)
    assert not run.has_result("batch_assignments")


@pytest.mark.parametrize("fault", ["context_length", "413"])
def test_what_is_too_long_is_cut_in_two(fault: str, endpoint: Endpoint, new_run: NewRun) -> None:
    """The batch is halved; nothing is lost, and resuming does not ask the long question again."""
    endpoint.queue(fault)
    run = new_run(6)
    assert reasons(run) == {""}
    assert [len(entry["ids"]) for entry in endpoint.ledger()] == [6, 3, 3]
    endpoint.reset()
    assert reasons(run) == {""}
    assert endpoint.count() == 0


@pytest.mark.parametrize(
    ("fault", "reason"), [("context_length", "too_long"), ("content_filter", "filtered"), ("refusal", "refused")]
)
def test_one_product_is_isolated(fault: str, reason: str, endpoint: Endpoint, new_run: NewRun) -> None:
    """Halving finds the one product that spoils its batch; only that one stays unassigned."""
    endpoint.rule(fault, contains="number 3 whisk")
    frame = extracted(new_run(6))
    lost = frame[frame["reason"] != ""]
    assert list(lost["product_id"]) == [103]
    assert lost["reason"].iloc[0].startswith(reason)


def test_a_cut_answer_keeps_its_closed_items(endpoint: Endpoint, new_run: NewRun) -> None:
    """What was closed counts, only the rest is asked for, in a smaller question and never the same again."""
    endpoint.queue("length", fraction=0.85)
    run = new_run(6)
    assert reasons(run) == {""}
    all_stated(run)
    first, second = endpoint.ledger()
    assert 0 < len(second["ids"]) < len(first["ids"])


def test_the_next_attempt_is_told_what_was_wrong(endpoint: Endpoint, new_run: NewRun) -> None:
    """The original prompt, then the errors with the ids, then only the lines that are missing."""
    endpoint.queue("drop_id", contains="number 3 whisk")
    extract_taxonomy(new_run(6))
    first, second = (body["messages"][0]["content"] for body in endpoint.bodies())
    assert second.startswith(first)
    told = second[len(first) :]
    missing = next(line[1:4] for line in first.splitlines() if "number 3 whisk" in line)
    assert f"products without a valid assignment: {missing}" in told
    assert told.count("\n[P_") == 1


def test_a_product_nobody_places_stays_unassigned(endpoint: Endpoint, new_run: NewRun) -> None:
    """It is asked for as often as allowed, then it is unassigned; its neighbours keep theirs."""
    endpoint.rule("drop_id", contains="number 3 whisk")
    run = new_run(6)
    frame = extracted(run)
    assert list(frame.loc[frame["reason"] != "", "product_id"]) == [103]
    assert endpoint.count() == 3
    all_stated(run)


def test_first_statements_stay(endpoint: Endpoint, new_run: NewRun) -> None:
    """A later answer that contradicts an accepted assignment changes nothing."""
    endpoint.queue("drop_id", contains="number 3 whisk")
    endpoint.queue("ok")
    run = new_run(6)
    extract_taxonomy(run)
    all_stated(run)


def test_an_answer_is_bought_once_for_all_runs(endpoint: Endpoint, new_run: NewRun) -> None:
    """Another run with the same questions is answered from the cache, with logs of its own."""
    first = extracted(new_run(12))
    again = new_run(12)
    pd.testing.assert_frame_equal(extracted(again), first)
    assert endpoint.count() == 2
    logs, _ = scan(again.stage_folder(STAGE))
    assert all(log.log["metadata"]["cached_from"].startswith("RUN_") for log in logs)
    assert again.status.stages["segmentation"].cached == 2


@pytest.mark.parametrize("fault", ["drop_id", "length", "content_filter", "refusal", "not_json"])
def test_only_valid_answers_are_cached(fault: str, endpoint: Endpoint, new_run: NewRun) -> None:
    """What was not valid, cut, filtered or refused is asked again by the next run."""
    endpoint.queue(fault)
    extract_taxonomy(new_run(6))
    asked = endpoint.count()
    extract_taxonomy(new_run(6))
    assert endpoint.ledger()[asked]["ids"] == endpoint.ledger()[0]["ids"]


def test_a_suspended_process_keeps_nobody_waiting(
    endpoint: Endpoint, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has claimed every question, and does not go on: they are asked after a while."""
    home = load_settings().segkit_home
    home.mkdir(parents=True, exist_ok=True)
    code = "import fcntl, os, signal, sys; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX); "
    code += "print(flush=True); os.kill(os.getpid(), signal.SIGSTOP)"
    command = [sys.executable, "-c", code, str(home / "claims.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout
        other.stdout.readline()
        monkeypatch.setenv("SEGKIT_TIMEOUT_SECONDS", "2")
        monkeypatch.setenv("SEGKIT_MAX_WAIT_SECONDS", "0")
        began = time.monotonic()
        extract_taxonomy(new_run(12))
        waited = time.monotonic() - began
        other.kill()
    assert endpoint.count() == 2
    assert waited >= 2


def test_a_damaged_cache_entry_is_set_aside(endpoint: Endpoint, new_run: NewRun, place: object) -> None:
    """It is never served and never deleted; the question is asked again."""
    extract_taxonomy(new_run(6))
    (entry,) = (place / "home" / "cache").rglob("*.json")  # type: ignore[operator]
    whole = entry.read_bytes()
    entry.unlink()
    entry.write_bytes(whole[: len(whole) // 2])
    run = new_run(6)
    assert reasons(run) == {""}
    assert endpoint.count() == 2
    (set_aside,) = entry.parent.glob(f"{entry.stem}*damaged*")
    assert set_aside.read_bytes() == whole[: len(whole) // 2]
    assert "cache_entry_set_aside" in {event["event"] for event in read_events(run.folder)}


def test_secrets_are_taken_out(endpoint: Endpoint, new_run: NewRun) -> None:
    """A provider that sends the key back does not get it into any file."""
    endpoint.queue("leak_key", status=500)
    endpoint.queue("leak_key", status=401)
    run = new_run(6)
    with pytest.raises(SegkitError) as error:
        extract_taxonomy(run)
    assert KEY not in str(error.value)
    for path in run.folder.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


def test_the_limit_of_requests_is_kept(endpoint: Endpoint, new_run: NewRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit nothing is sent; the run stops on request while it waits."""
    monkeypatch.setenv("SEGKIT_REQUESTS_PER_MINUTE", "4")
    run = new_run(60)
    import threading

    threading.Timer(1.5, (run.folder / "stop").touch).start()
    with pytest.raises(StoppedError):
        extract_taxonomy(run)
    assert endpoint.count() == 4


def test_a_log_tells_everything(endpoint: Endpoint, new_run: NewRun) -> None:
    """The schema of a log: metadata, context, prompt, response, and the raw body."""
    run = new_run(6)
    extract_taxonomy(run)
    (logged,) = scan(run.stage_folder(STAGE))[0]
    facts, log = logged.log["metadata"], logged.log
    assert {
        "run_id",
        "interaction_type",
        "batch_id",
        "attempt",
        "model",
        "temperature",
        "timestamp",
        "category",
    } <= set(facts)
    assert facts["interaction_type"] == "segmentation"
    assert len(facts["cache_key"]) == 32
    assert facts["duration_ms"] >= 0
    assert log["context"]["expected_ids"] == [f"P_{i}" for i in range(6)]
    assert orjson.loads(log["body"])["choices"][0]["message"]["content"] == log["response"]
    assert logged.path.name.split("_")[1:3] == ["b1", "a1"]


def test_an_answer_that_was_on_disk_is_recovered(endpoint: Endpoint, new_run: NewRun) -> None:
    """A process that died between the raw answer and its log has paid; the answer is not bought again."""
    run = new_run(12)
    before = extracted(run)
    log = scan(run.stage_folder(STAGE))[0][0]
    head = {name: log.log[name] for name in ("context", "prompt", "request")}
    intent = begin(run.stage_folder(STAGE), 1, 1, head)
    keep_raw(intent, 200, log.log["body"].encode())
    log.path.unlink()
    pd.testing.assert_frame_equal(extracted(run), before)
    assert endpoint.count() == 2
    assert not intents(run.stage_folder(STAGE))
    assert outcomes(run) == ["recovered", "valid"]


def test_an_intent_without_an_answer_is_told_and_asked_again(endpoint: Endpoint, new_run: NewRun) -> None:
    """Its outcome is unknown; it stays visible, and the question is asked once more."""
    run = new_run(6)
    begin(run.stage_folder(STAGE), 1, 1, {"context": {}, "prompt": "", "request": {}})
    assert reasons(run) == {""}
    assert endpoint.count() == 1
    assert len(intents(run.stage_folder(STAGE))) == 1
    assert "outcome_unknown" in {event["event"] for event in read_events(run.folder)}


def test_a_consolidation_that_fails_is_merged_by_name(endpoint: Endpoint, new_run: NewRun) -> None:
    """After its retries the merge by name takes its place, and the run says so."""
    endpoint.rule("not_json", stage="consolidate_taxonomy")
    run = new_run(12)
    extract_taxonomy(run)
    taxonomy = consolidate_taxonomy(run)
    assert sorted(taxonomy["name"]) == ["Kettles", "Ladles", "Toasters", "Whisks"]
    assert "merged_by_name" in {event["event"] for event in read_events(run.folder)}
    assert run.status.stages["consolidate_taxonomy"].failed == 1


def test_a_refinement_that_fails_keeps_its_first_assignments(endpoint: Endpoint, new_run: NewRun) -> None:
    """The batch keeps what it had, and the run says so."""
    endpoint.rule("not_json", stage="refine_assignments")
    run = new_run(12)
    extract_taxonomy(run)
    consolidate_taxonomy(run)
    lineage = refine_assignments(run)
    assert (lineage["category"] == lineage["refined_category"]).all()
    assert run.status.stages["refine_assignments"].failed == 2


def test_refinement_moves_what_the_model_moves(endpoint: Endpoint, new_run: NewRun) -> None:
    frame = catalogue(12)
    frame.loc[0, "title"] = "moveme number 0 kettle"
    run = new_run(frame)
    for stage in (extract_taxonomy, consolidate_taxonomy, refine_assignments):
        stage(run)
    lineage = run.result("lineage").set_index("product_id")
    assert lineage.loc[100, "refined_category"] != lineage.loc[100, "category"]
    assert (lineage["category"] != lineage["refined_category"]).sum() == 1
