"""Pages and summaries of an evaluation as HTML: text, tables and figures, nothing that is loaded from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from segkit.analysis.page import html_page, wide
from segkit.analysis.tables import show
from segkit.display import PLAIN_TEXT, html_text, visible
from segkit.errors import InputError
from segkit.storage.disk import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROWS = 60
Parts = Mapping[str, Sequence["str | pd.DataFrame | Figure"]]


class Html(str):
    """HTML that is shown as it is: whoever makes it has escaped what is text in it."""

    __slots__ = ()


class Readable:
    """What is read as sentences in a terminal, and with tables and figures in Jupyter."""

    def sentences(self) -> list[str]:
        """Say in plain words what was found."""
        raise NotImplementedError

    def shown(self) -> Parts:
        """Return what Jupyter shows: titled sections, the first one without a title."""
        return {"": self.sentences()}

    def __str__(self) -> str:
        return visible("\n".join(self.sentences()), keep="\n")

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return sections(self.shown())


def as_html(part: str | pd.DataFrame | Figure, label: str = "") -> str:
    """Return a paragraph, a table or a picture as HTML; every text is escaped.

    `label` says what a table or a picture shows, for whoever does not see it.
    """
    if isinstance(part, Html):
        return part
    if isinstance(part, str):
        return f'<p class="{PLAIN_TEXT}" dir="auto">{html_text(part, most=2000)}</p>'
    if isinstance(part, pd.DataFrame):
        return wide(str(show(part, rows=_ROWS).to_html()), label or ", ".join(map(str, part.columns)))
    image, size = part._repr_png_()  # type: ignore[attr-defined]
    data = base64.b64encode(image).decode()
    label = label or ", ".join(title for axes in part.axes if (title := axes.get_title(loc="left"))) or "see the text"
    shown = html_text(f"Chart: {label}", len(label) + 10)
    return f'<img src="data:image/png;base64,{data}" width="{size["width"]}" alt="{shown}">'


def sections(parts: Parts) -> str:
    """Return titled sections as HTML; one without parts is left out, and a title that is empty is not shown."""
    return "\n".join(_section(title, content) for title, content in parts.items() if content)


def _section(title: str, content: Sequence[str | pd.DataFrame | Figure]) -> str:
    labels = [title if number == 0 else f"{title} ({number + 1})" if title else "" for number in range(len(content))]
    pieces = [as_html(part, label) for part, label in zip(content, labels, strict=True)]
    return "\n".join([*([_heading(title)] if title else []), *pieces])


def _heading(title: str) -> str:
    return f'<h2 class="{PLAIN_TEXT}" dir="auto">{html_text(title)}</h2>'


def write_page(path: Path, title: str, facts: Sequence[str], body: str) -> Path:
    """Write a page; raise InputError where the file cannot be written."""
    try:
        write_atomic(path, html_page(title, facts, body).encode())
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}", "choose another --html") from None
    return path
