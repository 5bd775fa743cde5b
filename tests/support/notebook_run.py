"""One run with executed notebooks, which all processes of the tests share: it costs as much as a hundred tests."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from catalogues import unmeasured

from segkit.settings import project_folder

CATEGORY = "Coffee <b>Makers</b>"
HOSTILE_TITLES = [
    "Steel kettle <script>alert(1)</script>",
    "Glass kettle ![x](http://evil.example/x.png)",
    'Copper kettle "><img src=http://evil.example/y.png onerror=alert(1)>',
    "Wooden ladle $5 and $6",
    "Ladle for soup, 咖啡",
    "Long ladle " + "very " * 60 + "long",
]


class NotebookRun(NamedTuple):
    """The folder in which `segkit run` was typed, the summary it printed, and what stood on standard error."""

    place: Path
    summary: dict[str, Any]
    stderr: str

    @property
    def folder(self) -> Path:
        return self.place / str(self.summary["folder"])


def notebook_run(shared: Path) -> NotebookRun:
    """Return the run in `shared`, a folder of all processes; the first process that asks makes it."""
    place, report = shared / "notebook_run", shared / "notebook_run.json"
    with (shared / "notebook_run.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not report.exists():
            place.mkdir()
            report.write_text(json.dumps(_make(place)), encoding="utf-8")
    stdout, stderr = json.loads(report.read_text(encoding="utf-8"))
    return NotebookRun(place, json.loads(stdout), stderr)


def _make(place: Path) -> tuple[str, str]:
    """Run segkit over the bundled sample and some hostile titles; return what it printed."""
    sample = pd.read_csv(project_folder("notebooks").parent / "segkit/sample/coffee_makers.csv")
    hostile = pd.DataFrame({"product_id": range(1, 1 + len(HOSTILE_TITLES)), "title": HOSTILE_TITLES})
    pd.concat([sample[["product_id", "title"]], hostile]).to_csv(place / "products.csv", index=False)
    command = [sys.executable, "-m", "segkit", "run", "products.csv", "-c", CATEGORY, "-m", "offline", "--json"]
    done = subprocess.run(command, cwd=place, env=unmeasured(), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr
