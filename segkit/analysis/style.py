"""The quiet style that all figures share; each is a matplotlib Figure that needs no pyplot and no screen."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, QUIET, BLUE, ORANGE, GRID = "#222222", "#8a8f98", "#3b6ea5", "#d98b3a", "#e6e8eb"
_WIDTH, _ROW = 9.0, 0.27
_SHARP = 1.6  # dots for each pixel of the page: sharp on good screens and in print
_LONGEST = 48

# The first figure on a machine would tell every notebook that fonts are being counted.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)


class Shown(Figure):
    """A Figure that notebooks show by themselves: without pyplot, IPython would only print its name."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        image = io.BytesIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # a title may be in any script
            self.savefig(image, format="png", dpi=_SHARP * self.dpi, pil_kwargs={"compress_level": 3})
        width, height = self.get_size_inches() * self.dpi
        return image.getvalue(), {"width": round(width), "height": round(height)}


def plain_figure(height: float, title: str) -> tuple[Figure, Axes]:
    """Make a figure with one pair of axes and a title."""
    figure = blank(height)
    axes = figure.subplots()
    style(axes, title)
    return figure, axes


def blank(height: float) -> Figure:
    """Make a figure of this height, in inches, without axes."""
    return Shown(figsize=(_WIDTH, height), layout="constrained", facecolor="white")


def style(axes: Axes, title: str) -> None:
    """Give axes the quiet style, and a title."""
    axes.set_title(title, loc="left", color=INK, fontsize=11, fontweight="bold")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(colors=INK, length=0, labelsize=9)
    axes.xaxis.label.set_color(QUIET)
    axes.yaxis.label.set_color(QUIET)
    axes.grid(axis="both", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def label_rows(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows of a plot of bars, from the top."""
    # Texts and not ticks: matplotlib measures each tick a dozen times before it draws it.
    axes.set_yticks([])
    for row, name in enumerate(names):
        axes.annotate(
            literal(name), (0, row), (-6, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
            ha="right", va="center", color=INK, fontsize=9, annotation_clip=False,
        )  # fmt: skip
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)


def nothing(figure: Figure, axes: Axes, text: str) -> Figure:
    """Say that there is nothing to show, in a figure that takes little room."""
    figure.set_size_inches(_WIDTH, 1.0)
    axes.clear()
    axes.set_axis_off()
    axes.text(0, 0.5, text, color=QUIET, va="center", transform=axes.transAxes)
    return figure


def height(rows: int) -> float:
    """Give the height of a figure with so many rows, in inches."""
    return 0.95 + _ROW * max(rows, 1)


def short(name: str, most: int = _LONGEST) -> str:
    """Cut a name to what fits beside a bar."""
    return name if len(name) <= most else name[: most - 1].rstrip() + "…"


def literal(text: Any) -> str:
    """Keep matplotlib from reading dollars in a name as the begin of a formula."""
    return str(text).replace("$", r"\$")
