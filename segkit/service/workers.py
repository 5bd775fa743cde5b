"""Heavy work in processes of its own, so that it does not keep the event loop of the service waiting.

Threads do not suffice for that: pandas, and each collection of garbage, hold the lock that all threads of a process
share, for half a second where there are 100,000 products.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
_AT_ONCE = 2  # processes; each is started when the first work needs it
_FEW = 1000  # products, up to which a thread is quick enough


class Workers:
    """Calls functions: over few products in the thread that calls, over many in another process."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._turn = threading.Lock()

    def call(self, function: Callable[..., T], *values: object, products: int) -> T:
        """Return what a function returns, and raise what it raises; values and results must be picklable."""
        if products <= _FEW:
            return function(*values)
        pool = self._started()
        try:
            return pool.submit(function, *values).result()
        except BrokenProcessPool:
            with self._turn:
                if self._pool is pool:
                    self._pool = None  # its processes are gone: the next work gets new ones
            raise

    def close(self) -> None:
        """Wait for the work that is being done, and end the processes."""
        with self._turn:
            if self._pool:
                self._pool.shutdown()

    def _started(self) -> ProcessPoolExecutor:
        with self._turn:
            if self._pool is None:
                context = multiprocessing.get_context("spawn")  # a fork would copy the locks of other threads
                self._pool = ProcessPoolExecutor(_AT_ONCE, context, _begin)
            return self._pool


def _begin() -> None:
    """Let the service decide when a process of its ends: not before its work is done, but at once if it is killed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_service, daemon=True).start()


def _end_with_the_service() -> None:
    if service := multiprocessing.parent_process():
        service.join()
        os._exit(1)
