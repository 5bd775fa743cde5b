"""`segkit` with a watch on its event loop: `python watched_service.py FILE serve …` notes how long it stood still.

FILE holds four numbers, which may be set to zero: the longest time (seconds) that the loop came too late, and the
longest processor time of one callback, each with the clock (`time.monotonic`) of its end.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FORMAT = "4d"
_BEAT = 0.0005  # seconds between two beats of the loop


class Watch:
    """Measures how late the loop is at each beat, and what each of its callbacks takes."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), struct.calcsize(FORMAT))
        self._run = asyncio.events.Handle._run
        self._is_beating = False

    def begin(self) -> None:
        watch, run = self, self._run

        def watched(handle: asyncio.Handle) -> None:
            if not watch._is_beating:
                watch._is_beating = True
                watch._schedule = os.open(f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY)
                watch._waited_before = watch._waited()
                watch._beat(asyncio.get_running_loop(), time.monotonic())
            began = time.thread_time()
            run(handle)
            watch._note(1, time.thread_time() - began)

        asyncio.events.Handle._run = watched  # type: ignore[method-assign]

    def _beat(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        now, waited = time.monotonic(), self._waited()
        self._note(0, now - due - (waited - self._waited_before))
        self._waited_before = waited
        loop.call_later(_BEAT, self._beat, loop, now + _BEAT)

    def _waited(self) -> float:
        """Return the seconds in which the thread could have worked, and other processes had the processor."""
        return int(os.pread(self._schedule, 100, 0).split()[1]) / 1e9

    def _note(self, which: int, seconds: float) -> None:
        numbers = list(struct.unpack_from(FORMAT, self._memory))
        if seconds > numbers[2 * which]:
            struct.pack_into("2d", self._memory, 16 * which, seconds, time.monotonic())


class Stalls:
    """What a `Watch` in another process notes."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(struct.calcsize(FORMAT)))
        self.command = [sys.executable, __file__, str(path)]
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), struct.calcsize(FORMAT))

    def during(self, call: Callable[[], Any]) -> tuple[float, float]:
        """Return by how many milliseconds the loop was late during a call, and the longest of its callbacks."""
        self._memory[:] = bytes(len(self._memory))
        call()
        late, _, longest, _ = struct.unpack(FORMAT, self._memory[:])
        return 1000 * late, 1000 * longest


def main(arguments: list[str]) -> Any:
    from segkit.cli.main import app

    Watch(Path(arguments[0])).begin()
    sys.argv = ["segkit", *arguments[1:]]
    return app()


if __name__ == "__main__":
    main(sys.argv[1:])
