"""What notebooks need: the folder to work from, tables laid out for reading, quick imports of Jupyter's parts."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from segkit.core.text import quantity
from segkit.display import html_table, visible
from segkit.errors import SettingsError

_SLOW = "rfc3987_syntax"
_INJECTED = "# Parameters\n"  # how the cell begins that papermill puts in
_WORKING = ("notebooks", "work")  # folders in which a kernel may start
_SECRET = ("key", "token", "secret", "password")


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import nbformat, nbconvert or papermill inside this block in a fraction of the time.

    All of them import jsonschema, which builds a grammar of IRIs for two seconds where it finds `rfc3987_syntax`.
    It does without, and no notebook has a field that is checked as an IRI.
    """
    hidden = _SLOW not in sys.modules
    if hidden:
        sys.modules[_SLOW] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules[_SLOW]


def set_up_notebook() -> None:
    """Change to the project's folder if Jupyter started the kernel in `notebooks/`.

    So `runs`, `prompts`, `.env` and the cache are the same for a notebook, for papermill and for the command line.
    Raises SettingsError for a parameter that the notebook does not have: papermill only warns, and goes on.
    """
    _check_parameters()
    here = Path.cwd()
    beside = ("pyproject.toml", "prompts", "runs")
    if here.name in _WORKING and any((here.parent / name).exists() for name in beside):
        os.chdir(here.parent)


def _check_parameters() -> None:
    """Raise SettingsError for parameters that papermill injected and no cell of the notebook assigns."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    cells = [str(cell) for cell in shell.user_ns.get("In", [])] if shell else []
    injected = {name for cell in cells if cell.startswith(_INJECTED) for name in _assigned(cell)}
    assigned = {name for cell in cells if not cell.startswith(_INJECTED) for name in _assigned(cell)}
    own = {name for name in injected if name.startswith("PAPERMILL_")}  # its --inject-paths
    if unknown := sorted(injected - assigned - own):
        names = ", ".join(unknown)
        hint = (
            f"papermill wrote {names} into its copy: a key there is no secret any more; keys go into OPENAI_API_KEY"
        )
        secret = any(word in name.lower() for name in unknown for word in _SECRET)
        raise SettingsError(f"this notebook has no parameter {names}", hint if secret else "see its first code cell")


def _assigned(cell: str) -> set[str]:
    """Return the names that a cell assigns; none if the cell is not plain Python."""
    try:
        found = ast.parse(cell).body
    except SyntaxError:
        return set()
    targets = [target for node in found if isinstance(node, ast.Assign) for target in node.targets]
    return {target.id for target in targets if isinstance(target, ast.Name)}


class Table:
    """The first rows of a frame, laid out for reading in Jupyter."""

    def __init__(self, frame: pd.DataFrame, caption: str) -> None:
        self.frame, self.caption = frame, caption

    def to_html(self) -> str:
        """Return the table as HTML."""
        return html_table(self.frame.to_dict("list"), self.caption)

    def _repr_html_(self) -> str:
        return self.to_html()

    def __repr__(self) -> str:
        return visible(f"{self.frame.to_string(index=False)}\n{self.caption}".rstrip(), keep="\n")


def show(frame: pd.DataFrame, rows: int = 100, once: str = "") -> Table:
    """Lay out the first `rows` rows of a frame for reading: texts to the left, numbers to the right.

    A value of the column `once` is not repeated below itself. Long texts are cut and can be expanded.
    """
    shown = frame.head(rows).reset_index(drop=True)
    if once:
        shown[once] = shown[once].where(shown[once] != shown[once].shift(), "")
    rest = f"the first {rows:,} of {quantity(len(frame), 'row')}" if len(frame) else "none"
    return Table(shown, rest if frame.empty or len(frame) > rows else "")
