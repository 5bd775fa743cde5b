"""The quiet style that all figures share; each is a matplotlib Figure that needs no pyplot and no screen."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Sequence
from typing import Any

from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

INK, QUIET, BLUE, ORANGE, GRID = "#222222", "#8a8f98", "#3b6ea5", "#d98b3a", "#e6e8eb"
_WIDTH, _ROW = 9.0, 0.27
_SHARP = 1.6  # dots for each pixel of the page: sharp on good screens and in print
_LONGEST = 48
_FONT = "DejaVu Sans"  # comes with matplotlib
_FALLBACKS = (  # for Chinese, Japanese and Korean; for Thai; for Hindi; on Linux, macOS and Windows
    "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Micro Hei", "Droid Sans Fallback", "PingFang SC",
    "Hiragino Sans", "Apple SD Gothic Neo", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic",
    "Noto Sans Thai", "Thonburi", "Leelawadee UI",
    "Noto Sans Devanagari", "Lohit Devanagari", "Kohinoor Devanagari", "Nirmala UI",
    "Arial Unicode MS", "FreeSans", "Unifont",
)  # fmt: skip

# The first figure on a machine would log in every notebook that a font cache is being built.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)


class NotebookFigure(Figure):
    """A Figure that notebooks show by themselves: without pyplot, IPython would only print its name."""

    def savefig(self, fname: Any, **kwargs: Any) -> None:
        """Save the figure with fonts for all its letters; a line below it says which letters have none."""
        _use_fonts(self)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # the line below the figure says so
            super().savefig(fname, **kwargs)

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        image = io.BytesIO()
        self.savefig(image, format="png", dpi=_SHARP * self.dpi, pil_kwargs={"compress_level": 3})
        width, height = self.get_size_inches() * self.dpi
        return image.getvalue(), {"width": round(width), "height": round(height)}


def _use_fonts(figure: Figure) -> None:
    """Let the texts of a figure fall back to fonts for other scripts, if it has letters that the usual one lacks."""
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    letters = {letter for text in texts for letter in text.get_text() if letter.isprintable()}
    if not (lacking := _lacking(letters, [_FONT])):
        return
    installed = {font.name for font in font_manager.fontManager.ttflist}
    families = [_FONT, *(name for name in _FALLBACKS if name in installed)]
    for text in texts:
        text.set_fontfamily(families)
    if lacking := _lacking(lacking, families):
        packages = sorted({"fonts-noto-cjk" if _is_cjk(letter) else "fonts-noto-core" for letter in lacking})
        words = f"package{'s' * (len(packages) > 1)} {' and '.join(packages)}"
        note = f"{len(lacking)} letters have no font on this computer: install the {words}"
        figure.supxlabel(note, x=0.01, ha="left", fontsize=8, color=ORANGE)


def _lacking(letters: set[str], families: Sequence[str]) -> set[str]:
    fonts = [font_manager.get_font(font_manager.findfont(name)) for name in families]
    return {letter for letter in letters if not any(font.get_char_index(ord(letter)) for font in fonts)}


def _is_cjk(letter: str) -> bool:
    return 0x2E80 <= ord(letter) <= 0x9FFF or 0xAC00 <= ord(letter) <= 0xD7FF or ord(letter) >= 0x20000


def plain_figure(height: float, title: str) -> tuple[Figure, Axes]:
    """Make a figure with one pair of axes and a title."""
    figure = blank(height)
    axes = figure.subplots()
    style(axes, title)
    return figure, axes


def blank(height: float) -> Figure:
    """Make a figure of this height, in inches, without axes."""
    return NotebookFigure(figsize=(_WIDTH, height), layout="constrained", facecolor="white")


def style(axes: Axes, title: str) -> None:
    """Apply the quiet style to axes, and set a title."""
    axes.set_title(title, loc="left", color=INK, fontsize=11, fontweight="bold")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(colors=INK, length=0, labelsize=9)
    axes.xaxis.label.set_color(QUIET)
    axes.yaxis.label.set_color(QUIET)
    axes.grid(axis="both", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def label_rows(axes: Axes, names: Sequence[str]) -> None:
    """Label the rows of a bar chart, from the top."""
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
    """Show a text instead of a plot, in a low figure."""
    figure.set_size_inches(_WIDTH, 1.0)
    axes.clear()
    axes.set_axis_off()
    axes.text(0, 0.5, text, color=QUIET, va="center", transform=axes.transAxes)
    return figure


def height(rows: int) -> float:
    """Return the height of a figure with so many rows, in inches."""
    return 0.95 + _ROW * max(rows, 1)


def short(name: str, most: int = _LONGEST) -> str:
    """Return a name cut to what fits beside a bar."""
    return name if len(name) <= most else name[: most - 1].rstrip() + "…"


def literal(text: Any) -> str:
    """Return a text in which matplotlib does not take dollars for the start of a formula."""
    return str(text).replace("$", r"\$")
