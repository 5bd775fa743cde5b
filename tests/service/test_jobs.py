"""Runs that the service starts: processes of their own, which outlive it, and the runs of the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from catalogues import KEY
from endpoint import Endpoint
from rest_service import COMMAND, Service, fill_products, settled, wish

from segkit.database.sync import read_postgres
from segkit.runs.integrity import differences
from segkit.runs.interactions import scan
from segkit.runs.ownership import is_owned
from segkit.runs.run import open_run
from segkit.settings import Settings

START = "/api/segmentation/start"
SLOW = 3.0  # seconds an answer takes: long enough to be killed meanwhile


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory, postgres_url: str, shared_endpoint: Endpoint) -> Iterator[Service]:
    """A service that works on one run at a time, over the fake endpoint."""
    fill_products(postgres_url, range(1, 501))
    service = Service(
        tmp_path_factory.mktemp("busy"),
        DATABASE_URL=postgres_url,
        OPENAI_BASE_URL=shared_endpoint.url,
        OPENAI_API_KEY=KEY,
        SEGKIT_SERVE_RUNS="1",
        SEGKIT_CONCURRENCY="2",
    )
    service.token("ann", max_cost_usd=5.0)
    service.token("root", all_runs=True)
    with service:
        yield service


def start(client: httpx.Client, *ids: int, **more: Any) -> str:
    told = client.post(START, json=wish(*ids, **({"model": "gpt-4o", "max_cost_usd": 1} | more)))
    assert told.status_code == 200, told.text
    return str(told.json()["run_id"])


def status(client: httpx.Client, run_id: str) -> dict[str, Any]:
    told: dict[str, Any] = client.get(f"/api/segmentation/{run_id}/status").json()
    return told


def until(true: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end
        threading.Event().wait(0.05)
    return value


def child_of(service: Service, run_id: str) -> int:
    begun = [e for e in service.events() if e["event"] == "run_process_started" and e["run_id"] == run_id]
    return int(begun[-1]["child"])


def test_a_run_outlives_the_service_and_its_end_is_told(busy: Service, shared_endpoint: Endpoint) -> None:
    """The service is killed, the run goes on; it is cancelled, and the answer in flight is kept; it is
    resumed and its process is killed: it is interrupted, not running, and what is answered is not asked again."""
    shared_endpoint.reset()
    shared_endpoint.configure(latency=SLOW)
    with busy.client() as client:
        run_id = start(client, *range(1, 11))
        waiting = start(client, 1, 2)
        shared_endpoint.wait(1)
    busy.kill()
    busy.start()
    with busy.client() as client:
        assert status(client, run_id)["status"] == "running"
        assert is_owned(busy.place / "runs" / run_id)
        assert status(client, waiting)["queued"] is True, "the queue is not forgotten"
        assert client.post(f"/api/segmentation/{waiting}/cancel").json()["status"] == "stopping"
        assert status(client, waiting)["failure"] == "cancelled"
        assert client.post(f"/api/segmentation/{run_id}/cancel").status_code == 200
        told = settled(client, run_id)
        assert (told["status"], "interrupted" in told) == ("cancelled", False)
        assert told["failure"] == "cancelled"
        run = open_run(run_id, busy.place / "runs")
        asked = shared_endpoint.count()
        assert len(scan(run.stage_folder("extract_taxonomy"))[0]) == asked == 1

        assert client.post(f"/api/segmentation/{run_id}/resume").json() == {"run_id": run_id, "status": "queued"}
        assert client.post(f"/api/segmentation/{run_id}/resume").status_code == 409
        shared_endpoint.wait(2)
        assert shared_endpoint.count("extract_taxonomy") == 1, "what is answered is not asked again"
        os.killpg(child_of(busy, run_id), signal.SIGKILL)
        told = settled(client, run_id)
        assert told["status"] == "failed"
        assert told["interrupted"] is True
        assert told["failure"] == "interrupted"
        assert str(busy.place) not in json.dumps(told)
        partial = client.get(f"/api/segmentation/{run_id}/results").json()
        assert (partial["status"], partial["partial"]) == ("failed", True)
        count = shared_endpoint.count()
        threading.Event().wait(1)
        assert shared_endpoint.count() == count, "nothing is paid again by itself"


@pytest.mark.long
def test_a_run_stops_when_its_token_expires(busy: Service, shared_endpoint: Endpoint) -> None:
    """The answer in flight is kept, nothing more is asked, and an operator reads why."""
    shared_endpoint.reset()
    shared_endpoint.configure(latency=SLOW)
    busy.token("brief", max_cost_usd=5.0)
    with busy.client("brief") as client:
        until(lambda: client.get("/api/segmentation/runs").status_code == 200)
        run_id = start(client, *range(1, 91))
        shared_endpoint.wait(1)
        file = json.loads(busy.tokens.read_bytes())
        file["tokens"][-1]["expires"] = "2020-01-01T00:00:00Z"
        busy.tokens.write_text(json.dumps(file))
        until(lambda: client.get(f"/api/segmentation/{run_id}/status").status_code == 401)
    with busy.client("root") as operator:
        assert settled(operator, run_id)["failure"] == "cancelled"
    run = open_run(run_id, busy.place / "runs")
    assert len(scan(run.stage_folder("extract_taxonomy"))[0]) == shared_endpoint.count() <= 3
    assert [e["why"] for e in busy.events() if e["event"] == "run_cancelled" and e["run_id"] == run_id] == [
        "its token was withdrawn"
    ]


@pytest.mark.long
def test_a_run_of_the_service_is_a_run_of_the_command_line(busy: Service, shared_endpoint: Endpoint) -> None:
    """It completes with the seed's fields and streams its progress; its folder and tables are those of any run."""
    shared_endpoint.reset()
    with busy.client() as client:
        run_id = start(client, *range(1, 21), model="offline")
        seen = []
        with client.stream("GET", f"/api/segmentation/{run_id}/events") as stream:
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    seen.append(json.loads(line.removeprefix("data: ")))
        assert [seen[0]["status"], seen[-1]["status"]] == ["running", "completed"]
        assert [told["processed_products"] for told in seen] == sorted(told["processed_products"] for told in seen)
        told = status(client, run_id)
        assert (told["progress_percent"], told["total_products"]) == (100.0, 20)
        results = client.get(f"/api/segmentation/{run_id}/results").json()
        page = client.get(f"/api/segmentation/{run_id}/report.html")
        figures = client.get("/metrics").text
    run = open_run(run_id, busy.place / "runs")
    refined = run.result("refined_segments")
    assert results["synced"] is True
    numbers = {taxonomy["id"]: taxonomy["number"] for taxonomy in results["taxonomies"]}
    assert [(s["product_id"], numbers[s["taxonomy_id"]]) for s in results["segments"]] == list(
        refined[["product_id", "taxonomy_id"]].itertuples(index=False, name=None)
    )
    sql = (
        f"SELECT product_id, taxonomy_id FROM refined_product_segments WHERE run_id = '{run_id}' ORDER BY product_id"
    )
    stored = read_postgres(sql, Settings(database_url=busy.environment["DATABASE_URL"]))
    assert [(s["product_id"], s["taxonomy_id"]) for s in results["segments"]] == list(
        stored.itertuples(index=False, name=None)
    )
    assert sum(taxonomy["product_count"] for taxonomy in results["taxonomies"]) == 20
    assert page.content == (run.folder / "report.html").read_bytes()
    assert 'segkit_calls_total{stage="segmentation"}' in figures
    assert differences(run) == []
    listed = subprocess.run(
        [*COMMAND, "runs", "--json"], cwd=busy.place, env=busy.environment, capture_output=True, text=True, check=True
    )
    assert run_id in [row["id"] for row in json.loads(listed.stdout) if row["state"] == "completed"]
    ended = until(lambda: [e for e in busy.events() if e["event"] == "run_ended" and e["run_id"] == run_id])
    assert (ended[0]["state"], ended[0]["owner"], ended[0]["exit_code"]) == ("completed", "ann", 0)


@pytest.mark.long
def test_the_client_of_the_page_works(busy: Service) -> None:
    """The Python of docs/rest.md, as it stands there but for the address, the token and the products."""
    page = (Path(__file__).parents[2] / "docs" / "rest.md").read_text(encoding="utf-8")
    code = page.partition("```python\n")[2].partition("```")[0].replace("http://127.0.0.1:8000", busy.url)
    code = f"ids, token = [1, 2, 3], {busy.secrets['ann']!r}\n{code.replace('gpt-4o', 'offline')}"
    code = code.replace(', "max_cost_usd": 1.0', "")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len([line for line in done.stdout.splitlines() if line.split()[0] in ("1", "2", "3")]) == 3


@pytest.mark.long
def test_a_run_that_cannot_begin_says_why(busy: Service) -> None:
    """The owner learns that only the operator can see why; the operator reads it."""
    with busy.client() as client:
        blocking = start(client, *range(1, 5), model="offline")
        run_id = start(client, 1, 2, model="offline", max_unassigned=1)
        (busy.place / "runs" / run_id / "products.parquet").write_bytes(b"changed")
        client.post(f"/api/segmentation/{blocking}/cancel")
        told = settled(client, run_id)
        assert (told["failure"], "detail" in told) == ("internal", False)
        with busy.client("root") as operator:
            detail = status(operator, run_id)["detail"]
    assert "products.parquet was changed since the run began" in detail
    assert "\n" not in detail


@pytest.mark.long
def test_a_damaged_status_holds_no_other_run_up(busy: Service, shared_endpoint: Endpoint) -> None:
    """A run that died and left a `status.json` nobody understands; the runs after it go on."""
    shared_endpoint.reset()
    shared_endpoint.configure(latency=SLOW)
    with busy.client() as client:
        broken = start(client, *range(201, 211))
        shared_endpoint.wait(1)
        process = psutil.Process(child_of(busy, broken))
        process.suspend()
        for kernel in process.children(recursive=True):
            kernel.kill()
        status_file = busy.place / "runs" / broken / "status.json"
        status_file.write_text('{"products": 10, "state": "running", "stages": {"segmentation": {"planned": 1}}}')
        process.kill()
        shared_endpoint.configure(latency=0)
        other = start(client, 1, 2)
        assert settled(client, other)["status"] == "completed"
        told = client.get(f"/api/segmentation/{broken}/status")
        assert (told.status_code, told.json()["detail"]) == (409, f"the status of {broken} is damaged")
        assert [client.get(f"/{path}").status_code for path in ("api/segmentation/runs", "metrics")] == [200, 200]
        status_file.write_text("[]")
        until(lambda: status(client, broken)["status"] == "failed")


@pytest.mark.long
def test_an_interrupted_run_is_completed_by_the_command_line(busy: Service, shared_endpoint: Endpoint) -> None:
    """After its process was killed, `segkit resume` completes it, and the service tells so."""
    shared_endpoint.reset()
    shared_endpoint.configure(latency=1.0)
    with busy.client() as client:
        run_id = start(client, *range(1, 91))
        shared_endpoint.wait(1)
        os.killpg(child_of(busy, run_id), signal.SIGKILL)
        assert settled(client, run_id)["interrupted"] is True
        command = [*COMMAND, "resume", run_id, "--json"]
        subprocess.run(command, cwd=busy.place, env=busy.environment, capture_output=True, check=True, timeout=300)
        told = settled(client, run_id)
        assert (told["status"], told["processed_products"]) == ("completed", 90)
    sql = f"SELECT count(*) AS n FROM refined_product_segments WHERE run_id = '{run_id}'"
    assert read_postgres_of(busy, sql) == 90


def read_postgres_of(service: Service, sql: str) -> int:
    return int(read_postgres(sql, Settings(database_url=service.environment["DATABASE_URL"]))["n"][0])


@pytest.mark.long
def test_the_estimate_is_right_within_a_factor_of_two(busy: Service, shared_endpoint: Endpoint) -> None:
    """Once the first questions are answered, what is left is told within a factor of two, and five seconds."""
    from datetime import datetime

    shared_endpoint.reset()
    shared_endpoint.configure(latency=3.0)
    told: list[tuple[float, float]] = []
    with busy.client() as client:
        run_id = start(client, *range(1, 481), max_cost_usd=5)
        while (now := status(client, run_id))["status"] == "running":
            if now["processed_products"]:
                ends = datetime.fromisoformat(now["estimated_completion"]).timestamp()
                told.append((time.time(), ends))
            threading.Event().wait(0.5)
        assert now["status"] == "completed"
    end = time.time()
    assert len(told) > 10
    off = [(left, end - moment) for moment, ends in told for left in (ends - moment,)]
    wrong = [(left, true) for left, true in off if not true / 2 - 5 <= left <= true * 2 + 5]
    assert not wrong, wrong


@pytest.mark.long
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_start_survives_a_kill_at_any_moment(tmp_path: Path, postgres_url: str, how: int) -> None:
    """The service is killed while it makes runs; each answered start has its run, and no key has two."""
    fill_products(postgres_url, range(1, 501))
    service = Service(tmp_path, DATABASE_URL=postgres_url, SEGKIT_SERVE_RUNS="0", SEGKIT_SERVE_QUEUE="1000")
    answered: dict[str, str] = {}
    service.token("ann", max_active=1000)
    with service:
        for life in range(5):

            def work(number: int, life: int = life) -> None:
                key = f"{life}-{number}"
                try:
                    with service.client() as client:
                        told = client.post(START, json=wish(1, 2, 3), headers={"idempotency-key": key})
                        answered[key] = told.json()["run_id"]
                except (httpx.HTTPError, KeyError, ValueError):
                    pass

            threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
            for thread in threads:
                thread.start()
            threading.Event().wait(0.05 + 0.1 * life)
            service.stop(how)
            for thread in threads:
                thread.join()
            service.start()
        with service.client() as client:
            for key, run_id in answered.items():
                again = client.post(START, json=wish(1, 2, 3), headers={"idempotency-key": key}).json()
                assert again["run_id"] == run_id
            folders = [name for name in os.listdir(tmp_path / "runs") if name.startswith("RUN_")]
            listed = client.get("/api/segmentation/runs", params={"limit": 200}).json()["runs"]
            assert sorted(folders) == sorted(run["run_id"] for run in listed)
    assert answered


def test_a_temperature_that_is_null_is_not_sent(busy: Service) -> None:
    """Some models take no temperature: null sends none, a missing field the operator's default."""
    with busy.client() as client:
        runs = [start(client, 1, 2, temperature=None), start(client, 1, 2), start(client, 1, 2, temperature=0)]
        found = [open_run(run_id, busy.place / "runs").parameters.temperature for run_id in runs]
        for run_id in reversed(runs):
            client.post(f"/api/segmentation/{run_id}/cancel")
    assert found == [None, 0.2, 0]


@pytest.mark.long
def test_a_budget_holds_however_long_the_answers_are(busy: Service, shared_endpoint: Endpoint) -> None:
    """Each request carries the limit that was reserved for its answer; a server that bills it all stays in budget."""
    shared_endpoint.reset()
    with busy.client() as client:
        settled(client, start(client, *range(1, 481), model="gpt-5", max_cost_usd=5))
        limits = [body["max_completion_tokens"] for body in shared_endpoint.bodies() if body]
        longest = {"prompt_tokens": 1500, "completion_tokens": min(limits), "total_tokens": 1500 + min(limits)}
        shared_endpoint.reset()
        shared_endpoint.rule("usage", value=longest)
        run_id = start(client, *range(2, 482), model="gpt-5", max_cost_usd=0.6)
        assert settled(client, run_id)["failure"] == "budget"
    status = open_run(run_id, busy.place / "runs").status
    assert 0 < status.cost_usd <= Decimal("0.6")
    assert status.unpriced == 0
