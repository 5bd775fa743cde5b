"""Asynchronous work from a notebook: in a thread and a loop of its own, with room for all its sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from segkit.errors import StoppedError

T = TypeVar("T")


class StopRequest(threading.Event):
    """The wish that work ends in an orderly way, and `by` what: a signal, or the end of the program behind it."""

    by = ""

    def ask(self, by: str) -> None:
        """Ask for the end."""
        self.by = self.by or by
        self.set()


def in_own_loop(work: Callable[[], Coroutine[Any, Any, T]], stop: StopRequest) -> T:
    """Run asynchronous work in a thread of its own, since a notebook's thread already runs a loop.

    The first signal to stop (see `on_stop_signals`) sets `stop`, as the end of the program does that executes this
    notebook, and the answers in flight are waited for; a second signal discards them.
    """
    with (
        ThreadPoolExecutor(1, thread_name_prefix="segkit-calls") as thread,
        on_stop_signals(stop.ask),
        outliving_parent() as parent_is_gone,
    ):
        future = thread.submit(lambda: asyncio.run(work()))
        try:
            # A signal that comes just before a wait begins is handled after it: no wait is long.
            while not future.done():
                wait([future], timeout=0.2)
                if parent_is_gone():
                    stop.ask("the end of the program that executes the notebook")
            return future.result()
        except KeyboardInterrupt:
            stop.set()
            raise StoppedError(
                "stopped; answers in flight were discarded",
                "`segkit resume` lists the calls that may have been charged",
            ) from None


@contextmanager
def on_stop_signals(first: Callable[[str], None]) -> Iterator[None]:
    """Call `first` with the name of the first SIGINT, SIGTERM or SIGHUP; the second one raises KeyboardInterrupt.

    So `docker stop`, `systemctl stop`, `timeout` and a closed terminal do what Ctrl-C does. Only the main thread can
    handle signals; in another one this does nothing. A SIGHUP that is ignored, as under nohup, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt
        first(signal.Signals(number).name)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    if before[signal.SIGHUP] is signal.SIG_IGN:
        del before[signal.SIGHUP]
    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def outliving_parent() -> Iterator[Callable[[], bool]]:
    """Yield a function that reports, in a kernel, whether the program is gone that started it.

    A kernel ends within a second of that program (papermill, a Jupyter server), and with it answers that were paid.
    In the block it goes on; what is left to do then ends the work, and after the block the kernel ends as usual.
    """
    parent = os.getppid()
    poller = _parent_poller()
    if poller is None:
        yield lambda: False
        return
    expected, poller.parent_pid = poller.parent_pid, _AnyPid(parent)
    try:
        yield lambda: os.getppid() != parent
    finally:
        poller.parent_pid = expected


class _AnyPid(int):
    """A process id that no other one differs from."""

    __hash__ = int.__hash__

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


def _parent_poller() -> Any:
    """Return the thread of a kernel that ends it when its parent is gone; None outside of kernels."""
    module = sys.modules.get("ipykernel.kernelapp")
    application = module.IPKernelApp if module else None
    if application is None or not application.initialized():
        return None
    poller = getattr(application.instance(), "poller", None)
    return poller if hasattr(poller, "parent_pid") else None


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
