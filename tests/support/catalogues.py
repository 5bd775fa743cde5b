"""Catalogues, runs and values that several test modules share."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest

from segkit.pipeline.prepare import prepare_run
from segkit.pipeline.stages import consolidate_taxonomy, extract_taxonomy, refine_assignments
from segkit.runs.run import Run
from segkit.settings import Settings

DATA = Path(__file__).parents[3] / "shared" / "data"
KEY = "sk-test-9f8e7d6c5b4a-not-a-real-key"


def catalogue(count: int) -> pd.DataFrame:
    kinds = ("kettle", "toaster", "ladle", "whisk")
    titles = [f"Solid number {i} {kinds[i % len(kinds)]}" for i in range(count)]
    return pd.DataFrame({"product_id": range(100, 100 + count), "title": titles})


def answered_offline(place: Path) -> Run:
    """A run of twenty products in which every question is answered by the offline model; `place` holds its cache."""
    settings = Settings(segkit_home=place / "home", segmentation_products_per_prompt=5)
    run = prepare_run(catalogue(20), "Kitchen Things", model="offline", runs_dir=place, settings=settings)
    for stage in (extract_taxonomy, consolidate_taxonomy, refine_assignments):
        stage(run, settings)
    return run


def unmeasured(**more: str) -> dict[str, str]:
    """The environment for a child whose coverage adds nothing to what is measured elsewhere, and costs a third."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")} | more


def data(name: str) -> Path:
    """A real catalogue; the test is skipped where it is absent."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not in ../shared/data")
    return path
