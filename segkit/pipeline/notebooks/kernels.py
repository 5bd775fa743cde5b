"""Kernels for the notebooks of a run, each started while the notebook before it works."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jupyter_client.manager import AsyncKernelManager

_ARGUMENTS = [
    # A kernel warns of each start and end; what matters is in the notebook.
    "--IPKernelApp.log_level=50",
    # What every notebook imports, while nobody waits for it.
    "--IPKernelApp.exec_lines=import segkit.pipeline.stages as _, segkit.analysis.tables as _, "
    "segkit.analysis.figures as _",
]


@contextmanager
def kernels_ahead(count: int, environment: Mapping[str, str]) -> Iterator[Callable[[], AsyncKernelManager]]:
    """Give a function that hands out `count` kernels, one a call; the next one starts then, not when it is needed.

    To start a kernel and to import pandas and matplotlib takes longer than most notebooks work. The kernel handed out
    before is told to end at each call, and at the end of the block all of them have ended. Kernels have the variables
    of this process, and those of `environment` in addition.
    """
    handed_out: list[AsyncKernelManager] = []
    waiting = [_start(environment)] if count else []

    def next_kernel() -> AsyncKernelManager:
        if handed_out:
            _tell_to_end(handed_out[-1])
        handed_out.append(waiting.pop())
        if len(handed_out) < count:
            waiting.append(_start(environment))
        return handed_out[-1]

    try:
        yield next_kernel
    finally:
        for kernel in handed_out[-1:] + waiting:
            _tell_to_end(kernel)
        for kernel in handed_out + waiting:
            _see_ended(kernel)


def _start(environment: Mapping[str, str]) -> AsyncKernelManager:
    from jupyter_client.manager import AsyncKernelManager
    from jupyter_core.utils import run_sync

    kernel = AsyncKernelManager(kernel_name="python3")
    run_sync(kernel.start_kernel)(extra_arguments=_ARGUMENTS, env={**os.environ, **environment})
    return kernel


def _tell_to_end(kernel: AsyncKernelManager) -> None:
    from jupyter_core.utils import run_sync

    run_sync(kernel.request_shutdown)()


def _see_ended(kernel: AsyncKernelManager) -> None:
    """Wait for the end of a kernel that was told to; one that does not listen is killed after some seconds."""
    from jupyter_core.utils import run_sync

    run_sync(kernel.finish_shutdown)()
    run_sync(kernel.cleanup_resources)()
