"""How long answers of a model take at an endpoint: measured in the logs of earlier runs, where there are any."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from segkit.analysis.logs import COMPACTED
from segkit.core.models import STAGES, Parameters
from segkit.core.text import quantity
from segkit.errors import SegkitError
from segkit.runs.interactions import scan
from segkit.runs.run import Run, open_run, run_ids
from segkit.settings import Settings

#: As many runs are read, the newest first, and as many calls of each are enough.
_MOST_RUNS, _MOST_CALLS = 10, 2000
_ENDS = (0.25, 0.9)


@dataclass(frozen=True, slots=True)
class Durations:
    """The seconds of a call by stage, from a low to a high end, of so many calls in some runs."""

    seconds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    calls: int = 0
    runs: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.calls:
            return "time: assumed, since no run has asked this model at this endpoint yet"
        others = f" and {len(self.runs) - 1} more" if len(self.runs) > 1 else ""
        calls = quantity(self.calls, "call")
        return f"time: measured, {calls} of {self.runs[0]}{others} with this model at this endpoint"


NOTHING_MEASURED = Durations()


def measured_durations(parameters: Parameters, runs_dir: Path, settings: Settings) -> Durations:
    """Measure the paid calls of the newest runs with the same model at the same endpoint."""
    found: list[pd.DataFrame] = []
    runs: list[str] = []
    for run in _alike(parameters, runs_dir, settings):
        calls = _calls(run)
        if len(calls):
            found.append(calls)
            runs.append(run.id)
        if len(runs) >= _MOST_RUNS or sum(map(len, found)) >= _MOST_CALLS:
            break
    if not found:
        return NOTHING_MEASURED
    calls = pd.concat(found)
    ends = {
        str(stage): (float(rows.quantile(_ENDS[0])), float(rows.quantile(_ENDS[1])))
        for stage, rows in calls.groupby("stage")["seconds"]
    }
    return Durations(ends, len(calls), tuple(runs))


def _alike(parameters: Parameters, runs_dir: Path, settings: Settings) -> Iterator[Run]:
    local = settings.model_copy(update={"storage_backend": "local"})  # what only S3 has is not worth a download
    for run_id in reversed(run_ids(runs_dir, local)):
        try:
            run = open_run(run_id, runs_dir, local)
            if (run.parameters.model, run.parameters.endpoint) == (parameters.model, parameters.endpoint):
                yield run
        except (SegkitError, TypeError, KeyError):
            continue  # a run that cannot be read measures nothing


def _calls(run: Run) -> pd.DataFrame:
    """Return the paid calls of a run that were answered: `stage` and `seconds`."""
    path = run.folder / COMPACTED
    if path.exists():
        columns = ["interaction_type", "duration_ms", "money", "cached_from", "outcome"]
        frame = pd.read_parquet(path, columns=columns)
    else:
        logs = [log.metadata for stage in STAGES.values() for log in scan(run.folder / stage)[0][:_MOST_CALLS]]
        frame = pd.DataFrame(logs, columns=["interaction_type", "duration_ms", "money", "cached_from", "outcome"])
    paid = frame[(frame["money"] == "paid") & frame["cached_from"].isna() & (frame["outcome"] != "no_answer")]
    paid = paid[paid["duration_ms"] > 0]  # how long an answer in a batch took is not known
    return pd.DataFrame({"stage": paid["interaction_type"], "seconds": paid["duration_ms"].astype("float64") / 1000})
