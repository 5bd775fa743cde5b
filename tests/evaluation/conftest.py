"""Runs that the tests of evaluation share, made once: they only read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from segkit.pipeline.prepare import SAMPLE, prepare_run
from segkit.pipeline.stages import consolidate_taxonomy, extract_taxonomy, refine_assignments
from segkit.runs.run import Run
from segkit.settings import Settings


def made(folder: Path, seed: int, **parameters: object) -> Run:
    """A run of the bundled sample with the offline model; its cache is in the same folder."""
    settings = Settings(segkit_home=folder / "home", _env_file=None)
    run = prepare_run(
        SAMPLE, "Coffee Makers", model="offline", seed=seed, runs_dir=folder / "runs", settings=settings, **parameters
    )
    for stage in (extract_taxonomy, consolidate_taxonomy, refine_assignments):
        stage(run, settings)
    return run


@pytest.fixture(scope="session")
def sample_runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Four runs of the sample that differ in their seed, and four with smaller batches."""
    folder = tmp_path_factory.mktemp("sample_runs")
    small = [made(folder, seed, products_per_prompt=12) for seed in range(4)]
    return [*(made(folder, seed) for seed in range(4)), *small]
