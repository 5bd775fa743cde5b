"""Memory that nothing holds any more, returned to the operating system."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress


def release_memory() -> None:
    """Return unused memory of Arrow and of the C library to the operating system.

    Both keep what was freed for later. After a table of a million products that is several hundred megabytes, which
    the next step, working with other tables, asks for anew.
    """
    if arrow := sys.modules.get("pyarrow"):
        arrow.default_memory_pool().release_unused()
    with suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)
