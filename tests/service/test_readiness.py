"""A service whose database hangs, or comes later than it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from held_database import Held
from rest_service import Service, until, wish

START = "/api/segmentation/start"
PATIENCE = 30  # seconds that the service would wait for a server that accepts and never answers


@pytest.fixture
def held(postgres_url: str) -> Iterator[tuple[Held, str]]:
    """A held server before an empty database, and its URL."""
    told, name = urlsplit(postgres_url), f"late_{secrets.token_hex(4)}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    server = Held((str(told.hostname), int(told.port or 5432)))
    user = told.netloc.rpartition("@")[0]
    yield server, f"postgresql://{user}@127.0.0.1:{server.port}/{name}?connect_timeout={PATIENCE}"
    server.close()


def test_a_database_that_hangs_delays_nobody_else(tmp_path: Path, held: tuple[Held, str]) -> None:
    """The service starts, answers and stops while the database is silent; then the tables are made."""
    server, url = held
    with Service(tmp_path, DATABASE_URL=url) as service:
        with service.client() as client:
            assert client.get("/health").json() == {"status": "ok"}
            assert client.get("/api/segmentation/runs").json()["runs"] == []
        assert "database_failed" not in [event["event"] for event in service.events()], "it waited for the database"
        assert service.stop() == 0
        assert "database_failed" not in [event["event"] for event in service.events()], "it waited to stop"
        service.start()
        with service.client() as client:
            server.release()
            end = time.monotonic() + PATIENCE
            while (told := client.post(START, json=wish(1))).status_code == 503:
                assert told.json()["detail"] == "the database cannot be read; nothing was started"
                assert time.monotonic() < end
                time.sleep(0.2)
            assert told.json()["detail"] == "1 product is not in amazon_products: 1", "the tables are made late"


def test_a_check_that_hangs_hides_no_other_and_holds_nobody_up(tmp_path: Path, held: tuple[Held, str]) -> None:
    """However often a load balancer asks: a silent database fails, the disk is in order, and runs are answered."""
    server, url = held
    with Service(tmp_path, DATABASE_URL=url) as service, service.client() as client:
        with ThreadPoolExecutor(20) as balancer:
            asked = [balancer.submit(lambda: client.get("/ready")) for _ in range(20)]
            time.sleep(1)
            began = time.monotonic()
            assert client.get("/api/segmentation/runs").status_code == 200
            assert time.monotonic() - began < 3, "the checks took the threads of the others"
            answers = [each.result() for each in asked]
        assert {answer.status_code for answer in answers} == {503}
        checks = answers[0].json()["checks"]
        assert {name for name, word in checks.items() if word == "failing"} == {"database"}
        assert set(checks) == {"database", "disk", "storage", "log", "tokens", "runs"}
        server.release()
        until(lambda: client.get("/ready").status_code == 200, 60)
