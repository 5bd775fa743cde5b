"""Answers that are downloaded: each is written once to a file without a name, at full speed, and read from there.

So a client that reads slowly, or not at all, holds neither open results nor memory; those who want the same share it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Generator, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryFile

from segkit.errors import RequestError

_PIECE = 8192  # bytes that are read at once
_WRITERS = 2  # answers that are made at once

Make = Callable[[], Generator[bytes]]


class Spools:
    """The answers that are open, by what they are."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._open = folder, dict[Hashable, _Spool]()
        self._writers = ThreadPoolExecutor(_WRITERS, "answers")

    async def pieces(self, name: Hashable, make: Make) -> AsyncGenerator[bytes]:
        """Return the pieces of an answer as they are made; raise what `make` raises before its first piece."""
        spool = self._open.get(name)
        if spool is None or spool.error:
            spool = self._open[name] = _Spool(self._folder)
            self._writers.submit(spool.write, make, asyncio.get_running_loop())
        spool.readers += 1
        try:
            async for piece in spool.read():
                yield piece
        finally:
            spool.readers -= 1
            if not spool.readers:
                spool.close()
                if self._open.get(name) is spool:
                    del self._open[name]


class _Spool:
    """One answer. All but `write` runs on the event loop, so nothing needs a lock."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self._file = TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (closed by its last reader)
        self.readers = 0
        self.error: BaseException | None = None
        self._size, self._is_whole, self._is_closed = 0, False, False
        self._more = asyncio.Event()

    async def read(self) -> AsyncGenerator[bytes]:
        position = 0
        while True:
            if position < self._size:
                piece = await asyncio.to_thread(
                    os.pread, self._file.fileno(), min(_PIECE, self._size - position), position
                )
                position += len(piece)
                yield piece
            elif self.error:
                raise self.error
            elif self._is_whole:
                return
            else:
                await self._more.wait()

    def close(self) -> None:
        self._is_closed = True
        self._file.close()

    def write(self, make: Make, loop: asyncio.AbstractEventLoop) -> None:
        """Write the answer, in a thread; it ends early where nobody reads it any more."""
        size = 0
        error: BaseException | None = None
        try:
            with closing(make()) as pieces:
                for piece in pieces:
                    if self._is_closed:
                        return
                    view = memoryview(piece)
                    while view:
                        view = view[self._file.write(view) :]
                    size += len(piece)
                    loop.call_soon_threadsafe(self._announce, size, False, None)
        except OSError:
            error = RequestError("disk-unavailable", "the disk of the service cannot be written", "try again later")
        except BaseException as raised:
            error = raised
        loop.call_soon_threadsafe(self._announce, size, error is None, error)

    def _announce(self, size: int, is_whole: bool, error: BaseException | None) -> None:
        self._size, self._is_whole, self.error = size, is_whole, error
        self._more.set()
        self._more = asyncio.Event()
