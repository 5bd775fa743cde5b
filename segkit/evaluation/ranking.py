"""Settings of a sweep in figures: scores by setting and seed, differences that are paired by seed, and prices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy  # see `statistics`

from segkit.core.models import OUT_OF_SCOPE
from segkit.errors import InputError, RunError
from segkit.evaluation.agreement import agreement_matrix, placements
from segkit.evaluation.labels import labels_of
from segkit.evaluation.scores import SCORES
from segkit.evaluation.statistics import (
    Estimate,
    Numbers,
    blocked_error,
    holm,
    jackknife,
    jackknife_test,
    outdone,
    selection_optimism,
)
from segkit.runs.run import Run

BY_LABELS = ("ami", "b_cubed", "harmonic_purity")
STABILITY = "stability"
LEVEL = 0.05
FIRST_ROUND, HALVING_LEVEL = 2, 0.01


@dataclass(frozen=True, slots=True)
class Ended:
    """Why a setting was not run further: its p against the best by then, and the half width of a difference."""

    p_value: float
    half: float


@dataclass(frozen=True)
class Setting:
    """Values of the parameters that vary, the finished runs with them, and why others failed or were not made."""

    values: Mapping[str, Any]
    runs: Sequence[Run]
    failures: Sequence[str] = ()
    ended: Ended | None = None

    @property
    def label(self) -> str:
        """The setting as it is typed: `prompts=v1 products_per_prompt=20`."""
        return " ".join(f"{name}={value}" for name, value in self.values.items())


class SweepScores:
    """The scores of all runs, by setting and seed: of a metric, `value` gives the mean over some seeds."""

    def __init__(
        self, settings: Sequence[Setting], labels: str | Path | pd.DataFrame | None, label_column: str
    ) -> None:
        self._settings = settings
        self._runs = [{run.parameters.seed: run for run in setting.runs} for setting in settings]
        first = next((run for runs in self._runs for run in runs.values()), None)
        if first is None:
            raise RunError("no run of the sweep has finished", "type the command again, or see segkit runs")
        self.seeds = sorted({seed for runs in self._runs for seed in runs})
        self.products = int(first.document["input"]["products"])
        self._placed = [{seed: placements(run) for seed, run in runs.items()} for runs in self._runs]
        known = labels_of(first, labels, label_column) if labels is not None or label_column else None
        self.label_source = known.source if known else ""
        self.metrics = (*BY_LABELS, STABILITY) if known else (STABILITY,)
        self._truth = known.names if known else None
        self._matrices = [self._matrix(placed) for placed in self._placed]
        self._by_labels = {name: self._scored(name, slice(None)) for name in self.metrics if name != STABILITY}

    def seeds_of(self, *numbers: int) -> list[int]:
        """Return the seeds for which all of these settings have a finished run."""
        return sorted(set.intersection(*(set(self._runs[number]) for number in numbers)))

    def value(self, metric: str, number: int, seeds: Sequence[int]) -> float:
        """Return the mean of a metric over seeds; not a number where there are too few."""
        if metric != STABILITY:
            return float(self._by_labels[metric][number].reindex(list(seeds)).mean()) if seeds else float("nan")
        if len(seeds) < 2:
            return float("nan")
        matrix = self._matrices[number].loc[list(seeds), list(seeds)].to_numpy()
        return float(matrix[np.triu_indices(len(seeds), 1)].mean())

    def estimate(self, metric: str, number: int) -> Estimate:
        """Return a metric of one setting with its interval over runs."""
        return self._jackknifed(self.seeds_of(number), lambda seeds: self.value(metric, number, seeds))[0]

    def difference(self, metric: str, first: int, second: int) -> tuple[Estimate, list[float]]:
        """Return the first setting minus the second, paired by seed, and the same without each seed."""
        return self._jackknifed(
            self.seeds_of(first, second),
            lambda seeds: self.value(metric, first, seeds) - self.value(metric, second, seeds),
        )

    def optimism(self, metric: str, best: int) -> float | None:
        """Return the optimism of having chosen the best, over seeds and halves of the labels; None for stability."""
        if self._truth is None or metric == STABILITY:
            return None
        numbers = [i for i, runs in enumerate(self._runs) if runs and self._settings[i].ended is None]
        seeds = self.seeds_of(*numbers)
        half = np.random.default_rng(0).permutation(len(self._truth)) % 2 == 0
        parts = [self._scored(metric, mask) for mask in (half, ~half)]
        cells = np.array([[[part[i][seed] for part in parts] for seed in seeds] for i in numbers])
        return selection_optimism(cells, numbers.index(best)) if cells.size else None

    def _jackknifed(
        self, seeds: Sequence[int], value: Callable[[Sequence[int]], float]
    ) -> tuple[Estimate, list[float]]:
        left_out = [value([each for each in seeds if each != seed]) for seed in seeds] if len(seeds) > 1 else []
        left_out = left_out if np.isfinite(left_out).all() else []
        estimate = jackknife(value(seeds), left_out, "runs")
        return Estimate(estimate.value, estimate.low, estimate.high, len(seeds), "runs"), left_out

    def _scored(self, metric: str, part: Any) -> list[pd.Series]:
        """Return a score of each setting's runs, by seed, on some of the labels."""
        assert self._truth is not None
        truth = self._truth[part]
        return [
            pd.Series(
                {seed: SCORES[metric](truth, found[truth.index]) for seed, found in placed.items()}, dtype=float
            )
            for placed in self._placed
        ]

    @staticmethod
    def _matrix(placed: Mapping[int, pd.Series]) -> pd.DataFrame:
        matrix: Numbers = agreement_matrix(list(placed.values())) if placed else np.empty((0, 0))
        return pd.DataFrame(matrix, index=list(placed), columns=list(placed))


def ended_after(
    settings: Sequence[Setting], labels: str | Path | pd.DataFrame | None, label_column: str, by: str = ""
) -> dict[int, Ended]:
    """Return the settings, by number, that cannot be the best after these runs; never the first, the baseline.

    The level is 1 %, so that with the tests at the end the best one is held in 95 of 100 sweeps.
    """
    scores = SweepScores(settings, labels, label_column)
    by = by or scores.metrics[0]
    if by == STABILITY:
        raise InputError("two repeats cannot end a setting by stability", "--label-column COLUMN, or no --halving")
    whole = [number for number in range(len(settings)) if len(scores.seeds_of(number)) == len(scores.seeds)]
    table = np.array([[scores.value(by, number, [seed]) for seed in scores.seeds] for number in whole])
    if len(whole) < 2 or len(scores.seeds) < 2:
        return {}
    error, freedom = blocked_error(table)
    half = float(scipy.special.stdtrit(freedom, 0.975)) * error
    found = outdone(table, HALVING_LEVEL)
    return {whole[row]: Ended(p, half) for row, p in found.items() if whole[row]}


def ranking(settings: Sequence[Setting], scores: SweepScores, by: str, best: int) -> pd.DataFrame:
    rows = [_figures(setting, scores, number) for number, setting in enumerate(settings)]
    _add_differences(settings, rows, scores, by, best)
    frame = pd.DataFrame(rows)
    frame["pareto"] = _front(frame, by)
    # The best comes first, also where another has the same score; what was ended stands behind what was not.
    place = [2 if setting.ended else int(number != best) for number, setting in enumerate(settings)]
    order = frame.assign(_place=place).sort_values(
        ["_place", by], ascending=[True, False], kind="stable", ignore_index=True
    )
    return order.drop(columns="_place")


def _figures(setting: Setting, scores: SweepScores, number: int) -> dict[str, Any]:
    row: dict[str, Any] = {"setting": setting.label, "runs": len(setting.runs)}
    for name in scores.metrics:
        estimate = scores.estimate(name, number)
        row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return row | _spent(setting.runs)


def _spent(runs: Sequence[Run]) -> dict[str, float | None]:
    """Return the mean categories, calls and dollars of runs, as if nothing had been in the cache."""
    if not runs:
        return {"categories": None, "calls": None, "cost_usd": None}
    totals = [run.status.total for run in runs]
    counts = [run.result("taxonomies") for run in runs]
    named = [int(((t["category_name"] != OUT_OF_SCOPE) & (t["product_count"] > 0)).sum()) for t in counts]
    unknown = any(total.unpriced or total.saved_unpriced for total in totals)
    return {
        "categories": float(np.mean(named)),
        "calls": float(np.mean([total.calls + total.cached for total in totals])),
        "cost_usd": None if unknown else float(np.mean([total.cost_usd + total.saved_usd for total in totals])),
    }


def _add_differences(
    settings: Sequence[Setting], rows: list[dict[str, Any]], scores: SweepScores, by: str, best: int
) -> None:
    """Add how far each setting is from the best and from the baseline, with intervals and Holm's p values."""
    ranked = [i for i, row in enumerate(rows) if np.isfinite(row[by]) and settings[i].ended is None]
    below: dict[int, float] = {}
    above: dict[int, float] = {}
    for number, row in enumerate(rows):
        gap, gap_left = scores.difference(by, number, best)
        gain, gain_left = scores.difference(by, number, 0)
        row |= {"difference": gap.value, "difference_low": gap.low, "difference_high": gap.high}
        row |= {"to_baseline": gain.value, "to_baseline_low": gain.low, "to_baseline_high": gain.high}
        if number in ranked and number != best:
            # One side only: the highest can at most be worse than it looks.
            below[number] = jackknife_test(-gap.value, [-value for value in gap_left])
        if number in ranked and number != 0:
            side = 1 if gain.value >= 0 else -1
            above[number] = min(1.0, 2 * jackknife_test(side * gain.value, [side * value for value in gain_left]))
    corrected = dict(zip(below, holm(list(below.values())), strict=True)) if below else {}
    to_baseline = dict(zip(above, holm(list(above.values())), strict=True)) if above else {}
    for number, row in enumerate(rows):
        row["p_value"] = corrected.get(number)
        row["tied"] = number == best or corrected.get(number, 0.0) > LEVEL
        row["baseline_p_value"] = to_baseline.get(number)
        if ended := settings[number].ended:
            row["p_value"] = ended.p_value
            for name in ("difference", "to_baseline"):
                row |= {f"{name}_low": row[name] - ended.half, f"{name}_high": row[name] + ended.half}


def _front(frame: pd.DataFrame, by: str) -> list[bool]:
    """Mark the settings that no other beats in quality and price at once; one without a figure is not marked."""
    cost = frame["cost_usd"] if frame["cost_usd"].notna().all() and (frame["cost_usd"] > 0).any() else frame["calls"]
    quality, price = frame[by].to_numpy(dtype=float), cost.to_numpy(dtype=float)
    known = np.isfinite(quality) & np.isfinite(price)
    beaten = [
        bool(
            np.any(
                known & (quality >= quality[i]) & (price <= price[i]) & ((quality > quality[i]) | (price < price[i]))
            )
        )
        for i in range(len(frame))
    ]
    return [bool(ok and not lost) for ok, lost in zip(known, beaten, strict=True)]
