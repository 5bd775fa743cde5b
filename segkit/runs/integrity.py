"""Whether a run folder still holds what was written: every file against its checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import orjson

from segkit.core.models import STAGES
from segkit.errors import RunError
from segkit.runs import mirror
from segkit.runs.interactions import scan
from segkit.runs.run import Run
from segkit.runs.status import update_status
from segkit.storage.checksums import as_lines, hash_of, read_hashes
from segkit.storage.disk import write_atomic

CHECKSUMS = "checksums.sha256"
_CHANGING = {CHECKSUMS, "status.json", "events.jsonl"}


def checksums(folder: Path) -> dict[str, str]:
    """Hash the files of a run folder that do not change any more: path below it → SHA-256 in hex."""
    return {name: hash_of(folder / name) for name in mirror.files(folder) if name not in _CHANGING}


def seal_folder(run: Run) -> None:
    """Write down what the files of a run hold, and in its status the hash of that."""
    lines = as_lines(checksums(run.folder))
    write_atomic(run.folder / CHECKSUMS, lines)
    update_status(run.folder, seal=hashlib.sha256(lines).hexdigest())


def is_finished(run: Run) -> bool:
    """Tell whether a run is completed and sealed, and has its logs, so that nothing is left to do."""
    mirror.fetch(run.folder, CHECKSUMS)
    sealed = run.status.state == "completed" and (run.folder / CHECKSUMS).exists()
    return sealed and not lost_logs(run)


def lost_logs(run: Run) -> list[str]:
    """Name the logs that a run had when it ended, and that are neither in its folder nor in S3 any more."""
    mirror.fetch(run.folder, CHECKSUMS)
    folders = tuple(f"{name}/" for name in STAGES.values())
    lost = {name for name in read_hashes(run.folder / CHECKSUMS) if name.startswith(folders)}
    for name in folders:
        lost -= {path.relative_to(run.folder).as_posix() for path in (run.folder / name).glob("*")}
    if lost and mirror.location(run.folder):
        away = mirror.stored(run.folder) or mirror.remote(run.folder).names(run.id)
        lost -= {name.removeprefix(f"{run.id}/") for name in away}
    return sorted(lost)


def logged_keys(run: Run) -> set[str]:
    """Return the cache keys of all interactions of a run that can be read."""
    logs = [log for stage in STAGES.values() for log in scan(run.folder / stage)[0]]
    return {str(log.metadata.get("cache_key")) for log in logs}


def differences(run: Run) -> list[str]:
    """Name every file of a run that is damaged, changed, missing or too many, one line each.

    A finished run is compared with its `checksums.sha256`; of an open one the interaction logs, each against the
    checksum in it. Files that are in S3 only are not
    missing.
    """
    found = [scan(run.folder / stage) for stage in STAGES.values()]
    paths = [path for _, damaged in found for path in damaged]
    lines = [f"{path.parent.name}/{path.name}: damaged, it does not match the checksum in it" for path in paths]
    return sorted({*lines, *_unreadable(run), *_unequal(run)})


def _unequal(run: Run) -> list[str]:
    mirror.fetch(run.folder, CHECKSUMS)
    seal = run.status.seal
    if not (run.folder / CHECKSUMS).exists():
        return [f"{CHECKSUMS}: missing"] if seal else []
    changed = seal and hash_of(run.folder / CHECKSUMS) != seal
    lines = [f"{CHECKSUMS}: changed since the run ended"] if changed else []
    try:
        told = read_hashes(run.folder / CHECKSUMS)
    except RunError as error:
        return [f"{CHECKSUMS}: damaged, {error.message}"]
    return lines + _compared(run, told, checksums(run.folder))


def _compared(run: Run, told: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    away = mirror.stored(run.folder) if mirror.location(run.folder) else {}
    lines = [f"{name}: missing" for name in told.keys() - found.keys() - away.keys()]
    lines += [f"{name}: not there when the run ended" for name in found.keys() - told.keys()]
    return lines + [
        f"{name}: changed since the run ended" for name in told.keys() & found.keys() if told[name] != found[name]
    ]


def _unreadable(run: Run) -> list[str]:
    """Name what changes while a run works, and so has no checksum, where it is no JSON any more."""
    status, events = (_content(run.folder / name) for name in ("status.json", "events.jsonl"))
    damaged = [number for number, line in enumerate(events.splitlines(), start=1) if not _is_json(line)]
    lines = [f"events.jsonl: line {number} is damaged" for number in damaged]
    return lines if not status or _is_json(status) else [*lines, "status.json: damaged"]


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _is_json(data: bytes) -> bool:
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return True
