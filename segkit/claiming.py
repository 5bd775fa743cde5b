"""One machine works on a run in S3 at a time: the one that `owner.json` in the bucket names."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import orjson

from segkit.errors import RunError, StorageError
from segkit.events import timestamp
from segkit.mirror import OWNER, location, remote


@contextmanager
def claimed(folder: Path, *, take_over: bool = False) -> Iterator[None]:
    """Hold a run in S3 against other machines while the block works on it; raises RunError naming the owner."""
    if not location(folder):
        yield
        return
    storage, name = remote(folder), f"{folder.name}/{OWNER}"
    mine = orjson.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": timestamp()})
    try:
        storage.create(name, mine)
    except FileExistsError:
        owner = orjson.loads(storage.read(name))
        if owner["host"] != socket.gethostname() and not take_over:
            raise _owned_elsewhere(folder, owner) from None
        storage.replace(name, mine)  # of this machine it was, or is said to be, a process that is gone
    (folder / OWNER).unlink(missing_ok=True)
    try:
        yield
    finally:
        with suppress(StorageError):  # the first error says more, and the next owner is told what to do
            storage.remove(name)


def is_owned_elsewhere(folder: Path) -> bool:
    """Tell whether another machine worked on a run when it was looked at last."""
    return (folder / OWNER).exists()


def _owned_elsewhere(folder: Path, owner: dict[str, object]) -> RunError:
    who = f"pid {owner['pid']} on {owner['host']} since {owner['since']}"
    hint = f"if that process is gone: segkit resume {folder.name} --take-over"
    return RunError(f"{folder.name} is at work on another machine: {who}", hint)
