"""A server of Debian's PostgreSQL 15, where its programs are installed, which ends with the tests."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from segkit.database import embedded

PROGRAMS = Path("/usr/lib/postgresql/15/bin")


@contextmanager
def debian_server(folder: Path) -> Iterator[str]:
    """Make a cluster that trusts its own machine, start its server, and give its URL."""
    data = folder / "data"
    data.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(data, *embedded.server_user())
    options = ["--encoding=UTF8", "--locale=C.UTF-8", "--auth=trust", "-U", "segkit", "--no-sync"]
    subprocess.run(command("initdb", "-D", data, *options), check=True, capture_output=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_wal_size=2GB", "timezone=UTC"]
    options = [part for setting in settings for part in ("-c", setting)]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            command("postgres", "-D", data, "-p", str(port), *options), stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield wait_for(f"postgresql://segkit:trusted@127.0.0.1:{port}/postgres")
    finally:
        server.terminate()
        try:
            server.wait(5)
        except subprocess.TimeoutExpired:  # somebody is still connected
            server.send_signal(2)
            server.wait()


def command(program: str, *arguments: str | Path) -> list[str]:
    """The command line of a program, run as `nobody` where we are root, as the embedded server's are."""
    ours = str(embedded.server_programs() / program)
    return [
        str(PROGRAMS / program) if part == ours else part for part in embedded.server_command(program, *arguments)
    ]


def wait_for(url: str) -> str:
    end = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            assert time.monotonic() < end
            time.sleep(0.05)
        else:
            return url
