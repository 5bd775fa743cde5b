"""Callbacks: signed, sent until they are received, and not lost with the service."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from rest_service import Service, fill_products, until, wish
from typer.testing import CliRunner

from segkit.cli.main import app
from segkit.service.callbacks.outbox import Outbox
from segkit.service.tokens import read_tokens

RUNS = "/api/segmentation"


class Receiver(ThreadingHTTPServer):
    """A server that keeps what is posted and answers with the next of `answers`, the last one again and again."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answers = [200]
        self.url = f"http://127.0.0.1:{self.server_address[1]}/hook"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
        answers = self.server.answers
        self.send_response(answers.pop(0) if len(answers) > 1 else answers[0])
        self.send_header("location", "/elsewhere")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.shutdown()
    receiver.server_close()


@pytest.fixture
def service(tmp_path: Path, postgres_url: str, receiver: Receiver) -> Iterator[Service]:
    fill_products(postgres_url, range(1, 21))
    service = Service(tmp_path, DATABASE_URL=postgres_url, SEGKIT_SERVE_RUNS="0")
    service.token("shop", callback_url=receiver.url)
    service.token("quiet")
    with service:
        yield service


def cancelled(service: Service, name: str) -> str:
    with service.client(name) as client:
        run_id = str(client.post(f"{RUNS}/start", json=wish(1, 2)).json()["run_id"])
        client.post(f"{RUNS}/{run_id}/cancel")
    return run_id


def make_due(service: Service) -> None:
    with closing(sqlite3.connect(service.place / "home" / "service" / "records.db")) as records, records:
        records.execute("UPDATE callbacks SET due_at = 0")


def test_the_end_of_a_run_is_reported_until_it_is_received(service: Service, receiver: Receiver) -> None:
    """Signed; the same id and body again after 500, 302 and a restart, and nothing after 200."""
    receiver.answers = [500, 302, 200]
    cancelled(service, "quiet")
    run_id = cancelled(service, "shop")
    until(lambda: len(receiver.got) == 1)
    make_due(service)
    until(lambda: len(receiver.got) == 2)
    service.stop()
    make_due(service)
    service.start()
    until(lambda: [event for event in service.events() if event["event"] == "callback_delivered"])
    assert len(receiver.got) == 3, "a redirect is not followed, and who wants no callbacks has none"
    secret = read_tokens(service.tokens)[0].callback_secret
    for headers, body in receiver.got:
        assert json.loads(body)["type"] == "run.cancelled"
        assert json.loads(body)["data"]["run_id"] == run_id
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        digest = hmac.new(base64.b64decode(str(secret)[6:]), signed, hashlib.sha256).digest()
        assert headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"
    assert len({(headers["webhook-id"], body) for headers, body in receiver.got}) == 1
    failed = [event["answer"] for event in service.events() if event["event"] == "callback_failed"]
    assert failed == ["500", "302"]


def test_a_receiver_that_is_gone_gets_no_more(service: Service, receiver: Receiver) -> None:
    """410 ends a callback."""
    receiver.answers = [410]
    cancelled(service, "shop")
    until(lambda: [event for event in service.events() if event["event"] == "callback_given_up"])
    make_due(service)
    time.sleep(1.5)
    assert len(receiver.got) == 1


def test_a_client_chooses_no_address(service: Service) -> None:
    """The operator does; the secret is shown once, and not in the list."""
    with service.client("shop") as client:
        assert client.post(f"{RUNS}/start", json=wish(1, callback_url="http://127.0.0.1/")).status_code == 422
    path = str(service.place / "other.json")
    made = CliRunner().invoke(
        app, ["token", "create", "x", "--tokens", path, "--callback-url", "https://a.example/b"]
    )
    secret = str(read_tokens(Path(path))[0].callback_secret)
    assert (made.exit_code, secret in made.stderr) == (0, True)
    listed = CliRunner().invoke(app, ["token", "list", "--tokens", path]).stdout
    assert ("https://a.example/b" in listed, secret in listed) == (True, False)
    wrong = CliRunner().invoke(
        app, ["token", "create", "y", "--tokens", path, "--callback-url", "file:///etc/passwd"]
    )
    assert wrong.exit_code != 0


def test_callbacks_are_due_whatever_the_clock_does(tmp_path: Path) -> None:
    """One an owner at a time, the oldest first; one that was put off before the clock went back is due."""
    outbox = Outbox(tmp_path / "records.db")
    for owner, end in (("ann", "1"), ("ann", "2"), ("ben", "1"), ("ben", "1")):
        outbox.add(f"RUN_{owner}", owner, end)
    assert outbox.count() == 3
    first = outbox.due(1000.0, 50.0)
    assert [callback.owner for callback in first] == ["ann", "ben"]
    outbox.put_off(first[0], 1040.0)
    outbox.put_off(first[1], 1040.0)
    assert [callback.run_id for callback in outbox.due(1000.0, 50.0)] == ["RUN_ann"]
    assert len(outbox.due(1041.0, 50.0)) == 2
    assert len(outbox.due(900.0, 50.0)) == 2, "the clock went back by 100 seconds"
    outbox.close()
