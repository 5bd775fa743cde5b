"""A Dask cluster of real processes: a scheduler and workers that tests kill."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from catalogues import KEY, unmeasured


class Cluster:
    """A scheduler and some workers, each a process of its own, from `with` to the end of it."""

    def __init__(self, folder: Path, workers: int, **environment: str) -> None:
        self._folder, self._count = folder, workers
        self._environment = {"OPENAI_API_KEY": KEY, **environment}
        self.workers: list[subprocess.Popen[Any]] = []

    def __enter__(self) -> Self:
        file = self._folder / "scheduler.json"
        options = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--no-show", "--scheduler-file", str(file))
        self.scheduler = self._start("scheduler", *options)
        while not file.exists():
            assert self.scheduler.poll() is None
            time.sleep(0.05)
        self.address = json.loads(file.read_text())["address"]
        for _ in range(self._count):
            self.add_worker()
        return self

    def add_worker(self, **environment: str) -> subprocess.Popen[Any]:
        """Start one more worker."""
        options = (self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1")
        worker = self._start("worker", *options, "--local-directory", str(self._folder), **environment)
        self.workers.append(worker)
        return worker

    def kill_worker(self, number: int) -> None:
        """Kill one of the workers, and start another one in its place."""
        worker = self.workers.pop(number)
        worker.kill()
        worker.wait()
        self.add_worker()

    def __exit__(self, *exc: object) -> None:
        for process in (*self.workers, self.scheduler):
            with suppress(ProcessLookupError):
                process.kill()
            process.wait()

    def _start(self, *command: str, **environment: str) -> subprocess.Popen[Any]:
        number = len(self.workers)
        with (self._folder / f"{command[0]}{number}.txt").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "distributed.cli.dask_" + command[0], *command[1:]],
                env=unmeasured(**self._environment, **environment),
                cwd=self._folder,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
