"""The progress of a run as server-sent events, and how many answers a token may hold open."""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator

import orjson

from segkit.errors import RequestError
from segkit.service.service import Service
from segkit.service.status import CachedStatus
from segkit.service.tokens import Token

_HEARTBEAT = 15.0  # seconds
_PAUSE = 0.25  # seconds between two looks


class OpenAnswers:
    """Counts the open answers of each token, of which a token may have `most` at once."""

    def __init__(self, kind: str, what: str, most: int) -> None:
        self._kind, self._what, self._most = kind, what, most
        self._open: Counter[str] = Counter()

    async def admit(self, token: Token, pieces: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
        """Return the pieces of an answer, which counts until nobody reads it any more; raise RequestError 429."""
        if self._open[token.name] >= self._most:
            what = f"{self._most} {self._what} of this token are open"
            raise RequestError(self._kind, what, "close one", retry_after=5)
        counted = self._counted(token.name, pieces)
        await anext(counted)  # counted before another request is looked at; what cannot be read raises now
        return counted

    async def _counted(self, name: str, pieces: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        self._open[name] += 1
        try:
            first = await anext(pieces)
            yield b""
            yield first
            async for piece in pieces:
                yield piece
        finally:
            self._open[name] -= 1
            await pieces.aclose()


STREAMS = OpenAnswers("too-many-streams", "event streams", 50)  # each is looked after several times a second
DOWNLOADS = OpenAnswers("too-many-downloads", "downloads", 8)


async def follow(service: Service, run_id: str, token: Token, last: str) -> AsyncGenerator[bytes]:
    """Write the status of a run, after the event `last`, when more of it changed than its estimate.

    A comment is written when nothing changes for a while. The stream ends with the run, and with the token.
    """
    quiet = 0.0
    yield b"retry: 2000\n\n"
    while service.tokens.is_valid(token):
        current = await service.status(run_id, token)
        mark = _mark(current)
        if mark != last:
            yield b"event: status\nid: %b\ndata: %b\n\n" % (mark.encode(), orjson.dumps(current.shown_to(token)))
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
