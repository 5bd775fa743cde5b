"""How the REST service answers while a run works: requests a second, the slowest of them, and what it costs the run.

    python tests/benchmarks/service.py            # the table of this machine
    python tests/benchmarks/service.py --quick    # a smaller run; nothing is written

The service and its client share one core, the run has another one to itself, with requests and without. Where
other work goes on, start it with `nice -n -15`, or compare the CPU a request.
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
import time
from pathlib import Path
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


def work(service: Service, products: int, rate: str = "", cores: str = "0") -> tuple[float, list[dict[str, float]]]:
    """Let a run work on a core of its own, while a client asks at a rate; gives its seconds and what was measured."""
    from catalogues import catalogue
    from rest_service import COMMAND

    from segkit.pipeline.prepare import prepare_run
    from segkit.settings import load_settings

    os.environ["SEGKIT_HOME"] = str(service.place / "home")
    runs = service.place / "runs"
    run = prepare_run(catalogue(products), "Kitchen Things", runs_dir=runs, model="offline", settings=load_settings())
    environment = service.environment | {"SEGKIT_CACHE": "false"}
    command = ["taskset", "-c", "1", *COMMAND, "resume", run.id, "--no-sync", "--json"]
    began, told = time.perf_counter(), []
    process = subprocess.Popen(
        command, cwd=service.place, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    path = f"/api/segmentation/{run.id}/status"
    script = [sys.executable, __file__, "--ask", service.url, path, next(iter(service.secrets.values()))]
    while rate and process.poll() is None:
        before = cpu_seconds(service.process.pid)
        asking = ["taskset", "-c", cores, *script, rate, "3"]
        told.append(json.loads(subprocess.run(asking, stdout=subprocess.PIPE, text=True, check=True).stdout))
        told[-1]["cpu"] = 1000 * (cpu_seconds(service.process.pid) - before) / (3 * told[-1]["rate"])
    assert process.wait() == 0
    return time.perf_counter() - began, told


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def stream(service: Service, products: int) -> tuple[float, float, float]:
    """Read the results of a run: milliseconds to the first byte, seconds to the last, and MB above what was held."""
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
    return first, time.perf_counter() - began, resident(pid, "VmHWM") - before


def resident(pid: int, which: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(which))


def table(place: Path, share: int) -> list[tuple[str, str, str]]:
    """Measure all rows: what was done, the figure, and what it must reach."""
    from rest_service import Service

    service = Service(place)
    service.token("bench", all_runs=True, requests_per_second=1_000_000)
    with service:
        os.sched_setaffinity(service.process.pid, {0})
        alone, polled, paced = [], [], []
        for _ in range(1 if share > 1 else 3):
            alone.append(work(service, 4000 // share)[0])
            seconds, measured = work(service, 4000 // share, "1000")
            polled.append(seconds)
            paced += measured
        fastest = max(work(service, 4000 // share, "0", "0,1")[1], key=lambda each: each["rate"])
        stream(service, 1000)  # what is imported once is no part of an answer
        _, _, few = stream(service, 10_000)
        first, last, many = stream(service, 100_000)
    return [
        ("status requests a second on one core, a run at work", f"{fastest['rate']:,.0f}", "≥ 1,000"),
        ("… CPU of the service a request", f"{fastest['cpu']:.2f} ms", "≤ 1 ms"),
        ("… at 1,000 a second: p50", f"{sorted(each['p50'] for each in paced)[len(paced) // 2]:.1f} ms", ""),
        (
            "… p99, the median of 3 s each",
            f"{sorted(each['p99'] for each in paced)[len(paced) // 2]:.1f} ms",
            "≤ 50 ms",
        ),
        (
            "… requests a second that were answered, the worst of 3 s each",
            f"{min(each['rate'] for each in paced):,.0f}",
            "1,000",
        ),
        ("… seconds of the run ÷ the same without requests", f"{min(polled) / min(alone):.3f}", "≤ 1.05"),
        ("results of 100,000 products: first byte", f"{first:.0f} ms", "≤ 200 ms"),
        ("… last byte", f"{last:.2f} s", ""),
        ("… memory above idle, 10,000 and 100,000 products", f"{few:.1f} MB, {many:.1f} MB", "flat"),
    ]


def main() -> None:
    """Print the table, and put it below the others of `results.md` when it is the whole one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller run; nothing is written")
    parser.add_argument("--ask", nargs=5, metavar=("ADDRESS", "PATH", "TOKEN", "RATE", "SECONDS"))
    given = parser.parse_args()
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
