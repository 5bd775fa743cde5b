"""What must not die silently, and what must end: the loop of the runs, the log; withdrawn tokens, unread answers."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from rest_service import COMMAND, Service, fill_products, finished, until, wish

START = "/api/segmentation/start"


@pytest.fixture
def service(tmp_path: Path, postgres_url: str) -> Iterator[Service]:
    """A service whose runs wait, as long as `SEGKIT_SERVE_RUNS` is not changed."""
    fill_products(postgres_url, range(1, 21))
    service = Service(tmp_path, DATABASE_URL=postgres_url, SEGKIT_SERVE_RUNS="0")
    service.token("all", all_runs=True)
    service.token("ann")
    with service:
        yield service


def started(client: httpx.Client, *ids: int) -> str:
    answer = client.post(START, json=wish(*ids))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["run_id"])


def status(client: httpx.Client, run_id: str) -> dict[str, Any]:
    answer: dict[str, Any] = client.get(f"/api/segmentation/{run_id}/status").json()
    return answer


def blocked_log(service: Service) -> Path:
    """Put a folder in place of the service's log, so that nothing can be written there; returns the log put aside."""
    log = service.place / "home" / "service" / "events.jsonl"
    aside = log.with_suffix(".aside")
    log.rename(aside)
    log.mkdir()
    return aside


def test_the_queue_outlives_a_log_that_cannot_be_written(service: Service) -> None:
    """Errors are noted on stderr instead, refusals go out with their own status, and tokens stay as they were."""
    aside = blocked_log(service)
    try:
        with service.client("all") as client, service.client("ann") as ann:
            refused = client.post(START, json=wish(1, 999))
            assert (refused.status_code, refused.json()["type"]) == (422, "/problems/unknown-products")
            assert client.post(START, json=wish(1)).status_code == 503, "nothing is started that is not logged"
            service.tokens.write_text("{")  # the loop has something to report, and cannot
            until(lambda: client.get("/ready").json()["checks"]["tokens"] == "failing")
            assert client.get("/ready").json()["checks"]["log"] == "failing"
            assert ann.get("/api/segmentation/runs").status_code == 200, "a damaged file changes nothing"
            time.sleep(1)
            assert client.get("/health").json() == {"status": "ok"}
    finally:
        aside.with_suffix(".jsonl").rmdir()
        aside.rename(aside.with_suffix(".jsonl"))
    with service.client("all") as client:
        run_id = started(client, 1, 2)
        assert status(client, run_id)["queued"] is True
    service.stop()


@pytest.mark.long
def test_the_loop_outlives_descriptors_that_run_out(tmp_path: Path, postgres_url: str) -> None:
    """While no file can be opened, nothing is lost; afterwards the run that waits begins."""
    fill_products(postgres_url, range(1, 21))
    service = Service(tmp_path, DATABASE_URL=postgres_url, SEGKIT_SERVE_RUNS="1")
    with service, service.client() as client:
        first, second = started(client, *range(1, 6)), started(client, *range(6, 11))
        until(lambda: "queued" not in status(client, first))
        pid = service.process.pid
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (12, limits[1]))
        time.sleep(2)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        until(lambda: "queued" not in status(client, second), 60)
        assert client.get("/health").status_code == 200
        client.post(f"/api/segmentation/{second}/cancel")
        until(lambda: status(client, second)["status"] != "running", 60)


@pytest.mark.long
def test_the_loop_outlives_a_disk_that_is_full(tmp_path: Path, postgres_url: str) -> None:
    """Its log, its table and its locks have no byte left while a run ends; with room again the next one begins."""
    fill_products(postgres_url, range(1, 21))
    home = tmp_path / "home"
    home.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", home], check=False).returncode
    ):
        pytest.skip("a disk of 8 MB can be mounted by root only")
    try:
        with Service(tmp_path, DATABASE_URL=postgres_url, SEGKIT_SERVE_RUNS="1") as service:
            outlive_a_full_disk(service, home)
    finally:
        subprocess.run(["umount", "--lazy", home], check=True)


def outlive_a_full_disk(service: Service, home: Path) -> None:
    with service.client() as client:
        first, second = started(client, *range(1, 6)), started(client, *range(6, 11))
        until(lambda: "queued" not in status(client, first))
        log, filler = home / "service" / "events.jsonl", home / "filler"
        with log.open("ab") as last_block:
            last_block.write(b"\n" * (-log.stat().st_size % 4096))
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        until(lambda: status(client, first)["status"] != "running", 120)
        assert client.post(START, json=wish(11)).status_code == 503
        assert status(client, second)["queued"] is True
        until(lambda: client.get("/ready").json()["checks"]["disk"] == "failing")
        filler.unlink()
        until(lambda: "queued" not in status(client, second), 60)
        until(lambda: client.get("/ready").status_code == 200)
        client.post(f"/api/segmentation/{second}/cancel")
        until(lambda: status(client, second)["status"] != "running", 60)


def test_strangers_do_not_take_the_descriptors_of_runs(tmp_path: Path, postgres_url: str) -> None:
    """Half of the descriptors are kept: with as many idle connections as there may be, runs are started and end."""
    fill_products(postgres_url, range(1, 21))
    few = ["prlimit", "--nofile=160:160", *COMMAND]
    service = Service(tmp_path, command=few, DATABASE_URL=postgres_url, SEGKIT_SERVE_RUNS="0")
    with service, service.client() as client:
        assert client.get("/health").status_code == 200
        host, port = service.url.removeprefix("http://").split(":")
        strangers = [socket.socket() for _ in range(200)]
        for stranger in strangers:
            stranger.setblocking(False)
            stranger.connect_ex((host, int(port)))
        time.sleep(1)
        run_id = started(client, 1, 2)
        assert client.post(f"/api/segmentation/{run_id}/cancel").status_code == 200
        assert status(client, run_id)["status"] == "cancelled"
        for stranger in strangers:
            stranger.close()
        with service.client() as another:
            assert another.get("/health").status_code == 200


@pytest.mark.long
def test_a_service_that_no_longer_looks_after_runs_is_not_healthy(service: Service) -> None:
    """Its loop hangs, here in writing its log; it is healthy again when the loop goes on."""
    aside = blocked_log(service)
    log = aside.with_suffix(".jsonl")
    log.rmdir()
    os.mkfifo(log)  # whoever opens it to write waits for a reader
    with service.client("all") as client:
        assert client.head("/health").status_code == 200
        service.tokens.write_text("{")
        answer = until(lambda: (a := client.get("/health")).status_code == 503 and a, 60)
        assert answer.json()["type"] == "/problems/not-alive"
        assert client.get("/ready").json()["checks"]["runs"] == "failing"
        reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
        until(lambda: client.get("/health").status_code == 200, 60)
        log.unlink()
        os.close(reader)


def test_the_tokens_of_a_file_are_listed_and_removed(service: Service) -> None:
    """A withdrawn token's waiting run ends, its stream ends, and its requests are refused."""
    with service.client("ann") as ann, service.client("all") as client:
        run_id = started(ann, 1, 2)
        with ann.stream("GET", f"/api/segmentation/{run_id}/events") as stream:
            lines = stream.iter_lines()
            assert next(lines) == "retry: 2000"
            said = command(service, "token", "list")
            assert said.stdout.splitlines() == ["all all_runs=True", "ann"]
            assert command(service, "token", "revoke", "ann").returncode == 0
            assert [line for line in lines if line.startswith("data: ")]
        assert ann.get(f"/api/segmentation/{run_id}/status").status_code == 401
        ended = until(lambda: (s := status(client, run_id))["status"] == "cancelled" and s)
        assert (ended["failure"], "its token was withdrawn" in ended["detail"]) == ("cancelled", True)
        assert command(service, "token", "revoke", "ann").returncode == 2


def command(service: Service, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words, "--tokens", str(service.tokens)],
        cwd=service.place, env=service.environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_tokens_made_at_once_are_all_kept(tmp_path: Path) -> None:
    """Processes that edit the file take turns."""
    path = tmp_path / "tokens.json"
    script = (
        f"from segkit.service.tokens import add_token; add_token(__import__('pathlib').Path({str(path)!r}), '%s')"
    )
    made = [subprocess.Popen([COMMAND[0], "-c", script % f"t{number}"]) for number in range(5)]
    assert [process.wait(60) for process in made] == [0] * 5
    assert sorted(token["name"] for token in json.loads(path.read_bytes())["tokens"]) == [f"t{n}" for n in range(5)]


def test_one_client_with_wrong_bodies_delays_nobody(service: Service) -> None:
    """Bodies with 100,000 wrong ids or 150,000 unknown fields are refused at their first faults."""
    bodies = [
        json.dumps({"product_ids": ["a"] * 100_000, "category": "x"}),
        json.dumps({f"k{number}": 1 for number in range(150_000)}),
        json.dumps(wish(*range(1, 100_001))),
    ]
    pid = service.process.pid
    with service.client("ann") as ann:
        for body in bodies:
            before = cpu_seconds(pid)
            for _ in range(5):
                answer = ann.post(START, content=body, headers={"content-type": "application/json"})
                assert answer.status_code == 422
                assert len(answer.content) < 3000
            assert (cpu_seconds(pid) - before) / 5 < 0.2, body[:60]


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def open_results(service: Service) -> list[Path]:
    """List the descriptors that the service holds for answers."""
    found = Path(f"/proc/{service.process.pid}/fd").iterdir()
    return [
        each
        for each in found
        if each.is_symlink() and any(name in str(each.readlink()) for name in ("segments", "answers"))
    ]


def test_a_token_downloads_only_so_much_at_once(service: Service) -> None:
    """Results that nobody reads hold memory and files: a token may have eight; one that is closed makes room."""
    run = finished(service.place / "runs", 60_000)
    head = f"GET /api/segmentation/{run.id}/results HTTP/1.1\r\nhost: x\r\nauthorization: Bearer "
    request = (head + f"{service.secrets['all']}\r\n\r\n").encode()
    host, port = service.url.removeprefix("http://").split(":")
    doors = [socket.create_connection((host, int(port)), timeout=60) for _ in range(10)]
    codes = []
    for door in doors:
        door.sendall(request)
        codes.append(int(door.recv(64).split()[1]))
    assert codes == [200] * 8 + [429] * 2
    for door in doors:
        door.close()
    with service.client("all") as client:
        until(lambda: client.get(f"/api/segmentation/{run.id}/results").status_code == 200)
        until(lambda: not open_results(service))


@pytest.mark.long
def test_an_answer_that_nobody_reads_is_ended(service: Service) -> None:
    """After a minute in which the client takes nothing its connection is closed."""
    run = finished(service.place / "runs", 100_000)
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        head = f"GET /api/segmentation/{run.id}/results HTTP/1.1\r\nhost: x\r\nauthorization: Bearer "
        door.sendall((head + f"{service.secrets['all']}\r\n\r\n").encode())
        door.recv(64)
        until(lambda: open_results(service))
        until(lambda: not open_results(service), 120)


@pytest.mark.long
def test_downloads_that_nobody_reads_take_no_memory(service: Service) -> None:
    """200 open downloads of 100,000 products by 25 tokens: the memory is flat, within 20 MB."""
    run = finished(service.place / "runs", 100_000)
    secrets = [service.token(f"t{number}", all_runs=True) for number in range(25)]
    host, port = service.url.removeprefix("http://").split(":")
    pid = service.process.pid

    def unread(secret: str) -> socket.socket:
        door = socket.create_connection((host, int(port)), timeout=60)
        head = f"GET /api/segmentation/{run.id}/results HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {secret}\r\n\r\n"
        door.sendall(head.encode())
        assert door.recv(64).split()[1] == b"200"
        return door

    with service.client("all") as client:
        until(
            lambda: (
                client.get("/api/segmentation/runs", headers={"authorization": f"Bearer {secrets[-1]}"}).is_success
            )
        )
        for _ in range(3):
            client.get(f"/api/segmentation/{run.id}/results")
    before = resident(pid)
    doors = [unread(secret) for secret in secrets for _ in range(8)]
    time.sleep(3)
    grown = resident(pid) - before
    for door in doors:
        door.close()
    assert grown < 20, f"{grown:.1f} MB"


def resident(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))
