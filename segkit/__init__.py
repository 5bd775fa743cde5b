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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segkit.errors import SegkitError
    from segkit.jupyter import set_up_notebook
    from segkit.preparing import planned_calls, prepare_run
    from segkit.products import load_products
    from segkit.runs import Parameters, Run, open_run
    from segkit.stages import consolidate_taxonomy, extract_taxonomy, refine_assignments
    from segkit.syncing import products_from_postgres, read_postgres, skipped_products, sync_run

_HOMES = {
    "Parameters": "runs",
    "Run": "runs",
    "SegkitError": "errors",
    "consolidate_taxonomy": "stages",
    "extract_taxonomy": "stages",
    "load_products": "products",
    "open_run": "runs",
    "planned_calls": "preparing",
    "prepare_run": "preparing",
    "products_from_postgres": "syncing",
    "read_postgres": "syncing",
    "refine_assignments": "stages",
    "set_up_notebook": "jupyter",
    "skipped_products": "syncing",
    "sync_run": "syncing",
}
__all__ = [
    "Parameters",
    "Run",
    "SegkitError",
    "consolidate_taxonomy",
    "extract_taxonomy",
    "load_products",
    "open_run",
    "planned_calls",
    "prepare_run",
    "products_from_postgres",
    "read_postgres",
    "refine_assignments",
    "set_up_notebook",
    "skipped_products",
    "sync_run",
]


def __getattr__(name: str) -> Any:
    # Names are loaded when they are used: `segkit --help` must not wait for pandas.
    if name not in _HOMES:
        raise AttributeError(f"module 'segkit' has no attribute {name!r}")
    return getattr(importlib.import_module(f"segkit.{_HOMES[name]}"), name)
