"""The kernel of a run: each notebook finds it empty, and it ends with the run."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from segkit.errors import StageError
from segkit.pipeline.notebooks import kernel as module
from segkit.pipeline.notebooks.kernel import started_kernel


def children() -> set[int]:
    """The processes that this one has started and that have not ended."""
    return {int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}


def pid_of(kernel: Any) -> int:
    return int(kernel.provisioner.pid)


def executed(kernel: Any, *sources: str) -> list[Any]:
    """Execute a notebook of these cells in a kernel, and return its cells."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    return list(NotebookClient(notebook, km=kernel).execute().cells)


def test_each_notebook_finds_the_kernel_without_what_those_before_left() -> None:
    before = children()
    with started_kernel({}) as empty_kernel:
        first = empty_kernel()
        executed(first, "left = 1", "left", "import pandas as pd", "%cd /")
        second = empty_kernel()
        cells = executed(
            second, "sorted({'left', 'pd', '_', '_2', 'get_ipython'} & set(globals()))", "len(In)", "%pwd"
        )
        assert pid_of(first) == pid_of(second)
    assert cells[0].outputs[0].data["text/plain"] == "['get_ipython']"
    assert [cell.execution_count for cell in cells] == [1, 2, 3]
    assert cells[1].outputs[0].data["text/plain"] == "3"  # an empty text, and the two cells
    assert cells[2].outputs[0].data["text/plain"] == repr(str(Path.cwd()))
    assert children() <= before


def test_the_kernel_does_not_outlive_an_error() -> None:
    """It ends, and its connection file is gone."""
    before, kernels = children(), []

    def fail() -> None:
        with started_kernel({}) as empty_kernel:
            kernels.append(empty_kernel())
            raise ValueError("a notebook failed")

    with pytest.raises(ValueError, match="a notebook failed"):
        fail()
    assert children() <= before
    assert not Path(kernels[0].connection_file).exists()


def test_a_kernel_that_does_not_answer_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.2)
    with started_kernel({}) as empty_kernel:
        pid = pid_of(empty_kernel())
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(StageError, match="did not answer"):
                empty_kernel()
        finally:
            os.kill(pid, signal.SIGCONT)
