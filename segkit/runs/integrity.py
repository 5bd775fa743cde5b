"""Whether a run folder still holds what was written: every file against its checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

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


def write_checksums(run: Run) -> None:
    """Write down what the files of a run hold, and in its status the hash of that."""
    lines = as_lines(checksums(run.folder))
    write_atomic(run.folder / CHECKSUMS, lines)
    update_status(run.folder, seal=hashlib.sha256(lines).hexdigest())


def is_finished(run: Run) -> bool:
    """Tell whether a run is completed and sealed, and has its logs, so that nothing is left to do."""
    return run.status.state == "completed" and run.file(CHECKSUMS).exists() and not lost_logs(run)


def lost_logs(run: Run) -> list[str]:
    """Name the logs that a run had when it ended, and that are neither in its folder nor in S3 any more."""
    folders = tuple(f"{name}/" for name in STAGES.values())
    lost = {name for name in read_hashes(run.file(CHECKSUMS)) if name.startswith(folders)}
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


class Difference(NamedTuple):
    """A file of a run that is not what was written, and what is wrong with it."""

    file: str
    trouble: str

    def __str__(self) -> str:
        return f"{self.file}: {self.trouble}"


def differences(run: Run) -> list[str]:
    """Describe every file of a run that is damaged, changed, missing or too many, one line each."""
    return list(map(str, changed_files(run)))


def changed_files(run: Run) -> list[Difference]:
    """Return every file of a run that is damaged, changed, missing or too many.

    A finished run is compared with its `checksums.sha256`; of an open one the interaction logs, each against the
    checksum in it. Files that are in S3 only are not missing.
    """
    paths = [path for stage in STAGES.values() for path in scan(run.folder / stage)[1]]
    damaged = [
        Difference(f"{path.parent.name}/{path.name}", "damaged, it does not match the checksum in it")
        for path in paths
    ]
    return sorted({*damaged, *_unreadable(run), *_unequal(run)})


def _unequal(run: Run) -> list[Difference]:
    seal = run.status.seal
    if not run.file(CHECKSUMS).exists():
        return [Difference(CHECKSUMS, "missing")] if seal else []
    changed = seal and hash_of(run.folder / CHECKSUMS) != seal
    found = [Difference(CHECKSUMS, "changed since the run ended")] if changed else []
    try:
        written = read_hashes(run.folder / CHECKSUMS)
    except RunError as error:
        return [Difference(CHECKSUMS, f"damaged, {error.message}")]
    return found + _compared(run, written, checksums(run.folder))


def _compared(run: Run, written: Mapping[str, str], found: Mapping[str, str]) -> list[Difference]:
    remote = mirror.stored(run.folder) if mirror.location(run.folder) else {}
    missing = written.keys() - found.keys() - remote.keys()
    changed = [name for name in written.keys() & found.keys() if written[name] != found[name]]
    return [
        *(Difference(name, "missing") for name in missing),
        *(Difference(name, "not there when the run ended") for name in found.keys() - written.keys()),
        *(Difference(name, "changed since the run ended") for name in changed),
    ]


def _unreadable(run: Run) -> list[Difference]:
    """Find the files without a checksum, since they change while a run works, that are no JSON any more."""
    status, events = (_content(run.folder / name) for name in ("status.json", "events.jsonl"))
    damaged = [number for number, line in enumerate(events.splitlines(), start=1) if not _is_json(line)]
    found = [Difference("events.jsonl", f"line {number} is damaged") for number in damaged]
    return found if not status or _is_json(status) else [*found, Difference("status.json", "damaged")]


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _is_json(data: bytes) -> bool:
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return True
