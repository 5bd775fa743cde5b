"""Answers that a failing disk has driven away: kept in the system's temporary folder until the run goes on."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import orjson

from segkit.runs.interactions import Intent, raw_fields
from segkit.storage.disk import write_atomic


def keep_elsewhere(intent: Intent, head: dict[str, Any], status: int | None, body: bytes) -> Path | None:
    """Write an intent with its answer into the system's temporary folder, since its own disk fails; give the folder.

    Gives None where that fails too. `take_back` takes the file back when the run is resumed.
    """
    place = _elsewhere(intent.path.parent)
    try:
        place.parents[1].mkdir(mode=0o700, exist_ok=True)
        if not _is_own(place.parents[1]):
            return None
        place.mkdir(parents=True, exist_ok=True)
        log = orjson.dumps({**head, **raw_fields(status, body)}, option=orjson.OPT_INDENT_2)
        write_atomic(place / intent.path.name, log[:-2])
    except OSError:
        return None
    return place


def take_back(folder: Path) -> None:
    """Take the answers back that a failing disk had driven away: each replaces the intent it belongs to."""
    place = _elsewhere(folder)
    if not (place.is_dir() and _is_own(place.parents[1])):
        return
    for path in sorted(place.glob("*.intent")):
        if (folder / path.name).exists():
            write_atomic(folder / path.name, path.read_bytes())
            path.unlink()


def _elsewhere(folder: Path) -> Path:
    return Path(tempfile.gettempdir()) / f"segkit-{os.getuid()}" / folder.parent.name / folder.name


def _is_own(folder: Path) -> bool:
    """Tell whether a folder is this user's alone: in a shared place others could plant answers in it."""
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
