"""Kernels for the notebooks of a run, each started while the notebook before it works."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jupyter_client.manager import AsyncKernelManager

_ARGUMENTS = [
    # A kernel warns of each start and end; what matters is in the notebook.
    "--IPKernelApp.log_level=50",
    # What every notebook imports, while nobody waits for it.
    "--IPKernelApp.exec_lines=import segkit.stages as _, segkit.tables as _, segkit.figures as _",
]


@contextmanager
def kernels_ahead(count: int) -> Iterator[Callable[[], AsyncKernelManager]]:
    """Give a function that hands out `count` kernels, one a call; the next one is started then, not when it is needed.

    To start a kernel and to import pandas and matplotlib takes longer than most notebooks work. The kernel handed out
    before is shut down at each call, and at the end of the block all of them are.
    """
    from jupyter_core.utils import run_sync

    working: list[AsyncKernelManager] = []
    waiting = [_started()] if count else []

    def next_kernel() -> AsyncKernelManager:
        nonlocal count
        count -= 1
        while working:
            run_sync(working.pop().shutdown_kernel)()
        working.append(waiting.pop())
        waiting.extend([_started()] if count else [])
        return working[0]

    try:
        yield next_kernel
    finally:
        for kernel in working:
            run_sync(kernel.shutdown_kernel)()
        for kernel in waiting:
            run_sync(kernel.shutdown_kernel)(now=True)


def _started() -> AsyncKernelManager:
    from jupyter_client.manager import AsyncKernelManager
    from jupyter_core.utils import run_sync

    kernel = AsyncKernelManager(kernel_name="python3")
    run_sync(kernel.start_kernel)(extra_arguments=_ARGUMENTS)
    return kernel
