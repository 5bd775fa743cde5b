"""A run from its first notebook to its last, each executed by papermill into the run folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkit.analysis.report import write_report
from segkit.core.models import STAGES
from segkit.database.live_status import publish_status
from segkit.errors import SegkitError, StageError, StoppedError
from segkit.llm.event_loop import on_stop_signals
from segkit.pipeline.execute import copy_of, execute_notebook, unfinished
from segkit.pipeline.kernels import kernels_ahead
from segkit.pipeline.summary import decide_state, finish, has_open_questions
from segkit.runs import mirror
from segkit.runs.events import log_event
from segkit.runs.integrity import is_finished, lost_logs
from segkit.runs.ownership import claimed
from segkit.runs.run import Run
from segkit.runs.status import update_status
from segkit.settings import Settings, load_settings, project_folder
from segkit.storage.disk import write_atomic
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
        _session(run),
        publish_status(run, wanted=sync, settings=settings),
        _stoppable(run) as stop,
        _ending(run, stop),
    ):
        log_event(run.folder, "run_started")
        # Reset the progress left by an earlier session.
        update_status(run.folder, state="running", reason="", notebook="")
        stages = stages_to_do(run)
        with kernels_ahead(len(stages) + 1 + sync, settings.environment()) as next_kernel:
            for name in stages:
                _execute(run, name, next_kernel(), settings)
            decide_state(run, max_unassigned)
            _execute(run, REVIEW, next_kernel(), settings)
            write_report(run, copy_of(run, REVIEW))
            if sync:
                _execute(run, SYNC, next_kernel(), settings)
        summary = finish(run, time.monotonic() - began)
    if summary["state"] != "completed":
        # Only what has no answer yet is worth another try; all else has to be allowed.
        again = "" if has_open_questions(run) else " --max-unassigned N"
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


def _execute(run: Run, name: str, kernel: AsyncKernelManager, settings: Settings) -> None:
    execute_notebook(run, project_folder("notebooks") / f"{name}.ipynb", kernel, settings.secrets)
    mirror.push(run.folder)


@contextmanager
def _session(run: Run) -> Iterator[None]:
    """Work on the whole run: what is half here must not replace what is whole in S3."""
    mirror.begin_session(run.folder)
    yield


def _release(run: Run) -> None:
    """Let a run go that a machine claimed which is gone."""
    with owned(run.folder / "run.lock"), claimed(run.folder, take_over=True):
        pass


@contextmanager
def _ending(run: Run, stop: Path) -> Iterator[None]:
    """Leave no run behind that says it is running when nobody works on it."""
    reason = "an unexpected error"
    try:
        yield
        reason = ""
    except StoppedError as error:
        stopped = _stopped_by(run, stop) or error
        reason = str(stopped)
        raise stopped from None
    except SegkitError as error:
        reason = str(error)
        raise
    except KeyboardInterrupt:
        reason = "stopped at once"
        raise StoppedError(f"{run.id} was stopped at once", f"segkit resume {run.id}") from None
    finally:
        if reason:
            with suppress(SegkitError, OSError):  # where the disk fails, the first error is the one to report
                update_status(run.folder, state="failed", reason=reason)
                log_event(run.folder, "run_failed", reason=reason)
                mirror.upload_all(run.folder)


def _stopped_by(run: Run, stop: Path) -> StoppedError | None:
    """Return an error that names the signal which stopped the run, if it was one."""
    name = stop.read_text(encoding="utf-8") if stop.exists() else ""
    message = f"{run.id} was stopped by {name}; all answers so far are saved"
    return StoppedError(message, f"segkit resume {run.id}") if name else None


@contextmanager
def _stoppable(run: Run) -> Iterator[Path]:
    """Let the first signal ask the run to stop, and the second one stop it at once.

    Yields the file `stop`, which the kernel that asks looks for; it holds the name of the signal.
    """
    stop = run.folder / "stop"
    stop.unlink(missing_ok=True)
    try:
        with on_stop_signals(lambda name: write_atomic(stop, name.encode())):
            yield stop
    finally:
        stop.unlink(missing_ok=True)


def _stages_are_done(run: Run) -> bool:
    """Tell whether every question of every stage has its answer, so that only what follows them is left."""
    stages = run.status.stages
    known = {STAGES[name] for name in ("extract_taxonomy", "refine_assignments")} <= stages.keys()
    return known and run.has_result("ledger") and not any(stage.failed for stage in stages.values())
