"""How the REST service answers, beside a bare FastAPI route, large wrong bodies and downloads that nobody reads.

    python tests/benchmarks/service.py            # the table of this machine
    python tests/benchmarks/service.py --quick    # shorter; nothing is written

Servers and clients have a core each. Where other work goes on, start it with `nice -n -15`: ratios are of one run.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from results import write_section

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

if TYPE_CHECKING:
    from rest_service import Service

CONNECTIONS = 10


def ask(address: str, path: str, secret: str, rate: float, seconds: float) -> dict[str, float]:
    """Ask for a path over ten connections, at a rate or as fast as it is answered (0); gives milliseconds."""
    request = f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {secret}\r\n\r\n".encode()
    host, port = address.removeprefix("http://").split(":")
    selector, took, due, got = selectors.DefaultSelector(), [], {}, {}
    began = time.perf_counter()
    pause = CONNECTIONS / rate if rate else 0.0
    for number in range(CONNECTIONS):
        connection = socket.create_connection((host, int(port)))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(connection, selectors.EVENT_READ)
        due[connection] = began + number * pause / CONNECTIONS
    waiting, end = dict(due), began + seconds
    while (now := time.perf_counter()) < end:
        for connection, moment in [(c, m) for c, m in waiting.items() if m <= now]:
            del waiting[connection]
            due[connection] = moment if rate else now
            connection.sendall(request)
        nearest = max(0.0, min(waiting.values()) - now) if waiting else 0.5
        for key, _ in selector.select(nearest):
            got[key.fileobj] = got.get(key.fileobj, b"") + key.fileobj.recv(65536)
            if not got[key.fileobj].endswith(b"}"):
                continue  # the head comes before the body
            answer, now = got.pop(key.fileobj), time.perf_counter()
            assert answer.startswith(b"HTTP/1.1 200"), answer[:200]
            took.append(1000 * (now - due[key.fileobj]))
            waiting[key.fileobj] = due[key.fileobj] + pause if rate else now
    took.sort()
    return {"rate": len(took) / seconds, "p50": took[len(took) // 2], "p99": took[int(len(took) * 0.99)]}


def asked(address: str, path: str, secret: str, rate: float, seconds: float) -> dict[str, float]:
    """Ask from a process on a core of its own."""
    words = ["taskset", "-c", "1", sys.executable, __file__, "--ask", address, path, secret, str(rate), str(seconds)]
    found: dict[str, float] = json.loads(subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return found


def serve_bare(port: int, body: str) -> None:
    """Serve one JSON document with FastAPI on the protocol that segkit uses, and nothing else."""
    import uvicorn
    from fastapi import FastAPI

    app, document = FastAPI(), json.loads(body)

    @app.get("/{run_id}/status")
    async def status(run_id: str) -> dict[str, object]:
        return dict(document)

    uvicorn.run(app, port=port, http="h11", loop="asyncio", log_level="warning", access_log=False)


def compare(service: Service, rounds: int, seconds: float) -> list[tuple[str, str, str]]:
    """Ask for a status and for a bare route in turns, as fast as they are answered."""
    from rest_service import finished

    run = finished(service.place / "runs", 100)
    with service.client() as client:
        document = client.get(f"/api/segmentation/{run.id}/status").text
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    bare = subprocess.Popen(["taskset", "-c", "0", sys.executable, __file__, "--bare", str(port), document])
    address, secret = f"http://127.0.0.1:{port}", service.secrets["bench"]
    try:
        while not _listens(port):
            time.sleep(0.1)
        found: list[tuple[dict[str, float], dict[str, float]]] = []
        for _ in range(rounds):
            pids = (service.process.pid, bare.pid)
            before = [cpu_seconds(pid) for pid in pids]
            own = asked(service.url, f"/api/segmentation/{run.id}/status", secret, 0, seconds)
            other = asked(address, f"/{run.id}/status", secret, 0, seconds)
            found.append((own, other))
            for each, pid, start in zip((own, other), pids, before, strict=True):
                each["cpu"] = 1000 * (cpu_seconds(pid) - start) / (seconds * each["rate"])
    finally:
        bare.terminate()
        bare.wait()
    ratios = [own["rate"] / other["rate"] for own, other in found]
    cpu = [(own["cpu"], other["cpu"]) for own, other in found]
    own, other = median(each for each, _ in cpu), median(each for _, each in cpu)
    return [
        ("status, requests a second ÷ those of a bare FastAPI route", f"{median(ratios):.2f}", "≥ 0.9"),
        ("… processor time a request, of one and of the other", f"{own:.2f} ms, {other:.2f} ms", ""),
    ]


def _listens(port: int) -> bool:
    with socket.socket() as door:
        return door.connect_ex(("127.0.0.1", port)) == 0


def disturb(service: Service, seconds: float) -> list[tuple[str, str, str]]:
    """Ask 100 times a second for a status, alone and while another client sends 2 MB of wrong ids each second."""
    from rest_service import finished

    run = finished(service.place / "runs", 100)
    path, secret = f"/api/segmentation/{run.id}/status", service.secrets["bench"]
    alone = asked(service.url, path, secret, 100, seconds)
    ids = [*(f"B{number:015d}" for number in range(99_999)), 7.5]
    body, over = json.dumps({"product_ids": ids, "category": "x"}).encode(), threading.Event()

    def send() -> None:
        with service.client("other") as client:
            while not over.wait(1):
                client.post("/api/segmentation/start", content=body, headers={"content-type": "application/json"})

    sender = threading.Thread(target=send)
    sender.start()
    disturbed = asked(service.url, path, secret, 100, seconds)
    over.set()
    sender.join()
    what = f"p99 of a client while another sends {len(body) / 1e6:.1f} MB of wrong ids each second (alone)"
    return [(what, f"{disturbed['p99']:.1f} ms ({alone['p99']:.1f} ms)", "< 50 ms")]


def hold(service: Service, run_id: str) -> list[tuple[str, str, str]]:
    """Open 200 downloads of a run by 25 tokens, and read none of them."""
    host, port = service.url.removeprefix("http://").split(":")
    doors = []
    with service.client() as client:
        for _ in range(3):
            client.get(f"/api/segmentation/{run_id}/results")
    before = resident(service.process.pid, "VmRSS")
    for number in range(25):
        secret = service.secrets[f"t{number}"]
        head = f"GET /api/segmentation/{run_id}/results HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {secret}\r\n\r\n"
        for _ in range(8):
            doors.append(socket.create_connection((host, int(port))))
            doors[-1].sendall(head.encode())
            assert doors[-1].recv(64).split()[1] == b"200"
    time.sleep(3)
    grown = resident(service.process.pid, "VmRSS") - before
    for door in doors:
        door.close()
    return [("memory that 200 unread downloads of 100,000 products take", f"{grown:+.1f} MB", "± 20 MB")]


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def stream(service: Service, products: int) -> tuple[str, float, float, float]:
    """Read the results of a run: its id, milliseconds to the first byte, seconds to the last, MB above idle."""
    from rest_service import finished

    run = finished(service.place / "runs", products)
    pid = service.process.pid
    with service.client() as client:
        client.get(f"/api/segmentation/{run.id}/status")
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the kernel forgets the peak
        before, began = resident(pid, "VmRSS"), time.perf_counter()
        with client.stream("GET", f"/api/segmentation/{run.id}/results") as answer:
            pieces = answer.iter_bytes()
            size = len(next(pieces))
            first = 1000 * (time.perf_counter() - began)
            size += sum(map(len, pieces))
    assert size > 40 * products
    return run.id, first, time.perf_counter() - began, resident(pid, "VmHWM") - before


def resident(pid: int, which: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(which))


def table(place: Path, share: int) -> list[tuple[str, str, str]]:
    """Measure all rows: what was done, the figure, and what it must reach."""
    from rest_service import Service

    service = Service(place)
    service.token("bench", all_runs=True, requests_per_second=1_000_000)
    service.token("other", max_products=100_000)
    for number in range(25):
        service.token(f"t{number}", all_runs=True)
    with service:
        os.sched_setaffinity(service.process.pid, {0})
        rows = compare(service, 3 if share > 1 else 7, 3) + disturb(service, 10 / share)
        stream(service, 1000)  # what is imported once is no part of an answer
        _, _, _, few = stream(service, 10_000)
        run_id, first, last, many = stream(service, 100_000)
        rows += hold(service, run_id)
    return [
        *rows,
        ("results of 100,000 products: first byte", f"{first:.0f} ms", "≤ 200 ms"),
        ("… last byte", f"{last:.2f} s", ""),
        ("… memory above idle, 10,000 and 100,000 products", f"{few:.1f} MB, {many:.1f} MB", "flat"),
    ]


def main() -> None:
    """Print the table, and put it below the others of `results.md` when it is the whole one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="shorter; nothing is written")
    parser.add_argument("--ask", nargs=5, metavar=("ADDRESS", "PATH", "TOKEN", "RATE", "SECONDS"))
    parser.add_argument("--bare", nargs=2, metavar=("PORT", "BODY"))
    given = parser.parse_args()
    if given.bare:
        serve_bare(int(given.bare[0]), given.bare[1])
        return
    if given.ask:
        address, path, secret, rate, seconds = given.ask
        print(json.dumps(ask(address, path, secret, float(rate), float(seconds))))
        return
    place = Path(tempfile.mkdtemp(prefix="segkit-bench-"))
    try:
        rows = table(place, 4 if given.quick else 1)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    write_section("Service", "`segkit serve`, answers over 127.0.0.1", rows, keep=not given.quick)


if __name__ == "__main__":
    main()
