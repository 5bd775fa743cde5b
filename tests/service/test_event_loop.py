"""No request takes the event loop for more than 5 ms, however large it is and whatever is wrong with it."""

from __future__ import annotations

import json
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import psycopg
import pytest
from rest_service import KINDS, Service, finished, until, wish
from watched_service import Stalls

from segkit.database.schema import migrate
from segkit.errors import RequestError
from segkit.runs.run import Run

ROOT = "/api/segmentation"
MOST = 100_000  # products of a run
MILLISECONDS = 5.0
TRIES = 25  # on a busy machine others take the processor from who holds the lock of the threads


@pytest.fixture(scope="module")
def stalls(tmp_path_factory: pytest.TempPathFactory) -> Stalls:
    return Stalls(tmp_path_factory.mktemp("watch") / "stalls")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, postgres_url: str, stalls: Stalls) -> Iterator[Service]:
    """A service whose runs wait, with a token for runs of the largest size."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE large")  # others count on products that are not there
    url = f"{postgres_url.rpartition('/')[0]}/large"
    migrate(url)
    copying = "COPY amazon_products (id, title) FROM STDIN"
    with psycopg.connect(url) as connection, connection.cursor() as cursor, cursor.copy(copying) as copy:
        for number in range(1, MOST + 1):
            copy.write_row((number, f"Solid number {number} {KINDS[number % len(KINDS)]}"))
    service = Service(
        tmp_path_factory.mktemp("loop"), command=stalls.command, DATABASE_URL=url, SEGKIT_SERVE_RUNS="0",
        SEGKIT_SERVE_QUEUE="1000",
    )  # fmt: skip
    service.token("big", all_runs=True, max_products=MOST, max_active=1000, requests_per_second=1e9)
    with service:
        yield service


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


@pytest.fixture(scope="module")
def completed(service: Service) -> Run:
    """A run of the largest size that ended."""
    return with_results(finished(service.place / "runs", MOST))


@pytest.fixture(scope="module")
def small(service: Service) -> Run:
    """A small run that ended."""
    return with_results(finished(service.place / "runs", 10))


def with_results(run: Run) -> Run:
    ids = run.products["product_id"]
    lineage = dict.fromkeys(("batch_category", "category", "refined_category"), "Kettles")
    lineage |= dict.fromkeys(("part", "reason", "cache_key", "refined_by"), "")
    figures = {"batch": 1, "confidence": 0.5, "refined_confidence": 0.5}
    run.save_result("lineage", pd.DataFrame({"product_id": ids, **lineage, **figures}))
    run.save_result("ledger", pd.DataFrame({"product_id": ids, "state": "assigned", "reason": ""}))
    return run


def check(stalls: Stalls, call: Callable[[], httpx.Response], status: int) -> None:
    """Call until the loop was never late: what stands still by itself does so each time."""
    seen = []
    for _ in range(TRIES):
        answers: list[httpx.Response] = []
        seen.append(stalls.during(lambda: answers.append(call())))  # noqa: B023 (called at once)
        assert answers[0].status_code == status, answers[0].text[:500]
        if max(seen[-1]) < MILLISECONDS:
            return
    raise AssertionError(f"late, longest callback in ms: {seen}")


TEXTS = [f"B{number:09d}" for number in range(MOST)]
BODIES: dict[str, Any] = {
    "the same text": {"product_ids": ["a"] * MOST},
    "unknown texts": {"product_ids": TEXTS},
    "texts with escapes": {"product_ids": [f"\u00e9{text}" for text in TEXTS]},
    "a wrong id at the end": {"product_ids": [*range(1, MOST), -1]},
    "an id twice": {"product_ids": [*range(1, MOST), 1]},
    "short lists": {"product_ids": [1] * 30_000},
    "unknown fields": {f"k{number}": 1 for number in range(MOST)},
    "a long text": {"product_ids": [1], "category": "x" * 1_900_000},
}


@pytest.mark.parametrize("name", BODIES)
def test_large_wrong_bodies_hold_nobody_up(stalls: Stalls, client: httpx.Client, name: str) -> None:
    """Bodies of up to 2 MB, refused at their first fault or their last one."""
    body = {"category": "x", "model": "offline"} | BODIES[name]
    data = json.dumps(body, ensure_ascii=name != "texts with escapes").encode()
    head = {"content-type": "application/json"}
    check(stalls, lambda: client.post(f"{ROOT}/start", content=data, headers=head), 422)


CATEGORY = {
    "name": "Whistling Kettles",
    "definition": "For tea. " * 20,
    "state": "active",
    "examples": ["A title"] * 5,
}
SHEETS = {
    "of keys that the run has not": [{**CATEGORY, "key": f"C-{number}"} for number in range(1, 1001)],
    "wrong in each row": [{**CATEGORY, "key": number, "products": -1, "action": "x"} for number in range(1000)],
}


@pytest.mark.parametrize("name", SHEETS)
@pytest.mark.parametrize("path", ["taxonomy/check", "assign"])
def test_large_wrong_sheets_hold_nobody_up(
    stalls: Stalls, client: httpx.Client, small: Run, path: str, name: str
) -> None:
    """Of as many categories as a sheet may have."""
    sheet = {"categories": SHEETS[name]}
    body = sheet if path == "taxonomy/check" else {"taxonomy": sheet}
    check(stalls, lambda: client.post(f"{ROOT}/{small.id}/{path}", json=body), 422)


@pytest.mark.parametrize("path", [f"{ROOT}/runs?limit=200", "/metrics", "/docs", "/openapi.json", "/ready"])
def test_small_answers_hold_nobody_up(stalls: Stalls, client: httpx.Client, path: str) -> None:
    check(stalls, lambda: client.get(path), 200)


@pytest.mark.long
@pytest.mark.parametrize("path", ["results", "results.csv", "results.parquet", "status", "products/0"])
def test_large_answers_hold_nobody_up(stalls: Stalls, client: httpx.Client, completed: Run, path: str) -> None:
    """Of a run with 100,000 products."""
    check(stalls, lambda: client.get(f"{ROOT}/{completed.id}/{path}"), 404 if "products" in path else 200)


@pytest.mark.long
@pytest.mark.parametrize("products", [1000, 10_000])
def test_starts_hold_nobody_up(stalls: Stalls, client: httpx.Client, products: int) -> None:
    """Small runs are made in a thread, large ones in a process of its own."""
    body = wish(*range(1, products + 1))
    check(stalls, lambda: client.post(f"{ROOT}/start", json=body), 200)


def children(service: Service) -> list[int]:
    """List the processes in which the service makes large runs."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == service.process.pid and b"spawn_main" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@pytest.mark.long
def test_a_large_start_outlives_the_process_that_makes_it(service: Service, client: httpx.Client) -> None:
    """A process that is killed is replaced; none of them outlives the service."""
    body = wish(*range(1, 1101))
    assert client.post(f"{ROOT}/start", json=body | {"product_ids": [*range(1, 1101), 10**9]}).status_code == 422
    assert client.post(f"{ROOT}/start", json=body).status_code == 200
    for pid in children(service):
        os.kill(pid, signal.SIGKILL)
    answers = [client.post(f"{ROOT}/start", json=body).status_code for _ in range(2)]
    assert answers in ([200, 200], [500, 200])
    before = children(service)
    assert before
    service.kill()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in before))
    service.start()


def test_a_refusal_of_another_process_arrives_whole() -> None:
    """Its kind, its hint and its facts are what the client gets."""
    error = pickle.loads(pickle.dumps(RequestError("queue-full", "it is full", "wait", retry_after=30)))
    assert (error.kind, error.message, error.hint, error.details) == (
        "queue-full", "it is full", "wait", {"retry_after": 30}
    )  # fmt: skip
