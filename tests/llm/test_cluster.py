"""Questions that the workers of a Dask cluster ask: the answers, the caps and the keys are those of one machine.

The scheduler and the workers of these tests are threads of this process; tests/pipeline/test_cluster_kills.py has
processes that are killed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import cloudpickle
import orjson
import pytest
from catalogues import KEY
from distributed import LocalCluster
from endpoint import Endpoint
from s3_server import S3Server

from segkit.core.models import STAGES
from segkit.errors import BudgetError, RunError, SettingsError
from segkit.llm.cluster.losses import NOTHING_LOST, GrantedCall, LostCalls, lost_calls, record_lost
from segkit.llm.cluster.machine import Terms, check_worker, terms_of
from segkit.llm.cluster.scheduler import check_executor
from segkit.pipeline.migrate import remote_differences
from segkit.pipeline.segment import run_stages
from segkit.runs.events import read_events
from segkit.runs.interactions import begin, finish, intents, is_being_written, keep_raw, scan
from segkit.runs.run import Run
from segkit.settings import Settings, load_settings

NewRun = Callable[..., Run]


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = str(tmp_path_factory.mktemp("cluster"))
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=False,
        protocol="tcp",
        dashboard_address="127.0.0.1:0",
        local_directory=folder,
    ) as cluster:
        yield str(cluster.scheduler_address)


def on(executor: str, **changes: object) -> Settings:
    return load_settings().model_copy(update={"segkit_executor": executor, "segkit_cache": False, **changes})


def tables(run: Run) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run.folder / "results").iterdir()}


def test_workers_answer_as_one_machine_does(endpoint: Endpoint, new_run: NewRun, scheduler: str) -> None:
    """The results are the same bytes, every question is asked once, and the logs say which worker asked."""
    alone, run = new_run(36), new_run(36)
    run_stages(alone, settings=on(""))
    asked = endpoint.count()
    endpoint.reset()
    summary = run_stages(run, settings=on(scheduler))
    assert tables(run) == tables(alone)
    assert (endpoint.count(), summary["calls"], summary["workers"]) == (asked, asked, 2)
    logs = [log.log for log in scan(run.folder / STAGES["extract_taxonomy"])[0]]
    assert logs
    assert all(log["asked_by"] for log in logs)
    assert summary["input_tokens"] == alone.status.summary["input_tokens"]
    assert not any(KEY.encode() in path.read_bytes() for path in run.folder.rglob("*") if path.is_file())


def test_a_cap_holds_for_all_workers_together(endpoint: Endpoint, new_run: NewRun, scheduler: str) -> None:
    run = new_run(60)
    with pytest.raises(BudgetError, match="7 of 7 calls are made"):
        run_stages(run, settings=on(scheduler, segkit_max_calls=7))
    assert endpoint.count() == 7
    run_stages(run, settings=on(scheduler))
    assert run.status.state == "completed"
    assert endpoint.count() == run.status.calls  # nothing was asked twice


def test_a_cap_in_dollars_holds_for_all_workers_together(endpoint: Endpoint, new_run: NewRun, scheduler: str) -> None:
    run = new_run(60)
    with pytest.raises(BudgetError, match="are spent"):
        run_stages(run, settings=on(scheduler, segkit_max_cost_usd=Decimal("0.05")))
    assert 0 < run.status.cost_usd <= Decimal("0.05")


def terms(run: Run, settings: Settings) -> Terms:
    return terms_of("session", "topic", run.parameters.model, run.parameters.endpoint, settings)


def test_no_secret_travels_to_the_workers(endpoint: Endpoint, new_run: NewRun) -> None:
    settings = load_settings()
    settings = settings.model_copy(update={"database_url": settings.openai_api_key})
    assert KEY.encode() not in cloudpickle.dumps(terms(new_run(12), settings))


def test_a_worker_that_does_not_fit_is_refused_in_a_line(
    endpoint: Endpoint, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, worker = terms(new_run(12), load_settings()), SimpleNamespace(name="w1")
    assert check_worker(own, worker) == ""
    older = check_worker(replace(own, versions={**own.versions, "Python": "3.9"}), worker)
    assert older.startswith("worker w1 has segkit ")
    assert "Python 3.9" in older
    monkeypatch.delenv("OPENAI_API_KEY")
    without = check_worker(own, worker)
    assert without == "worker w1 has no API key (set OPENAI_API_KEY in the environment of the workers)"


@pytest.mark.parametrize("executor", ["spark", "dask:0", "tcp://user@host:1", "scheduler:8786"])
def test_what_is_no_executor_is_refused(executor: str) -> None:
    with pytest.raises(SettingsError, match="is no executor"):
        check_executor(executor)


def test_a_lost_call_is_spent_until_a_log_shows_it(new_run: NewRun) -> None:
    run = new_run(12, model="offline")
    assert lost_calls(run) == NOTHING_LOST
    calls = [GrantedCall("w1/a/1", 3, 1, "0.25"), GrantedCall("w2/a/2", 4, 1, "0.50")]
    record_lost(run, "extract_taxonomy", calls)
    assert lost_calls(run) == LostCalls(2, Decimal("0.75"))
    intent = begin(run.stage_folder("extract_taxonomy"), 3, 1, {"asked_by": "w1/a/1", "context": {}})
    finish(intent, {"response": "", "metadata": {"batch_id": 3, "attempt": 1}})
    assert lost_calls(run) == LostCalls(1, Decimal("0.50"))


def test_the_intent_of_another_worker_is_left_to_it(endpoint: Endpoint, new_run: NewRun) -> None:
    """A worker that was thought to be gone may still write its answer: nobody else touches the file."""
    run = new_run(12)
    folder = run.stage_folder("extract_taxonomy")
    intent = begin(folder, 1, 1, {"context": {}, "prompt": "", "request": {"endpoint": ""}}, locked=True)
    keep_raw(intent, 200, b"{}")
    assert is_being_written(intent.path)
    written = intent.path.read_bytes()
    run_stages(run, settings=on(""))
    assert intents(folder) == [intent.path]
    assert intent.path.read_bytes() == written
    intent.file.close()
    assert not is_being_written(intent.path)


def test_a_worker_without_the_folder_is_one_line(
    endpoint: Endpoint, new_run: NewRun, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segkit.llm.cluster.share._text", lambda path: "")  # as on a machine with another disk
    run = new_run(12)
    with pytest.raises(RunError, match="does not see"):
        run_stages(run, settings=on(scheduler))
    assert endpoint.count() == 0


def test_run_json_records_the_executor(place: Path, new_run: NewRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGKIT_EXECUTOR", "dask:2")
    run = new_run(12, model="offline")
    assert orjson.loads((run.folder / "run.json").read_bytes())["executor"] == "dask:2"


@pytest.mark.long
def test_workers_that_see_only_s3_work_there(
    endpoint: Endpoint, s3: S3Server, new_run: NewRun, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their logs come back through the bucket, and the events of their own folders are added to those of the run."""
    monkeypatch.setenv("STORAGE_BACKEND", "s3")
    alone, run = new_run(36), new_run(36)
    fault = {"text": "no JSON at all", "contains": "Solid number 7 ", "stage": "extract_taxonomy"}
    endpoint.queue("content", **fault)
    run_stages(alone, settings=on(""))
    asked = endpoint.count()
    endpoint.reset()
    monkeypatch.setattr("segkit.llm.cluster.share._text", lambda path: "")  # as on a machine with another disk
    endpoint.queue("content", **fault)
    with pytest.raises(BudgetError):
        run_stages(run, settings=on(scheduler, segkit_max_calls=asked - 3))
    assert endpoint.count() == asked - 3
    run_stages(run, settings=on(scheduler))
    assert endpoint.count() == run.status.calls == asked
    assert tables(run) == tables(alone)
    assert "answer_not_clean" in {event["event"] for event in read_events(run.folder)}
    assert not remote_differences(run)
