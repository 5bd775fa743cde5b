"""Pages and summaries of an evaluation as HTML: text, tables and figures, nothing that is loaded from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from segkit.analysis.page import html_page
from segkit.analysis.tables import show
from segkit.display import PLAIN_TEXT, html_text
from segkit.errors import InputError
from segkit.storage.disk import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROWS = 60


def as_html(part: str | pd.DataFrame | Figure) -> str:
    """Return a paragraph, a table or a picture as HTML; every text is escaped."""
    if isinstance(part, str):
        return f'<p class="{PLAIN_TEXT}" dir="auto">{html_text(part, most=2000)}</p>'
    if isinstance(part, pd.DataFrame):
        return str(show(part, rows=_ROWS).to_html())
    image, size = part._repr_png_()  # type: ignore[attr-defined]
    data = base64.b64encode(image).decode()
    return f'<img src="data:image/png;base64,{data}" width="{size["width"]}" alt="">'


def sections(parts: Mapping[str, Sequence[str | pd.DataFrame | Figure]]) -> str:
    """Return titled sections as HTML; one without parts is left out."""
    return "\n".join(
        f'<h2 class="{PLAIN_TEXT}" dir="auto">{html_text(title)}</h2>\n'
        + "\n".join(as_html(part) for part in content)
        for title, content in parts.items()
        if content
    )


def write_page(path: Path, title: str, facts: Sequence[str], body: str) -> Path:
    """Write a page; raise InputError where the file cannot be written."""
    try:
        write_atomic(path, html_page(title, facts, body).encode())
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}", "choose another --html") from None
    return path
