"""Kernels that are started ahead: one is ready when it is needed, and none outlives its run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from segkit.pipeline.notebooks.kernels import kernels_ahead


def children() -> set[int]:
    """The processes that this one has started and that have not ended."""
    return {int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}


def pid_of(kernel: Any) -> int:
    return int(kernel.provisioner.pid)


def test_the_next_kernel_works_before_it_is_asked_for() -> None:
    before = children()
    with kernels_ahead(2, {}) as next_kernel:
        for left in (1, 0):
            waiting = children()
            kernel = pid_of(next_kernel())
            assert kernel in waiting - before
            assert len(children() - waiting) == left
    assert children() <= before


def test_no_kernel_outlives_an_error() -> None:
    """The one that works and the one that waits both end, and their connection files are gone."""
    before, kernels = children(), []

    def fail() -> None:
        with kernels_ahead(3, {}) as next_kernel:
            kernels.append(next_kernel())
            assert len(children() - before) == 2
            raise ValueError("a notebook failed")

    with pytest.raises(ValueError, match="a notebook failed"):
        fail()
    assert children() <= before
    assert not Path(kernels[0].connection_file).exists()


def test_no_kernel_is_started_for_no_notebook() -> None:
    before = children()
    with kernels_ahead(0, {}):
        assert children() == before
