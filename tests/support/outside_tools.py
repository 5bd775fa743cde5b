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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from servers import error_of, wait_until_healthy

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
        why = error_of([sys.executable, "-m", "venv", "--without-pip", str(place)])
        why = why or error_of([*installer, "--python", str(place / "bin" / "python"), *packages])
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
        wait_until_healthy(port, process, 300)
        yield f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        process.wait(30)


if __name__ == "__main__":
    install(Path(sys.argv[1]))
