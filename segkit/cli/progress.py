"""Progress in the terminal, read from the run's own `status.json`."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from segkit.analysis.live import progress_line
from segkit.runs.run import Run, is_stopping
from segkit.runs.status import StageFigures, Status, read_status

_LINE_EVERY = 60.0  # seconds without a line where nobody sees a table
_STOPPING = "stopping: waiting for the answers in flight; a second Ctrl-C discards them"
_NAMES = {
    "segmentation": "extract",
    "consolidate_taxonomy": "consolidate",
    "refine_assignments": "refine",
    "assign_products": "assign",
}


@contextmanager
def watched(run: Run) -> Iterator[None]:
    """Show the progress of a run on standard error while the block works on it.

    A terminal gets a live table, anything else a line for each notebook (or stage) and one a minute. While a run that
    was asked to stop waits for the answers in flight, both say so.
    """
    done = threading.Event()
    follow = _follow_live if sys.stderr.isatty() else _follow_lines
    thread = threading.Thread(target=follow, args=(run, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def progress_table(status: Status, seconds: float, title: str = "") -> Group:
    """Draw the stages of a run (questions done of planned, retries, tokens, cost, time left) and what is in flight.

    The title is the notebook or the stage at work, if none is given.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("stage", "done", "retries", "tokens in", "out", "cost", "time", "left"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for key, name in _NAMES.items():
        if key in status.stages:
            table.add_row(name, *_cells(status.stages[key], status.stage == key))
    heading = Text(
        f"{title or _place(status) or ('finishing' if status.stages else 'starting')} · {seconds:.0f} s", style="bold"
    )
    return Group(heading, table, *map(Text, status.activity.sentences(time.time())))


def _place(status: Status) -> str:
    """Return what a run works on: a notebook, or a stage where it works without notebooks."""
    return status.notebook or _NAMES.get(status.stage, "")


def _cells(stage: StageFigures, working: bool) -> list[str]:
    left = ""
    if working and 0 < stage.done < stage.planned:
        left = f"{stage.seconds / stage.done * (stage.planned - stage.done):.0f} s"
    return [
        f"{stage.done}/{stage.planned}",
        str(stage.retries),
        f"{stage.input_tokens:,}",
        f"{stage.output_tokens:,}",
        "unknown" if stage.unpriced else f"${stage.cost_usd:.4f}",
        f"{stage.seconds:.1f} s",
        left,
    ]


def _batches(status: Status) -> str:
    """Say how far the provider's batches are while the run waits for them."""
    progress = str(status.document.get("batches") or "")
    return f"waiting for {progress}" if progress else ""


def _follow_live(run: Run, done: threading.Event) -> None:
    began = time.monotonic()
    with Live(console=Console(stderr=True), transient=True, auto_refresh=False) as live:
        while not done.wait(0.2):
            status = read_status(run.folder)
            title = _STOPPING if is_stopping(run) else _batches(status)
            live.update(progress_table(status, time.monotonic() - began, title), refresh=True)


def _follow_lines(run: Run, done: threading.Event) -> None:
    began = last = time.monotonic()
    shown = ""
    while not done.wait(0.2):
        status, now = read_status(run.folder), time.monotonic()
        line = _STOPPING if is_stopping(run) else _batches(status) or _place(status)
        if not line or (line == shown and now - last < _LINE_EVERY):
            continue
        figures = status.stages.get(status.stage)
        detail = f": {progress_line(figures, figures.seconds, status.activity)}" if line == shown and figures else ""
        print(f"{now - began:6.1f} s  {line}{detail}", file=sys.stderr, flush=True)
        shown, last = line, now
