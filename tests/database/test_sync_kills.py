"""Syncs that are killed, cut off from their server, or run against each other, at moments that a seed chooses.

A run has two versions. Whatever happens to a sync that puts one in place of the other, the tables hold one of them,
whole; and at the end they hold what one clean load into a fresh database holds.
"""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from catalogues import unmeasured
from synced_runs import (
    SUPPORT,
    cut_at_commit,
    execute,
    interactions,
    make_run,
    story,
    wait_for_silence,
)

from segkit.database import compare
from segkit.database.load import load_run
from segkit.database.schema import migrate
from segkit.errors import DatabaseError

VICTIM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from synced_runs import interactions
from segkit.database.load import load_run
print("ready", flush=True)
sys.stdin.readline()
load_run(Path(sys.argv[1]), sys.argv[2], interactions())
"""
PRODUCTS = 1500
OURS = "datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'segkit'"


def kill_the_client(folder: Path, url: str, after: float) -> None:
    command = [sys.executable, "-c", VICTIM, str(folder), url, SUPPORT]
    client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=unmeasured())
    assert client.stdin
    assert client.stdout
    client.stdout.readline()
    client.stdin.write("go\n")
    client.stdin.flush()
    time.sleep(after)
    client.kill()
    client.communicate()


def terminate_the_backend(folder: Path, url: str, after: float) -> None:
    question = f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {OURS}"
    killer = threading.Timer(after, lambda: execute(url, question))
    killer.start()
    with suppress(DatabaseError):
        load_run(folder, url, interactions())
    killer.join()


def lose_the_answer_to_commit(folder: Path, url: str, after: float) -> None:
    head, _, tail = url.rpartition("/")
    host, _, port = head.rpartition(":")
    cut = f"{host}:{cut_at_commit(('127.0.0.1', int(port)))}/{tail}"
    if compare.check(folder, url, interactions()):
        with pytest.raises(DatabaseError, match="run `segkit sync RUN` again"):
            load_run(folder, cut, interactions())
    else:  # an earlier fault left this very version: there is nothing to commit
        load_run(folder, cut, interactions())


def two_at_once(folder: Path, url: str, after: float) -> None:
    other = threading.Timer(after, lambda: load_run(folder, url, interactions()))
    other.start()
    load_run(folder, url, interactions())
    other.join()


FAULTS: list[Callable[[Path, str, float], None]] = [
    kill_the_client,
    terminate_the_backend,
    terminate_the_backend,
    lose_the_answer_to_commit,
    two_at_once,
]


@pytest.fixture
def databases(make_database: Callable[..., str]) -> list[str]:
    urls = [make_database() for _ in range(3)]
    for url in urls:
        migrate(url)
    return urls


def suffer(databases: list[str], place: Path, seed: int, faults: int) -> None:
    """Put faults on syncs; after each the tables hold a whole version, and at the end that of a clean load."""
    chance, (url, *clean) = random.Random(seed), databases
    folders = [
        make_run(place / "one", products=PRODUCTS),
        make_run(place / "two", names=("Plates", "Covers"), products=PRODUCTS - 1),
    ]
    whole: list[list[Any]] = [story(url)]
    seconds = 0.0
    for folder, fresh in zip(folders, clean, strict=True):
        began = time.monotonic()
        load_run(folder, fresh, interactions())
        seconds, whole = time.monotonic() - began, [*whole, story(fresh)]
    for number in range(faults):
        folder = folders[number % 2]
        chance.choice(FAULTS)(folder, url, chance.uniform(0, 1.2 * seconds))
        wait_for_silence(url)
        assert story(url) in whole, f"fault {number} of seed {seed}"
    for folder, expected in zip(folders, whole[1:], strict=True):
        load_run(folder, url, interactions())
        assert story(url) == expected
        assert compare.check(folder, url, interactions()) == []


def test_a_few_faults_leave_a_whole_run(databases: list[str], tmp_path: Path) -> None:
    """A kill, a terminated backend, a lost answer to COMMIT, two syncs at once."""
    suffer(databases, tmp_path, seed=2, faults=6)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10, 20))
def test_a_hundred_faults_leave_a_whole_run(databases: list[str], tmp_path: Path, seed: int) -> None:
    """The same, ten seeds of ten faults, on both servers."""
    suffer(databases, tmp_path, seed=seed, faults=10)
