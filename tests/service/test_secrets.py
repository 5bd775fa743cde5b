"""Canaries of the service come back from the model's endpoint and from the database: they must be nowhere."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx
import psycopg
import pytest
from canaries import CANARY, json_texts
from endpoint import Endpoint
from held_database import Held
from rest_service import Service, fill_products, settled, wish

START = "/api/segmentation/start"
PASSWORD = 'pw-canary/8Ry+w"3Lc\\Yj=&end-9d2f'
TOKEN = "segkit_canary-4Tv_6Wm-0aXq-kept-by-a-client"
WRONG = "segkit_canary-of-somebody-who-may-not-7Hs"


def dresses(value: str) -> list[str]:
    raw = value.encode()
    return [value, quote(value, safe=""), base64.b64encode(raw).decode(), raw.hex(), value[::-1]]


NEEDLES = {(value[:9], dress.encode()) for value in (CANARY, PASSWORD, TOKEN, WRONG) for dress in dresses(value)}
JSON = {"content-type": "application/json"}


@pytest.fixture
def door(postgres_url: str) -> Iterator[tuple[Held, str]]:
    """A door to the database, and its URL for a user with the canary as password."""
    told = urlsplit(postgres_url)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        literal = "E'" + PASSWORD.replace("\\", "\\\\").replace("'", "''") + "'"
        connection.execute(f"CREATE ROLE canary SUPERUSER LOGIN PASSWORD {literal}".encode())
    server = Held((str(told.hostname), int(told.port or 5432)))
    server.release()
    yield server, f"postgresql://canary:{quote(PASSWORD, safe='')}@127.0.0.1:{server.port}{told.path}"
    server.close()


@pytest.mark.long
def test_the_service_tells_none_of_its_secrets(
    tmp_path: Path, postgres_url: str, shared_endpoint: Endpoint, door: tuple[Held, str]
) -> None:
    """Key, password and token, each in five dresses, are in no answer and no file."""
    database, url = door
    fill_products(postgres_url, range(1, 21))
    shared_endpoint.reset()
    shared_endpoint.queue("401", times=20, message=f"Bad key: {' | '.join(dresses(CANARY))}")
    service = Service(tmp_path, DATABASE_URL=url, OPENAI_BASE_URL=shared_endpoint.url, OPENAI_API_KEY=CANARY)
    token = {"name": "ann", "sha256": hashlib.sha256(TOKEN.encode()).hexdigest(), "max_cost_usd": 1, "all_runs": True}
    service.tokens.write_text(json.dumps({"tokens": [token]}))
    service.secrets["ann"] = TOKEN
    answers: list[httpx.Response] = []

    def keep(response: httpx.Response) -> None:
        response.read()
        answers.append(response)

    with service:
        hooks = {"response": [keep]}
        with service.client("ann", event_hooks=hooks) as client:
            for header in (f"Bearer {WRONG}", f"Basic {base64.b64encode(f'x:{WRONG}'.encode()).decode()}", WRONG):
                assert client.get("/docs", headers={"authorization": header}).status_code == 401
            assert client.get(f"/api/segmentation/{TOKEN}/status", params={"token": TOKEN}).status_code == 404
            for body in (
                wish(1) | {"api_key": CANARY},
                wish(1, model=PASSWORD),
                wish(1, temperature=TOKEN),
                [CANARY],
            ):
                assert client.post(START, json=body).status_code == 422
            assert client.post(START, content=f'{{"{PASSWORD}', headers=JSON).status_code == 400
            run_id = client.post(START, json=wish(1, 2, 3, model="gpt-4o", max_cost_usd=1)).json()["run_id"]
            assert "Bad key" in settled(client, run_id)["detail"]
            path = f"/api/segmentation/{run_id}"
            for route in ("status", "results", "report.html", "events"):
                client.get(f"{path}/{route}")
            for page in ("/metrics", "/docs", "/openapi.json", "/health", "/api/segmentation/runs"):
                assert client.get(page).status_code == 200
            database.refusal = f"no {' | '.join(dresses(PASSWORD))}"
            told = client.post(START, json=wish(1, model="offline"))
            assert (told.status_code, told.json()["detail"]) == (
                503,
                "the database cannot be read; nothing was started",
            )
        service.stop()
        service.start()
        with service.client("ann", event_hooks=hooks) as client:
            until = time.monotonic() + 60
            while "database_failed" not in [event["event"] for event in service.events()]:
                assert time.monotonic() < until
                time.sleep(0.05)
        service.process.terminate()
        said = service.process.stderr.read().encode()
    assert shared_endpoint.count() >= 1
    found = {f"answer {a.request.url} {i}": repr(a.headers).encode() + a.content for i, a in enumerate(answers)}
    found |= {str(file.relative_to(tmp_path)): file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    found["stderr"] = said
    assert any(where.startswith("home/service/processes/") for where in found)
    assert leaks(found) == []
    assert leaks({"a file": json.dumps({"body": json.dumps(dresses(PASSWORD))}).encode()}), "the search finds them"


def leaks(found: dict[str, bytes]) -> list[str]:
    """Tell which canary is where, in the bytes and in the texts that JSON holds."""
    texts = {
        where: [data, *(text.encode(errors="replace") for text in json_texts(data))] for where, data in found.items()
    }
    return sorted(
        f"{name}: {where}: {needle.decode()}"
        for name, needle in NEEDLES
        for where, data in texts.items()
        if any(needle in text for text in data)
    )
