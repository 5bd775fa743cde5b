"""Runs that S3 knows and this folder does not, or knows better: they are made known here, and brought up to date."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from segkit.core.models import STAGES
from segkit.runs.mirror import (
    LOCKS,
    NEVER_CHANGED,
    OWNER,
    STORED,
    files,
    is_filled,
    location,
    record_location,
    remote_status,
)
from segkit.runs.status import Status, known_status, read_status
from segkit.settings import Settings
from segkit.storage.base import open_storage
from segkit.storage.disk import disk_error, write_atomic
from segkit.storage.locks import is_held

if TYPE_CHECKING:
    from segkit.storage.s3 import S3Storage

_STUB = ("run.json", "status.json")


def register_run(place: Path, run_id: str, settings: Settings) -> None:
    """Make the folder of a run that only S3 knows, and see how one is getting on that others may work on."""
    if settings.storage_backend != "s3":
        return
    folder, storage = place / run_id, open_storage(settings.bucket, settings.s3_region)
    try:
        _make_stub(folder, storage, settings)
        _refresh(folder, storage)
    except OSError as error:
        raise disk_error(folder, error, "S3 was not touched") from None


def register_all(place: Path, settings: Settings, is_run_id: Callable[[str], object]) -> None:
    """Make the folders of all runs that only S3 knows; what else is in the bucket is passed over."""
    if settings.storage_backend == "s3":
        place.mkdir(parents=True, exist_ok=True)
        known = {path.name for path in place.iterdir()}
        there = open_storage(settings.bucket, settings.s3_region).folders()
        for run_id in filter(is_run_id, there - known):
            register_run(place, run_id, settings)


def _make_stub(folder: Path, storage: S3Storage, settings: Settings) -> None:
    if not (folder / "run.json").exists():
        with suppress(FileNotFoundError):
            stub = {name: storage.read(f"{folder.name}/{name}") for name in _STUB}
            folder.mkdir(parents=True, mode=0o700, exist_ok=True)
            for name in ("prompts", "results", "notebooks", *STAGES.values()):
                (folder / name).mkdir(mode=0o700, exist_ok=True)
            record_location(folder, settings)
            for name in reversed(_STUB):  # a folder is a run when it has its `run.json`
                write_atomic(folder / name, stub[name])


def _refresh(folder: Path, storage: S3Storage) -> None:
    """See what became of a run that this machine does not work on."""
    if not location(folder) or any(is_held(folder / lock) for lock in LOCKS):
        return
    ours = read_status(folder)
    if ours.state == "completed" and is_filled(folder / STORED):
        return
    for name in (OWNER, STORED):  # before the status: what it said last must not be taken for what it says now
        try:
            write_atomic(folder / name, storage.read(f"{folder.name}/{name}"))
        except FileNotFoundError:
            (folder / name).unlink(missing_ok=True)
    content = remote_status(storage, folder.name)
    theirs = known_status(content)
    if theirs and theirs != ours and _is_later(theirs, ours):
        _drop_what_is_outdated(folder)
        write_atomic(folder / "run.json", storage.read(f"{folder.name}/run.json"))  # a resume may have changed it
        write_atomic(folder / "status.json", content)


def _is_later(theirs: Status, ours: Status) -> bool:
    """Report whether S3 has a later state of a run than its folder, without comparing the clocks of machines.

    Ours is later where its session began after the one in S3, or where the same session has changed it more often.
    A status of an older segkit has neither session nor change number, and is ordered by its time.
    """
    if theirs.session != ours.session:
        return theirs.session != ours.previous_session
    if theirs.change and ours.change and theirs.change != ours.change:
        return theirs.change > ours.change
    return theirs.updated_at >= ours.updated_at


def _drop_what_is_outdated(folder: Path) -> None:
    """Another machine went on with the run: what it made anew is fetched when it is looked at. Logs stay."""
    for name in files(folder):
        if not name.startswith((*NEVER_CHANGED, "run.json")):
            (folder / name).unlink()
