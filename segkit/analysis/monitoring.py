"""All runs of a folder as figures: how they end, how long they take, what they use, where the disk goes."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator

from segkit.analysis.logs import query
from segkit.analysis.style import BLUE, GRID, INK, ORANGE, QUIET, height, label_rows, nothing, plain_figure
from segkit.core.text import quantity
from segkit.runs.run import run_ids

_DAYS = 60
_STATES = {"completed": BLUE, "failed": ORANGE, "unfinished": GRID}
_KINDS = {"input_tokens": (BLUE, "input"), "output_tokens": (ORANGE, "output")}


def completion_by_day(runs_dir: str | Path, days: int = _DAYS) -> Figure:
    """Show how many runs of each day completed, failed, or are not finished."""
    outcomes = query("FROM run_outcomes", runs_dir)
    by_day = outcomes.groupby("day")[list(_STATES)].sum().sort_index().tail(days)
    return _stacked_days("Runs by day and outcome", by_day, {name: (color, name) for name, color in _STATES.items()})


def tokens_by_day(runs_dir: str | Path, days: int = _DAYS) -> Figure:
    """Show the tokens of paid calls of each day."""
    by_day = query("FROM token_use", runs_dir).groupby("day")[list(_KINDS)].sum().sort_index().tail(days)
    return _stacked_days("Tokens by day", by_day, _KINDS)


def processing_times(runs_dir: str | Path) -> Figure:
    """Show how the seconds of completed runs are distributed, each run a dot by its products."""
    runs = query("FROM run_states WHERE state = 'completed' AND seconds > 0 AND products > 0", runs_dir)
    figure, axes = plain_figure(3.2, "Processing time of completed runs")
    if runs.empty:
        return nothing(figure, axes, "no run has completed")
    axes.plot(runs["products"], runs["seconds"], "o", color=BLUE, alpha=0.6, markersize=5)
    median = runs["seconds"].median()
    axes.axhline(median, color=ORANGE, linewidth=1.5)
    axes.annotate(f"median {median:.0f} s", (1, median), (-4, 4), xycoords=("axes fraction", "data"),
                  textcoords="offset points", color=ORANGE, ha="right")  # fmt: skip
    axes.set(xlabel="products", ylabel="seconds", xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):  # 60, not 6 × 10¹; no crowd of numbers where there are decades
        axis.set_major_formatter(LogFormatter())
        axis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.5)))
        axis.set_tick_params(which="minor", labelsize=axis.get_major_ticks()[0].label1.get_fontsize())
    return figure


def storage_by_run(runs_dir: str | Path, most: int = 20) -> Figure:
    """Show the megabytes of the largest runs on disk."""
    place = Path(runs_dir)
    sizes = pd.Series({run_id: _bytes(place / run_id) / 1e6 for run_id in run_ids(place)}, dtype="float64")
    largest = sizes.sort_values(ascending=False).head(most)
    figure, axes = plain_figure(
        height(len(largest)), f"Storage: {sizes.sum():,.1f} MB in {quantity(len(sizes), 'run')}"
    )
    if largest.empty:
        return nothing(figure, axes, "there are no runs")
    axes.barh(range(len(largest)), largest, color=BLUE, height=0.7)
    for row, size in enumerate(largest):
        axes.annotate(f"{size:,.1f}", (size, row), (4, 0), textcoords="offset points", va="center", color=INK)
    label_rows(axes, list(largest.index))
    axes.set_xlim(0, float(largest.max()) * 1.1)
    axes.set_xlabel("MB")
    return figure


def _stacked_days(title: str, by_day: pd.DataFrame, parts: dict[str, tuple[str, str]]) -> Figure:
    figure, axes = plain_figure(3.0, title)
    if by_day.empty:
        return nothing(figure, axes, "there is nothing yet")
    bottom = pd.Series(0.0, index=by_day.index)
    for column, (color, label) in parts.items():
        axes.bar(range(len(by_day)), by_day[column], bottom=bottom, color=color, width=0.7, label=label)
        bottom += by_day[column]
    step = -(-len(by_day) // 10)
    days = [f"{day:%Y-%m-%d}" for day in by_day.index]
    axes.set_xticks(range(0, len(days), step), days[::step])
    axes.set_xlim(-0.8, max(len(by_day), 8) - 0.2)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.grid(axis="x", visible=False)
    axes.legend(frameon=False, fontsize=8, labelcolor=QUIET, loc="upper right")
    return figure


def _bytes(folder: Path) -> int:
    return sum(os.path.getsize(path) for path in folder.rglob("*") if path.is_file())  # noqa: PTH202
