"""The progress of a stage in a notebook: one line that is replaced while the stage works, without widgets."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from segkit.core.text import quantity
from segkit.display import html_text
from segkit.runs.run import Run
from segkit.runs.status import Activity, StageFigures, Status, read_status

_EVERY = 0.5  # seconds between two looks at the status
_LINE_EVERY = 60.0  # seconds between two lines under papermill


@contextmanager
def live_progress(run: Run, stage: str) -> Iterator[None]:
    """Show how far a stage is while the block works on it; nothing outside of notebooks.

    JupyterLab and VS Code replace the line through IPython's display handle. Under papermill, whose copy would keep
    it, a line a minute is printed instead.
    """
    shell = _shell()
    if shell is None:
        yield
        return
    done = threading.Event()
    show = _print_lines if _is_papermill(shell) else _replace_line
    follow = show(run, stage, done)
    next(follow)  # in this thread, which knows its cell
    thread = threading.Thread(target=lambda: list(follow), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def progress_line(figures: StageFigures, seconds: float, activity: Activity | None = None) -> str:
    """Write how far a stage is: answers of those planned, retries, dollars, time; and what is in flight."""
    parts = [f"{figures.done:,} of {quantity(figures.planned, 'question')} answered"]
    if figures.cached:
        parts.append(f"{figures.cached:,} from the cache")
    if figures.retries:
        parts.append(f"{figures.retries:,} retries")
    parts.append("cost unknown" if figures.unpriced else f"${figures.cost_usd:.4f}")
    parts.append(f"{seconds:.0f} s")
    if 0 < figures.done < figures.planned:
        parts.append(f"about {seconds / figures.done * (figures.planned - figures.done):.0f} s left")
    return " · ".join([*parts, *(activity.sentences(time.time()) if activity else ())])


def _replace_line(run: Run, stage: str, done: threading.Event) -> Iterator[None]:
    from IPython.display import HTML, display

    began = time.monotonic()
    handle: Any = display(HTML(_html(Status(), stage, 0)), display_id=True)  # type: ignore[no-untyped-call]
    yield
    while True:
        ended = done.wait(_EVERY)
        html = _html(read_status(run.folder), stage, time.monotonic() - began)
        handle.update(HTML(html))  # type: ignore[no-untyped-call]
        if ended:
            return
        yield


def _print_lines(run: Run, stage: str, done: threading.Event) -> Iterator[None]:
    began = time.monotonic()
    yield
    while not done.wait(_LINE_EVERY):
        status = read_status(run.folder)
        figures = status.stages.get(stage, StageFigures())
        print(progress_line(figures, time.monotonic() - began, status.activity), flush=True)
        yield


def _html(status: Status, stage: str, seconds: float) -> str:
    figures = status.stages.get(stage, StageFigures())
    bar = f"<progress max='{max(figures.planned, 1)}' value='{figures.done}'></progress>"
    return f"<div>{bar} {html_text(progress_line(figures, seconds, status.activity))}</div>"


def _shell() -> Any:
    """Return IPython's shell in a notebook's kernel; None in a terminal, a script, or a test."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell if hasattr(shell, "kernel") else None


def _is_papermill(shell: Any) -> bool:
    """Report whether papermill put a cell with parameters into the notebook."""
    return any(str(cell).startswith("# Parameters\n") for cell in shell.user_ns.get("In", ()))
