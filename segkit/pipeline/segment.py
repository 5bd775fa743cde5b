"""A whole run in this process, without notebooks: the quick way to try a prompt again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pandas as pd

from segkit.analysis.report import write_report
from segkit.llm.cluster.scheduler import cluster_of
from segkit.pipeline.prepare import prepare_run
from segkit.pipeline.session import at_work, raise_if_failed, release
from segkit.pipeline.stages import consolidate_taxonomy, extract_taxonomy, refine_assignments
from segkit.pipeline.summary import decide_state, finish
from segkit.pipeline.taxonomy.stage import assign_products
from segkit.runs.integrity import is_finished
from segkit.runs.run import Run
from segkit.settings import Settings, load_settings

#: What does each stage.
STAGE_FUNCTIONS = {
    function.__name__: function
    for function in (extract_taxonomy, consolidate_taxonomy, refine_assignments, assign_products)
}


def segment(
    products: str | Path | pd.DataFrame = "sample",
    category: str = "Coffee Makers",
    *,
    settings: Settings | None = None,
    **options: Any,
) -> Run:
    """Segment products in one call and return the finished run; `options` are those of `prepare_run`.

    No notebook is executed and nothing is loaded into Postgres: what is in the cache takes under a second.

    Raises what `prepare_run` raises, and StageError, StoppedError or ModelError when the run ends as failed; it can
    be resumed.
    """
    settings = settings or load_settings()
    run = prepare_run(products, category, settings=settings, **options)
    run_stages(run, settings=settings)
    return run


def run_stages(
    run: Run,
    *,
    settings: Settings | None = None,
    max_unassigned: int | None = None,
    take_over: bool = False,
) -> dict[str, Any]:
    """Do the stages of a run in this process, and return its summary; a finished run is left as it is."""
    settings, began = settings or load_settings(), time.monotonic()
    if is_finished(run):
        if take_over:
            release(run)
        return run.status.summary
    with at_work(run, settings, sync=False, take_over=take_over):
        with cluster_of(settings) as joined:
            for stage in run.parameters.stages:
                STAGE_FUNCTIONS[stage](run, joined)
        decide_state(run, max_unassigned)
        write_report(run)
        summary = finish(run, time.monotonic() - began)
    raise_if_failed(run, summary)
    return summary
