"""A run from its first notebook to its last, each executed by papermill into the run folder."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from decimal import Decimal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import orjson

from segkit import errors, logs, mirror
from segkit.claiming import claimed
from segkit.errors import SegkitError, StageError, StoppedError
from segkit.events import log_event
from segkit.jupyter import quick_imports
from segkit.kernels import kernels_ahead
from segkit.live_progress import told_live
from segkit.models import OUT_OF_SCOPE
from segkit.report import write_report
from segkit.runs import Run, is_finished, reopen_run, update_status
from segkit.settings import project_folder
from segkit.storage.local import owned
from segkit.verifying import seal_folder

if TYPE_CHECKING:
    from jupyter_client.manager import AsyncKernelManager

STAGE_NOTEBOOKS = ("00_prepare_run", "10_extract_taxonomy", "20_consolidate_taxonomy", "30_refine_assignments")
REVIEW, SYNC = "40_review_run", "50_sync_postgres"


def run_notebooks(
    run: Run, *, sync: bool = True, max_unassigned: int | None = None, take_over: bool = False
) -> dict[str, Any]:
    """Execute the notebooks of a run in order, and give its summary.

    A finished run is left as it is. What is already answered is not asked again, so this also resumes a run; one in
    S3 that another machine seems to work on only with `take_over`. Raises StageError, StoppedError, StorageError or
    RunError when the run ends as `failed`; it can be resumed.
    """
    if is_finished(run):
        if take_over:
            _release(run)
        return dict(run.status["summary"])
    began = time.monotonic()
    with (
        owned(run.folder / "run.lock"),
        claimed(run.folder, take_over=take_over),
        _all_here(run),
        told_live(run, wanted=sync),
        _stoppable(run),
        _ending(run),
    ):
        log_event(run.folder, "run_started")
        # What a life before this one worked on is no progress of this one.
        update_status(run.folder, state="running", reason="", notebook="")
        stages = () if _stages_are_done(run) else STAGE_NOTEBOOKS
        with kernels_ahead(len(stages) + 1 + sync) as next_kernel:
            for name in stages:
                execute_notebook(run, name, next_kernel())
            settle(run, max_unassigned)
            execute_notebook(run, REVIEW, next_kernel())
            write_report(run, run.folder / "notebooks" / f"{REVIEW}.ipynb")
            if sync:
                execute_notebook(run, SYNC, next_kernel())
        summary = finish(run, time.monotonic() - began)
    if summary["state"] != "completed":
        # Only what has no answer yet is worth another try; all else has to be allowed.
        again = "" if "endpoint: " in summary["reason"] else " --max-unassigned N"
        raise StageError(f"{run.id} failed: {summary['reason']}", f"segkit resume {run.id}{again}")
    return summary


def execute_notebook(run: Run, name: str, kernel: AsyncKernelManager) -> None:
    """Execute one notebook into the run folder; its copy is kept whatever happens, with the error if there is one."""
    with quick_imports():
        import papermill
        from nbclient.exceptions import CellTimeoutError, DeadKernelError

    source, target = project_folder("notebooks") / f"{name}.ipynb", run.folder / "notebooks" / f"{name}.ipynb"
    parameters = {
        "run_id" if name == STAGE_NOTEBOOKS[0] else "run": run.id,
        "runs_dir": str(run.folder.parent.resolve()),
    }
    _check_parameters(papermill.inspect_notebook(str(source)), parameters, source)
    update_status(run.folder, notebook=name)
    try:
        papermill.execute_notebook(
            str(source),
            str(target),
            parameters=parameters,
            kernel_name="python3",
            progress_bar=False,
            km=kernel,
        )
    except papermill.PapermillExecutionError as error:
        raise _mapped(run, name, error.cell_index, error.ename, error.evalue) from None
    except (DeadKernelError, CellTimeoutError) as error:
        raise StageError(f"{name}: {error}", f"segkit resume {run.id}") from None
    _check_executed(run, target)
    mirror.push(run.folder)


def settle(run: Run, max_unassigned: int | None = None) -> dict[str, Any]:
    """Decide from the ledger what state the run is in, and write its summary."""
    ledger = run.result("ledger")
    counts = ledger["state"].value_counts()
    unassigned = int(counts.get("unassigned", 0))
    allowed = run.parameters.max_unassigned if max_unassigned is None else max_unassigned
    whole = len(ledger) == run.document["input"]["products"] and ledger["product_id"].is_unique
    reason = "" if whole else "the ledger does not hold every product once"
    if unassigned > allowed:
        reasons = ledger.loc[ledger["state"] == "unassigned", "reason"].value_counts()
        told = "; ".join(f"{count} × {why}" for why, count in reasons.head(3).items())
        reason = f"{unassigned} products are unassigned, {allowed} are allowed ({told})"
    state = "failed" if reason else "completed"
    summary = summarise(run, state, reason)
    update_status(run.folder, state=state, reason=reason, processed=len(ledger) - unassigned, summary=summary)
    return summary


def summarise(run: Run, state: str, reason: str) -> dict[str, Any]:
    """Sum up a run: products by state, categories, calls, tokens, cost and seconds, as JSON can hold them."""
    counts = run.result("ledger")["state"].value_counts()
    taxonomies = run.result("taxonomies")
    stages = run.status.get("stages", {})

    def total(name: str) -> int:
        return sum(int(stage[name]) for stage in stages.values())

    cost = sum((Decimal(stage["cost_usd"]) for stage in stages.values()), Decimal(0))
    figures = ("calls", "cached", "retries", "input_tokens", "cached_tokens", "output_tokens", "unknown_usage")
    named = taxonomies["category_name"] != OUT_OF_SCOPE
    return {
        "run_id": run.id,
        "state": state,
        "reason": reason,
        "model": run.parameters.model,
        "prompts": run.parameters.prompts,
        "products": int(counts.sum()),
        "categories": int((named & (taxonomies["product_count"] > 0)).sum()),
        "out_of_scope": int(counts.get("out_of_scope", 0)),
        "unassigned": int(counts.get("unassigned", 0)),
        **{name: total(name) for name in figures},
        "cost_usd": None if total("unknown_cost") else str(cost),
        "stage_seconds": {name: stage["seconds"] for name, stage in stages.items()},
        "problems": [problem for stage in stages.values() for problem in stage["problems"]],
    }


def finish(run: Run, seconds: float) -> dict[str, Any]:
    """Close a run: its logs become one Parquet file, and every file gets a checksum."""
    logs.compact(run)
    summary = {**run.status["summary"], "seconds": round(seconds, 1)}
    status = update_status(run.folder, stage="finished", notebook="", summary=summary)
    log_event(run.folder, "run_ended", state=status["state"], seconds=summary["seconds"])
    seal_folder(run)
    mirror.seal(run.folder)
    return summary


@contextmanager
def _all_here(run: Run) -> Iterator[None]:
    """Bring a run here before anything is written: what is half here must not replace what is whole in S3."""
    reopen_run(run)
    yield


def _release(run: Run) -> None:
    """Let a run go that a machine claimed which is gone."""
    with owned(run.folder / "run.lock"), claimed(run.folder, take_over=True):
        pass


@contextmanager
def _ending(run: Run) -> Iterator[None]:
    """Leave no run behind that says it is running when nobody works on it."""
    reason = "an unexpected error"
    try:
        yield
        reason = ""
    except SegkitError as error:
        reason = str(error)
        raise
    except KeyboardInterrupt:
        reason = "stopped at once"
        raise StoppedError(f"{run.id} was stopped at once", f"segkit resume {run.id}") from None
    finally:
        if reason:
            with suppress(SegkitError, OSError):  # where the disk fails, the first error is the one to tell
                update_status(run.folder, state="failed", reason=reason)
                log_event(run.folder, "run_failed", reason=reason)
                mirror.seal(run.folder)


@contextmanager
def _stoppable(run: Run) -> Iterator[None]:
    """Let the first interrupt ask the run to stop, and the second one stop it at once."""
    stop = run.folder / "stop"
    stop.unlink(missing_ok=True)

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        if stop.exists():
            raise KeyboardInterrupt
        stop.touch()

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    before = signal.signal(signal.SIGINT, ask_to_stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        stop.unlink(missing_ok=True)


def _stages_are_done(run: Run) -> bool:
    """Tell whether every question of every stage has its answer, so that only what follows them is left."""
    stages = run.status.get("stages", {})
    return run.has_result("ledger") and not any(stage["failed"] for stage in stages.values())


def _check_parameters(known: Mapping[str, Any], given: Mapping[str, Any], source: Path) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise StageError(f"{source} has no parameters {', '.join(unknown)}", "its `parameters` cell must name them")


def _check_executed(run: Run, target: Path) -> None:
    """Believe no exit code: a notebook is done when each of its code cells was executed without an error."""
    cells = [cell for cell in orjson.loads(target.read_bytes())["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells, start=1):
        if "".join(cell["source"]).strip() and cell.get("execution_count") is None:
            raise StageError(f"{target.stem} ended before its code cell {number}", f"segkit resume {run.id}")


def _mapped(run: Run, name: str, cell: int, kind: str, text: str) -> SegkitError:
    """Turn the error of a cell into one line that names the notebook and the cell."""
    told = text if kind in vars(errors) else f"{kind}: {text}"
    hint = "" if f"segkit resume {run.id}" in told else f"segkit resume {run.id}"
    what = StoppedError if kind == "StoppedError" else StageError
    return what(f"{name}, cell {cell + 1}: {told}", hint)
