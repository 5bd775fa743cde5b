"""Interaction logs: one JSON file an attempt, written so that a crash at any byte loses nothing that was paid.

A log begins as an intent (`….intent`), the first part of the very JSON it will become, with room reserved for the
answer: a disk that fills up while the model works cannot lose it. The raw answer is appended before anything parses
it, then the rest, and the file is cut to its length, synced and renamed to `….json`. Until then it is an intent
without result: the request may have been paid.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import gzip
import hashlib
import os
import secrets
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from segkit.runs.events import timestamp
from segkit.storage.disk import sync_folder_together, write_atomic

#: How the names of finished logs end.
ENDINGS = (".json", ".json.gz")
_LARGEST = 1_000_000_000  # bytes of a log that is decompressed
_ROOM = 65_536  # bytes reserved for an answer
_INDENT = orjson.OPT_INDENT_2
_SEAL = b',\n  "sha256": "'
# Where a field of the outermost object begins: no line break stands inside a JSON string, and what is deeper is
# indented further.
_NEXT = b',\n  "'


@dataclass(slots=True)
class Intent:
    """An interaction that has begun: its file, open for what comes, and the hash of what stands in it."""

    path: Path
    begun: datetime
    file: BinaryIO
    digest: hashlib._Hash

    def append(self, data: bytes) -> None:
        # Buffered and flushed: a raw write may store less than it was given and say so by a number nobody reads.
        self.file.write(data)
        self.file.flush()
        self.digest.update(data)


@dataclass(frozen=True)
class Interaction:
    """A finished log: its file and the bytes in it, of which only what is looked at is parsed."""

    file: str
    content: bytes

    @property
    def path(self) -> Path:
        return Path(self.file)

    @cached_property
    def metadata(self) -> dict[str, Any]:
        return self._field("metadata") or {}

    @cached_property
    def log(self) -> dict[str, Any]:
        return dict(_parsed(self.content + b"\n}", self.file))

    @property
    def body(self) -> bytes:
        """The body of the answer as the bytes that came over the wire."""
        return raw_body({"body": self._field("body") or "", "body_base64": self._field("body_base64") or ""})

    def _field(self, name: str) -> Any:
        """Parse the value of an outermost field, or give None; the last fields are looked at most."""
        key = _NEXT + name.encode() + b'": '
        start = self.content.rfind(key)
        if start < 0:
            return None
        end = self.content.find(_NEXT, start + len(key))
        return _parsed(self.content[start + len(key) : end if end > 0 else None], self.file)


class DamagedError(Exception):
    """A log does not hold what its checksum says; the message names the file."""


def begin(
    folder: Path, batch: int, attempt: int, head: dict[str, Any], *, room: int = _ROOM, locked: bool = False
) -> Intent:
    """Write the intent of an interaction: all that is known before it is asked (`context`, `prompt`, `request`).

    The disk reserves `room` bytes for the answer. It is `locked` until it is finished where several processes write
    logs of the same run: none takes the intent of another that is at work. Raises OSError when the disk has no room.
    """
    begun = datetime.now(UTC)
    while True:
        path = Path(f"{folder}/{begun:%Y%m%dT%H%M%SZ}_b{batch}_a{attempt}_{secrets.token_hex(4)}.intent")
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            continue
        break
    intent = Intent(path, begun, os.fdopen(descriptor, "wb"), hashlib.sha256())
    try:
        content = orjson.dumps(head, option=_INDENT)[:-2]
        if room:
            _reserve(intent.file, len(content) + room)
        intent.append(content)
    except OSError:
        with contextlib.suppress(OSError):
            drop(intent)
        raise
    if locked:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(intent.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return intent


def _reserve(file: BinaryIO, size: int) -> None:
    """Take the room of a file on its disk; what is not written yet reads as zeros."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    else:  # macOS
        file.write(bytes(size))
        file.seek(0)


def drop(intent: Intent) -> None:
    """Take an intent back: nothing was asked, or surely nothing was paid."""
    intent.path.unlink()
    intent.file.close()


def keep_raw(intent: Intent, status: int | None, body: bytes) -> None:
    """Append what came back to the intent, byte for byte (base64 where it is not UTF-8)."""
    intent.append(b"," + orjson.dumps(raw_fields(status, body), option=_INDENT)[1:-2])


def reopened(path: Path, begun: dict[str, Any]) -> Intent:
    """Cut off what was half written behind the answer of an intent, so that it can be finished."""
    kept = {name: value for name, value in begun.items() if name not in ("response", "metadata", "sha256")}
    since = datetime.strptime(path.name[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    intent = Intent(path, since, path.open("r+b"), hashlib.sha256())
    intent.append(orjson.dumps(kept, option=_INDENT)[:-2])
    intent.file.truncate()
    return intent


def finish(intent: Intent, tail: dict[str, Any], *, compress: bool = False) -> Path:
    """Append the rest (`response`, `metadata`), seal the file with its checksum, cut it there, sync and rename it.

    A compressed log is a file of its own, `….json.gz`, and there before its intent goes.
    """
    intent.append(b"," + orjson.dumps(tail, option=_INDENT)[1:-2])
    with intent.file as file:
        file.write(_SEAL + intent.digest.hexdigest().encode() + b'"\n}\n')
        file.truncate()
        os.fsync(file.fileno())
    final = intent.path.with_suffix(".json.gz" if compress else ".json")
    if compress:
        write_atomic(final, gzip.compress(intent.path.read_bytes(), 6, mtime=0))
        intent.path.unlink()
    else:
        intent.path.rename(final)
        sync_folder_together(final.parent)
    return final


def write_whole(folder: Path, batch: int, attempt: int, log: dict[str, Any], *, compress: bool = False) -> Path:
    """Write a log that needs no intent, since nothing is asked (a cached answer)."""
    return finish(begin(folder, batch, attempt, {"context": log.pop("context")}, room=0), log, compress=compress)


def in_memory(path: Path, log: dict[str, Any]) -> Interaction:
    """Return the interaction of a log that is written nowhere."""
    return Interaction(str(path), orjson.dumps(log, option=_INDENT)[:-2])


def read(path: Path) -> Interaction:
    """Read one log; raise DamagedError unless it parses and matches its checksum."""
    found = _sealed(str(path))
    if "metadata" not in found.log:
        raise DamagedError(f"{path.name} is sealed and yet no log")
    return found


def sealed(file: str, data: bytes) -> Interaction:
    """Take the bytes of a log, compressed or not; raise DamagedError unless they match the checksum in them."""
    content, seal, digest = _inflated(data, file).rpartition(_SEAL)
    if not seal or digest[:64] != _digest(content) or digest[64:] != b'"\n}\n':
        raise DamagedError(f"{os.path.basename(file)} does not match its checksum")  # noqa: PTH119
    found = Interaction(file, content)
    found.metadata  # noqa: B018 (parses them, or raises)
    return found


def scan(folder: Path, batches: Collection[int] | None = None) -> tuple[list[Interaction], list[Path]]:
    """Read every log of a stage folder, in the order of their names; give those that are damaged apart.

    With `batches`, only the logs of these.
    """
    logs, damaged = [], []
    for path in _of_batches(_names(folder, *ENDINGS), batches):
        try:
            logs.append(_sealed(path))
        except DamagedError:
            damaged.append(Path(path))
    return logs, damaged


def intents(folder: Path, batches: Collection[int] | None = None) -> list[Path]:
    """List the intents without a finished log: their requests may have been paid."""
    paths = map(Path, _of_batches(_names(folder, ".intent"), batches))
    return [path for path in paths if not _is_finished(path)]


def sweep(folder: Path, batches: Collection[int] | None = None) -> None:
    """Remove the intents that outlived their logs: a crash came before their end, or both came from S3."""
    for path in map(Path, _of_batches(_names(folder, ".intent"), batches)):
        if _is_finished(path) and not is_being_written(path):
            path.unlink(missing_ok=True)


def is_being_written(intent: Path) -> bool:
    """Report whether a worker of a cluster waits for the answer to an intent."""
    with contextlib.suppress(OSError), intent.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _of_batches(names: list[str], batches: Collection[int] | None) -> list[str]:
    """Take the files of some batches; a name is `TIME_bBATCH_aATTEMPT_RANDOM`."""
    if batches is None:
        return names
    wanted = {f"b{batch}" for batch in batches}
    return [name for name in names if wanted.intersection(os.path.basename(name).split("_")[1:2])]  # noqa: PTH119


def _is_finished(intent: Path) -> bool:
    """Tell whether the log of an intent is there, and whole."""
    for ending in ENDINGS:
        with contextlib.suppress(FileNotFoundError, DamagedError):
            read(intent.with_suffix(ending))
            return True
    return False


def place_of(path: Path) -> tuple[int, int]:
    """Read the batch and the attempt from the name of a log or an intent."""
    _, batch, attempt, _ = path.stem.split("_")
    return int(batch[1:]), int(attempt[1:])


def recover(path: Path) -> dict[str, Any] | None:
    """Read an intent as far as it was written, field by field, or give None when not even its first one is whole."""
    data = path.read_bytes().rstrip(b" \n\0").removesuffix(b",")
    while data:
        try:
            found: dict[str, Any] = orjson.loads(data + b"\n}")
        except orjson.JSONDecodeError:
            pass
        else:
            # A status that was cut between its digits is a number too: only the body behind it proves it whole.
            if "http_status" in found and not found.keys() & {"body", "body_base64"}:
                del found["http_status"]
            return found or None
        data = data[: max(data.rfind(_NEXT), 0)]
    return None


def raw_body(log: dict[str, Any]) -> bytes:
    """Give the body of a log as the bytes that came over the wire."""
    if log.get("body_base64"):
        return base64.b64decode(log["body_base64"])
    return str(log.get("body", "")).encode()


def started_at(intent: Intent) -> str:
    return timestamp(intent.begun)


def _names(folder: Path, *endings: str) -> list[str]:
    """List files by name; plain strings, since a Path costs more than to read a log."""
    if not folder.is_dir():
        return []
    return [f"{folder}/{name}" for name in sorted(os.listdir(folder)) if name.endswith(endings)]


def _sealed(file: str) -> Interaction:
    with open(file, "rb", buffering=0) as opened:  # noqa: PTH123
        return sealed(file, opened.readall())


def _inflated(data: bytes, file: str) -> bytes:
    """Undo the compression of a log, whatever its name; no log is larger than what an answer may be."""
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        stream = zlib.decompressobj(wbits=31)
        content = stream.decompress(data, _LARGEST)
    except zlib.error as error:
        raise DamagedError(f"{os.path.basename(file)} cannot be decompressed: {error}") from None  # noqa: PTH119
    if not stream.eof or stream.unused_data:
        raise DamagedError(f"{os.path.basename(file)} is cut off, too long or has more than a log")  # noqa: PTH119
    return content


def _parsed(data: bytes, file: str) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise DamagedError(f"{os.path.basename(file)} is sealed and yet no JSON: {error}") from None  # noqa: PTH119


def raw_fields(status: int | None, body: bytes) -> dict[str, Any]:
    """Give what came back as the fields of a log: as text, or as base64 where it is not UTF-8."""
    try:
        return {"http_status": status, "body": body.decode()}
    except UnicodeDecodeError:
        return {"http_status": status, "body_base64": base64.b64encode(body).decode()}


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()
