"""A run from its first notebook to its last, each executed by papermill into the run folder."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

from segkit.analysis import logs
from segkit.analysis.report import write_report
from segkit.core.models import OUT_OF_SCOPE, STAGES
from segkit.database.live_status import publish_status
from segkit.errors import SegkitError, StageError, StoppedError
from segkit.pipeline.execute import copy_of, execute_notebook, unfinished
from segkit.pipeline.kernels import kernels_ahead
from segkit.runs import mirror
from segkit.runs.events import log_event
from segkit.runs.integrity import is_finished, lost_logs, seal_folder
from segkit.runs.ownership import claimed
from segkit.runs.run import Run, reopen_run
from segkit.runs.status import update_status
from segkit.settings import Settings, load_settings, project_folder
from segkit.storage.locks import owned

if TYPE_CHECKING:
    from jupyter_client.manager import AsyncKernelManager

STAGE_NOTEBOOKS = ("00_prepare_run", "10_extract_taxonomy", "20_consolidate_taxonomy", "30_refine_assignments")
REVIEW, SYNC = "40_review_run", "50_sync_postgres"


def run_notebooks(
    run: Run,
    *,
    settings: Settings | None = None,
    sync: bool = True,
    max_unassigned: int | None = None,
    take_over: bool = False,
) -> dict[str, Any]:
    """Execute the notebooks of a run in order, and give its summary.

    A finished run is left as it is. What is already answered is not asked again, so this also resumes a run; one in
    S3 that another machine seems to work on only with `take_over`. Raises StageError, StoppedError, StorageError or
    RunError when the run ends as `failed`; it can be resumed.
    """
    settings = settings or load_settings()
    if is_finished(run):
        if take_over:
            _release(run)
        return run.status.summary
    began = time.monotonic()
    with (
        owned(run.folder / "run.lock"),
        claimed(run.folder, take_over=take_over),
        _all_here(run),
        publish_status(run, wanted=sync),
        _stoppable(run),
        _ending(run),
    ):
        log_event(run.folder, "run_started")
        # What a life before this one worked on is no progress of this one.
        update_status(run.folder, state="running", reason="", notebook="")
        stages = stages_to_do(run)
        with kernels_ahead(len(stages) + 1 + sync, settings.environment()) as next_kernel:
            for name in stages:
                _execute(run, name, next_kernel())
            settle(run, max_unassigned)
            _execute(run, REVIEW, next_kernel())
            write_report(run, copy_of(run, REVIEW))
            if sync:
                _execute(run, SYNC, next_kernel())
        summary = finish(run, time.monotonic() - began)
    if summary["state"] != "completed":
        # Only what has no answer yet is worth another try; all else has to be allowed.
        again = "" if "endpoint: " in summary["reason"] else " --max-unassigned N"
        raise StageError(f"{run.id} failed: {summary['reason']}", f"segkit resume {run.id}{again}")
    return summary


def stages_to_do(run: Run) -> list[str]:
    """Name the notebooks of the stages that are not done; one whose copy is not whole is executed again, unpaid.

    The logs decide: where one is lost that a finished run had, or the status does not know what was done, every stage
    looks again at what it has.
    """
    lost = lost_logs(run)
    if lost:
        log_event(run.folder, "logs_lost", count=len(lost), files=lost[:20])
    everything, left = bool(lost) or not _stages_are_done(run), []
    for name in STAGE_NOTEBOOKS:
        why = unfinished(copy_of(run, name)) if copy_of(run, name).exists() else ""
        if why:
            log_event(run.folder, "notebook_executed_again", notebook=name, why=f"{name} {why}")
        if why or everything:
            left.append(name)
    return left


def _execute(run: Run, name: str, kernel: AsyncKernelManager) -> None:
    execute_notebook(run, project_folder("notebooks") / f"{name}.ipynb", kernel)
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
    status = run.status
    total = status.total
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
        "calls": total.calls,
        "cached": total.cached,
        "retries": total.retries,
        "input_tokens": total.input_tokens,
        "cached_tokens": total.cached_tokens,
        "output_tokens": total.output_tokens,
        "unknown_usage": total.unmetered,
        "cost_usd": None if total.unpriced else str(total.cost_usd),
        "stage_seconds": {name: stage.seconds for name, stage in status.stages.items()},
        "problems": total.problems,
    }


def finish(run: Run, seconds: float) -> dict[str, Any]:
    """Close a run: its logs become one Parquet file, and every file gets a checksum."""
    logs.compact(run)
    summary = {**run.status.summary, "seconds": round(seconds, 1)}
    status = update_status(run.folder, stage="finished", notebook="", summary=summary)
    log_event(run.folder, "run_ended", state=status.state, seconds=summary["seconds"])
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
    stages = run.status.stages
    known = {STAGES[name] for name in ("extract_taxonomy", "refine_assignments")} <= stages.keys()
    return known and run.has_result("ledger") and not any(stage.failed for stage in stages.values())
