"""Stages sent through a provider's Batch API, over real HTTP, with every kind of trouble the fake endpoint knows."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from catalogues import KEY, catalogue
from endpoint import Endpoint
from s3_server import S3Server
from victim import results

from segkit.errors import BudgetError, EndpointError, RefusedError, SegkitError, SettingsError, WaitingError
from segkit.llm.batches.overview import batches_of
from segkit.llm.batches.records import read_records
from segkit.llm.batches.requests import MOST_BYTES, MOST_REQUESTS, parted
from segkit.pipeline.costs import recount
from segkit.pipeline.parameters import change_requests
from segkit.pipeline.plan.estimate import plan_of, readable_plan, sentence
from segkit.pipeline.prepare import prepare_run
from segkit.pipeline.replay import replay
from segkit.pipeline.segment import run_stages
from segkit.pipeline.stages import consolidate_taxonomy, extract_taxonomy, refine_assignments
from segkit.runs.events import read_events
from segkit.runs.interactions import begin, intents, scan
from segkit.runs.run import Run, current_state, open_run
from segkit.settings import load_settings

NewRun = Callable[..., Run]
STAGE = "extract_taxonomy"
BATCHES = 6  # questions of the first stage, in all runs here


@pytest.fixture
def batched(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    """The endpoint, for runs that are sent in batches and waited for."""
    monkeypatch.setenv("SEGKIT_BATCH", "true")
    monkeypatch.setenv("SEGKIT_BATCH_WAIT", "true")
    return endpoint


@pytest.fixture
def small_run(new_run: NewRun) -> Callable[..., Run]:
    return lambda products=24, **given: new_run(products, products_per_prompt=products // BATCHES, **given)


@pytest.fixture(scope="module")
def online(shared_endpoint: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], float]:
    """The first two results of a run that asked one by one, and what it cost by the ledger of the endpoint."""
    shared_endpoint.reset()
    place = tmp_path_factory.mktemp("online")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_BASE_URL", shared_endpoint.url)
        patch.setenv("OPENAI_API_KEY", "sk-test-one-by-one")
        patch.setenv("SEGKIT_HOME", str(place / "home"))
        settings = load_settings()
        run = prepare_run(
            catalogue(24), "Kitchen Things", model="gpt-4o", runs_dir=place, settings=settings, products_per_prompt=4,
            products_per_refinement=6,
        )  # fmt: skip
        for stage in (extract_taxonomy, consolidate_taxonomy, refine_assignments):
            stage(run, settings)
    return results(run.folder), shared_endpoint.dollars()


def paid_prompts(endpoint: Endpoint) -> Counter[str]:
    """The prompts that were answered, and so paid, with how often."""
    entries = zip(endpoint.ledger(), endpoint.bodies(), strict=True)
    return Counter(body["messages"][0]["content"] for entry, body in entries if entry["status"] == 200 and body)


def assert_first_results(run: Run, online: tuple[dict[str, bytes], float]) -> None:
    """The results of the first stage are those of the run that asked one by one, byte for byte."""
    made = results(run.folder)
    assert {name: made[name] for name in made} == {name: online[0][name] for name in made}
    assert set(run.result("batch_assignments")["reason"]) == {""}


def outcomes(run: Run, stage: str = STAGE) -> list[str]:
    logs, damaged = scan(run.stage_folder(stage))
    assert not damaged
    return sorted(log.metadata["outcome"] for log in logs)


def events(run: Run, name: str) -> list[dict[str, Any]]:
    return [event for event in read_events(run.folder) if event["event"] == name]


def test_a_run_in_batches_has_the_same_results_at_half_the_price(
    batched: Endpoint, small_run: NewRun, online: tuple[dict[str, bytes], float]
) -> None:
    run = small_run()
    batched.configure(batch_polls=2)
    run_stages(run)
    made = results(run.folder)
    assert {name: made[name] for name in online[0]} == online[0]
    assert batched.dollars() == pytest.approx(online[1] / 2)
    assert float(run.status.cost_usd) == pytest.approx(batched.dollars())
    assert all(entry["batch"] for entry in batched.ledger())
    assert set(paid_prompts(batched).values()) == {1}
    logs = [log.metadata for stage in (STAGE, "refine_assignments") for log in scan(run.stage_folder(stage))[0]]
    assert {log["outcome"] for log in logs} == {"valid"}
    assert all(log["provider_batch"].startswith("batch_") for log in logs)
    assert recount(run, load_settings()).after == run.status.stages
    assert replay(run).identical
    assert not list((run.folder / "batches").glob("*.jsonl")), "what is in the logs is not kept twice"


def test_answers_of_batches_are_in_the_cache(batched: Endpoint, small_run: NewRun) -> None:
    extract_taxonomy(small_run())
    again = small_run()
    extract_taxonomy(again)
    assert batched.count() == BATCHES
    assert again.status.total.cached == BATCHES
    assert len(batched.batches()) == 1


def test_a_run_waits_and_another_machine_fetches(
    batched: Endpoint, small_run: NewRun, online: tuple[dict[str, bytes], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is sent twice, however often one looks; the folder of the run is all that is needed later."""
    monkeypatch.setenv("SEGKIT_BATCH_WAIT", "false")
    batched.configure(batch_polls=None)
    run = small_run()
    for _ in range(2):
        with pytest.raises(
            WaitingError, match="works on 1 batch of segmentation: 0 of 6 requests are done"
        ) as waiting:
            run_stages(run)
        assert f"segkit resume {run.id}" in waiting.value.hint
        assert current_state(run.folder) == "waiting"
    assert len(batched.batches()) == 1
    batched.control("finish_batches")
    there = shutil.copytree(run.folder, Path("elsewhere") / run.id)
    shutil.rmtree(run.folder)
    monkeypatch.setenv("SEGKIT_HOME", "another-home")
    copy = open_run(run.id, there.parent)
    with pytest.raises(WaitingError, match="consolidate_taxonomy"):
        run_stages(copy)
    assert_first_results(copy, online)
    monkeypatch.setenv("SEGKIT_BATCH_WAIT", "true")
    batched.control("finish_batches")
    batched.configure(batch_polls=0)
    run_stages(copy)
    assert set(paid_prompts(batched).values()) == {1}


def test_a_run_in_s3_is_fetched_by_another_machine(
    batched: Endpoint, small_run: NewRun, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGKIT_BATCH_WAIT", "false")
    monkeypatch.setenv("STORAGE_BACKEND", "s3")
    batched.configure(batch_polls=None)
    run = small_run()
    with pytest.raises(WaitingError):
        run_stages(run)
    shutil.rmtree("runs")
    batched.control("finish_batches")
    elsewhere = open_run(run.id, "runs", load_settings())
    with pytest.raises(WaitingError, match="consolidate_taxonomy"):
        run_stages(elsewhere)
    assert batched.count(STAGE) == BATCHES


#: Faults around a batch, and how many batches there are then.
AROUND = ["upload_cut", "upload_lost", "upload_500", "create_429", "poll_500", "poll_cut", "list_500", "no_output"]
AROUND += ["content_404", "content_cut", "content_500", "shuffled", "doubled", "surrogates", "unreadable"]


@pytest.mark.parametrize("fault", AROUND)
def test_a_fault_around_a_batch_changes_nothing(
    fault: str, batched: Endpoint, small_run: NewRun, online: tuple[dict[str, bytes], float]
) -> None:
    batched.batch_fault(fault, times=2 if fault.startswith(("poll", "content", "upload")) else 1)
    run = small_run()
    extract_taxonomy(run)
    assert_first_results(run, online)
    assert len(batched.batches()) == 1
    assert sum(paid_prompts(batched).values()) == BATCHES
    assert outcomes(run) == ["valid"] * BATCHES


@pytest.mark.parametrize("fault", ["create_lost", "create_late", "create_slow", "create_500"])
def test_a_batch_is_created_once_though_its_answer_is_lost(
    fault: str, batched: Endpoint, small_run: NewRun, online: tuple[dict[str, bytes], float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """It is looked for, as long as the first try may still be at work, before there is another try."""
    monkeypatch.setenv("SEGKIT_TIMEOUT_SECONDS", "1")
    batched.batch_fault(fault, seconds=1.3)
    run = small_run()
    extract_taxonomy(run)
    assert_first_results(run, online)
    assert len(batched.batches()) == 1
    assert batched.batch_calls().count("POST /v1/batches") == (2 if fault == "create_500" else 1)
    assert len(events(run, "batch_perhaps_created")) == 1


def test_a_batch_that_no_record_knows_is_found(batched: Endpoint, small_run: NewRun) -> None:
    """The process died after it was created, or it was another machine's: the provider's list tells."""
    batched.configure(batch_polls=None)
    run = small_run()
    settings = load_settings().model_copy(update={"segkit_batch_wait": False})
    with pytest.raises(WaitingError):
        extract_taxonomy(run, settings)
    batched.control("finish_batches")
    for number in range(120):  # more than a page
        batched.control("forge_batch", {"run_id": f"RUN_{number}"})
    shutil.rmtree(run.folder / "batches")
    extract_taxonomy(run)
    assert len(batched.batches()) == 121
    assert sum(paid_prompts(batched).values()) == BATCHES


def test_what_an_expired_batch_did_not_answer_is_in_the_next_one(batched: Endpoint, new_run: NewRun) -> None:
    batched.batch_fault("expired", after=2)
    run = new_run(24, products_per_prompt=1)
    extract_taxonomy(run)
    assert [batch["status"] for batch in batched.batches()] == ["expired", "completed"]
    assert batched.count() == 24
    assert all(entry["batch"] for entry in batched.ledger())
    assert outcomes(run) == ["valid"] * 24


@pytest.mark.parametrize("fault", ["missing", "expired", "500", "429"])
def test_few_requests_without_an_answer_are_asked_online(
    fault: str, batched: Endpoint, small_run: NewRun, online: tuple[dict[str, bytes], float]
) -> None:
    if fault == "missing":
        batched.batch_fault("missing")
    elif fault == "expired":
        batched.batch_fault("expired", after=4)
    else:
        batched.queue(fault, times=2)
    run = small_run()
    extract_taxonomy(run)
    assert_first_results(run, online)
    assert sum(1 for entry in batched.ledger() if not entry["batch"]) == 2
    # The provider lost what it had answered: nobody can help that.
    assert sum(paid_prompts(batched).values()) == BATCHES + (2 if fault == "missing" else 0)


def test_a_batch_that_is_cancelled_gives_what_it_has(batched: Endpoint, small_run: NewRun) -> None:
    batched.configure(batch_polls=None)
    run, settings = small_run(), load_settings()
    with pytest.raises(WaitingError):
        extract_taxonomy(run, settings.model_copy(update={"segkit_batch_wait": False}))
    assert [row["status"] for row in batches_of(run, settings)] == ["validating"]
    assert [row["status"] for row in batches_of(run, settings, cancel=True)] == ["cancelling"]
    extract_taxonomy(run, settings.model_copy(update={"segkit_batch": False}))
    assert batched.batches()[0]["status"] == "cancelled"
    assert [bool(entry["batch"]) for entry in batched.ledger()] == [True] * 3 + [False] * 3
    row = batches_of(run, settings)[0]
    assert (row["completed"], row["failed"], row["logged"]) == (3, 3, True)


def test_a_batch_that_answers_nothing_ends_the_stage(batched: Endpoint, small_run: NewRun) -> None:
    """The next batch is the user's choice: it might end alike."""
    batched.batch_fault("expired", after=0)
    run = small_run()
    with pytest.raises(EndpointError, match="returned no answer: 6 × batch_expired") as error:
        extract_taxonomy(run)
    assert "--no-batch" in error.value.hint
    assert batched.count() == 0
    extract_taxonomy(run)
    assert [batch["status"] for batch in batched.batches()] == ["expired", "completed"]


def test_a_refused_batch_costs_nothing_and_is_sent_again(batched: Endpoint, small_run: NewRun) -> None:
    batched.batch_fault("failed")
    run = small_run()
    with pytest.raises(RefusedError, match="Enqueued token limit reached"):
        extract_taxonomy(run)
    extract_taxonomy(run)
    assert [batch["status"] for batch in batched.batches()] == ["failed", "completed"]
    assert batched.count() == BATCHES


def test_a_refusal_to_create_a_batch_is_the_end(batched: Endpoint, small_run: NewRun) -> None:
    batched.batch_fault("create_refused")
    run = small_run()
    with pytest.raises(RefusedError, match="Billing hard limit"):
        extract_taxonomy(run)
    extract_taxonomy(run)
    assert len(batched.batches()) == 1


def test_a_provider_without_batches(batched: Endpoint, small_run: NewRun) -> None:
    """One line, and the next command asks one by one."""
    batched.configure(batch_api=False)
    run = small_run()
    with pytest.raises(RefusedError, match=r"127.0.0.1 has no Batch API \(GET /batches: HTTP 404\)") as error:
        extract_taxonomy(run)
    assert error.value.hint == f"ask one by one: segkit resume {run.id} --no-batch"
    extract_taxonomy(run, load_settings().model_copy(update={"segkit_batch": False}))
    assert batched.count() == BATCHES


def test_invalid_answers_are_corrected_in_the_next_batch(batched: Endpoint, new_run: NewRun) -> None:
    batched.queue("content", text="I cannot.", times=22)
    run = new_run(24, products_per_prompt=1)
    extract_taxonomy(run)
    assert len(batched.batches()) == 2
    assert outcomes(run) == ["invalid"] * 22 + ["valid"] * 24
    assert {log.metadata["attempt"] for log in scan(run.stage_folder(STAGE))[0]} == {1, 2}
    assert all(entry["batch"] for entry in batched.ledger())
    assert set(run.result("batch_assignments")["reason"]) == {""}


def test_a_stage_without_a_valid_answer_goes_on_online(batched: Endpoint, new_run: NewRun) -> None:
    """There three questions that fail alike end it, where another batch would be paid for nothing."""
    batched.rule("content", text="I cannot.")
    run = new_run(24, products_per_prompt=1)
    with pytest.raises(EndpointError, match="had no usable answer"):
        extract_taxonomy(run)
    assert len(batched.batches()) == 1
    assert sum(1 for entry in batched.ledger() if not entry["batch"]) <= 3 * 16


@pytest.mark.parametrize("fault", ["context_length", "400_content_filter"])
def test_a_question_that_must_be_cut(fault: str, batched: Endpoint, small_run: NewRun) -> None:
    batched.queue(fault)
    run = small_run()
    extract_taxonomy(run)
    assert set(run.result("batch_assignments")["reason"]) == {""}
    assert [entry["fault"] for entry in batched.ledger()].count(fault) == 1


@pytest.mark.parametrize(("fault", "option"), [("400", "--temperature none"), ("insufficient_quota", "")])
def test_what_only_the_user_can_mend(fault: str, option: str, batched: Endpoint, small_run: NewRun) -> None:
    """What was answered in the same batch is kept, and paid once."""
    batched.queue(fault)
    run = small_run()
    with pytest.raises(RefusedError) as error:
        extract_taxonomy(run)
    assert option in error.value.hint
    assert outcomes(run) == ["valid"] * 5
    extract_taxonomy(run)
    assert set(paid_prompts(batched).values()) == {1}


def test_an_answer_counts_though_its_question_is_worded_anew(batched: Endpoint, small_run: NewRun) -> None:
    batched.configure(batch_polls=None)
    run, settings = small_run(), load_settings()
    with pytest.raises(WaitingError):
        extract_taxonomy(run, settings.model_copy(update={"segkit_batch_wait": False}))
    batched.control("finish_batches")
    changed = change_requests(run, settings, temperature="none")
    extract_taxonomy(changed)
    assert batched.count() == BATCHES
    assert changed.status.calls == BATCHES
    assert float(changed.status.cost_usd) == pytest.approx(batched.dollars())


def test_no_secret_of_a_provider_is_kept(batched: Endpoint, small_run: NewRun) -> None:
    """It repeats the key in an error line, and in the answer to another call."""
    batched.rule("reply", body={"error": {"message": f"an error about {KEY}", "code": "odd"}}, status=500, above=0)
    run = small_run()
    with pytest.raises(EndpointError, match="returned no answer") as error:
        extract_taxonomy(run)
    assert KEY not in str(error.value)
    assert "an error about" in str(error.value)
    assert not [path for path in run.folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_caps_hold_for_what_is_submitted(batched: Endpoint, small_run: NewRun) -> None:
    settings = load_settings()
    run = small_run()
    with pytest.raises(BudgetError, match="4 of 4 calls are made") as error:
        extract_taxonomy(run, settings.model_copy(update={"segkit_max_calls": 4}))
    assert "--max-calls" in error.value.hint
    assert batched.count() == 4
    most = run.status.cost_usd + Decimal("0.02")
    with pytest.raises(BudgetError):
        extract_taxonomy(run, settings.model_copy(update={"segkit_max_cost_usd": run.status.cost_usd}))
    assert batched.count() == 4
    extract_taxonomy(run, settings.model_copy(update={"segkit_max_cost_usd": most}))
    assert batched.count() == BATCHES
    assert run.status.cost_usd <= most


def test_what_was_only_meant_to_be_sent_keeps_to_the_caps_of_now(batched: Endpoint, small_run: NewRun) -> None:
    batched.batch_fault("create_refused")
    run, settings = small_run(), load_settings()
    with pytest.raises(RefusedError):
        extract_taxonomy(run)
    with pytest.raises(BudgetError):
        extract_taxonomy(run, settings.model_copy(update={"segkit_max_calls": 2}))
    assert batched.count() == 2


def test_a_batch_that_somebody_created_twice_is_counted_twice(batched: Endpoint, small_run: NewRun) -> None:
    """Whatever was paid is in the logs."""
    batched.configure(batch_polls=None)
    run, settings = small_run(), load_settings()
    with pytest.raises(WaitingError):
        extract_taxonomy(run, settings.model_copy(update={"segkit_batch_wait": False}))
    batched.control("forge_batch", {"run_id": run.id, "name": "segmentation-1-1-1"})
    shutil.rmtree(run.folder / "batches")
    batched.control("finish_batches")
    extract_taxonomy(run)
    assert outcomes(run) == ["recovered"] * BATCHES + ["valid"] * BATCHES
    assert float(run.status.cost_usd) == pytest.approx(batched.dollars())


def test_a_run_remembers_that_it_is_sent_in_batches(
    endpoint: Endpoint, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(12, batch="true")
    monkeypatch.setenv("SEGKIT_BATCH_WAIT", "true")
    extract_taxonomy(open_run(run.id))
    assert [entry["batch"] for entry in endpoint.ledger()] == ["batch_0001"] * 2
    with pytest.raises(SettingsError, match="the offline model takes no batches"):
        new_run(12, "offline", batch=True)


def test_equal_questions_are_asked_as_often_as_online(
    batched: Endpoint, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the cache once, without it each by itself."""
    same = catalogue(8).assign(title="Solid kettle")
    for cache, asked in (("true", 1), ("false", 4)):
        batched.reset()
        monkeypatch.setenv("SEGKIT_CACHE", cache)
        extract_taxonomy(new_run(same, products_per_prompt=2, ask_duplicates=True))
        assert batched.count() == asked
        assert len(batched.batches()) == 1


def test_a_torn_record_of_an_answer_is_read_again(batched: Endpoint, small_run: NewRun) -> None:
    """A process that died while it logged answers leaves an intent; nothing was sent for it."""
    batched.configure(batch_polls=None)
    run, settings = small_run(), load_settings()
    with pytest.raises(WaitingError):
        extract_taxonomy(run, settings.model_copy(update={"segkit_batch_wait": False}))
    batched.control("finish_batches")
    head = {"context": {}, "prompt": "x", "request": {}, "provider_batch": "batch_0001", "custom_id": "b1_a1_0_1"}
    begin(run.stage_folder(STAGE), 1, 1, head).file.close()
    extract_taxonomy(run)
    assert intents(run.stage_folder(STAGE)) == []
    assert outcomes(run) == ["valid"] * BATCHES


def test_a_plan_shows_both_prices(endpoint: Endpoint, new_run: NewRun) -> None:
    """The price in batches is half the price online, and the discount of the prompt cache is in neither."""
    plan = plan_of(new_run(24), load_settings())
    for end in ("low", "high"):
        assert (plan[f"batch_cost_usd_{end}"] * 2 == plan[f"cost_usd_{end}"]).all()
    assert "with --batch" in readable_plan(plan).columns
    assert "with --batch)" in sentence(plan.iloc[-1])
    free = plan_of(new_run(24, "offline"), load_settings())
    assert "with --batch" not in readable_plan(free).columns


def test_files_stay_within_what_a_provider_takes() -> None:
    assert list(map(len, parted([b"x\n"] * (MOST_REQUESTS + 1)))) == [MOST_REQUESTS, 1]
    line = b"x" * (MOST_BYTES // 4)
    assert list(map(len, parted([line] * 9))) == [4, 4, 1]


def test_the_name_of_a_batch_from_a_provider_is_no_path(batched: Endpoint, small_run: NewRun) -> None:
    """A batch whose metadata holds something else than the name of one is passed over."""
    batched.configure(batch_polls=None)
    run, settings = small_run(), load_settings()
    with pytest.raises(WaitingError):
        extract_taxonomy(run, settings.model_copy(update={"segkit_batch_wait": False}))
    batched.control("forge_batch", {"run_id": run.id, "name": "../../x-1-1-1"})
    shutil.rmtree(run.folder / "batches")
    batched.control("finish_batches")
    extract_taxonomy(run)
    assert [record.name for record in read_records(run)] == ["segmentation-1-1-1"]
    assert isinstance(run, Run)


def test_a_wrong_key_is_refused_as_online(batched: Endpoint, small_run: NewRun) -> None:
    batched.configure(api_key="another", batch_api=True)
    with pytest.raises(SegkitError, match="refuses the API key"):
        extract_taxonomy(small_run())
