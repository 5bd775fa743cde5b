"""One machine works on a run in S3 at a time: the one that `owner.json` in the bucket names."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson

from segkit.errors import RunError, StorageError
from segkit.runs.events import timestamp
from segkit.runs.mirror import LOCKS, OWNER, location, remote
from segkit.storage.locks import is_alive, is_held


@contextmanager
def claimed(folder: Path, *, take_over: bool = False, command: str = "resume") -> Iterator[None]:
    """Hold a run in S3 against other machines while the block works on it; raises RunError naming the owner.

    The error tells how to take the run over with the same `command`. The caller holds the locks of the folder, so
    that an owner of this very folder is a process that is gone.
    """
    if not location(folder):
        yield
        return
    storage, name = remote(folder), f"{folder.name}/{OWNER}"
    place = {"host": socket.gethostname(), "pid": os.getpid(), "folder": str(folder.resolve())}
    mine = orjson.dumps({**place, "since": timestamp()})
    try:
        storage.create(name, mine)
    except FileExistsError:
        with suppress(FileNotFoundError):  # it has ended meanwhile
            owner = _read(storage.read(name))
            if not take_over and not _is_gone(folder, owner):
                raise _owned_elsewhere(folder, owner, command) from None
        storage.replace(name, mine)
    (folder / OWNER).unlink(missing_ok=True)
    try:
        yield
    finally:
        # The first error says more, and the next owner is told what to do; who took the run over keeps it.
        with suppress(StorageError, FileNotFoundError):
            if storage.read(name) == mine:
                storage.remove(name)


def is_owned(folder: Path) -> bool:
    """Report whether a process works on a run."""
    return any(is_held(folder / name) for name in LOCKS) or is_owned_elsewhere(folder)


def is_owned_elsewhere(folder: Path) -> bool:
    """Tell whether another machine, or another folder of this one, worked on a run when it was looked at last."""
    with suppress(FileNotFoundError):
        return not _is_gone(folder, _read((folder / OWNER).read_bytes()))
    return False


def _read(data: bytes) -> dict[str, Any]:
    """Read an `owner.json`; one that tells nothing has an owner nobody knows."""
    try:
        told = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return told if isinstance(told, dict) else {}


def _is_gone(folder: Path, owner: Mapping[str, Any]) -> bool:
    if owner.get("host") != socket.gethostname():
        return False
    if owner.get("folder") == str(folder.resolve()):
        return True
    return isinstance(owner.get("pid"), int) and not is_alive(owner["pid"])


def _owned_elsewhere(folder: Path, owner: Mapping[str, Any], command: str) -> RunError:
    who = f"pid {owner.get('pid', '?')} on {owner.get('host', '?')} since {owner.get('since', '?')}"
    where = "in another folder" if owner.get("host") == socket.gethostname() else "on another machine"
    hint = f"if that process is gone: segkit {command} {folder.name} --take-over"
    return RunError(f"{folder.name} is at work {where}: {who}", hint)
