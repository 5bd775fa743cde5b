"""Answers that were paid for once: found by the hash of all that could change them, only ever served when valid."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson

from segkit.llm.completions import LIMIT_NAMES
from segkit.runs.events import log_event
from segkit.runs.interactions import DamagedError, Interaction, read, sealed
from segkit.storage.disk import write_atomic

#: What is not part of a key, since it does not change an answer.
LEFT_OUT = {
    "api key": "who pays does not change what is answered",
    "timeout": "it decides whether an answer comes, not which",
    "concurrency and limits": "they decide when a question is asked",
    "retries": "each attempt is a request of its own, with a key of its own",
    "run id": "the same question of another run has the same answer",
    "time": "an answer does not spoil; a moved model alias is told by `response_model` in the log",
    "stream": "it decides how an answer travels",
    "the name of the limit": "max_tokens and max_completion_tokens mean the same",
    "transport": "HTTP and the SDK send the same body",
}

# The claims of this process: POSIX record locks, of which it has one set for all its threads.
_turn = threading.Lock()
_claims: dict[Path, int] = {}
_claimed: set[tuple[Path, str]] = set()

# The caches that could not be written, and the runs that were told so.
_TOLD: set[tuple[Path, Path]] = set()


def cache_key(endpoint: str, body: dict[str, Any], repeat: int = 0) -> str:
    """Hash a request: 32 hex digits of SHA-256 over its canonical JSON (sorted keys, endpoint and whole body).

    `repeat` numbers the times that the same request is asked anew on purpose; each is paid once. 0 is no repeat.
    """
    request = {"endpoint": endpoint, "body": _essential(body)} | ({"repeat": repeat} if repeat else {})
    canonical = orjson.dumps(request, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(canonical).hexdigest()[:32]


def _essential(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request without what does not change its answer."""
    kept = {name: value for name, value in body.items() if name not in ("stream", "stream_options", *LIMIT_NAMES)}
    limits = [body[name] for name in LIMIT_NAMES if name in body]
    return {**kept, "max_tokens": limits[0]} if limits else kept


def look_up(home: Path, key: str, prompt: str, request: dict[str, Any], run_folder: Path) -> Interaction | None:
    """Find the valid interaction with this key, or None.

    A damaged entry is set aside under another name and told in the run's events; an entry whose request is not
    the one asked is never served.
    """
    path = _path(home, key)
    try:
        found = read(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (DamagedError, OSError) as error:
        with contextlib.suppress(OSError):
            path.rename(path.with_name(f"{key}.{secrets.token_hex(4)}.damaged"))
        log_event(run_folder, "cache_entry_set_aside", key=key, why=str(error))
        return None
    if _essential(found.log.get("request", {})) != _essential(request) or found.log.get("prompt") != prompt:
        log_event(run_folder, "cache_entry_of_another_request", key=key, file=str(path))
        return None
    return found


def damaged_entry(home: Path, key: str) -> Path | None:
    """Give the path of an entry that is no sound log of its key; None when it is sound, or there is none."""
    path = _path(home, key)
    try:
        return None if read(path).metadata["cache_key"] == key else path
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (DamagedError, OSError, KeyError):
        return path


def damaged_entries(home: Path, keys: Iterable[str]) -> list[str]:
    """Return a line for each key whose entry is damaged; a key without an entry is no damage."""
    return [f"{path}: damaged" for key in sorted(keys) if (path := damaged_entry(home, key))]


def adopt(home: Path, key: str, data: bytes) -> bool:
    """Take in an answer from elsewhere, as the bytes of its log; only a valid first answer to that key is taken."""
    found = sealed(key, data)
    facts = found.metadata
    if (facts.get("cache_key"), facts.get("outcome"), facts.get("attempt")) != (key, "valid", 1):
        return False
    path = _path(home, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data)
    return True


def holds(home: Path, key: str) -> bool:
    """Tell whether there is an entry under a key, good or bad."""
    return _path(home, key).exists()


def claim(home: Path, key: str) -> bool:
    """Claim a request for this process until `release`; return False while somebody else of this machine asks it.

    The kernel drops the claims of a process that dies. A file system without locks knows no claims.
    """
    with _turn:
        if (home, key) in _claimed:
            return False
        try:
            fcntl.lockf(_descriptor(home), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _byte_of(key))
        except (BlockingIOError, PermissionError):
            return False
        except OSError:
            return True
        _claimed.add((home, key))
        return True


def release(home: Path, key: str) -> None:
    """Give a request free that was claimed."""
    with _turn, contextlib.suppress(OSError):
        _claimed.discard((home, key))
        fcntl.lockf(_descriptor(home), fcntl.LOCK_UN, 1, _byte_of(key))


def _descriptor(home: Path) -> int:
    """Open the file of the claims once: closing it would drop all claims of this process."""
    if home not in _claims:
        home.mkdir(parents=True, exist_ok=True)
        _claims[home] = os.open(home / "claims.lock", os.O_RDWR | os.O_CREAT, 0o600)
    return _claims[home]


def _byte_of(key: str) -> int:
    """Return the byte of the file that stands for a key."""
    return int(key[:15], 16)


def remember(home: Path, key: str, log: Path, run_folder: Path) -> None:
    """Keep a valid interaction under its key; the cache is a help, so a failure is told once and nothing else."""
    path = _path(home, key)
    try:
        try:
            _link(log, path)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            _link(log, path)
    except FileExistsError:
        pass
    except OSError as error:
        if (home, run_folder) not in _TOLD:
            _TOLD.add((home, run_folder))
            log_event(run_folder, "cache_not_written", key=key, why=str(error))


def _link(log: Path, path: Path) -> None:
    """Link rather than copy: logs are never changed, and a second name costs no space."""
    try:
        os.link(log, path)
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError:  # another file system
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            shutil.copyfile(log, temporary)
            temporary.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def _path(home: Path, key: str) -> Path:
    return Path(f"{home}/cache/{key[:2]}/{key}.json")  # a fifth of the time of its parts joined
