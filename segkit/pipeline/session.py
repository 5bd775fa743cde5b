"""One process at work on a run: its locks, the signals that stop it, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from segkit.database.live_status import publish_status
from segkit.errors import SegkitError, StageError, StoppedError, WaitingError
from segkit.llm.event_loop import on_stop_signals
from segkit.pipeline.summary import has_open_questions
from segkit.runs import mirror
from segkit.runs.events import log_event
from segkit.runs.ownership import claimed
from segkit.runs.run import Run
from segkit.runs.status import update_status
from segkit.settings import Settings
from segkit.storage.disk import write_atomic
from segkit.storage.locks import owned


@contextmanager
def at_work(run: Run, settings: Settings, *, sync: bool, take_over: bool) -> Iterator[None]:
    """Own a run while the block works on it; when the block ends by an error, the run is `failed` and says why."""
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
        update_status(run.folder, state="running", reason="", error="", notebook="")
        yield


def raise_if_failed(run: Run, summary: Mapping[str, Any]) -> None:
    """Raise StageError, with the command that helps, where a run ended as anything but completed."""
    if summary["state"] != "completed":
        # Only what has no answer yet is worth another try; all else has to be allowed.
        again = "" if has_open_questions(run) else " --max-unassigned N"
        raise StageError(f"{run.id} failed: {summary['reason']}", f"segkit resume {run.id}{again}")


@contextmanager
def _session(run: Run) -> Iterator[None]:
    """Work on the whole run: what is half here must not replace what is whole in S3."""
    mirror.begin_session(run.folder)
    yield


def release(run: Run) -> None:
    """Let a run go that a machine claimed which is gone."""
    with owned(run.folder / "run.lock"), claimed(run.folder, take_over=True):
        pass


@contextmanager
def _ending(run: Run, stop: Path) -> Iterator[None]:
    """Leave no run behind that says it is running when nobody works on it."""
    reason, kind = "an unexpected error", ""
    try:
        yield
        reason = ""
    except WaitingError as waiting:
        reason = ""  # the run is not over: its state stays `running`, and nobody works on it
        log_event(run.folder, "run_waits", reason=str(waiting))
        update_status(run.folder, reason=str(waiting))
        mirror.upload_all(run.folder)
        raise
    except StoppedError as error:
        stopped = _stopped_by(run, stop) or error
        reason, kind = str(stopped), type(stopped).__name__
        raise stopped from None
    except SegkitError as error:
        reason, kind = str(error), getattr(error, "cause", "") or type(error).__name__
        raise
    except KeyboardInterrupt:
        reason, kind = "stopped at once", StoppedError.__name__
        raise StoppedError(f"{run.id} was stopped at once", f"segkit resume {run.id}") from None
    finally:
        if reason:
            with suppress(SegkitError, OSError):  # where the disk fails, the first error is the one to report
                update_status(run.folder, state="failed", reason=reason, error=kind)
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
