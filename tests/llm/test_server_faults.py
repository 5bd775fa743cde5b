"""A server of Postgres that is full, or gone in the middle: rolled back, told, loaded by the next sync."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from debian_postgres import wait_for
from synced_runs import execute, in_the_middle_of_copy, interactions, make_run, rows

from segkit.database import compare
from segkit.database.embedded import server_command, server_user
from segkit.database.load import load_run
from segkit.database.schema import migrate
from segkit.errors import DatabaseError

pytestmark = pytest.mark.long
AGAIN = "run `segkit sync RUN` again"


SMALL = Path("/mnt")  # in a mount namespace of the server's own; below it the server needs nobody's leave


class SmallServer:
    """A cluster of its own, and a tablespace on a file system of a few MB which nobody else sees."""

    def __init__(self, folder: Path) -> None:
        self._data, self._log = folder / "data", folder / "log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"postgresql://segkit:trusted@127.0.0.1:{self._port}/postgres"
        self._data.mkdir(mode=0o700)
        os.chown(self._data, *server_user())
        options = "size=12m,mode=0700,uid={},gid={}".format(*server_user())
        mount = f"mount -t tmpfs -o {options} small {SMALL} && echo mounted && exec sleep infinity"
        self._holder = subprocess.Popen(["unshare", "--mount", "sh", "-c", mount], stdout=subprocess.PIPE)
        assert self._holder.stdout
        self.may_mount = self._holder.stdout.readline() == b"mounted\n"

    def make(self) -> None:
        options = ["--encoding=UTF8", "--locale=C.UTF-8", "--auth=trust", "-U", "segkit", "--no-sync"]
        subprocess.run(server_command("initdb", "-D", self._data, *options), check=True, capture_output=True)
        self.start()

    def start(self) -> None:
        settings = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off")
        options = [part for setting in settings for part in ("-c", setting)]
        command = server_command("postgres", "-D", self._data, "-p", str(self._port), *options)
        with self._log.open("ab") as log:
            self._server = subprocess.Popen([*self._inside, *command], stdout=log, stderr=log)
        wait_for(self.url)

    def die(self) -> None:
        self._server.send_signal(signal.SIGQUIT)  # at once, without a checkpoint

    def wait(self) -> None:
        self._server.wait(60)

    def make_room(self) -> None:
        subprocess.run([*self._inside, "mount", "-o", "remount,size=200m", SMALL], check=True)

    def end(self) -> None:
        if hasattr(self, "_server"):
            self.die()
            self.wait()
        self._holder.kill()
        self._holder.communicate()

    @property
    def _inside(self) -> list[str]:
        return ["nsenter", f"--target={self._holder.pid}", "--mount"]


@contextmanager
def small_server(folder: Path) -> Iterator[SmallServer]:
    if os.geteuid() or not (shutil.which("unshare") and shutil.which("nsenter")):
        pytest.skip("a small file system needs root, and unshare and nsenter of util-linux")
    server = SmallServer(folder)
    try:
        if not server.may_mount:
            pytest.skip("mounting is not allowed here")
        server.make()
        yield server
    finally:
        server.end()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallServer]:
    with small_server(tmp_path_factory.mktemp("server")) as server:
        yield server


def make_database(server: SmallServer, name: str, options: str = "") -> str:
    execute(server.url, f"CREATE DATABASE {name} {options}")
    url = server.url.removesuffix("postgres") + name
    migrate(url)
    return url


def is_loaded(folder: Path, url: str) -> None:
    load_run(folder, url, interactions())
    assert compare.check(folder, url, interactions()) == []


def test_a_disk_that_is_full_leaves_nothing_of_a_run(server: SmallServer, tmp_path: Path) -> None:
    """Really full, in the middle of a COPY; what was loaded before stays, and room is all that it takes."""
    execute(server.url, f"CREATE TABLESPACE small LOCATION '{SMALL}'")
    url = make_database(server, "small", "TABLESPACE small")
    first, second = make_run(tmp_path / "1", "RUN_1"), make_run(tmp_path / "2", "RUN_2", products=25_000)
    is_loaded(first, url)
    with pytest.raises(DatabaseError, match="No space left on device") as error:
        load_run(second, url, interactions())
    assert error.value.hint == f"make room on the disk of the server; no run folder was changed; {AGAIN}"
    assert compare.check(first, url, interactions()) == []
    assert execute(url, "SELECT id FROM segmentation_runs") == [("RUN_1",)]
    server.make_room()
    is_loaded(second, url)


def test_a_server_that_is_restarted_in_the_middle_has_nothing_of_the_run(server: SmallServer, tmp_path: Path) -> None:
    """An immediate shutdown in the middle of a COPY, as in a failover; while it is down, and when it is back."""
    url, folder = make_database(server, "restarted"), make_run(tmp_path, products=15_000)

    def strike() -> None:
        next(in_the_middle_of_copy(url))
        server.die()

    killer = threading.Thread(target=strike)
    killer.start()
    for _ in ("in the middle", "while it is down"):
        with pytest.raises(DatabaseError, match="restarted at 127") as error:
            load_run(folder, url, interactions())
        assert AGAIN in error.value.hint
        killer.join()
        server.wait()
    server.start()
    assert rows(url) == 0
    is_loaded(folder, url)
