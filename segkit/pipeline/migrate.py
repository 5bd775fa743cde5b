"""Moving the files of a run to S3, and back: nothing is removed or switched before all of it is read back and equal.

Also run by `python -m segkit.storage.migrate_to_s3 --run-id RUN --verify-integrity`, which is
`segkit migrate-to-s3 RUN`.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from segkit.core.text import quantity, shortened
from segkit.database.interaction_index import move_paths
from segkit.database.sync import known_database
from segkit.errors import RunError, StorageError
from segkit.runs import mirror
from segkit.runs.integrity import changed_files
from segkit.runs.ownership import claimed
from segkit.runs.run import Run
from segkit.settings import Settings, load_settings
from segkit.storage.base import open_storage
from segkit.storage.checksums import as_lines, hash_of
from segkit.storage.locks import owned

if TYPE_CHECKING:
    from segkit.storage.s3 import S3Storage

_STAYS = ("run.json", "status.json")  # so that a run can be listed without a look at S3
_SHOWN = 20
Tell = Callable[[int, int], None]


def migrate_to_s3(
    run: Run,
    *,
    remove_local: bool = False,
    take_over: bool = False,
    settings: Settings | None = None,
    tell: Tell | None = None,
) -> dict[str, int]:
    """Copy a run to the bucket of the settings, where it lives from then on.

    Returns `files`, `bytes`, `index_rows` and `removed`.

    Every file is checked before it is sent, read back, and compared by its SHA-256. Only when all are equal, the
    index in Postgres points to S3, in one transaction; only then, and only when asked, local files are removed. It
    can be interrupted at any point and called again. `tell(done, of)` hears of the progress. Raises RunError for a
    run that is damaged, at work (or claimed by a machine that is gone, without `take_over`), or in another bucket;
    StorageError when a file did not arrive as it was.
    """
    settings = settings or load_settings()
    storage, folder = open_storage(settings.bucket, settings.s3_region), run.folder
    with _held(folder, "migrate-to-s3", take_over):
        _require_here(run, storage)
        hashes = _hashes(run)
        storage.probe()
        size = _copy_all(folder, storage, hashes, tell)
        mirror.write_stored(folder, storage, as_lines(hashes))
        rows = _move_index(run, settings, storage)
        mirror.record_location(folder, settings)
        removed = _remove_local(folder, hashes) if remove_local else 0
    return {"files": len(hashes), "bytes": size, "index_rows": rows, "removed": removed}


def rollback_s3(
    run: Run, *, remove_remote: bool = False, take_over: bool = False, settings: Settings | None = None
) -> dict[str, int]:
    """Bring a run back to the local disk, byte for byte, and its index too; return `fetched` and `index_rows`.

    Raises RunError when a local file is not what was stored, StorageError when one in S3 is not; then nothing is
    switched. With `remove_remote` the files in S3 are removed in the end, before the folder forgets where they are:
    so it can be called again.
    """
    settings, folder = settings or load_settings(), run.folder
    with _held(folder, "rollback-s3", take_over):
        if not mirror.location(folder):  # a migration may have been killed between the index and the folder
            storage = open_storage(settings.bucket, settings.s3_region) if settings.s3_bucket else None
            return {"fetched": 0, "index_rows": _move_index(run, settings, storage, back=True) if storage else 0}
        storage, hashes = mirror.remote(folder), _stored(run)
        missing = [name for name in hashes if not (folder / name).exists()]
        _require_room(folder, storage, missing)
        mirror.fetch(folder, *missing)
        mirror.fetch_all(folder)  # also what came there later, such as answers of a machine that was killed
        _require_equal(folder, hashes)
        rows = _move_index(run, settings, storage, back=True)
        if remove_remote:
            _remove_remote(folder, storage)
        (folder / mirror.LOCATION).unlink()
        (folder / mirror.STORED).unlink()
    return {"fetched": len(missing), "index_rows": rows}


def remote_differences(run: Run) -> list[str]:
    """Read every file of a run in S3 and name those that are damaged, missing or too many, one line each."""
    storage, told, run_id = mirror.remote(run.folder), _stored(run), run.folder.name
    with ThreadPoolExecutor(mirror.WORKERS) as threads:
        found = threads.map(lambda name: _difference(storage, f"{run_id}/{name}", told[name]), told)
    there = {name.partition("/")[2] for name in storage.names(run_id)} - mirror.OF_THE_PLACE
    more = [f"{storage.uri(run_id)}/{name}: not stored by segkit" for name in there - told.keys()]
    return sorted([*filter(None, found), *more])


@contextmanager
def _held(folder: Path, command: str, take_over: bool) -> Iterator[None]:
    """Let nobody else work on a run, here or on another machine."""
    with (
        owned(folder / "run.lock"),
        owned(folder / "calls.lock"),
        claimed(folder, take_over=take_over, command=command),
    ):
        yield


def _require_here(run: Run, storage: S3Storage) -> None:
    place = mirror.location(run.folder)
    if place and place != storage.uri(run.folder.name):
        raise RunError(f"{run.id} lives at {place} already", f"segkit rollback-s3 {run.id}, then migrate it again")


def _hashes(run: Run) -> dict[str, str]:
    """Hash every file of a run, those that are in S3 already by what was stored; raises RunError for damaged ones."""
    before = set(mirror.files(run.folder))
    told = _told(run.folder)
    here = {name: hash_of(run.folder / name) for name in mirror.files(run.folder)}
    damaged = [each for each in changed_files(run) if each.file in here or not told]
    if damaged:
        for name in {each.file for each in damaged} & (here.keys() - before):
            (run.folder / name).unlink()  # as it is in S3; where it is restored there, it is fetched again
        raise RunError(
            _with_lines(f"{run.id} is damaged", [str(each) for each in damaged]),
            "nothing was sent; restore them from a copy",
        )
    return {**told, **here}


def _told(folder: Path) -> dict[str, str]:
    """Read what was stored of a run; where nothing tells that any more, bring all of it here to be hashed anew."""
    if not mirror.location(folder):
        return {}
    mirror.restore_stored(folder)
    if mirror.is_damaged(folder):
        (folder / mirror.STORED).unlink()
    told = mirror.stored(folder)
    if not told:
        mirror.fetch_all(folder)
    return told


def _copy_all(folder: Path, storage: S3Storage, hashes: Mapping[str, str], tell: Tell | None) -> int:
    """Copy and read back every file; give the bytes. Raises StorageError with the files that differ."""
    there, size, troubles = storage.names(folder.name), 0, []
    copy = partial(_copy, folder, storage, there)
    with ThreadPoolExecutor(mirror.WORKERS) as threads:
        try:
            for done, (length, trouble) in enumerate(threads.map(lambda item: copy(*item), hashes.items()), start=1):
                size += length
                troubles += [trouble] if trouble else []
                if tell:
                    tell(done, len(hashes))
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    if troubles:
        told = _with_lines(
            f"{len(troubles)} of {quantity(len(hashes), 'file', 'are')} not in S3 as they are here", troubles
        )
        raise StorageError(told, "nothing was switched or removed; remove those objects, then the same command again")
    return size


def _copy(folder: Path, storage: S3Storage, there: Mapping[str, int], path: str, digest: str) -> tuple[int, str]:
    """Copy one file and read it back; return its length, and a sentence about what is wrong or an empty text."""
    name = f"{folder.name}/{path}"
    try:
        data = (folder / path).read_bytes()
    except FileNotFoundError:  # removed here by a call before this one, when all was in S3
        return 0, _difference(storage, name, digest)
    if hashlib.sha256(data).hexdigest() != digest:
        return 0, f"{path}: changed while it was copied"
    if name not in there:
        with suppress(FileExistsError):  # it is read back like the others
            storage.create(name, data, listed=True)
    return len(data), _difference(storage, name, digest)


def _difference(storage: S3Storage, name: str, digest: str) -> str:
    try:
        data = storage.read(name)
    except FileNotFoundError:
        return f"{storage.uri(name)}: missing"
    if hashlib.sha256(data).hexdigest() == digest:
        return ""
    return f"{storage.uri(name)}: other bytes than were stored ({len(data)} of them)"


def _move_index(run: Run, settings: Settings, storage: S3Storage, *, back: bool = False) -> int:
    url = known_database(settings)
    return move_paths(url, run.id, storage.uri(run.id).removesuffix(run.id), back=back) if url else 0


def _remove_local(folder: Path, hashes: Mapping[str, str]) -> int:
    names = [name for name in hashes if name not in _STAYS and (folder / name).exists()]
    for name in names:
        (folder / name).unlink()
    return len(names)


def _remove_remote(folder: Path, storage: S3Storage) -> None:
    """Remove what is here from S3: first what makes it a run for others, last the list of what was stored."""
    there = {name.partition("/")[2] for name in storage.names(folder.name)} - {mirror.OWNER}
    here = (name for name in there - mirror.OF_THE_PLACE if (folder / name).exists())
    for name in (*sorted(here, key=lambda name: name != "run.json"), *(there & mirror.OF_THE_PLACE)):
        storage.remove(f"{folder.name}/{name}")


def _stored(run: Run) -> dict[str, str]:
    mirror.restore_stored(run.folder)
    told = mirror.stored(run.folder)
    if not told:
        raise RunError(f"{run.id} is not stored in S3 as a whole", mirror.way_to_store(run.folder))
    return told


def _require_equal(folder: Path, hashes: Mapping[str, str]) -> None:
    differing = [name for name, digest in hashes.items() if hash_of(folder / name) != digest]
    if differing:
        told = _with_lines(f"{folder.name} has local files that are not what was stored", differing)
        raise RunError(told, "nothing was switched; remove them here, then: segkit rollback-s3")


def _require_room(folder: Path, storage: S3Storage, missing: list[str]) -> None:
    sizes = storage.names(folder.name)
    needed, free = sum(sizes.get(f"{folder.name}/{name}", 0) for name in missing), shutil.disk_usage(folder).free
    if needed > free:
        what = f"{needed / 1e6:.0f} MB are needed at {folder} and {free / 1e6:.0f} MB are free"
        raise StorageError(what, "nothing was fetched, S3 was not touched")


def _with_lines(what: str, lines: list[str]) -> str:
    return f"{what}: {shortened(lines, _SHOWN, '; ')}"
