"""JupyterLab in a real browser: Run All on the notebooks leaves a finished run, with tables, plots and progress."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from catalogues import catalogue, unmeasured

from segkit.runs.integrity import differences, is_finished
from segkit.runs.run import open_run
from segkit.settings import project_folder

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NOTEBOOKS = (
    "00_prepare_run",
    "10_extract_taxonomy",
    "20_consolidate_taxonomy",
    "30_refine_assignments",
    "40_review_run",
    "80_edit_taxonomy",
)
PANEL = "[...jupyterapp.shell.widgets('main')].find(w => w.content && w.content.widgets)"
CELLS = f"({PANEL}).content.widgets.filter(c => c.model.type == 'code')"


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


def answer(url: str) -> Any:
    """Ask until a server that is starting answers."""
    for _ in range(240):
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                return json.load(response)
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"{url} does not answer")


@contextmanager
def started(*command: str, cwd: Path) -> Iterator[None]:
    process = subprocess.Popen(
        command, cwd=cwd, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def environment() -> dict[str, str]:
    left_out = ("OPENAI_", "SEGKIT_", "DATABASE_URL", "DEFAULT_", "SEGMENTATION_", "STORAGE_")
    return {name: value for name, value in unmeasured().items() if not name.startswith(left_out)}


class Tab:
    """One tab of the browser, driven over its debugging protocol."""

    def __init__(self, socket: Any) -> None:
        self.socket, self.number = socket, 0

    async def call(self, method: str, **parameters: object) -> Any:
        self.number += 1
        await self.socket.write_message(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(await self.socket.read_message())
            if message.get("id") == self.number:
                return message["result"]

    async def value(self, code: str) -> Any:
        """Evaluate JavaScript; None where it fails, as while a page loads."""
        result = await self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        return result["result"].get("value")

    async def wait_for(self, code: str, seconds: float = 240) -> None:
        end = time.monotonic() + seconds
        while await self.value(code) is not True:
            assert time.monotonic() < end, f"never true: {code}"
            await asyncio.sleep(0.5)


async def run_all(debugger: str, lab: str) -> dict[str, list[Any]]:
    """Open each notebook, Run > Run All Cells, and return the outputs of its cells."""
    from tornado.websocket import websocket_connect

    outputs = {}
    tab = Tab(await websocket_connect(debugger, max_message_size=2**28))
    for name in NOTEBOOKS:
        await tab.call("Page.navigate", url=f"{lab}/lab/workspaces/w{name[:2]}/tree/work/{name}.ipynb?reset")
        await tab.wait_for(f"({PANEL}).sessionContext.session.kernel.status == 'idle' && ({CELLS}).length > 3")
        await tab.value(f"jupyterapp.shell.activateById(({PANEL}).id)")
        await tab.value("jupyterapp.commands.execute('notebook:run-all-cells') && 0")
        await tab.wait_for(f"({CELLS}).every(c => c.model.executionCount > 0)")
        texts = await tab.value(f"JSON.stringify(({CELLS}).map(c => c.model.outputs.toJSON()))")
        outputs[name] = [output for cell in json.loads(texts) for output in cell]
    return outputs


@pytest.mark.long
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")
def test_run_all_in_jupyterlab_leaves_a_finished_run(tmp_path: Path) -> None:
    place, lab_port, debug_port = tmp_path / "project", free_port(), free_port()
    shutil.copytree(project_folder("prompts"), place / "prompts")
    shutil.copytree(project_folder("notebooks"), place / "work", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    catalogue(60).to_csv(place / "products.csv", index=False)
    first = place / "work" / f"{NOTEBOOKS[0]}.ipynb"
    first.write_text(
        first.read_text(encoding="utf-8").replace('= \\"sample\\"', '= \\"products.csv\\"'), encoding="utf-8"
    )
    lab = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={lab_port}", "--IdentityProvider.token="]
    lab += ["--expose-app-in-browser", *(["--allow-root"] if os.geteuid() == 0 else [])]
    browser = [str(CHROMIUM), "--headless=new", "--no-sandbox", f"--remote-debugging-port={debug_port}"]
    browser += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1300,1500", "about:blank"]
    with started(*lab, cwd=place), started(*browser, cwd=tmp_path):
        answer(f"http://127.0.0.1:{lab_port}/api/status")
        (page, *_) = [tab for tab in answer(f"http://127.0.0.1:{debug_port}/json") if tab["type"] == "page"]
        outputs = asyncio.run(run_all(page["webSocketDebuggerUrl"], f"http://127.0.0.1:{lab_port}"))
    for name, shown in outputs.items():
        assert not [output for output in shown if output["output_type"] == "error"], name
        assert any("<table" in "".join(output["data"].get("text/html", "")) for output in shown if "data" in output)
    progress = "".join("".join(output["data"].get("text/html", "")) for output in outputs[NOTEBOOKS[1]])
    assert "2 of 2 questions answered" in progress
    assert any("image/png" in output["data"] for output in outputs[NOTEBOOKS[3]])
    run = open_run("latest", place / "runs")
    assert (is_finished(run), differences(run)) == (True, [])
    assert (run.folder / "report.html").exists()
    assert run.archived("edits")["action"].tolist() == ["merge_into", "rename", "split"]
