"""The names of the notebooks of a run, in their order."""

from __future__ import annotations

from segkit.core.models import Parameters

REVIEW, SYNC = "40_review_run", "50_sync_postgres"
_NUMBERS = {"extract_taxonomy": 10, "consolidate_taxonomy": 20, "refine_assignments": 30, "assign_products": 35}


def stage_notebooks(parameters: Parameters) -> list[str]:
    """Return the notebooks that prepare a run and work on its stages."""
    return ["00_prepare_run", *(f"{_NUMBERS[stage]}_{stage}" for stage in parameters.stages)]


def notebooks_of(parameters: Parameters) -> list[str]:
    """Return the notebooks of a run from the first to the last."""
    return [*stage_notebooks(parameters), REVIEW, SYNC]
