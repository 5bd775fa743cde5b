"""Evaluations as figures, in the style of all others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from segkit.analysis.style import (
    BLUE,
    GRID,
    INK,
    ORANGE,
    QUIET,
    height,
    label_rows,
    literal,
    nothing,
    plain_figure,
    short,
)
from segkit.evaluation.agreement import match_categories, on_common_products

_MOST = 20
_GAP = 0.012
_OTHERS, _NONE = "all others", "(no category)"


def flow(first: pd.Series, second: pd.Series, names: tuple[str, str] = ("first", "second")) -> Figure:
    """Show where the products of each category went: what moved in orange; the twenty largest and all others."""
    frame, matched = on_common_products([first, second]), match_categories(first, second)
    before, after = (_limited(frame[i]) for i in (0, 1))
    counts = pd.crosstab(before, after)
    expected = {old: new for old, new in matched.items() if old in counts.index}
    figure, axes = plain_figure(max(3.2, 0.36 * max(counts.shape) + 0.9), f"{names[0]}  →  {names[1]}")
    axes.set_axis_off()
    axes.set(xlim=(-0.75, 1.75), ylim=(-0.01, 1.01))
    rows = _ordered(counts.sum(axis=1))
    columns = _ordered(counts.sum(axis=0), [expected.get(row, row) for row in rows])
    left, right = _places(counts.sum(axis=1)[rows], len(frame)), _places(counts.sum(axis=0)[columns], len(frame))
    _bands(axes, counts.loc[rows, columns], left, right, expected)
    for places, x, side in ((left, -0.02, "right"), (right, 1.02, "left")):
        _label(axes, places, x, side)
    return figure


def _limited(categories: pd.Series) -> pd.Series:
    named = categories.replace("", _NONE)
    kept = set(named.value_counts().index[:_MOST])
    return named.where(named.isin(kept), _OTHERS)


def _ordered(sizes: pd.Series, wanted: Sequence[str] = ()) -> list[str]:
    """Order categories by a wished order first, then by size; all others stand last."""
    by_size = list(sizes.sort_values(ascending=False, kind="stable").index)
    names = list(dict.fromkeys([*(name for name in wanted if name in sizes.index), *by_size]))
    return sorted(names, key=lambda name: name == _OTHERS)


def _places(sizes: pd.Series, total: int) -> dict[str, tuple[float, float]]:
    """Stack the categories from the top, each as high as its share; return its upper and its lower end."""
    places, top = {}, 1.0
    scale = (1 - _GAP * (len(sizes) - 1)) / max(1, total)
    for name, size in sizes.items():
        places[str(name)] = (top, top - size * scale)
        top -= size * scale + _GAP
    return places


def _bands(
    axes: Axes,
    counts: pd.DataFrame,
    left: dict[str, tuple[float, float]],
    right: dict[str, tuple[float, float]],
    expected: dict[str, str],
) -> None:
    used = dict.fromkeys(right, 0.0)
    steps = np.linspace(0, 1, 30)
    curve = 3 * steps**2 - 2 * steps**3
    for row in counts.index:
        start = left[row][0]
        for column in counts.columns:
            if not counts.loc[row, column]:
                continue
            size = counts.loc[row, column] * (left[row][0] - left[row][1]) / counts.loc[row].sum()
            end = right[column][0] - used[column]
            top, bottom = start + (end - start) * curve, start - size + (end - start) * curve
            points = np.vstack([np.column_stack([steps, top]), np.column_stack([steps, bottom])[::-1]])
            stays = expected.get(row) == column or row == column == _OTHERS
            axes.add_patch(
                Polygon(points, facecolor=BLUE if stays else ORANGE, alpha=0.35 if stays else 0.6, linewidth=0)
            )
            start -= size
            used[column] += size


def _label(axes: Axes, places: dict[str, tuple[float, float]], x: float, side: str) -> None:
    """Name the categories, and keep the names of small ones from standing on each other."""
    least, previous = 0.034 if len(places) > 12 else 0.05, 2.0
    for name, (top, bottom) in places.items():
        middle = min((top + bottom) / 2, previous - least)
        previous = middle
        axes.plot([0 if side == "right" else 1] * 2, [top, bottom], color=INK, linewidth=2.5, solid_capstyle="butt")
        axes.text(x, middle, literal(short(name, 44)), ha=side, va="center", fontsize=8.5, color=INK)


def jaccards(table: pd.DataFrame, title: str) -> Figure:
    """Show how well each category is found again: `category`, `products` and `jaccard` a row."""
    figure, axes = plain_figure(height(len(table)), title)
    if table.empty:
        return nothing(figure, axes, "no categories")
    colors = [BLUE if value >= 0.7 else ORANGE for value in table["jaccard"]]
    axes.barh(range(len(table)), table["jaccard"], color=colors, height=0.7)
    axes.axvline(0.7, color=QUIET, linewidth=1)
    label_rows(axes, [f"{short(str(row.category))}  ({row.products:,})" for row in table.itertuples()])
    axes.set_xlim(0, 1)
    axes.set_xlabel("Jaccard of the best match in other runs (0.7 and more: the category holds)")
    return figure


def intervals(table: pd.DataFrame, columns: tuple[str, str, str, str], title: str, unit: str) -> Figure:
    """Show figures with their intervals; `columns` name the label, the figure, its low and its high end."""
    name, value, low, high = columns
    figure, axes = plain_figure(height(len(table)), title)
    if table.empty:
        return nothing(figure, axes, "nothing to show")
    rows = np.arange(len(table))
    axes.hlines(
        rows, table[low].fillna(table[value]), table[high].fillna(table[value]), color=BLUE, linewidth=3, alpha=0.45
    )
    axes.plot(table[value], rows, "o", color=BLUE, markersize=5)
    if "raw_share" in table:
        axes.plot(table["raw_share"], rows, "|", color=ORANGE, markersize=11, markeredgewidth=2)
    label_rows(axes, [short(str(text)) for text in table[name]])
    axes.set_xlabel(unit)
    return figure


def curve(x: Sequence[float], y: Sequence[float], title: str, labels: tuple[str, str]) -> Figure:
    """Show one figure over another, as a line from point to point."""
    figure, axes = plain_figure(3.2, title)
    if not len(x):
        return nothing(figure, axes, "no confidence was stated")
    axes.plot(x, y, color=BLUE, linewidth=2)
    axes.set(xlabel=labels[0], ylabel=labels[1], xlim=(0, 1.02))
    axes.set_ylim(min(0.5, *y) - 0.02, 1.02)
    return figure


def outcomes_by_slot(slots: Sequence[int], rates: Sequence[float], title: str) -> Figure:
    """Show how often the outcome was met in each slot of a prompt."""
    figure, axes = plain_figure(3.0, title)
    if not len(slots):
        return nothing(figure, axes, "no products")
    axes.bar(slots, rates, color=BLUE, width=0.8)
    axes.axhline(float(np.mean(rates)), color=GRID, linewidth=1.5)
    axes.set(xlabel="slot in the prompt", ylabel="share of products")
    return figure


def leaderboard(table: pd.DataFrame, title: str) -> Figure:
    """Show how far each setting is from the best, with intervals; those that are not tied with it in orange."""
    figure, axes = plain_figure(height(len(table)), title)
    rows = np.arange(len(table))
    value, low, high = (table[f"difference{end}"].astype(float) for end in ("", "_low", "_high"))
    colors = [BLUE if tied else ORANGE for tied in table["tied"]]
    axes.hlines(rows, low.fillna(value), high.fillna(value), color=colors, linewidth=3, alpha=0.45)
    axes.scatter(value, rows, color=colors, s=28, zorder=3)
    axes.axvline(0, color=QUIET, linewidth=1)
    label_rows(axes, [short(str(name)) for name in table["setting"]])
    axes.set_xlabel("difference to the best (blue: not distinguishable from it)")
    return figure


def pareto(table: pd.DataFrame, columns: tuple[str, str], title: str, labels: tuple[str, str]) -> Figure:
    """Show quality over price, a point a setting; those on the front are blue and connected."""
    price, quality = columns
    figure, axes = plain_figure(4.2, title)
    known = table[table[price].notna() & table[quality].notna()].astype({price: float, quality: float})
    if known.empty:
        return nothing(figure, axes, "no setting has both a price and a score")
    front = known[known["pareto"]].sort_values(price)
    axes.step(front[price], front[quality], where="post", color=BLUE, linewidth=1.5, alpha=0.6)
    if f"{quality}_low" in known:
        low, high = (known[f"{quality}{end}"].astype(float).fillna(known[quality]) for end in ("_low", "_high"))
        axes.vlines(known[price], low, high, color=GRID, linewidth=3)
    axes.scatter(
        known[price], known[quality], color=[BLUE if on else ORANGE for on in known["pareto"]], s=34, zorder=3
    )
    # Names alternate above and below their points, so that neighbours do not cover each other.
    for number, row in enumerate(known.sort_values(price).to_dict("records")):
        axes.annotate(
            literal(short(str(row["setting"]), 40)), (row[price], row[quality]), (5, 7 if number % 2 else -12),
            textcoords="offset points", fontsize=8, color=INK,
        )  # fmt: skip
    axes.margins(x=0.18, y=0.12)
    axes.set(xlabel=labels[0], ylabel=labels[1])
    return figure
