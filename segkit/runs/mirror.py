"""A run whose files are in S3: where they are, what is fetched when somebody looks, what is sent while it works.

    location.json   in the folder of such a run: its address; a file that is not in the folder is fetched from there
    stored.sha256   every file of the run as it was sent last; what is fetched has to match
    owner.json      in S3 only, while a machine works on the run: which one

The folder stays the place of work: an answer is on the local disk before it is sent. So nothing is lost where S3
fails, and a folder can be thrown away once all of it is stored.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from segkit.core.models import STAGES
from segkit.errors import RunError, StorageError
from segkit.runs.events import timestamp
from segkit.runs.status import known_status, read_status, update_status
from segkit.settings import Settings
from segkit.storage.base import open_storage
from segkit.storage.checksums import as_lines, hash_of, is_inside, read_hashes
from segkit.storage.disk import disk_error, write_atomic

if TYPE_CHECKING:
    from segkit.storage.s3 import S3Storage

LOCATION, STORED, OWNER = "location.json", "stored.sha256", "owner.json"
LOCKS = ("run.lock", "calls.lock")
#: Files that describe this copy of a run and are never uploaded.
OF_THE_PLACE = {LOCATION, STORED, OWNER, "stop", *LOCKS}
WORKERS = 24
NEVER_CHANGED = (
    "products.parquet",
    "taxonomy.parquet",
    "earlier.parquet",
    "prompts/",
    *(f"{folder}/" for folder in STAGES.values()),
)


def location(folder: Path) -> str:
    """Give the address of a run in S3, or nothing for one that is on the local disk only."""
    return _told_place(folder)[0]


def start_in_s3(folder: Path, settings: Settings) -> None:
    """Let a new run live in S3: upload what it has now, and from now on all that it gets."""
    record_location(folder, settings)
    push(folder)


def record_location(folder: Path, settings: Settings) -> None:
    """Record in the folder of a run that it lives in S3."""
    told = {"uri": f"{settings.bucket}/{folder.name}", "region": settings.s3_region, "since": timestamp()}
    write_atomic(folder / LOCATION, orjson.dumps(told, option=orjson.OPT_INDENT_2))


def probe(settings: Settings) -> None:
    """Find out before anything is asked whether the bucket can be written and read; raises StorageError."""
    open_storage(settings.bucket, settings.s3_region).probe()


def remote(folder: Path) -> S3Storage:
    """Open the storage that holds a run; names in it begin with the run's id."""
    uri, region = _told_place(folder)
    return open_storage(uri.rpartition("/")[0], region)


def _told_place(folder: Path) -> tuple[str, str]:
    """Read the address and the region of a run, empty for one not in S3; raises RunError for a damaged file."""
    path = folder / LOCATION
    try:
        told = orjson.loads(path.read_bytes())
        uri, region = str(told["uri"]), str(told["region"])
    except FileNotFoundError:
        return "", ""
    except (orjson.JSONDecodeError, KeyError, TypeError):
        uri = region = ""
    if not re.fullmatch(rf"s3://[^/]+/(.+/)?{re.escape(folder.name)}", uri):
        hint = f'restore it; it looks like {{"uri": "s3://bucket/{folder.name}", "region": "us-east-1"}}'
        raise RunError(f"{path} does not tell where the run is in S3", hint)
    return uri, region


def files(folder: Path) -> list[str]:
    """List the files of a run that belong to it, by their path below its folder, sorted."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if name not in OF_THE_PLACE and not name.endswith((".tmp", ".making")))


def fetch(folder: Path, *names: str) -> None:
    """Bring files of a run into its folder that are not there; what S3 has not either is left missing.

    Raises StorageError when a file is not what was stored, or gone.
    """
    missing = [name for name in names if not (folder / name).exists()]
    if not missing or not location(folder):
        return
    storage, told = remote(folder), stored(folder)
    with ThreadPoolExecutor(WORKERS) as threads:
        list(threads.map(lambda name: _fetch(storage, folder, name, told), missing))


def fetch_all(folder: Path, below: str = "") -> None:
    """Bring every file of a run into its folder that is not there, or those below a part of it."""
    if location(folder):
        wanted = f"{folder.name}/{below}".rstrip("/")
        there = {name.partition("/")[2] for name in remote(folder).names(wanted)} - OF_THE_PLACE
        names = {name for name in there if is_inside(name)}  # `verify --remote` names the others
        fetch(folder, *sorted(names | {name for name in stored(folder) if name.startswith(below)}))


def begin_session(folder: Path) -> None:
    """Download all of a run that is in S3, to go on with it, and start a new session of it.

    Its list of stored checksums is dropped, since its files change now. A session has a random id and names its
    predecessor, so that states can be ordered without comparing the clocks of machines.
    """
    if not location(folder):
        return
    storage = remote(folder)
    if is_damaged(folder):
        (folder / STORED).unlink()
    fetch_all(folder)
    storage.remove(f"{folder.name}/{STORED}")
    (folder / STORED).unlink(missing_ok=True)
    before = known_status(remote_status(storage, folder.name))
    update_status(folder, life=secrets.token_hex(8), after=before.session if before else "")


def push(folder: Path) -> None:
    """Send what S3 does not have yet; logs, products and prompts are never overwritten there."""
    if not location(folder):
        return
    storage, run_id = remote(folder), folder.name
    there = storage.names(run_id)
    with ThreadPoolExecutor(WORKERS) as threads:
        list(threads.map(lambda name: _push(storage, folder, name, there), files(folder)))
    for name in (name.partition("/")[2] for name in there):
        if name.endswith(".intent") and not (folder / name).exists():
            storage.remove(f"{run_id}/{name}")


def discard(folder: Path) -> None:
    """Remove a run in which nothing was asked, here and as far as possible in S3."""
    with suppress(RunError, StorageError, OSError):
        if location(folder):
            storage = remote(folder)
            for name in storage.names(folder.name):
                storage.remove(name)
    shutil.rmtree(folder, ignore_errors=True)


def push_log(folder: Path, log: Path) -> None:
    """Send a log as soon as it is finished."""
    if location(folder):
        _create(remote(folder), f"{folder.name}/{log.parent.name}/{log.name}", log.read_bytes())


def read_log(path: str, runs_dir: Path, settings: Settings) -> bytes:
    """Read a log from where the index says it is: an address in S3, or a path below the folder of the runs.

    What is neither of these two, or of another bucket, raises FileNotFoundError.
    """
    root, *name = path.rsplit("/", 3)
    if root.startswith("s3://") and settings.s3_bucket and root == settings.bucket:
        return open_storage(root, settings.s3_region).read("/".join(name))
    if "://" in path or ".." in Path(path).parts or Path(path).is_absolute():
        raise FileNotFoundError(f"{path} is not where segkit keeps logs")
    return (runs_dir / path).read_bytes()


def upload_all(folder: Path) -> None:
    """Upload all of a run that has ended, and record the checksums of what was stored."""
    if location(folder):
        push(folder)
        hashes = {name: hash_of(folder / name) for name in files(folder)}
        write_stored(folder, remote(folder), as_lines(hashes))


def write_stored(folder: Path, storage: S3Storage, lines: bytes) -> None:
    """Write down what is stored of a run, there and here."""
    storage.replace(f"{folder.name}/{STORED}", lines)
    write_atomic(folder / STORED, lines)


def stored(folder: Path) -> dict[str, str]:
    """Read what was stored of a run: name → SHA-256; nothing for one that has not ended.

    Raises RunError for a list that is damaged, with the command that makes it anew.
    """
    try:
        return read_hashes(folder / STORED)
    except RunError as error:
        raise RunError(error.message, way_to_store(folder)) from None


def is_damaged(folder: Path) -> bool:
    """Tell whether the list of what was stored of a run cannot be read."""
    try:
        stored(folder)
    except RunError:
        return True
    return False


def way_to_store(folder: Path) -> str:
    """The command after which all of a run is stored in S3, and the list of it whole."""
    is_completed = read_status(folder).state == "completed"
    return f"segkit {'migrate-to-s3' if is_completed else 'resume'} {folder.name}"


def restore_stored(folder: Path) -> None:
    """Take the list of what is stored of a run from S3 again, where it is empty or missing here."""
    if not is_filled(folder / STORED):
        with suppress(FileNotFoundError):
            write_atomic(folder / STORED, remote(folder).read(f"{folder.name}/{STORED}"))


def is_filled(path: Path) -> bool:
    """Tell whether a file is there and has something in it."""
    return path.exists() and path.stat().st_size > 0


def remote_status(storage: S3Storage, run_id: str) -> bytes:
    """Read the `status.json` of a run in S3, empty where it has none."""
    with suppress(FileNotFoundError):
        return storage.read(f"{run_id}/status.json")
    return b""


def _fetch(storage: S3Storage, folder: Path, name: str, told: dict[str, str]) -> None:
    try:
        data = storage.read(f"{folder.name}/{name}")
    except FileNotFoundError:
        if name in told:
            raise StorageError(f"{storage.uri(folder.name)}/{name} is gone", "restore it in the bucket") from None
        return
    if told.get(name, found := hashlib.sha256(data).hexdigest()) != found:
        raise StorageError(f"{storage.uri(folder.name)}/{name} is not what was stored", "restore it in the bucket")
    try:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / name, data)
    except OSError as error:
        raise disk_error(folder, error, "S3 was not touched") from None


_Sent = tuple[int, int]
_SENT: dict[Path, _Sent] = {}  # the files that may change, as this process sent them last: time of change and size


def _push(storage: S3Storage, folder: Path, name: str, there: Iterable[str]) -> None:
    path, key = folder / name, f"{folder.name}/{name}"
    if name.startswith(NEVER_CHANGED) and not name.endswith(".intent"):
        if key not in there:
            _create(storage, key, path.read_bytes())
        return
    facts = path.stat()
    if _SENT.get(path) != (facts.st_mtime_ns, facts.st_size):
        storage.replace(key, path.read_bytes())
        _SENT[path] = (facts.st_mtime_ns, facts.st_size)


def _create(storage: S3Storage, name: str, data: bytes) -> None:
    """Send a file that never changes; it may be there already, but not with another content."""
    try:
        storage.create(name, data)
    except FileExistsError:
        if storage.read(name) != data:
            raise StorageError(f"{storage.uri(name)} holds something else", "it was not overwritten") from None
