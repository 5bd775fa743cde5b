"""The REST service over real HTTP: a `segkit serve` of its own, a real Postgres, and runs that wait in its queue."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
from catalogues import KEY, catalogue
from endpoint import Endpoint
from rest_service import COMMAND, Service, fill_products, finished, wish

from segkit.pipeline.prepare import prepare_run
from segkit.runs.run import Run, open_run
from segkit.runs.status import update_status
from segkit.settings import Settings, load_settings
from segkit.storage.locks import owned

START = "/api/segmentation/start"
UNKNOWN = "RUN_20250618T120301Z_8d24"
JSON = {"content-type": "application/json"}
QUEUE = 40
TAXONOMY = ("taxonomy", "taxonomy.csv", "taxonomy.xlsx", "check")


@pytest.fixture(scope="module")
def quiet(
    tmp_path_factory: pytest.TempPathFactory, postgres_url: str, shared_endpoint: Endpoint
) -> Iterator[Service]:
    """A service whose runs wait in its queue and never begin, so that a start costs nothing."""
    fill_products(postgres_url, range(1, 501))
    fill_products(postgres_url, [789, 2**63 - 1])
    service = Service(
        tmp_path_factory.mktemp("quiet"),
        measured=True,
        DATABASE_URL=postgres_url,
        OPENAI_BASE_URL=shared_endpoint.url,
        OPENAI_API_KEY=KEY,
        SEGKIT_SERVE_RUNS="0",
        SEGKIT_SERVE_QUEUE=str(QUEUE),
    )
    service.token("all", all_runs=True)
    service.token("ann", max_cost_usd=1.0, max_products=400, max_active=100)
    service.token("ben", max_total_cost_usd=1.5)
    service.token("late", expires="2020-01-01T00:00:00Z")
    service.token("slow", requests_per_second=0.01)
    service.token("burst", all_runs=True)
    service.token("free", unpriced_models=True, all_runs=True)
    service.token("capped", max_total_cost_usd=1.0, all_runs=True)
    service.token("narrow", models=["offline"], max_active=2)
    with service:
        yield service


@pytest.fixture
def ann(quiet: Service) -> Iterator[httpx.Client]:
    with quiet.client("ann") as client:
        yield client
        empty(client)


@pytest.fixture
def ben(quiet: Service) -> Iterator[httpx.Client]:
    with quiet.client("ben") as client:
        yield client
        empty(client)


def empty(client: httpx.Client) -> None:
    """Cancel what waits, so that each test finds the queue empty."""
    while waiting := client.get("/api/segmentation/runs", params={"state": "running"}).json()["runs"]:
        for run in waiting:
            client.post(f"/api/segmentation/{run['run_id']}/cancel")


def started(client: httpx.Client, *ids: int, **more: Any) -> str:
    told = client.post(START, json=wish(*(ids or (1, 2, 3)), **more))
    assert told.status_code == 200, told.text
    return str(told.json()["run_id"])


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """Read a problem: of this status, in the form of RFC 9457, without a word about the inside of the service."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    told: dict[str, Any] = response.json()
    assert told["status"] == status
    assert told["request_id"] == response.headers["x-request-id"]
    assert {"type", "title", "detail"} <= set(told)
    assert not [word for word in ("Traceback", ".py", "/tmp", "segkit/", "File ") if word in response.text]
    return told


def raw(service: Service, request: bytes) -> tuple[int, bytes]:
    """Send bytes as they are, since clients mend paths; gives the status and everything that came."""
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(request)
        got = b""
        while piece := connection.recv(65536):
            got += piece
    return int(got.split()[1]), got


def test_a_start_answers_with_the_promised_fields(quiet: Service, ann: httpx.Client) -> None:
    seed = {"product_ids": [123, 456, 78], "category": "Dimmer Switches", "model": "offline", "temperature": 0.2}
    told = ann.post(START, json=seed)
    run_id = told.json()["run_id"]
    assert told.status_code == 200
    assert told.json() == {"run_id": run_id, "status": "started", "total_products": 3}
    assert told.headers["location"] == f"/api/segmentation/{run_id}/status"
    run = open_run(run_id, quiet.place / "runs")
    assert (run.parameters.category, run.parameters.model, run.parameters.temperature) == (
        "Dimmer Switches",
        "offline",
        0.2,
    )
    assert list(run.products["product_id"]) == [78, 123, 456]
    while (status := ann.get(told.headers["location"]).json())["estimated_completion"] is None:
        threading.Event().wait(0.05)  # it is planned while nobody waits
    assert len(status.pop("estimated_completion")) == len("2025-06-18T12:15:00Z")
    assert status == {
        "run_id": run_id, "status": "running", "total_products": 3, "processed_products": 0, "progress_percent": 0.0,
        "queued": True,
    }  # fmt: skip


def test_who_started_what_is_written_down(quiet: Service, ann: httpx.Client) -> None:
    run_id = started(ann, 5, 6, category="Kettles")
    ordered = [e for e in quiet.events() if e["event"] == "run_ordered" and e["run_id"] == run_id]
    assert [(e["owner"], e["client"], e["parameters"]["category"]) for e in ordered] == [
        ("ann", "127.0.0.1", "Kettles")
    ]
    assert {"time", "pid", "request_id"} <= set(ordered[0])
    assert quiet.secrets["ann"] not in json.dumps(quiet.events())


def routes(service: Service) -> list[tuple[str, str]]:
    told = service.client("all").get("/openapi.json").json()
    known = [(m.upper(), p.replace("{run_id}", UNKNOWN)) for p, methods in told["paths"].items() for m in methods]
    return [
        *known,
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/nothing"),
        ("DELETE", START),
        ("HEAD", START),
    ]


def test_every_route_wants_a_token(quiet: Service, ann: httpx.Client) -> None:
    """Without a token, with a wrong, cut, expired or misplaced one: 401, the same words, no effect."""
    mine = quiet.secrets["ann"]
    wrong = [
        "",
        "Bearer",
        "Bearer x",
        f"Bearer {mine[:-1]}",
        f"Bearer {quiet.secrets['late']}",
        mine,
        f"Basic {mine}",
    ]
    before = sorted(os.listdir(quiet.place / "runs"))
    found = routes(quiet)
    assert len(found) >= 14
    stranger = httpx.Client(base_url=quiet.url, trust_env=False)
    for method, path in found:
        if path in ("/health", "/ready"):
            continue
        for header in wrong:
            headers = {"authorization": header} if header else {}
            told = stranger.request(method, path, headers=headers, json=wish(1, 2) if method == "POST" else None)
            assert told.status_code == 401, (method, path, header)
            assert told.headers["www-authenticate"].startswith("Bearer")
            if method != "HEAD":
                assert problem(told, 401)["detail"] == "a valid token is needed"
    assert sorted(os.listdir(quiet.place / "runs")) == before
    assert stranger.get("/health").json() == {"status": "ok"}
    assert stranger.get("/ready").json()["status"] == "ready"


def test_one_key_makes_one_run(quiet: Service, ann: httpx.Client, ben: httpx.Client) -> None:
    """100 starts at once with one key, and one later; another body is refused; keys are a token's own."""
    headers = {"idempotency-key": "order-17"}

    def start(_: int) -> httpx.Response:
        return ann.post(START, json=wish(1, 2, 3), headers=headers)

    with ThreadPoolExecutor(100) as pool:
        told = list(pool.map(start, range(100)))
    assert {answer.status_code for answer in told} == {200}
    assert len({answer.json()["run_id"] for answer in told}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in told) == 1
    run_id = told[0].json()["run_id"]
    ordered = [e for e in quiet.events() if e["event"] == "run_ordered" and e["run_id"] == run_id]
    assert len(ordered) == 1
    problem(ann.post(START, json=wish(1, 2), headers=headers), 409)
    assert ann.post(START, json=wish(1, 2, 3), headers=headers).json()["run_id"] == run_id
    other = ben.post(START, json=wish(1, 2, 3), headers=headers).json()["run_id"]
    assert other != run_id
    assert (
        ben.get("/api/segmentation/runs", params={"idempotency_key": "order-17"}).json()["runs"][0]["run_id"] == other
    )


def test_a_start_outlives_its_client(quiet: Service, ann: httpx.Client) -> None:
    """The client hangs up as soon as it has asked; the run is there, and its key finds it."""
    body = json.dumps(wish(7, 8)).encode()
    head = f"POST {START} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nidempotency-key: gone\r\n"
    head += f"authorization: Bearer {quiet.secrets['ann']}\r\ncontent-length: {len(body)}\r\n\r\n"
    host, port = quiet.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body)
    until = threading.Event()
    for _ in range(200):
        if runs := ann.get("/api/segmentation/runs", params={"idempotency_key": "gone"}).json()["runs"]:
            break
        until.wait(0.05)
    assert runs[0]["total_products"] == 2
    assert ann.post(START, json=wish(7, 8), headers={"idempotency-key": "gone"}).json()["run_id"] == runs[0]["run_id"]


NO_RUN = [
    *("../x", "..", "%2e%2e%2f", "%2e%2e%2felsewhere%2fRUN_20250101T000000Z_0001", "/etc/passwd", "%2fetc%2fpasswd"),
    *("%00", f"{UNKNOWN}%00", "R" * 10_000, "", "RUN_２０２５0618T120301Z_8d24", "%EF%BC%B2UN_20250618T120301Z_8d24"),
    *(f"{UNKNOWN}%0a", f"%20{UNKNOWN}", "latest", "runs", f"./{UNKNOWN}", "'--", "*"),
    f"{UNKNOWN}/../../elsewhere/RUN_20250101T000000Z_0001",
]


@pytest.mark.parametrize("route", ["status", "results", "report.html", "events", "cancel", "resume"])
def test_what_is_no_run_id_leads_nowhere(quiet: Service, route: str) -> None:
    """404, whatever stands there; a run beside the folder of the runs is not read."""
    outside = quiet.place / "elsewhere" / "RUN_20250101T000000Z_0001"
    if not outside.exists():
        shutil.copytree(finished(quiet.place / "elsewhere", 8).folder, outside)
    method = "POST" if route in ("cancel", "resume") else "GET"
    for name in NO_RUN:
        path = f"/api/segmentation/{name}/{route}".encode()
        head = (
            b"%b %b HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer %b\r\ncontent-length: 0\r\n\r\n"
        )
        status, got = raw(quiet, head % (method.encode(), path, quiet.secrets["all"].encode()))
        # A server may refuse raw bytes that are no URL (400) before anybody reads them.
        assert status in ((400, 404) if not path.isascii() else (404,)), (name, got[:200])
        assert b"kettle" not in got.lower()


def test_too_much_is_refused_before_it_is_read(quiet: Service, ann: httpx.Client) -> None:
    """50 MB, told or not; a million products; JSON 100,000 deep; a zip bomb. Memory stays."""
    before = resident(quiet)
    huge = b"[" + b"1," * 25_000_000 + b"1]"
    problem(ann.post(START, content=huge, headers=JSON), 413)
    problem(ann.post(START, content=(huge[i : i + 65536] for i in range(0, len(huge), 65536)), headers=JSON), 413)
    problem(ann.post(START, json=wish(*range(1, 1_000_001))), 413)
    told = problem(ann.post(START, json=wish(*range(1, 402))), 422)
    assert told["type"] == "/problems/too-many-products"
    problem(ann.post(START, json=wish(*range(1, 100_002))), 422)
    for deep in (b"[" * 100_000, b'{"a":' * 100_000, b'{"product_ids":' + b"[" * 900 + b"]" * 900 + b"}"):
        problem(ann.post(START, content=deep, headers=JSON), 422)
    bomb = gzip.compress(b"0" * 10_000_000)
    problem(ann.post(START, content=bomb, headers=JSON | {"content-encoding": "gzip"}), 415)
    assert resident(quiet) < before + 60


def resident(service: Service) -> float:
    """Give the MB of the service."""
    lines = Path(f"/proc/{service.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def test_money_is_asked_for_before_it_is_spent(
    quiet: Service, ann: httpx.Client, ben: httpx.Client, shared_endpoint: Endpoint
) -> None:
    """Without a budget, above the token's, above the plan, above all of it, at no known price: 402."""
    shared_endpoint.reset()
    problem(ben.post(START, json=wish(1, 2, model="gpt-4o")), 402)
    above = problem(ann.post(START, json=wish(1, model="gpt-4o", max_cost_usd=1.01)), 402)
    assert (above["type"], above["allowed_usd"]) == ("/problems/budget-above-limit", 1.0)
    told = problem(ann.post(START, json=wish(*range(1, 400), model="gpt-4o", max_cost_usd=0.0001)), 402)
    assert "its budget is $0.0001" in told["detail"]
    assert "price" in problem(ann.post(START, json=wish(1, model="no-such-model")), 402)["detail"]
    started(ben, 1, model="gpt-4o", max_cost_usd=1)
    told = problem(ben.post(START, json=wish(2, model="gpt-4o", max_cost_usd=0.51)), 402)
    assert told["detail"].startswith("$1.00 of $1.5")
    started(ben, 2, model="gpt-4o", max_cost_usd=0.5)
    assert shared_endpoint.count() == 0


def stopped(client: httpx.Client, *ids: int, **more: Any) -> str:
    """Start a run and cancel it before it begins."""
    run_id = started(client, *ids, **more)
    client.post(f"/api/segmentation/{run_id}/cancel")
    return run_id


def typed_run(service: Service, model: str) -> Run:
    """Make a run as the command line does."""
    settings = Settings(openai_base_url=service.environment["OPENAI_BASE_URL"])
    return prepare_run(
        catalogue(5), "Kitchen Things", runs_dir=service.place / "runs", model=model, settings=settings
    )  # fmt: skip


def test_the_owner_pays_for_a_run_whoever_resumes_it(quiet: Service, ben: httpx.Client) -> None:
    """What a run may cost is reserved of its owner's money; a run of the command line goes to who resumes it."""
    mine = stopped(ben, 1, model="gpt-4o", max_cost_usd=1)
    resume = f"/api/segmentation/{mine}/resume"
    with quiet.client("capped") as capped, quiet.client("all") as everybody:
        refused = problem(everybody.post(resume, json={"max_cost_usd": 1.6}), 402)
        assert (refused["type"], refused["allowed_usd"]) == ("/problems/total-budget-used", 1.5)
        assert everybody.post(resume, json={"max_cost_usd": 1.2}).status_code == 200
        assert problem(ben.post(START, json=wish(2, model="gpt-4o", max_cost_usd=0.5)), 402)["needed_usd"] == 0.5
        assert mine in [run["run_id"] for run in ben.get("/api/segmentation/runs").json()["runs"]]
        ben.post(f"/api/segmentation/{mine}/cancel")
        typed = typed_run(quiet, "gpt-4o")
        stage = {"cost_usd": "0.5", "unknown_cost": 0, "calls": 7}
        update_status(typed.folder, state="failed", reason="it broke", stages={"segmentation": stage})
        resume = f"/api/segmentation/{typed.id}/resume"
        refused = problem(capped.post(resume, json={"max_cost_usd": 0.4}), 402)
        assert (refused["type"], refused["needed_usd"]) == ("/problems/plan-above-budget", 0.5)
        assert problem(capped.post(resume, json={"max_cost_usd": 1.1}), 402)["type"] == "/problems/total-budget-used"
        assert capped.post(resume, json={"max_cost_usd": 1}).status_code == 200
        empty(capped)


def test_a_run_without_a_known_price_is_resumed_on_the_terms_of_a_start(quiet: Service) -> None:
    """Only what the paying token may start is resumed, and its calls stay limited."""
    with quiet.client("free") as free, quiet.client("all") as everybody:
        run_id = stopped(free, 1, model="no-such-model")
        typed = typed_run(quiet, "no-such-model")
        update_status(typed.folder, state="failed", reason="it broke")
        for each in (run_id, typed.id):
            resume = f"/api/segmentation/{each}/resume"
            for body in ({}, {"max_cost_usd": 1}) if each == typed.id else ():
                told = problem(everybody.post(resume, json=body), 402)
                assert told["detail"] == "the price of no-such-model is not known, so no budget can be kept"
            assert free.post(resume).status_code == 200
            with closing(sqlite3.connect(quiet.place / "home" / "service" / "records.db")) as records:
                row = records.execute("SELECT budget, max_calls FROM runs WHERE run_id = ?", (each,)).fetchone()
            assert row == (None, 14), "one batch is two calls: twice as many, and ten"
        empty(free)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"product_ids": [1, False]}, "#/product_ids/1"),
    ({"product_ids": ["-1"]}, "#/product_ids/0"),
    ({"product_ids": [1.5]}, "#/product_ids/0"),
    ({"product_ids": [1.0]}, "#/product_ids/0"),
    ({"product_ids": [0]}, "#/product_ids/0"),
    ({"product_ids": [-1]}, "#/product_ids/0"),
    ({"product_ids": [2**63]}, "#/product_ids/0"),
    ({"product_ids": [10**30]}, "#/product_ids/0"),
    ({"product_ids": [None]}, "#/product_ids/0"),
    ({"product_ids": []}, "#/product_ids"),
    ({"product_ids": "1,2"}, "#/product_ids"),
    ({"product_ids": {"0": 1}}, "#/product_ids"),
    ({"product_ids": [3, 3]}, "#/product_ids"),
    ({"category": ""}, "#/category"),
    ({"category": "  "}, "#/category"),
    ({"category": 5}, "#/category"),
    ({"category": "x" * 201}, "#/category"),
    ({"category": None}, "#/category"),
    ({"model": ["offline"]}, "#/model"),
    ({"model": "a b"}, "#/model"),
    ({"model": "http://evil.example/?x"}, "#/model"),
    ({"temperature": "0.2"}, "#/temperature"),
    ({"temperature": True}, "#/temperature"),
    ({"temperature": 2.5}, "#/temperature"),
    ({"max_cost_usd": -1}, "#/max_cost_usd"),
    ({"max_unassigned": 1.5}, "#/max_unassigned"),
    # An address, a template or a path is the operator's business.
    *(({name: "x"}, f"#/{name}") for name in ("base_url", "endpoint", "template", "path", "webhook", "prompts")),
    *(({name: "x"}, f"#/{name}") for name in ("product_line", "runs_dir", "run_id", "api_key", "response_format")),
]  # fmt: skip


@pytest.mark.parametrize(("change", "pointer"), WRONG, ids=lambda value: str(value)[:40])
def test_bodies_are_strict(ann: httpx.Client, change: dict[str, Any], pointer: str) -> None:
    """`false` is no id, and a client chooses no address, template or path."""
    told = problem(ann.post(START, json=wish(1, 2) | change), 422)
    assert pointer in [fault["pointer"] for fault in told["errors"]]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        *((body, 422) for body in (b"null", b"[1]", b'"x"', b"")),
        *(
            (body, 400)
            for body in (b"{", b'{"product_ids":[NaN],"category":"x"}', b"\xff", b'{"category":"\\ud800"}')
        ),
    ],
)
def test_what_is_no_body_is_refused(ann: httpx.Client, body: bytes, status: int) -> None:
    """What cannot be parsed is 400, what is JSON but no start is 422."""
    problem(ann.post(START, content=body, headers=JSON), status)


@pytest.mark.parametrize(
    "body",
    [
        b'{"product_ids":[1],"category":"x","model":"gpt-4o","model":"offline"}',
        b'{"max_cost_usd":1,"product_ids":[1, 2],"category":"x","model":"offline","max_\\u0063ost_usd":9}',
        b'{"product_ids":[1],"product_ids":[2],"category":"x","model":"offline"}',
    ],
)
def test_a_body_that_names_a_key_twice_is_refused(ann: httpx.Client, body: bytes) -> None:
    """Where a proxy reads one value and the service another, nobody knows what was allowed."""
    refused = problem(ann.post(START, content=body, headers=JSON), 422)
    assert "more than once" in refused["detail"]


def test_unknown_products_are_named(ann: httpx.Client, quiet: Service) -> None:
    before = sorted(os.listdir(quiet.place / "runs"))
    told = problem(ann.post(START, json=wish(1, 999_999, 888_888)), 422)
    assert told["detail"] == "2 products are not in amazon_products: 888888, 999999"
    assert sorted(os.listdir(quiet.place / "runs")) == before
    assert started(ann, 2**63 - 1)


def test_a_disk_that_fails_leaves_nothing(quiet: Service, ann: httpx.Client) -> None:
    """A run that cannot be made is refused whole, and its key is free again."""
    runs, aside = quiet.place / "runs", quiet.place / "aside"
    runs.rename(aside)
    try:
        runs.touch()
        told = ann.post(START, json=wish(1, 2), headers={"idempotency-key": "disk"})
        assert problem(told, 503)["detail"] == "the disk cannot be written; nothing was started"
    finally:
        runs.unlink()
        aside.rename(runs)
    assert ann.post(START, json=wish(3), headers={"idempotency-key": "disk"}).status_code == 200


def test_a_run_is_its_owners(quiet: Service, ann: httpx.Client, ben: httpx.Client) -> None:
    """Another token is told what it would be told of a run that is not there."""
    mine, his = started(ann), started(ben)
    for route in ("status", "results", "report.html", "events"):
        assert same(ben.get(f"/api/segmentation/{mine}/{route}")) == same(
            ben.get(f"/api/segmentation/{UNKNOWN}/{route}")
        )
        problem(ben.get(f"/api/segmentation/{mine}/{route}"), 404)
    for route in ("cancel", "resume"):
        problem(ben.post(f"/api/segmentation/{mine}/{route}"), 404)
    listed = [run["run_id"] for run in ben.get("/api/segmentation/runs").json()["runs"]]
    assert his in listed
    assert mine not in listed
    with quiet.client("all") as everybody:
        assert everybody.get(f"/api/segmentation/{mine}/status").json()["status"] == "running"
    assert "segkit_storage_bytes" not in ben.get("/metrics").text


def same(response: httpx.Response) -> tuple[int, str]:
    told = response.json()
    return response.status_code, str(told["detail"]).rpartition(" ")[0]


def test_a_polling_token_is_slowed_down(quiet: Service) -> None:
    """A token has so many requests a second; others are not slowed."""
    with quiet.client("slow") as client:
        told = [client.get("/health") and client.get("/openapi.json") for _ in range(3)]
    assert told[0].status_code == 200
    assert problem(told[-1], 429)["detail"] == "more than 0.01 requests a second"
    assert told[-1].headers["retry-after"] == "1"


def test_the_queue_has_an_end(quiet: Service, ann: httpx.Client) -> None:
    """50 starts at once with keys of their own: as many as may wait do, others hear when to come again."""

    def start(number: int) -> httpx.Response:
        return ann.post(START, json=wish(1, 2), headers={"idempotency-key": f"many-{number}"})

    with ThreadPoolExecutor(50) as pool:
        told = list(pool.map(start, range(50)))
    assert sorted({answer.status_code for answer in told}) == [200, 429]
    assert sum(answer.status_code == 200 for answer in told) == QUEUE
    refused = next(answer for answer in told if answer.status_code == 429)
    assert problem(refused, 429)["detail"].startswith("the queue is full")
    assert int(refused.headers["retry-after"]) > 0
    page = ann.get("/api/segmentation/runs", params={"limit": 15, "state": "running"}).json()
    more = ann.get("/api/segmentation/runs", params={"limit": 100, "state": "running", "before": page["next"]}).json()
    assert len({run["run_id"] for run in page["runs"] + more["runs"]}) == QUEUE


def test_a_token_has_limits_of_its_own(quiet: Service) -> None:
    with quiet.client("narrow") as client:
        told = problem(client.post(START, json=wish(1, model="gpt-4o", max_cost_usd=1)), 422)
        assert (told["type"], told["allowed"]) == ("/problems/model-not-allowed", ["offline"])
        started(client)
        started(client)
        assert "with this token" in problem(client.post(START, json=wish(1)), 429)["detail"]
        empty(client)


def test_methods_and_paths_answer_with_the_codes_of_the_readme(ann: httpx.Client) -> None:
    """Wrong method, HEAD, trailing slash, wrong type, CORS."""
    told = ann.get(START)
    problem(told, 405)
    assert told.headers["allow"] == "POST"
    problem(ann.put("/api/segmentation/runs"), 405)
    assert ann.head("/api/segmentation/runs").status_code == 405
    problem(ann.post(f"{START}/", json=wish(1)), 404)
    problem(ann.post(START, content=json.dumps(wish(1)), headers={"content-type": "text/plain"}), 415)
    problem(ann.post(START, content=json.dumps(wish(1)).encode()), 415)
    problem(ann.get("/api/segmentation/runs", params={"limit": 0}), 422)
    asked = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    assert not [name for name in ann.options(START, headers=asked).headers if name.startswith("access-control")]


def test_results_have_their_documented_fields(quiet: Service, ann: httpx.Client) -> None:
    """A completed run is whole; a moved product has the confidence of its move, and the first pass beside it."""
    doubt = [0.5, float("nan"), 1, 0, float("inf")]
    first = pd.DataFrame({"product_id": range(100, 105), "taxonomy_id": 1, "confidence": doubt})
    refined = pd.DataFrame(
        {
            "product_id": range(100, 105),
            "taxonomy_id": [1, 2, 2, 2, 2],
            "confidence": [0.5, 0.7, float("nan"), 0, 0.6],
        }
    )
    ledger = pd.DataFrame(
        {
            "product_id": [*range(100, 105), 105, 106],
            "state": ["assigned"] * 5 + ["unassigned"] * 2,
            "reason": [""] * 5 + ["no title", "endpoint: http://10.0.0.1 said 503"],
        }
    )
    run = finished(quiet.place / "runs", 5, segments=first, refined_segments=refined, ledger=ledger)
    with quiet.client("all") as client:
        results = client.get(f"/api/segmentation/{run.id}/results")
        moved = [("first_taxonomy_id", 1), ("first_confidence", None)]
        assert results.json() == {
            "run_id": run.id,
            "status": "completed",
            "synced": False,
            "taxonomies": [
                {"id": 1, "category_name": "Kettles", "definition": "For tea", "product_count": 1, "key": "C-1"},
                {"id": 2, "category_name": "Rest", "definition": "All", "product_count": 4, "key": "C-2"},
            ],
            "proposed": [],
            "conflicts": [],
            "segments": [
                {"product_id": 100, "taxonomy_id": 1, "confidence": 0.5},
                {"product_id": 101, "taxonomy_id": 2, "confidence": 0.7, **dict(moved)},
                {"product_id": 102, "taxonomy_id": 2, "confidence": None, **dict(moved), "first_confidence": 1.0},
                {"product_id": 103, "taxonomy_id": 2, "confidence": 0.0, **dict(moved), "first_confidence": 0.0},
                {"product_id": 104, "taxonomy_id": 2, "confidence": 0.6, **dict(moved)},
            ],
            "unassigned": [
                {"product_id": 105, "reason": "no title"},
                {"product_id": 106, "reason": "the model gave no answer"},
            ],
        }
        status = client.get(f"/api/segmentation/{run.id}/status").json()
        assert set(status) == {
            "run_id", "status", "total_products", "processed_products", "progress_percent", "estimated_completion"
        }  # fmt: skip
        assert (status["status"], status["progress_percent"]) == ("completed", 100.0)
        earlier = finished(quiet.place / "runs", 3)
        segments = client.get(f"/api/segmentation/{earlier.id}/results").json()["segments"]
        assert [each["confidence"] for each in segments] == [0.5, None, None], "moved, and its confidence not kept"
    problem(ann.get(f"/api/segmentation/{started(ann)}/results"), 409)
    problem(ann.get(f"/api/segmentation/{UNKNOWN}/results"), 404)
    problem(ann.get(f"/api/segmentation/{run.id}/results"), 404)


REASONS = [
    ("BudgetError", "budget"), ("Unassigned", "unassigned"), ("RefusedError", "model_refused"),
    ("EndpointError", "endpoint"), ("DatabaseError", "database"), ("DiskError", "storage"),
    ("StorageError", "storage"), ("StoppedError", "stopped"), ("KeyError", "internal"), ("", "internal"),
]  # fmt: skip


def test_clients_learn_why_a_run_failed_and_not_what_the_host_is_called(quiet: Service) -> None:
    """A kind and a sentence are for clients; what the run said is for tokens that see all runs."""
    detail = "50_sync_postgres, cell 4: connection to 10.0.0.7:5432 failed (segkit resume RUN_X)"
    run = finished(quiet.place / "runs", 3, "failed")
    with sqlite3.connect(quiet.place / "home" / "service" / "records.db") as records:
        assert records.execute("SELECT count(*) FROM runs WHERE run_id = ?", (run.id,)).fetchone() == (0,)
    with quiet.client("all") as client:
        for error, failure in REASONS:
            update_status(run.folder, state="failed", reason=detail, error=error)
            time.sleep(0.15)  # a status is returned again for a tenth of a second
            status = client.get(f"/api/segmentation/{run.id}/status").json()
            assert (status["failure"], status["detail"]) == (failure, detail)
            assert "resume" in status["reason"]
            assert "10.0.0.7" not in status["reason"]
        partial = client.get(f"/api/segmentation/{run.id}/results").json()
        assert (partial["status"], partial["partial"], partial["failure"]) == ("failed", True, "internal")
        assert "10.0.0.7" not in json.dumps(partial)
        assert len(partial["segments"]) == 3


def test_the_stream_of_an_ended_run_ends(quiet: Service) -> None:
    """One status, and no more; who has it already is told not to come again."""
    run = finished(quiet.place / "runs", 5)
    with quiet.client("all") as client:
        told = client.get(f"/api/segmentation/{run.id}/events")
        assert told.headers["content-type"].startswith("text/event-stream")
        fields = dict(line.split(": ", 1) for line in told.text.splitlines() if line)
        assert json.loads(fields["data"])["status"] == "completed"
        again = client.get(f"/api/segmentation/{run.id}/events", headers={"last-event-id": fields["id"]})
        assert (again.status_code, again.content) == (204, b"")


def test_a_fault_of_the_service_tells_nothing_of_it(quiet: Service) -> None:
    """A generic 500 with the id of the request; its events say what happened."""
    run = finished(quiet.place / "runs", 5)
    (run.folder / "results" / "taxonomies.parquet").write_bytes(b"PAR1 no parquet at all")
    with quiet.client("all") as client:
        told = problem(client.get(f"/api/segmentation/{run.id}/results"), 500)
    assert told["detail"] == "the service has a fault; it is logged"
    logged = next(e for e in quiet.events() if e.get("request_id") == told["request_id"])
    assert (logged["event"], logged["route"]) == ("request_failed", "/api/segmentation/{run_id}/results")
    assert logged["where"]


def test_examples_of_the_page_work(quiet: Service, ann: httpx.Client) -> None:
    """Every line of /docs is run in a shell as it stands; the page loads nothing."""
    page = ann.get("/docs", headers={"authorization": basic(quiet.secrets["ann"])})
    lines = [line.partition("</pre>")[0] for line in page.text.split("<pre>")[1:]]
    assert len(lines) >= 10
    assert not [word for word in ("<script", "src=", "@import", "url(") if word in page.text]
    run_id = finished(quiet.place / "runs", 4).id
    environment = os.environ | {"TOKEN": quiet.secrets["all"], "RUN": run_id}
    codes = {}
    for line in lines:
        command = line.replace("&quot;", '"').replace("&#x27;", "'").replace("&amp;", "&")
        done = subprocess.run(
            f"{command} -o /dev/null -w '%{{http_code}}' -m 20 --noproxy '*'", shell=True, env=environment,
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        codes[command.split('"')[1].rpartition("/")[2]] = int(done.stdout)
    assert codes.pop("cancel") == codes.pop("resume") == 409, "a completed run is neither stopped nor resumed"
    assert codes.pop("report.html") == 404, "this one was made without a report"
    for name in ("extend", "assign", "123", "results.csv", "results.parquet", *TAXONOMY):
        assert codes.pop(name) == 409, "this one was made without a lineage"
    assert set(codes.values()) == {200}, codes
    with quiet.client("all") as client:
        empty(client)


def basic(secret: str) -> str:
    return httpx.BasicAuth("anybody", secret)._auth_header


def test_figures_are_prometheus(quiet: Service, ann: httpx.Client) -> None:
    started(ann)
    with quiet.client("all") as client:
        told = client.get("/metrics")
    assert told.headers["content-type"].startswith("text/plain; version=0.0.4")
    figures = dict(line.rsplit(" ", 1) for line in told.text.splitlines() if not line.startswith("#"))
    assert float(figures['segkit_runs{state="running"}']) >= 1
    assert float(figures["segkit_storage_bytes"]) > 0
    asked = 'segkit_http_request_seconds_count{method="POST",route="/api/segmentation/start",status="200"}'
    assert float(figures[asked]) >= 1
    own = dict(line.rsplit(" ", 1) for line in ann.get("/metrics").text.splitlines() if not line.startswith("#"))
    assert float(own['segkit_runs{state="running"}']) == 1


def test_a_withdrawn_token_is_refused(quiet: Service) -> None:
    secret = quiet.token("short")
    until = threading.Event()
    known = quiet.tokens.read_bytes()
    with quiet.client("short") as client:
        for wanted in (200, 401):
            for _ in range(100):
                if (code := client.get("/api/segmentation/runs").status_code) == wanted:
                    break
                until.wait(0.05)
            assert code == wanted
            told = json.loads(known)
            told["tokens"] = [token for token in told["tokens"] if token["name"] != "short"]
            quiet.tokens.write_text(json.dumps(told))
    assert secret


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve"], "error: the service has no tokens"),
        (["serve", "--no-token", "--host", "0.0.0.0"], "error: --no-token on 0.0.0.0"),
        (["serve", "--tokens", "nowhere.json"], "error: the tokens in nowhere.json cannot be read"),
    ],
)
def test_no_door_is_opened_without_a_key(place: Path, arguments: list[str], said: str) -> None:
    """Without tokens the service starts on this machine only, and only when told so."""
    done = subprocess.run([*COMMAND, *arguments], cwd=place, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith(said), done.stderr


def test_without_tokens_only_this_machine_is_answered(tmp_path: Path) -> None:
    """No page of another site gets through; and without a database a start is refused, whole."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"postgresql://x:y@127.0.0.1:{free.getsockname()[1]}/z"
    with Service(tmp_path, no_token=True, DATABASE_URL=closed) as service, service.client() as client:
        assert client.get("/api/segmentation/runs").json() == {"runs": [], "next": None}
        for headers in (
            {"host": "evil.example"},
            {"host": "["},
            {"origin": "http://evil.example"},
            {"sec-fetch-site": "cross-site"},
            {"x-forwarded-for": "192.0.2.1"},
        ):
            problem(client.get("/api/segmentation/runs", headers=headers), 403)
        told = client.post(START, json=wish(1), headers={"idempotency-key": "k"})
        assert problem(told, 503)["detail"] == "the database cannot be read; nothing was started"
        assert told.headers["retry-after"]
        assert client.get("/api/segmentation/runs", params={"idempotency_key": "k"}).json()["runs"] == []
        assert os.listdir(tmp_path / "runs") == []
        second = subprocess.run(
            [*COMMAND, "serve", "--no-token", "--port", "0"], cwd=tmp_path, env=service.environment,
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert second.returncode == 1
        assert "is at work in another process" in second.stderr
        run = prepare_run(
            catalogue(5), "Kitchen Things", runs_dir=tmp_path / "runs", model="offline", settings=load_settings()
        )
        with owned(run.folder / "run.lock"), client.stream("GET", f"/api/segmentation/{run.id}/events") as stream:
            lines = stream.iter_lines()
            assert next(lines) == "retry: 2000"
            service.process.terminate()
            assert [line for line in lines if line.startswith("data: ")], "an open stream ends whole"
        assert service.process.wait(30) == 0
        assert service.process.stderr.read() == ""
        service.process.stderr.close()


def test_a_token_opens_only_so_many_streams(quiet: Service) -> None:
    """Each open stream is looked after several times a second; one that is closed makes room."""
    run = prepare_run(
        catalogue(5), "Kitchen Things", runs_dir=quiet.place / "runs", model="offline", settings=load_settings()
    )
    room = httpx.Limits(max_connections=None)
    with quiet.client("all", limits=room) as client, owned(run.folder / "run.lock"), ExitStack() as streams:
        address = f"/api/segmentation/{run.id}/events"
        read = []  # what reads a stream closes it when it goes
        for _ in range(50):
            opened = streams.enter_context(client.stream("GET", address))
            read.append(opened.iter_lines())
            assert next(read[-1]) == "retry: 2000"
        with client.stream("GET", address) as refused:
            assert refused.status_code == 429
            assert "50 event streams" in json.loads(refused.read())["detail"]
        opened.close()
        until = time.monotonic() + 30
        while (answer := client.send(client.build_request("GET", address), stream=True)).status_code == 429:
            answer.close()
            assert time.monotonic() < until
            time.sleep(0.1)
        answer.close()


def test_a_connection_that_asks_nothing_is_closed(quiet: Service) -> None:
    """Half a head does not hold a connection for ever, nor does a head without its body after a refusal."""
    head = b"POST /api/segmentation/start HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n"
    doors = [raw_door(quiet, piece) for piece in (b"", head[:20], head + b"\r\n")]
    for door, begins in zip(doors, (b"", b"", b"HTTP/1.1 401"), strict=True):
        with door:
            got = b""
            while piece := door.recv(65536):
                got += piece
        assert got[:12] == begins


def test_invented_methods_fill_no_memory(quiet: Service) -> None:
    """Whoever comes without a token chooses no name under which requests are counted."""
    for number in range(5):
        assert raw(quiet, b"X%d / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" % number)[0] == 401
    with quiet.client("all") as client:
        figures = client.get("/metrics").text
    assert 'method="other"' in figures
    assert 'method="X' not in figures


def test_a_burst_of_streams_is_counted_too(quiet: Service) -> None:
    """Streams that are opened at one moment are no more than those opened one after the other."""
    run = prepare_run(
        catalogue(5), "Kitchen Things", runs_dir=quiet.place / "runs", model="offline", settings=load_settings()
    )
    head = f"GET /api/segmentation/{run.id}/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer "
    head += f"{quiet.secrets['burst']}\r\n\r\n"
    with owned(run.folder / "run.lock"), ExitStack() as doors:
        opened = [doors.enter_context(raw_door(quiet, b"")) for _ in range(120)]
        for door in opened:
            door.sendall(head.encode())
        codes = [int(door.recv(65536).split()[1]) for door in opened]
    assert sorted(set(codes)) == [200, 429]
    assert codes.count(200) == 50


def raw_door(service: Service, piece: bytes) -> socket.socket:
    host, port = service.url.removeprefix("http://").split(":")
    door = socket.create_connection((host, int(port)), timeout=60)
    door.sendall(piece)
    return door


def test_a_browser_opens_the_report(quiet: Service, ann: httpx.Client) -> None:
    """Its user gives the token as the password; no other route takes one."""
    run = finished(quiet.place / "runs", 3)
    (run.folder / "report.html").write_text("<!DOCTYPE html><title>a report</title>")
    path, password = f"/api/segmentation/{run.id}", {"authorization": basic(quiet.secrets["all"])}
    report = ann.get(f"{path}/report.html", headers=password)
    assert (report.status_code, report.headers["content-security-policy"]) == (200, "sandbox")
    assert "Basic" in ann.get(f"{path}/report.html", headers={"authorization": ""}).headers["www-authenticate"]
    problem(ann.get(f"{path}/results", headers=password), 401)


def test_a_link_in_a_run_folder_leads_nowhere(quiet: Service, ann: httpx.Client) -> None:
    """A report that is a symlink is no report."""
    run_id = started(ann)
    (quiet.place / "runs" / run_id / "report.html").symlink_to(quiet.tokens)
    problem(ann.get(f"/api/segmentation/{run_id}/report.html"), 404)
