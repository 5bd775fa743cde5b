"""A process that works on a small run, and is really killed or really loses its disk on the way.

`Nursery` starts one process that imports segkit once and then forks a life for each order, since an import takes ten
times as long as a life. In a life every file operation below the watched folders is counted, and the n-th (or the
n-th of some kind, like `write segmentation/*.intent`) can be the last one, or fail.
"""

from __future__ import annotations

import builtins
import errno
import gc
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
from catalogues import KEY, catalogue, unmeasured
from endpoint import Endpoint

from segkit.core.models import STAGES
from segkit.runs.interactions import intents, recover, scan

RUN_ID = "RUN_20250101T000000Z_0001"
_LOG = re.compile(r"\d{8}T\d{6}Z_b\d+_a\d+_[0-9a-f]{8}")
_MADE_UP = re.compile(r"\.\d+\.(?=tmp|making)|(?<=cache/)[0-9a-f]{2}/[0-9a-f]{32}|(?<=cache/)[0-9a-f]{2}$")
_KEPT = {name: getattr(os, name) for name in ("write", "truncate", "readlink", "kill", "_exit", "open", "close")}
_KEPT_OPEN = io.open
# For each function the places of its paths or descriptors: the last one names the operation.
_HOOKED = {
    "write": (0,),
    "writev": (0,),
    "pwrite": (0,),
    "fsync": (0,),
    "fdatasync": (0,),
    "ftruncate": (0,),
    "posix_fallocate": (0,),
    "open": (0,),
    "rename": (0, 1),
    "replace": (0, 1),
    "link": (0, 1),
    "unlink": (0,),
    "remove": (0,),
    "mkdir": (0,),
    "truncate": (0,),
    "listdir": (0,),
    "scandir": (0,),
}
_READS = {"read", "listdir", "scandir"}


@dataclass
class Trap:
    """Counts the file operations below some folders, and acts at the n-th of them.

    `action` is `count`, `kill`, `tear` (half a write reaches the disk, then the kill) or `fail` with an `errno`, once
    or from then on (`forever`). With `label` only operations of that kind count, but with `spread` all fail after the
    first; `reads` counts reading too. A disk that is full still takes what is written into reserved room.
    """

    roots: list[str]
    action: str = "count"
    at: int = 0
    label: str = ""
    errno: int = 0
    forever: bool = False
    reads: bool = False
    spread: bool = False
    ops: list[str] = field(default_factory=list)
    counted: int = 0
    failed_at: int = -1
    reserved: set[str] = field(default_factory=set)
    lock: Any = field(default_factory=threading.RLock)

    def step(self, name: str, path: str, half: Callable[[], object] | None = None) -> None:
        """Count one operation, and act if its turn has come; `half` does half of it."""
        if name in _READS and not self.reads:
            return
        with self.lock:
            label = f"{name} {self.kind(path)}"
            self.ops.append(label)
            if self.errno == errno.ENOSPC and name == "write" and path in self.reserved:
                return
            if self.spread and self.failed_at >= 0:
                self.act(path, half)
            if self.label in ("", label):
                self.counted += 1
                if self.counted == self.at or (self.forever and 0 < self.at < self.counted):
                    self.act(path, half)

    def act(self, path: str, half: Callable[[], object] | None) -> None:
        if half and self.action in ("tear", "fail"):
            half()
        if self.action == "fail":
            self.failed_at = len(self.ops) - 1 if self.failed_at < 0 else self.failed_at
            raise OSError(self.errno, os.strerror(self.errno), path)
        _KEPT["kill"](os.getpid(), signal.SIGKILL)
        time.sleep(60)

    def kind(self, path: str) -> str:
        """Name a file by what it is, without the parts that differ from run to run."""
        root = next(root for root in self.roots if path.startswith(root))
        name = path[len(root) :].strip("/").replace(f".{RUN_ID}", "RUN").replace(RUN_ID, "RUN")
        return _MADE_UP.sub("*", _LOG.sub("*", name))

    def place(self, target: Any) -> str | None:
        """Give the path behind a path or a descriptor if it is below one of the folders."""
        if isinstance(target, int):
            path = _KEPT["readlink"](f"/proc/self/fd/{target}")
        else:
            path = os.path.abspath(os.fspath(target))  # noqa: PTH100
        return path if any(path.startswith(root) for root in self.roots) else None


def set_trap(trap: Trap) -> None:
    """Put the trap before every way in which Python code touches files."""
    for name, places in _HOOKED.items():
        setattr(os, name, _hooked(trap, name, getattr(os, name), places))
    opener = _trapped_open(trap)
    io.open = builtins.open = opener  # type: ignore[assignment]


def _hooked(trap: Trap, name: str, original: Callable[..., Any], places: tuple[int, ...]) -> Callable[..., Any]:
    def hooked(*arguments: Any, **named: Any) -> Any:
        found = [trap.place(arguments[place]) for place in places if place < len(arguments)]
        if any(found):
            kind = name
            if name == "open":
                kind = _way(arguments[1])
            half = None
            if name == "write":
                half = lambda: _KEPT["write"](arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])  # noqa: E731
            path = [path for path in found if path][-1]
            trap.step(kind, path, half)
            if name == "posix_fallocate":
                trap.reserved.add(path)
        return original(*arguments, **named)

    return hooked


def _way(flags: int) -> str:
    if not flags & (os.O_WRONLY | os.O_RDWR):
        return "read"
    return "create" if flags & os.O_EXCL else "open"


def _trapped_open(trap: Trap) -> Callable[..., Any]:
    class Trapped(io.FileIO):
        def write(self, data: Any) -> int:
            def half() -> None:
                io.FileIO.write(self, bytes(data)[: len(data) // 2])

            trap.step("write", trap.place(self.fileno()) or "", half)
            return super().write(data)

        def truncate(self, size: int | None = None) -> int:
            trap.step("truncate", trap.place(self.fileno()) or "")
            return super().truncate(size)

    def opened(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        path = trap.place(file)
        writes = set(mode) & set("wax+")
        if path and not isinstance(file, int):
            trap.step("open" if writes else "read", path)
        if not path or not writes:
            return _KEPT_OPEN(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw = Trapped(file, mode.replace("b", "").replace("t", ""), closefd, opener)
        if buffering == 0:
            return raw
        buffered = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

    return opened


def live(order: dict[str, Any]) -> int:
    """Live one life: the three stages of a run; give 0, 1 after an error of segkit, 2 after any other."""
    from segkit.errors import SegkitError
    from segkit.pipeline.prepare import prepare_run
    from segkit.settings import load_settings

    os.chdir(order["place"])
    os.environ.update(order["environment"])
    tempfile.tempdir = None  # the nursery has looked already
    trap = Trap(**order["trap"])
    set_trap(trap)
    told: dict[str, Any] = {"error": ""}
    code = 0
    try:
        settings = load_settings()
        products = catalogue(order["products"])
        run = prepare_run(products, "Kitchen Things", run_id=RUN_ID, settings=settings, **order["parameters"])
        work(run, settings)
    except BaseException as error:
        code = 1 if isinstance(error, SegkitError) else 2
        told = {
            "error": str(error),
            "kind": type(error).__name__,
            "trace": "".join(traceback.format_exception(error)),
        }
    told |= {"ops": trap.ops, "failed_at": trap.failed_at}
    with _KEPT_OPEN(order["report"], "w", encoding="utf-8") as file:
        json.dump(told, file)
    return code


def work(run: Any, settings: Any) -> None:
    """Do the three stages of a run."""
    from segkit.pipeline.stages import consolidate_taxonomy, extract_taxonomy, refine_assignments

    for stage in (extract_taxonomy, consolidate_taxonomy, refine_assignments):
        stage(run, settings)


def serve() -> None:
    """Fork a life for each order on standard input, and tell its pid, then how it ended."""
    import genai_prices  # noqa: F401 (for the lives to come)

    import segkit.llm.batches.stage
    import segkit.llm.transports.http  # noqa: F401
    from segkit.pipeline.prepare import prepare_run
    from segkit.settings import load_settings

    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings()
        work(prepare_run(model="offline", runs_dir=folder, settings=settings), settings)
    gc.freeze()
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "command" in order:
            print(subprocess.run(order["command"]).returncode, flush=True)
            continue
        pid = os.fork()
        if not pid:
            _bear(order)
        print(pid, flush=True)
        print(_ended(pid, order.get("kill_after")), flush=True)


def _bear(order: dict[str, Any]) -> None:
    errors = os.open(order["errors"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(errors, 1)
    os.dup2(errors, 2)
    code = 3
    try:
        code = live(order)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        _KEPT["_exit"](code)


def _ended(pid: int, kill_after: float | None) -> int:
    """Wait for the end of a life, and kill it when its time is over; without one, when its test must have ended."""
    until = time.monotonic() + (900 if kill_after is None else kill_after)
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            os.kill(pid, signal.SIGKILL)
            until += 60
        time.sleep(0.001)


@dataclass
class Life:
    """A life under way or over: its pid, and once it has ended its exit code and what it told."""

    nursery: Nursery
    pid: int
    report: Path
    errors: Path
    began: float
    code: int | None = None

    def end(self) -> Self:
        """Wait until it is over."""
        if self.code is None:
            self.code = int(self.nursery.line())
            self.seconds = time.monotonic() - self.began
        return self

    def kill(self) -> Self:
        """Kill it, unless it has ended by itself: `killed` tells which it was."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        return self.end()

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL

    @property
    def told(self) -> dict[str, Any]:
        """What the life said at its end (`error`, `kind`, `trace`, `ops`); raises for one that was killed."""
        said: dict[str, Any] = json.loads(self.report.read_text(encoding="utf-8"))
        return said

    @property
    def noise(self) -> str:
        """What it wrote to standard output and standard error."""
        return self.errors.read_text(encoding="utf-8", errors="replace")


class Nursery:
    """Starts lives one after another; with `private` in a mount namespace of its own."""

    def __init__(self, private: bool = False) -> None:
        command = [*(["unshare", "-m"] if private else []), sys.executable, __file__]
        environment = unmeasured(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._last: Life | None = None
        assert self.line() == "ready"
        self.root = f"/proc/{self._process.pid}/root" if private else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        try:
            self._process.wait(10)
        finally:
            self._process.kill()

    def line(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()

    def command(self, *command: str) -> int:
        """Run a command where the lives are lived."""
        self.write({"command": command})
        return int(self.line())

    def write(self, order: dict[str, Any]) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def life(self, place: Path, *, kill_after: float | None = None, **order: Any) -> Life:
        """Begin a life in a folder; `order` says `environment`, `trap`, `products` and `parameters`."""
        if self._last and self._last.code is None:
            self._last.kill()  # a test that failed left it
        report, errors = place / "report.json", place / "errors.txt"
        report.unlink(missing_ok=True)
        trap = {"roots": [str(place / "runs"), str(place / "home")], **order.pop("trap", {})}
        written = {"products": 24, "environment": {}, "parameters": PARAMETERS, **order, "trap": trap}
        written |= {"place": str(place), "report": str(report), "errors": str(errors), "kill_after": kill_after}
        self.write(written)
        self._last = Life(self, int(self.line()), report, errors, time.monotonic())
        return self._last


PARAMETERS = {
    "model": "gpt-4o",
    "products_per_prompt": 4,
    "products_per_refinement": 4,
    "taxonomies_per_consolidation": 3,
}


QUESTIONS = 15
#: The results of a run that nobody disturbed, and its file operations.
Undisturbed = tuple[dict[str, bytes], list[str]]


class Scene:
    """One run between an endpoint and the processes that live and die on it."""

    def __init__(self, place: Path, endpoint: Endpoint, nursery: Nursery, **environment: str) -> None:
        self.place, self.endpoint, self.nursery = place, endpoint, nursery
        # What a private nursery has mounted is seen from outside by this way only.
        self.run = Path(f"{nursery.root}{place}") / "runs" / RUN_ID
        (place / "tmp").mkdir(exist_ok=True)
        self.environment = {
            "OPENAI_BASE_URL": endpoint.url,
            "OPENAI_API_KEY": KEY,
            "SEGKIT_BACKOFF_SECONDS": "0.02",
            "SEGKIT_HOME": str(place / "home"),
            "SEGKIT_CONCURRENCY": "4",
            "TMPDIR": str(place / "tmp"),
            **environment,
        }

    def life(self, **order: Any) -> Life:
        return self.nursery.life(self.place, environment=self.environment, **order)

    def whole_life(self) -> Life:
        """Live to the end, without any error."""
        life = self.life().end()
        assert life.code == 0, life.noise + str(life.told)
        assert "Traceback" not in life.noise
        return life

    def logs(self) -> dict[str, bytes]:
        return finished_logs(self.run)

    def open_prompts(self) -> Counter[str]:
        """The prompts of all intents, those that were asked and have no result."""
        found = [recover(path) or {} for name in STAGES.values() for path in intents(self.run / name)]
        return Counter(intent["prompt"] for intent in found if "prompt" in intent)

    def logged_prompts(self) -> Counter[str]:
        logs = [log for name in STAGES.values() for log in scan(self.run / name)[0]]
        return Counter(log.log["prompt"] for log in logs if "cached_from" not in log.log["metadata"])

    def asked_prompts(self) -> Counter[str]:
        return Counter(body["messages"][0]["content"] for body in self.endpoint.bodies() if body)


def in_the_long_suite(points: list[Any]) -> list[Any]:
    """Mark points of failure for the long suite."""
    return [pytest.param(*point, marks=pytest.mark.long) for point in points]


def finished_logs(run: Path) -> dict[str, bytes]:
    """Give every finished log of a run folder, by its name below it."""
    return {str(path.relative_to(run)): path.read_bytes() for path in run.glob("*/*_b*_a*_*.json")}


def results(run: Path) -> dict[str, bytes]:
    """Give the result files of a run folder by name."""
    return {path.name: path.read_bytes() for path in sorted((run / "results").glob("*.parquet"))}


if __name__ == "__main__":
    serve()
