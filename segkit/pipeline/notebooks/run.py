"""A run from its first notebook to its last, each executed by papermill into the run folder."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from segkit.analysis.report import write_report
from segkit.core.models import STAGES
from segkit.llm.cluster.scheduler import cluster_of
from segkit.pipeline.notebooks.execute import copy_of, execute_notebook, unfinished
from segkit.pipeline.notebooks.kernel import started_kernel
from segkit.pipeline.notebooks.names import REVIEW, SYNC, stage_notebooks
from segkit.pipeline.session import at_work, raise_if_failed, release
from segkit.pipeline.summary import decide_state, finish
from segkit.runs import mirror
from segkit.runs.events import log_event
from segkit.runs.integrity import is_finished, lost_logs
from segkit.runs.run import Run
from segkit.settings import Settings, load_settings, project_folder

if TYPE_CHECKING:
    from jupyter_client.manager import AsyncKernelManager


def run_notebooks(
    run: Run,
    *,
    settings: Settings | None = None,
    sync: bool = True,
    max_unassigned: int | None = None,
    take_over: bool = False,
) -> dict[str, Any]:
    """Execute the notebooks of a run in order, and return its summary.

    A finished run is left as it is. What is already answered is not asked again, so this also resumes a run; one in
    S3 that another machine seems to work on only with `take_over`. Raises StageError, StoppedError, StorageError or
    RunError when the run ends as `failed`; it can be resumed.
    """
    settings = settings or load_settings()
    if is_finished(run):
        if take_over:
            release(run)
        return run.status.summary
    began = time.monotonic()
    with at_work(run, settings, sync=sync, take_over=take_over):
        stages = stages_to_do(run)
        with (
            cluster_of(settings, needed=bool(stages)) as joined,
            started_kernel(joined.environment()) as empty_kernel,
        ):
            for name in stages:
                _execute(run, name, empty_kernel(), settings)
            decide_state(run, max_unassigned)
            _execute(run, REVIEW, empty_kernel(), settings)
            write_report(run)
            if sync:
                _execute(run, SYNC, empty_kernel(), settings)
        summary = finish(run, time.monotonic() - began)
    raise_if_failed(run, summary)
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
    for name in stage_notebooks(run.parameters):
        why = unfinished(copy_of(run, name)) if copy_of(run, name).exists() else ""
        if why:
            log_event(run.folder, "notebook_executed_again", notebook=name, why=f"{name} {why}")
        if why or everything:
            left.append(name)
    return left


def _execute(run: Run, name: str, kernel: AsyncKernelManager, settings: Settings) -> None:
    execute_notebook(run, project_folder("notebooks") / f"{name}.ipynb", kernel, settings.secrets)
    mirror.push(run.folder)


def _stages_are_done(run: Run) -> bool:
    """Tell whether every question of every stage has its answer, so that only what follows them is left."""
    stages = run.status.stages
    names = set(run.parameters.stages) - {"consolidate_taxonomy"}  # which asks nothing about a single batch
    known = {STAGES[name] for name in names} <= stages.keys()
    return known and run.has_result("ledger") and not any(stage.failed for stage in stages.values())
