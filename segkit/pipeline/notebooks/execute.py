"""One notebook of a run, executed by papermill into the run folder; the copy shows whether it got to its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import SecretStr

from segkit import errors
from segkit.analysis.jupyter import quick_imports
from segkit.errors import SegkitError, StageError, StoppedError, WaitingError
from segkit.runs.run import Run
from segkit.runs.status import update_status
from segkit.storage.disk import disk_error, write_atomic
from segkit.storage.redaction import redactor, safe_text

if TYPE_CHECKING:
    from jupyter_client.manager import AsyncKernelManager


def execute_notebook(run: Run, source: Path, kernel: AsyncKernelManager, secrets: Sequence[SecretStr]) -> None:
    """Execute one notebook into the run folder; its copy is kept whatever happens, with the error if there is one.

    Secrets are taken out of the copy and of errors. No exit code is believed: raises StageError unless each code cell
    was executed without an error, StoppedError when the run was told to stop or the disk fails.
    """
    with quick_imports():
        import papermill

    parameters = {"run_id" if source.stem == "00_prepare_run" else "run": run.id}
    parameters["runs_dir"] = str(run.folder.parent.resolve())
    _check_parameters(papermill.inspect_notebook(_path(source)), parameters, source)
    update_status(run.folder, notebook=source.stem)
    target = copy_of(run, source.stem)
    try:
        _execute(run, source, target, parameters, kernel, secrets)
    except OSError as error:
        raise disk_error(run.folder, error) from None
    if why := unfinished(target):
        raise StageError(f"{source.stem} {why}", f"segkit resume {run.id}")


def copy_of(run: Run, name: str) -> Path:
    """Give the place of the executed copy of a notebook."""
    return run.folder / "notebooks" / f"{name}.ipynb"


def unfinished(copy: Path) -> str:
    """Say why the copy of a notebook is not that of a whole execution, or give nothing where it is."""
    try:
        cells = [cell for cell in orjson.loads(copy.read_bytes())["cells"] if cell["cell_type"] == "code"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return "has a damaged copy"
    for number, cell in enumerate(cells, start=1):
        if "".join(cell["source"]).strip() and cell.get("execution_count") is None:
            return f"ended before its code cell {number}"
        if any(output["output_type"] == "error" for output in cell["outputs"]):
            return f"ended in its code cell {number}"
    return ""


def _execute(
    run: Run,
    source: Path,
    target: Path,
    parameters: Mapping[str, Any],
    kernel: AsyncKernelManager,
    secrets: Sequence[SecretStr],
) -> None:
    with quick_imports():
        import papermill
        from nbclient.exceptions import CellTimeoutError, DeadKernelError

    try:
        papermill.execute_notebook(
            _path(source),
            _path(target),
            parameters=parameters,
            kernel_name="python3",
            progress_bar=False,
            km=kernel,
        )
    except papermill.PapermillExecutionError as error:
        lines = [safe_text(line, secrets) for line in (error.evalue, *error.traceback)]
        raise _mapped(run, f"{source.stem}, cell {error.cell_index + 1}", error.ename, *lines) from None
    except (DeadKernelError, CellTimeoutError) as error:
        raise StageError(f"{source.stem}: {error}", f"segkit resume {run.id}") from None
    finally:
        _hide_secrets(target, secrets)


def _path(path: Path) -> str:
    """Write a path as papermill reads it: it takes what stands in braces for a parameter."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _hide_secrets(copy: Path, secrets: Sequence[SecretStr]) -> None:
    """Take secrets out of what a cell has printed: the copies of notebooks are passed on."""
    if copy.exists():
        written = copy.read_bytes()
        clean = redactor(secrets)(written)
        if clean != written:
            write_atomic(copy, clean)


def _check_parameters(known: Mapping[str, Any], given: Mapping[str, Any], source: Path) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise StageError(f"{source} has no parameters {', '.join(unknown)}", "its `parameters` cell must name them")


def _mapped(run: Run, place: str, kind: str, text: str, *traceback: str) -> SegkitError:
    """Return the error of a cell, with the notebook and the cell in front, and with what to do next.

    An error of segkit is shown as a line and, after an arrow, its hint: see `SegkitError._render_traceback_`.
    """
    resume = f"segkit resume {run.id}"
    if kind not in vars(errors):
        return StageError(f"{place}: {kind}: {text}", resume)
    message, hint = traceback[0].removeprefix(f"{kind}: "), "".join(traceback[1:]).strip().removeprefix("→ ")
    hint = hint if resume in hint else "; ".join(filter(None, (hint, resume)))
    raised: type[SegkitError] = vars(errors)[kind]
    if issubclass(raised, WaitingError):
        return raised(message, hint)
    if issubclass(raised, StoppedError):
        return raised(f"{place}: {message}", hint)
    error = StageError(f"{place}: {message}", hint)
    error.cause = kind
    return error
