"""Market segments from a list of products, with a language model.

from segkit import consolidate_taxonomy, extract_taxonomy, prepare_run, refine_assignments

run = prepare_run("products.csv", "Dimmer Switches", model="offline")
extract_taxonomy(run)
consolidate_taxonomy(run)
refine_assignments(run)
run.result("taxonomies")
"""

from __future__ import annotations

import importlib
from functools import partial
from typing import TYPE_CHECKING, Any

from segkit.runs.methods import METHODS

if TYPE_CHECKING:
    from segkit.analysis.export import write_taxonomy
    from segkit.analysis.jupyter import set_up_notebook
    from segkit.core.batching import planned_calls
    from segkit.core.catalogue.load import load_products
    from segkit.core.models import Parameters
    from segkit.database.sync import products_from_postgres, read_postgres, skipped_products, sync_run
    from segkit.errors import SegkitError
    from segkit.evaluation.audit import audit
    from segkit.evaluation.compare import compare
    from segkit.evaluation.evaluate import evaluate
    from segkit.evaluation.explain.explanation import explain
    from segkit.pipeline.experiments.repeats import stability
    from segkit.pipeline.experiments.sweeps import sweep
    from segkit.pipeline.plan.estimate import estimate_run
    from segkit.pipeline.prepare import prepare_run
    from segkit.pipeline.segment import segment
    from segkit.pipeline.stages import consolidate_taxonomy, extract_taxonomy, refine_assignments
    from segkit.pipeline.summary import finish_run
    from segkit.pipeline.taxonomy.check import taxonomy_check
    from segkit.pipeline.taxonomy.report import assign_report
    from segkit.pipeline.taxonomy.stage import assign_products
    from segkit.pipeline.taxonomy.start import assign_run
    from segkit.runs.run import Run, open_run

_HOMES = {
    "Parameters": "core.models",
    "Run": "runs.run",
    "SegkitError": "errors",
    "audit": "evaluation.audit",
    "assign_products": "pipeline.taxonomy.stage",
    "assign_report": "pipeline.taxonomy.report",
    "assign_run": "pipeline.taxonomy.start",
    "compare": "evaluation.compare",
    "consolidate_taxonomy": "pipeline.stages",
    "evaluate": "evaluation.evaluate",
    "estimate_run": "pipeline.plan.estimate",
    "explain": "evaluation.explain.explanation",
    "extract_taxonomy": "pipeline.stages",
    "finish_run": "pipeline.summary",
    "load_products": "core.catalogue.load",
    "open_run": "runs.run",
    "planned_calls": "core.batching",
    "prepare_run": "pipeline.prepare",
    "products_from_postgres": "database.sync",
    "read_postgres": "database.sync",
    "refine_assignments": "pipeline.stages",
    "segment": "pipeline.segment",
    "set_up_notebook": "analysis.jupyter",
    "skipped_products": "database.sync",
    "stability": "pipeline.experiments.repeats",
    "sweep": "pipeline.experiments.sweeps",
    "sync_run": "database.sync",
    "taxonomy_check": "pipeline.taxonomy.check",
    "write_taxonomy": "analysis.export",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    # Names are loaded when they are used: `segkit --help` must not wait for pandas.
    if name not in _HOMES:
        raise AttributeError(f"module 'segkit' has no attribute {name!r}")
    return getattr(importlib.import_module(f"segkit.{_HOMES[name]}"), name)


def _call(name: str, *arguments: Any) -> Any:
    return __getattr__(name)(*arguments)


METHODS.update({name: partial(_call, name) for name in ("audit", "explain")})
