"""The progress of a run as server-sent events."""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter
from collections.abc import AsyncIterator

import orjson

from segkit.errors import RequestError
from segkit.service.service import Service
from segkit.service.status import CachedStatus
from segkit.service.tokens import Token

_MOST = 50  # streams of a token at once: each is looked after several times a second
_HEARTBEAT = 15.0  # seconds
_PAUSE = 0.25  # seconds between two looks
_open: Counter[str] = Counter()  # streams of each token


async def open_stream(service: Service, current: CachedStatus, token: Token, last: str) -> AsyncIterator[bytes]:
    """Return the events of a run after the event `last`; raise RequestError 429 where too many streams are open."""
    if _open[token.name] >= _MOST:
        what = f"{_MOST} event streams of this token are open"
        raise RequestError("too-many-streams", what, "close one", retry_after=5)
    stream = _counted(token.name, _follow(service, str(current.document["run_id"]), token, last))
    await anext(stream)  # counted before another request is looked at
    return stream


async def _counted(name: str, stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Count a stream from its first, empty piece until nobody reads it any more."""
    _open[name] += 1
    try:
        yield b""
        async for piece in stream:
            yield piece
    finally:
        _open[name] -= 1


async def _follow(service: Service, run_id: str, token: Token, last: str) -> AsyncIterator[bytes]:
    """Write the status of a run when more of it changed than its estimate; a comment when nothing does."""
    quiet = 0.0
    yield b"retry: 2000\n\n"
    while True:
        current = await service.status(run_id, token)
        mark = _mark(current)
        if mark != last:
            yield b"event: status\nid: %b\ndata: %b\n\n" % (mark.encode(), orjson.dumps(current.document))
            last, quiet = mark, 0.0
        if current.state != "running" or service.stopping.is_set():
            return
        await asyncio.sleep(_PAUSE)
        quiet += _PAUSE
        if quiet >= _HEARTBEAT:
            yield b": still here\n\n"
            quiet = 0.0


def is_seen(current: CachedStatus, last: str | None) -> bool:
    """Report whether the event `last` is the current status."""
    return _mark(current) == last


def _mark(current: CachedStatus) -> str:
    """Return the id of a status: a hash of all but the estimate, which changes all the time."""
    return f"{zlib.crc32(orjson.dumps({**current.document, 'estimated_completion': None})):08x}"
