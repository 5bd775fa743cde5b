"""When a run will be done: from the questions it has answered, and for the rest from its plan."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pandas as pd

from segkit.core.batching import batches_by_first_run, calls_of, consolidation_rounds, reading_rounds
from segkit.core.catalogue.entries import product_entries
from segkit.core.models import Parameters
from segkit.errors import SegkitError
from segkit.pipeline.notebooks.names import notebooks_of
from segkit.pipeline.plan.estimate import plan_run
from segkit.pipeline.plan.walk import batches_read
from segkit.runs.run import Run, open_run
from segkit.runs.status import StageFigures, Status
from segkit.service.workers import Workers
from segkit.settings import Settings

_FEW_BATCHES = 5
_NOTEBOOK_SECONDS = (0.5, 2.0, 10.0)  # what a notebook takes beside its questions: least, usual, most
_KEPT = 2048  # forecasts in memory


@dataclass(frozen=True, slots=True)
class Forecast:
    """The plan of a run: for each stage the questions of each round, and the seconds for `at_once` of them.

    `notebooks` are those of the run, in their order.
    """

    rounds: dict[str, tuple[int, ...]]
    wave_seconds: dict[str, float]
    at_once: int
    notebooks: tuple[str, ...]


class Forecasts:
    """Forecasts of runs, each made once, one at a time, in a thread that nobody waits for."""

    def __init__(self, runs_dir: Path, settings: Settings, workers: Workers) -> None:
        self._runs_dir, self._settings, self._workers = runs_dir, settings, workers
        self._made: OrderedDict[str, Forecast | None] = OrderedDict()
        self._lock, self._planner = threading.Lock(), ThreadPoolExecutor(1, "planner")

    def completion(self, run_id: str, status: Status) -> datetime | None:
        """Estimate when a run that works will be done; None until its forecast is made."""
        with self._lock:
            if run_id not in self._made:
                self._made[run_id] = None
                self._planner.submit(self._make, run_id, status.products or 0)
                while len(self._made) > _KEPT:
                    self._made.popitem(last=False)
            made = self._made[run_id]
        return estimated_completion(status, made, _began(self._runs_dir / run_id)) if made else None

    def close(self) -> None:
        """Abandon the forecasts that are not made yet."""
        self._planner.shutdown(wait=False, cancel_futures=True)

    def _make(self, run_id: str, products: int) -> None:
        """Make the forecast of a run; a run whose folder is damaged has none, and reports that itself."""
        with suppress(SegkitError, OSError, BrokenExecutor):
            run = open_run(run_id, self._runs_dir, self._settings)
            self._made[run_id] = self._workers.call(forecast, run, self._settings, products=products)


def forecast(run: Run, settings: Settings) -> Forecast:
    """Plan a run for its estimates: the questions of each round, and seconds as a few batches are planned."""
    parameters, products, at_once = run.parameters, run.products, settings.segkit_concurrency
    # Planning renders prompts; those of all products would keep a service from answering.
    few = products.head(_FEW_BATCHES * min(parameters.products_per_prompt, parameters.products_per_refinement))
    plan = plan_run(few, run.prompts, parameters, settings).set_index("stage")
    low, high = (plan[name].clip(lower=0.05) for name in ("seconds_low", "seconds_high"))
    sample = _rounds(few, parameters)
    waves = {
        stage: math.sqrt(low[stage] * high[stage]) / max(_waves(sample[stage], 0, at_once), 1.0) for stage in sample
    }
    return Forecast(_rounds(products, parameters), waves, at_once, tuple(notebooks_of(parameters)))


def _rounds(products: pd.DataFrame, parameters: Parameters) -> dict[str, tuple[int, ...]]:
    """Count the questions of each round of each stage; a sample that may grow is taken to be enough at once."""
    entries = product_entries(products, parameters)
    last = sum(batches_by_first_run(entries, parameters.products_per_assignment))
    assign: dict[str, tuple[int, ...]] = {"assign_products": (last,)}
    if parameters.taxonomy:
        return assign
    if parameters.extract_sample:
        read = batches_read(products, parameters)[0]
        merges = tuple(calls_of([sizes]) for sizes in reading_rounds(read, parameters))
        return {"segmentation": (read,), "consolidate_taxonomy": merges, **assign}
    batches = batches_by_first_run(entries, parameters.products_per_prompt)
    rounds = consolidation_rounds(batches, parameters.taxonomies_per_consolidation)
    return {
        "segmentation": (sum(batches),),
        "consolidate_taxonomy": tuple(calls_of([sizes]) for sizes in rounds),
        "refine_assignments": (sum(batches_by_first_run(entries, parameters.products_per_refinement)),),
    }


def estimated_completion(
    status: Status, planned: Forecast, began: datetime | None = None, now: datetime | None = None
) -> datetime:
    """Estimate when a run that works will be done, from its `status.json`.

    As soon as the first questions are answered, this is right within a factor of two of the time that is left, and
    five seconds: stages that have not begun take as long a question as the last one did, corrected halfway by what
    the plan says of both. `began` is when its process began.
    """
    now = now or datetime.now(UTC)
    written = _moment(status.updated_at) or now
    left, correction = 0.0, 1.0
    for stage, rounds in planned.rounds.items():
        figures, plan = status.stages.get(stage, StageFigures()), planned.wave_seconds[stage]
        done = min(figures.done, sum(rounds))
        wave = plan * correction
        if done:
            wave = figures.seconds / _waves_done(rounds, done, planned.at_once)
            correction = math.sqrt(wave / plan) if plan else 1.0
        left += wave * _waves(rounds, done, planned.at_once)
    left += _notebooks_left(status, planned.notebooks, began, written)
    return max(written + timedelta(seconds=left), now + timedelta(seconds=1))


def _waves(rounds: tuple[int, ...], done: int, at_once: int) -> float:
    """Count how often `at_once` questions have to be answered for what is left; a round waits for the one before."""
    waves = 0.0
    for size in rounds:
        left = max(0, size - done)
        begun = left < size
        done = max(0, done - size)
        if left:
            waves += max(0.5 if begun else 1.0, left / at_once)
    return waves


def _waves_done(rounds: tuple[int, ...], done: int, at_once: int) -> float:
    waves = 0.0
    for size in rounds:
        part = min(size, done)
        done -= part
        if part:
            waves += max(1.0, part / at_once)
    return waves


def _notebooks_left(status: Status, notebooks: Sequence[str], began: datetime | None, written: datetime) -> float:
    """Estimate the seconds that notebooks take beside their questions, for tables and plots."""
    least, usual, most = _NOTEBOOK_SECONDS
    position = notebooks.index(status.notebook) if status.notebook in notebooks else 0
    each = usual
    if began and position >= 2:
        asked = status.total.seconds
        each = min(most, max(least, ((written - began).total_seconds() - asked) / position))
    return each * (len(notebooks) - position - 0.5)


def _began(folder: Path) -> datetime | None:
    """Return when the process that owns a run began, from its lock."""
    try:
        since = datetime.fromisoformat(orjson.loads((folder / "run.lock").read_bytes())["since"])
    except (OSError, ValueError, LookupError):
        return None
    return since.replace(tzinfo=since.tzinfo or UTC)


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
