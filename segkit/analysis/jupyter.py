"""What notebooks need around them: the place to work from, tables laid out, quick imports of Jupyter's parts."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from segkit.errors import SettingsError

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

_SLOW = "rfc3987_syntax"
_INJECTED = "# Parameters\n"  # how the cell begins that papermill puts in
_SECRET = ("key", "token", "secret", "password")
_FEW = 6  # columns whose names need not be broken
_UNBROKEN = 22  # characters of a text that stay on one line in any table


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
    """Work from the project's folder, also where Jupyter started the kernel in `notebooks/`.

    So `runs`, `prompts`, `.env` and the cache are the same for a notebook, for papermill and for the command line.
    Raises SettingsError for a parameter that the notebook does not have: papermill only warns, and goes on.
    """
    _check_parameters()
    here = Path.cwd()
    beside = ("pyproject.toml", "prompts", "runs")
    if here.name == "notebooks" and any((here.parent / name).exists() for name in beside):
        os.chdir(here.parent)


def _check_parameters() -> None:
    """Refuse parameters that papermill has put into the notebook and that no cell of it knows."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    cells = [str(cell) for cell in shell.user_ns.get("In", [])] if shell else []
    given = {name for cell in cells if cell.startswith(_INJECTED) for name in _assigned(cell)}
    known = {name for cell in cells if not cell.startswith(_INJECTED) for name in _assigned(cell)}
    if unknown := sorted(given - known):
        names = ", ".join(unknown)
        hint = (
            f"papermill wrote {names} into its copy: a key there is no secret any more; keys go into OPENAI_API_KEY"
        )
        secret = any(word in name.lower() for name in unknown for word in _SECRET)
        raise SettingsError(f"this notebook has no parameter {names}", hint if secret else "see its first code cell")


def _assigned(cell: str) -> set[str]:
    """Name the variables that a cell gives a value to; one that is no plain Python gives none."""
    try:
        found = ast.parse(cell).body
    except SyntaxError:
        return set()
    targets = [target for node in found if isinstance(node, ast.Assign) for target in node.targets]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def show(frame: pd.DataFrame, rows: int = 100, once: str = "") -> Styler:
    """Lay a frame out for reading: whole texts to the left, numbers to the right, the first `rows` rows.

    A value of the column `once` is not repeated below itself. Every text is escaped: names and titles come from
    models and shops.
    """
    shown = frame.head(rows).reset_index(drop=True)
    if once:
        shown[once] = shown[once].where(shown[once] != shown[once].shift(), "")
    styler = shown.style.hide(axis="index")
    styler.format({name: _writer(str(name)) for name in shown.columns}, escape="html")
    styler.format_index(lambda name: str(name).replace("_", " "), escape="html", axis="columns")
    styler.set_table_styles(_layout(shown))
    if frame.empty or len(frame) > rows:
        styler.set_caption(f"the first {rows:,} of {len(frame):,} rows" if len(frame) else "none")
    return styler


def _layout(shown: pd.DataFrame) -> list[Any]:
    """Say in CSS how the columns stand; a short text is not broken to make room for a long one."""
    header = "nowrap" if len(shown.columns) <= _FEW else "normal"
    rules = [("th, td", "text-align: left; vertical-align: top"), ("th", f"white-space: {header}")]
    for i, name in enumerate(shown.columns):
        if pd.api.types.is_numeric_dtype(shown[name]):
            rules.append((f".col{i}", "text-align: right"))
        elif len(shown):
            longest = max(len(str(value)) for value in shown[name])
            rules.append((f"td.col{i}", f"min-width: {min(longest, _UNBROKEN)}ch"))
    return [{"selector": selector, "props": props} for selector, props in rules]


def _writer(column: str) -> Callable[[Any], Any]:
    """Choose how the values of a column are written: money to the hundredth of a cent, counts in thousands."""
    number = "{:,.4f}" if "cost" in column else "{:,.2f}"

    def write(value: Any) -> Any:
        if value is None or value is pd.NA or value != value:
            return "–"
        if isinstance(value, int) and not column.endswith("id"):
            return f"{value:,}"
        return number.format(value) if isinstance(value, float) else value

    return write
