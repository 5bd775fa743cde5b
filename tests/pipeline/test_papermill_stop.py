"""SIGTERM to papermill itself, which executes the notebook of a stage: its kernel keeps what is paid, and ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from catalogues import unmeasured
from endpoint import Endpoint

from segkit.pipeline.stages import extract_taxonomy
from segkit.runs.interactions import intents, scan
from segkit.runs.run import Run, current_state
from segkit.settings import project_folder

NOTEBOOK = project_folder("notebooks") / "10_extract_taxonomy.ipynb"


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.long)])
def test_the_end_of_papermill_loses_no_answer(
    number: signal.Signals, endpoint: Endpoint, new_run: Callable[..., Run], place: Path
) -> None:
    """It dies at once and tells nobody; answers in flight take longer than a kernel would usually live on."""
    endpoint.configure(latency=2.5)
    run = new_run(48, products_per_prompt=4)
    command = [sys.executable, "-m", "papermill", str(NOTEBOOK), str(place / "10.ipynb"), "--no-progress-bar"]
    environment = unmeasured(SEGKIT_CONCURRENCY="3")
    process = subprocess.Popen(
        [*command, "-p", "run", run.id, "-p", "runs_dir", str(run.folder.parent)], env=environment
    )
    endpoint.wait(4)  # three of them were answered
    (kernel,) = (
        child for child in psutil.Process(process.pid).children() if "ipykernel" in " ".join(child.cmdline())
    )
    process.send_signal(number)
    assert process.wait(30) == -number or process.returncode == 128 + number
    _, alive = psutil.wait_procs([kernel], timeout=30)
    assert not alive, "the kernel ends by itself"
    asked = endpoint.count()
    logs = scan(run.stage_folder("extract_taxonomy"))[0]
    assert len(logs) == asked < 12
    assert not intents(run.stage_folder("extract_taxonomy"))
    assert current_state(run.folder) == "failed"
    assert "the end of the program that executes the notebook; all answers are kept" in run.status.reason
    assert run.status.activity.in_flight == 0
    endpoint.configure(latency=0.0)
    extract_taxonomy(run)
    assert endpoint.count() == 12, "nothing was asked twice"
    assert (run.status.state, run.status.reason) == ("running", "")
