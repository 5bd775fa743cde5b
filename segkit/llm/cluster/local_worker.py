"""Loaded by the workers of this machine: a Ctrl-C in the terminal is for the command alone, which ends them."""

from __future__ import annotations

import os
from typing import Any


def dask_setup(worker: Any) -> None:
    """Leave the group of processes to which a terminal sends its signals."""
    os.setpgid(0, 0)
