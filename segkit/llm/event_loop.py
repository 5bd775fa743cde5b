"""Asynchronous work from a notebook: in a thread and a loop of its own, with room for all its sockets."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from segkit.errors import StoppedError

T = TypeVar("T")


def in_own_loop(work: Callable[[], Coroutine[Any, Any, T]], stop: threading.Event) -> T:
    """Run asynchronous work in a thread of its own, since a notebook's thread already runs a loop.

    The first interrupt asks the work to stop and waits for the answers in flight; the second leaves them.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="segkit-calls") as thread:
        future = thread.submit(lambda: asyncio.run(work()))
        try:
            return future.result()
        except KeyboardInterrupt:
            stop.set()
            try:
                return future.result()
            except KeyboardInterrupt:
                raise StoppedError("stopped at once; answers in flight are lost", "their intents are kept") from None


async def await_all(parts: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Await all parts before the first error is raised, so that no answer in flight is abandoned."""
    ended = await asyncio.gather(*parts, return_exceptions=True)
    errors = [end for end in ended if isinstance(end, BaseException)]
    if errors:
        raise errors[0]
    return [end for end in ended if not isinstance(end, BaseException)]


def allow_open_files() -> None:
    """Ask for all the open files the system allows: a question in flight holds a socket and a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # some systems refuse what they call the limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
