"""`--batch` as a user types it: a process of its own that waits, is interrupted, returns, and goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from catalogues import catalogue
from endpoint import Endpoint

from segkit.runs.run import current_state, open_run

Done = subprocess.CompletedProcess[str]
COMMAND = [sys.executable, "-m", "segkit"]
RUN = ["run", "products.csv", "-c", "Kitchen Things", "--products-per-prompt", "4", "--batch"]


@pytest.fixture
def segkit(endpoint: Endpoint, place: Path) -> Callable[..., Done]:
    """Run segkit in a folder with products, against the endpoint."""
    catalogue(12).to_csv(place / "products.csv", index=False)
    endpoint.configure(batch_polls=None)

    def run(*arguments: str, code: int = 0, notebooks: bool = False) -> Done:
        works = arguments[0] in ("run", "resume") and not notebooks
        words = [*COMMAND, *arguments, *(["--no-notebooks"] if works else [])]
        done = subprocess.run(words, cwd=place, env=os.environ, capture_output=True, text=True, timeout=600)
        assert done.returncode == code, done.stderr
        return done

    return run


def test_a_run_returns_and_is_fetched(segkit: Callable[..., Done], endpoint: Endpoint) -> None:
    """The exit code 3 says that it waits; each command names the next one, and that works."""
    told = json.loads(segkit(*RUN, "--yes", "--json", code=3).stdout)
    assert told["state"] == "waiting"
    assert f"segkit resume {told['run_id']}" in told["next"]
    assert current_state(Path("runs") / told["run_id"]) == "waiting"
    waiting = segkit("resume", told["run_id"], code=3).stderr
    assert "waiting: the provider works on 1 batch of segmentation: 0 of 3 requests are done" in waiting
    assert "error" not in waiting
    assert json.loads(segkit("batches", "latest", "--json").stdout)[0]["status"] == "validating"
    endpoint.control("finish_batches")
    endpoint.configure(batch_polls=1)
    assert "completed" in segkit("resume", "latest", "--wait").stdout
    assert all(entry["batch"] for entry in endpoint.ledger())
    assert [row["logged"] for row in json.loads(segkit("batches", "latest", "--json").stdout)] == [True] * 3


@pytest.mark.long
def test_ctrl_c_ends_the_waiting_and_not_the_batches(
    segkit: Callable[..., Done], endpoint: Endpoint, place: Path
) -> None:
    words = [*COMMAND, *RUN, "--yes", "--wait", "--no-notebooks"]
    process = subprocess.Popen(words, cwd=place, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr
    said = ""
    while "waiting for 1 batch of segmentation: 0 of 3 requests are done" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 3, said
    assert "stopped waiting, the provider goes on with 1 batch of segmentation" in said
    assert "--cancel" in said
    assert endpoint.batches()[0]["status"] == "validating"
    assert "cancelling" in segkit("batches", "latest", "--cancel").stdout
    segkit("resume", "latest", "--no-batch")
    assert open_run("latest").status.state == "completed"


@pytest.mark.long
def test_a_provider_without_batches_is_asked_one_by_one(segkit: Callable[..., Done], endpoint: Endpoint) -> None:
    endpoint.configure(batch_api=False)
    said = segkit(*RUN, "--yes", code=1).stderr
    assert "127.0.0.1 has no Batch API (GET /batches: HTTP 404)" in said
    assert "--no-batch" in said
    assert "completed" in segkit("resume", "latest", "--no-batch").stdout


def test_the_offline_model_takes_no_batches(segkit: Callable[..., Done]) -> None:
    assert "leave out --batch" in segkit(*RUN, "--model", "offline", code=2).stderr


@pytest.mark.long
def test_notebooks_wait_too(segkit: Callable[..., Done], endpoint: Endpoint) -> None:
    """The kernel that asks has sent the batch; the command ends with the same words and the same code."""
    said = segkit(*RUN, "--yes", "--no-sync", code=3, notebooks=True).stderr
    assert "waiting: the provider works on 1 batch of segmentation" in said
    endpoint.control("finish_batches")
    endpoint.configure(batch_polls=0)
    assert "completed" in segkit("resume", "latest", "--no-sync", "--wait", notebooks=True).stdout
    assert all(entry["batch"] for entry in endpoint.ledger())
