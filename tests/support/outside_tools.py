"""Programs that read what segkit exports, each in a folder of its own: the server of MLflow, and dbt.

`make test-all` installs both into `.tools` (700 MB); they are in no lock file of segkit. Where the index lacks one,
its folder says why, and its tests are skipped.

    python tests/support/outside_tools.py .tools
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path

FOLDER = Path(__file__).parents[2] / ".tools"
#: Each program and what is installed for it. dbt-core 1.12 needs a compiler of Rust to be installed.
PACKAGES = {"mlflow": ["mlflow==3.17.2"], "dbt": ["dbt-core==1.11.16", "dbt-postgres==1.11.0"]}


def install(folder: Path) -> None:
    """Install the programs that are not there; where one fails, leave the reason behind."""
    for name, packages in PACKAGES.items():
        place = folder / name
        if (place / "ready").exists():
            continue
        shutil.rmtree(place, ignore_errors=True)
        installer = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--only-binary=:all:"]
        why = _run([sys.executable, "-m", "venv", "--without-pip", str(place)])
        why = why or _run([*installer, "--python", str(place / "bin" / "python"), *packages])
        (place / ("missing" if why else "ready")).write_text(why, encoding="utf-8")
        if why:
            print(f"{name} is not tested: {why}", file=sys.stderr)


def why_missing(name: str) -> str:
    """Return why a program is not there to test with; empty where it is."""
    place = FOLDER / name
    if (place / "ready").exists():
        return ""
    missing = place / "missing"
    return missing.read_text(encoding="utf-8") if missing.exists() else f"`make test-all` installs {name}"


def program(name: str) -> str:
    """Return the path of a program."""
    return str(FOLDER / name / "bin" / name)


def quiet_environment(**more: str) -> dict[str, str]:
    """The environment for a program that reports its use to nobody."""
    return os.environ | {"DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true"} | more


@contextmanager
def mlflow_server(place: Path) -> Iterator[str]:
    """Start a server of MLflow over an SQLite file in a folder, and return its address; it ends with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = ["--backend-store-uri", "sqlite:///mlflow.db", "--artifacts-destination", str(place / "artifacts")]
    command = [program("mlflow"), "server", *where, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with (place / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=place, env=quiet_environment(), stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait_for(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        process.wait(30)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 300
    while time.monotonic() < until and process.poll() is None:
        with suppress(OSError):
            connection = HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.5)
    raise RuntimeError("the server of MLflow does not start")


def _run(command: list[str]) -> str:
    """Run a command, and return the last line of its error; empty where it worked."""
    done = subprocess.run(command, capture_output=True, text=True)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it failed"])[-1]


if __name__ == "__main__":
    install(Path(sys.argv[1]))
