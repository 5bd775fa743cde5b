"""A worker, the scheduler and the machine of the run are killed while a cluster asks; then the run goes on.

After every kill the same holds: the results are those of one machine, byte for byte; at most what was in flight is
asked again; and no cap is broken.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from catalogues import unmeasured
from dask_cluster import Cluster
from endpoint import Endpoint

from segkit.errors import BudgetError, StoppedError
from segkit.llm.cluster.losses import lost_calls
from segkit.pipeline.segment import run_stages
from segkit.runs.run import Run
from segkit.settings import Settings, load_settings

pytestmark = pytest.mark.long
NewRun = Callable[..., Run]
CONCURRENCY, PRODUCTS = 6, 180


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster"), 3) as cluster:
        yield cluster


@pytest.fixture
def alone(endpoint: Endpoint, new_run: NewRun) -> tuple[dict[str, bytes], int]:
    """The results of a run that one machine asks, and how many calls it takes."""
    run = new_run(PRODUCTS)
    run_stages(run, settings=on(""))
    calls = endpoint.count()
    endpoint.reset()
    endpoint.configure(latency=0.1)
    return tables(run), calls


def on(executor: str, **changes: object) -> Settings:
    shared = {"segkit_cache": False, "segkit_concurrency": CONCURRENCY, "segkit_max_wait_seconds": 60}
    return load_settings().model_copy(update={"segkit_executor": executor, **shared, **changes})


def tables(run: Run) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run.folder / "results").iterdir()}


def when(endpoint: Endpoint, calls: int, act: Callable[[], object]) -> threading.Thread:
    """Do something as soon as so many calls have arrived."""

    def wait() -> None:
        endpoint.wait(calls)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def asked_again(endpoint: Endpoint) -> int:
    """Count the requests that were sent more than once."""
    return sum(count - 1 for count in Counter(entry["sha256"] for entry in endpoint.ledger()).values())


@pytest.mark.parametrize("seed", range(10))
def test_a_killed_worker_loses_nothing(
    endpoint: Endpoint, new_run: NewRun, cluster: Cluster, alone: tuple[dict[str, bytes], int], seed: int
) -> None:
    """Every second time under a cap that the run reaches: then it stops there, and goes on without a cluster."""
    draw, (results, calls) = random.Random(seed), alone
    run = new_run(PRODUCTS)
    victim, moment = draw.randrange(3), draw.randrange(1, calls - 10)
    thread = when(endpoint, moment, lambda: cluster.kill_worker(victim))
    cap = draw.randrange(moment, calls) if seed % 2 else None
    settings = on(cluster.address, segkit_max_calls=cap)
    if cap is None:
        assert run_stages(run, settings=settings)["workers"] >= 2
    else:
        with pytest.raises(BudgetError):
            run_stages(run, settings=settings)
        assert endpoint.count() <= cap
        run_stages(run, settings=on(""))
    thread.join()
    assert tables(run) == results
    assert asked_again(endpoint) <= CONCURRENCY
    assert endpoint.count() <= calls + CONCURRENCY
    assert run.status.calls == calls
    assert endpoint.in_flight_peak() <= 2 * CONCURRENCY  # those of the dead still lie at the server


def test_a_killed_scheduler_stops_the_run(
    endpoint: Endpoint, new_run: NewRun, alone: tuple[dict[str, bytes], int], tmp_path: Path
) -> None:
    results, calls = alone
    run = new_run(PRODUCTS)
    with Cluster(tmp_path, 2) as cluster:
        when(endpoint, 12, cluster.scheduler.kill)
        with pytest.raises(StoppedError, match="cannot be reached"):
            run_stages(run, settings=on(cluster.address))
    assert 12 <= endpoint.count() <= 12 + 2 * CONCURRENCY
    run_stages(run, settings=on(""))
    assert tables(run) == results
    assert asked_again(endpoint) <= CONCURRENCY
    assert endpoint.count() + lost_calls(run).calls >= calls


def test_a_killed_client_leaves_nothing_at_work(
    endpoint: Endpoint, new_run: NewRun, cluster: Cluster, alone: tuple[dict[str, bytes], int]
) -> None:
    """The workers finish what they have sent, send nothing more, and another process goes on with the cluster."""
    results, _ = alone
    run = new_run(PRODUCTS)
    victim = resume(run, cluster.address)
    endpoint.wait(12)
    victim.kill()
    victim.communicate()
    time.sleep(1)
    left = endpoint.count()
    assert left <= 12 + 2 * CONCURRENCY
    time.sleep(3)
    assert endpoint.count() == left
    output, _ = (second := resume(run, cluster.address)).communicate()
    assert second.returncode == 0, output
    assert tables(run) == results
    assert asked_again(endpoint) <= CONCURRENCY


def test_ctrl_c_waits_for_the_answers_in_flight(
    endpoint: Endpoint, new_run: NewRun, alone: tuple[dict[str, bytes], int]
) -> None:
    """The workers that the command has started go on until their answers are logged; they end with it."""
    results, calls = alone
    run = new_run(PRODUCTS)
    command = resume(run, "dask:2")
    endpoint.wait(12)
    os.killpg(command.pid, signal.SIGINT)  # as a terminal does, to all of the group
    output, _ = command.communicate()
    assert command.returncode == 1
    assert "stopped by SIGINT; all answers" in output
    run_stages(run, settings=on(""))
    assert tables(run) == results
    assert endpoint.count() == calls


def test_a_limit_of_requests_holds_for_all_workers(
    endpoint: Endpoint, new_run: NewRun, cluster: Cluster, alone: tuple[dict[str, bytes], int]
) -> None:
    run = new_run(PRODUCTS)
    when(endpoint, 20, lambda: (time.sleep(3), (run.folder / "stop").touch()))
    with pytest.raises(StoppedError):
        run_stages(run, settings=on(cluster.address, segkit_requests_per_minute=20))
    assert endpoint.count() == 20


def test_a_worker_without_a_key_is_refused_before_anything_is_asked(
    endpoint: Endpoint, new_run: NewRun, tmp_path: Path
) -> None:
    run = new_run(PRODUCTS)
    with Cluster(tmp_path, 1, OPENAI_API_KEY="") as cluster:
        command = resume(run, cluster.address)
        output, _ = command.communicate()
    assert command.returncode == 2
    assert "has no API key" in output
    assert "Traceback" not in output
    assert endpoint.count() == 0


def resume(run: Run, executor: str) -> subprocess.Popen[str]:
    limits = ("--concurrency", str(CONCURRENCY), "--executor", executor)
    return subprocess.Popen(
        [sys.executable, "-m", "segkit", "resume", run.id, "--no-notebooks", *limits],
        env=unmeasured(SEGKIT_CACHE="false"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
