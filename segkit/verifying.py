"""Whether a run folder still holds what was written: every file against its checksum."""

from __future__ import annotations

import hashlib
from pathlib import Path

from segkit.logs import damaged_logs
from segkit.runs import Run

CHECKSUMS = "checksums.sha256"
_NOT_SEALED = {CHECKSUMS, "status.json", "events.jsonl", "run.lock", "calls.lock", "stop"}


def checksums(folder: Path) -> dict[str, str]:
    """Hash the files of a run folder that do not change any more: path below it → SHA-256 in hex."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in _NOT_SEALED)
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in paths}


def differences(run: Run) -> list[str]:
    """Name every file of a run that is damaged, changed, missing or too many, one line each.

    A finished run is compared with its `checksums.sha256`; of an open one the interaction logs, each against the
    checksum in it.
    """
    damaged = [f"{name}: damaged, it does not match the checksum in it" for name in damaged_logs(run)]
    sealed = run.folder / CHECKSUMS
    if not sealed.exists():
        return damaged
    told = dict(line.split("  ", 1)[::-1] for line in sealed.read_text(encoding="utf-8").splitlines())
    found = checksums(run.folder)
    lines = [f"{name}: missing" for name in told.keys() - found.keys()]
    lines += [f"{name}: not there when the run ended" for name in found.keys() - told.keys()]
    lines += [
        f"{name}: changed since the run ended" for name in told.keys() & found.keys() if told[name] != found[name]
    ]
    return sorted({*lines, *damaged})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
