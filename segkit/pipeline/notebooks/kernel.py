"""The kernel of a run: its notebooks are executed there in turn, each without the variables of those before."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from segkit.errors import StageError

if TYPE_CHECKING:
    from jupyter_client.manager import AsyncKernelManager

_ARGUMENTS = [
    # A kernel warns of each start and end; what matters is in the notebook.
    "--IPKernelApp.log_level=50",
    # What every notebook imports, while this process prepares the first of them.
    "--IPKernelApp.exec_lines=import segkit.pipeline.stages as _, segkit.analysis.tables as _, "
    "segkit.analysis.figures as _",
    # Modules stay: without them in the way, the garbage of each notebook is collected in no time.
    "--IPKernelApp.exec_lines=import gc as _; _.freeze()",
]
_RESET = "import os as _; _.chdir({folder!r}); get_ipython().reset(new_session=True)"
_PATIENCE = 60  # seconds


@contextmanager
def started_kernel(environment: Mapping[str, str]) -> Iterator[Callable[[], AsyncKernelManager]]:
    """Start a kernel, and yield a function that returns it empty: without variables, its next cell numbered 1.

    To start a kernel and to import pandas and matplotlib takes longer than most notebooks work, so all notebooks of a
    run share one. It has the variables of this process, and those of `environment` in addition, and ends with the
    block. The function raises StageError if the kernel does not answer.
    """
    kernel, is_used = _start(environment), False

    def empty_kernel() -> AsyncKernelManager:
        nonlocal is_used
        if is_used:
            _reset(kernel)
        is_used = True
        return kernel

    try:
        yield empty_kernel
    finally:
        _end(kernel)


def _start(environment: Mapping[str, str]) -> AsyncKernelManager:
    from jupyter_client.manager import AsyncKernelManager
    from jupyter_core.utils import run_sync

    kernel = AsyncKernelManager(kernel_name="python3")
    run_sync(kernel.start_kernel)(extra_arguments=_ARGUMENTS, env={**os.environ, **environment})
    return kernel


def _reset(kernel: AsyncKernelManager) -> None:
    """Let a kernel forget the variables, results, cell numbers and working directory of the notebook before."""
    from jupyter_core.utils import run_sync

    async def reset() -> None:
        client = kernel.client()
        client.start_channels(iopub=False, stdin=False, hb=False, control=False)
        try:
            await client.execute(_RESET.format(folder=str(Path.cwd())), silent=True, reply=True, timeout=_PATIENCE)
        finally:
            client.stop_channels()

    try:
        run_sync(reset)()
    except TimeoutError:
        raise StageError(f"the kernel of the notebooks did not answer within {_PATIENCE} s") from None


def _end(kernel: AsyncKernelManager) -> None:
    """Ask a kernel to end, and wait until it has; one that does not listen is killed after some seconds.

    Its cell is not interrupted: answers in flight are paid.
    """
    from jupyter_core.utils import run_sync

    run_sync(kernel.request_shutdown)()
    run_sync(kernel.finish_shutdown)()
    run_sync(kernel.cleanup_resources)()
