"""The review notebook, executed in this process: a report without the seconds that a kernel takes to start."""

from __future__ import annotations

import ast
import base64
from typing import Any

from segkit.analysis.jupyter import quick_imports
from segkit.runs.run import Run
from segkit.settings import project_folder

_NAME = "40_review_run"


def executed_review(run: Run) -> Any:
    """Return the notebook `40_review_run` of a run with the outputs of its cells, as nbformat holds it."""
    with quick_imports():
        import nbformat

    source = project_folder("notebooks") / f"{_NAME}.ipynb"
    notebook = nbformat.read(source, as_version=4)  # type: ignore[no-untyped-call]
    shown: list[Any] = []
    names: dict[str, Any] = {"display": lambda *values: shown.extend(map(_output, values))}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            shown.clear()
            _execute(cell.source, names, shown)
            cell.outputs = list(shown)
        if "parameters" in cell.metadata.get("tags", ()):
            names |= {"run": run.id, "runs_dir": str(run.folder.parent)}
    return notebook


def _execute(code: str, names: dict[str, Any], shown: list[Any]) -> None:
    """Execute a cell; what its last expression gives is shown, as in a notebook."""
    body = ast.parse(code)
    last = body.body[-1] if body.body else None
    body.body = body.body[:-1] if isinstance(last, ast.Expr) else body.body
    exec(compile(body, _NAME, "exec"), names)  # noqa: S102 (the code is a notebook of the package)
    if isinstance(last, ast.Expr):
        value = eval(compile(ast.Expression(last.value), _NAME, "eval"), names)  # noqa: S307
        if value is not None:
            shown.append(_output(value))


def _output(value: Any) -> Any:
    """Return what a notebook stores of a value: its HTML or its image."""
    from IPython.core.formatters import DisplayFormatter
    from nbformat.v4 import new_output

    data, metadata = DisplayFormatter().format(value)  # type: ignore[no-untyped-call]
    if isinstance(image := data.get("image/png"), bytes):
        data["image/png"] = base64.b64encode(image).decode()
    return new_output("display_data", data=data, metadata=metadata)  # type: ignore[no-untyped-call]
