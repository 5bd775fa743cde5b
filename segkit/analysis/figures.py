"""A run as figures, all of one quiet style; each is a matplotlib Figure that needs no pyplot and no screen."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from segkit.analysis.style import (
    BLUE,
    GRID,
    INK,
    ORANGE,
    QUIET,
    blank,
    height,
    label_rows,
    nothing,
    plain_figure,
    short,
    style,
)
from segkit.core.models import OUT_OF_SCOPE, STAGES
from segkit.core.text import quantity
from segkit.runs.run import Run

_UNASSIGNED = "unassigned"


def title_lengths(run: Run) -> Figure:
    """Show how long the titles of the products are, in characters."""
    lengths = run.products["title"].str.len()
    figure, axes = plain_figure(3.0, "Title lengths")
    if lengths.empty:
        return nothing(figure, axes, "no products")
    shortest, longest = int(lengths.min()), int(lengths.max())
    width = max(1, round((longest - shortest) / 40))
    bins = [edge - 0.5 for edge in range(shortest, longest + width + 1, width)]
    axes.hist(lengths, bins=bins, color=BLUE, edgecolor="white", linewidth=0.6)
    median = lengths.median()
    axes.axvline(median, color=ORANGE, linewidth=1.5)
    axes.annotate(
        f"median {median:.0f}", (median, 1), (5, 0), xycoords=("data", "axes fraction"),
        textcoords="offset points", color=ORANGE, va="top",
    )  # fmt: skip
    axes.set(xlabel="characters", ylabel="products")
    axes.margins(y=0.15)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.grid(axis="x", visible=False)
    return figure


def segment_sizes(run: Run, most: int = 40) -> Figure:
    """Show how many products stand in each category at the end, and how many stand in none."""
    taxonomies = run.result("taxonomies")
    sizes = taxonomies.set_index("category_name")["product_count"]
    sizes = sizes[sizes > 0].drop(OUT_OF_SCOPE, errors="ignore")
    states = run.result("ledger")["state"].value_counts()
    rest = {OUT_OF_SCOPE: int(states.get("out_of_scope", 0)), _UNASSIGNED: int(states.get("unassigned", 0))}
    bars, unit = _limited(sizes.rename(index=short), most, "categories")
    bars += [(name, count, QUIET) for name, count in rest.items() if count]
    return _bars("Products in each category", unit, bars, "no product is in a category")


def moves(run: Run, most: int = 25) -> Figure:
    """Show which categories refinement moved products from and to, the most frequent moves first."""
    lineage = run.result("lineage")
    moved = lineage[lineage["category"] != lineage["refined_category"]]
    names = [
        f"{short(before, 30)}  →  {short(after, 30)}"
        for before, after in zip(moved["category"], moved["refined_category"], strict=True)
    ]
    counts = pd.Series(names, dtype="str").value_counts()
    title = f"Moved by refinement: {len(moved):,} of {quantity(len(lineage), 'product')}"
    bars, unit = _limited(counts, most, "moves")
    return _bars(title, unit, bars, "refinement moved no product")


def confidence_by_category(run: Run, of: str = "lineage", most: int = 40) -> Figure:
    """Show the confidence of the first assignments by category: the median, and where 80 of 100 products lie.

    `of` is the result that holds them: `lineage`, or `batch_assignments` while there is no other.
    """
    lineage = run.result(of)
    stated = lineage[(lineage["category"] != "") & lineage["confidence"].notna()]
    counts = stated["category"].value_counts()
    names = list(counts.index[:most])
    figure, axes = plain_figure(height(len(names)), "Confidence of the first assignments")
    if not names:
        return nothing(figure, axes, "no confidence was stated")
    grouped = stated.groupby("category")["confidence"]
    low, middle, high = (grouped.quantile(share).loc[names] for share in (0.1, 0.5, 0.9))
    rows = range(len(names))
    axes.hlines(rows, low, high, color=BLUE, linewidth=3, alpha=0.45)
    axes.plot(middle, rows, "o", color=BLUE, markersize=5)
    label_rows(axes, [f"{short(name)}  ({counts[name]:,})" for name in names])
    axes.set_xlim(min(0.5, float(low.min()) - 0.03), 1.02)
    axes.set_xlabel(_with_rest("confidence: median and 10–90 % of the products", len(counts) - most))
    return figure


def time_and_tokens(run: Run) -> Figure:
    """Show for each stage its seconds, its calls (and answers from the cache) and its tokens."""
    stages = run.status.stages
    names = [name for name in STAGES.values() if name in stages]
    figure = blank(0.9 + 0.42 * max(2, len(names)))
    panels = figure.subplots(1, 3, sharey=True)
    if not names:
        for axes in panels[1:]:
            axes.remove()
        return nothing(figure, panels[0], "no stage has begun")
    table = pd.DataFrame([stages[name].as_json() for name in names], index=names)
    _stacked(panels[0], "Seconds", table, {"seconds": (BLUE, "")})
    _stacked(panels[1], "Calls", table, {"calls": (BLUE, "paid"), "cached": (GRID, "from the cache")})
    _stacked(panels[2], "Tokens", table, {"input_tokens": (BLUE, "input"), "output_tokens": (ORANGE, "output")})
    label_rows(panels[0], names)
    return figure


def _stacked(axes: Axes, title: str, table: pd.DataFrame, parts: dict[str, tuple[str, str]]) -> None:
    style(axes, title)
    left = pd.Series(0.0, index=table.index)
    for column, (color, label) in parts.items():
        axes.barh(range(len(table)), table[column], left=left, color=color, height=0.6, label=label or None)
        left += table[column]
    total = table[list(parts)].sum(axis=1)
    for row, value in enumerate(total):
        text = f"{value:,.1f}" if title == "Seconds" else f"{value:,.0f}"
        axes.annotate(text, (value, row), (4, 0), textcoords="offset points", va="center", color=INK, in_layout=False)
    axes.set_xlim(0, max(float(total.max()), 1e-9) * 1.3)
    axes.set_xticks([])
    if len(parts) > 1:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2, frameon=False, fontsize=8)


def _bars(title: str, unit: str, bars: Sequence[tuple[str, int, str]], otherwise: str) -> Figure:
    figure, axes = plain_figure(height(len(bars)), title)
    if not bars:
        return nothing(figure, axes, otherwise)
    names, counts, colors = zip(*bars, strict=True)
    axes.barh(range(len(bars)), counts, color=colors, height=0.7)
    for row, count in enumerate(counts):
        axes.annotate(
            f"{count:,}", (count, row), (4, 0), textcoords="offset points", va="center", color=INK, in_layout=False
        )
    label_rows(axes, names)
    axes.set_xlim(0, max(counts) * 1.08)
    axes.set_xlabel(unit)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure


def _limited(counts: pd.Series, most: int, what: str) -> tuple[list[tuple[str, int, str]], str]:
    """Turn counts into the largest bars, and into words for all the rest: as one bar it would dwarf the others."""
    ordered = counts.sort_values(ascending=False, kind="stable")
    rest = ordered.iloc[most:]
    unit = f"products; and {len(rest):,} more {what} with {rest.sum():,}" if len(rest) else "products"
    return [(str(name), int(count), BLUE) for name, count in ordered.head(most).items()], unit


def _with_rest(text: str, rest: int) -> str:
    return f"{text}; and {rest:,} more categories" if rest > 0 else text
