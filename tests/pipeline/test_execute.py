"""A notebook of a run that does not get to its end: the run never says that it is completed, and nothing is lost."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import papermill
import pytest
from catalogues import KEY, catalogue, unmeasured
from endpoint import Endpoint
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from nbclient.exceptions import CellTimeoutError

import segkit
from segkit.errors import StageError, StoppedError
from segkit.pipeline.notebooks.execute import copy_of, execute_notebook, unfinished
from segkit.pipeline.notebooks.run import stages_to_do
from segkit.pipeline.stages import consolidate_taxonomy, extract_taxonomy, refine_assignments
from segkit.pipeline.summary import decide_state, finish
from segkit.runs.events import read_events
from segkit.runs.integrity import is_finished
from segkit.runs.run import Run, current_state
from segkit.runs.status import read_status
from segkit.settings import load_settings, project_folder

NewRun = Callable[..., Run]


def work(run: Run) -> None:
    """Do the stages as a program does, without notebooks."""
    for stage in (extract_taxonomy, consolidate_taxonomy, refine_assignments):
        stage(run, load_settings())


def notebook(place: Path, *cells: str, parameters: str = 'run = ""\nruns_dir = ""') -> Path:
    """Write a notebook of a cell with parameters and some more."""
    blank = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    code = [{**blank, "id": f"c{i}", "source": source} for i, source in enumerate((parameters, *cells))]
    code[0]["metadata"] = {"tags": ["parameters"]}
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    document = {"cells": code, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    path = place / "11_small.ipynb"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


@pytest.fixture
def kernel() -> Iterator[AsyncKernelManager]:
    """A kernel that has imported nothing: the notebooks here are small."""
    manager = AsyncKernelManager(kernel_name="python3")
    run_sync(manager.start_kernel)()
    yield manager
    run_sync(manager.shutdown_kernel)(now=True)


@pytest.mark.long
def test_an_exit_with_0_fails_the_run(place: Path) -> None:
    """Papermill takes it for success; the process ends with 1, and the run has failed."""
    (place / "checkout").mkdir()
    for name in ("segkit", "prompts", "sql"):
        real = Path(segkit.__file__).parent if name == "segkit" else project_folder(name)
        (place / "checkout" / name).symlink_to(real)
    (place / "checkout" / "notebooks").mkdir()
    source = "import sys; sys.exit(0)", "print('never')"
    parameters = 'run_id = ""\nruns_dir = ""'
    small = notebook(place, *source, parameters=parameters)
    small.rename(place / "checkout" / "notebooks" / "00_prepare_run.ipynb")
    catalogue(6).to_csv(place / "p.csv", index=False)
    command = [sys.executable, "-m", "segkit", "run", "p.csv", "-c", "Kitchen Things", "-m", "offline", "--no-sync"]
    environment = unmeasured(PYTHONPATH=str(place / "checkout"))
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=300)
    (folder,) = (place / "runs").glob("RUN_*")
    assert done.returncode == 1
    assert "00_prepare_run ended in its code cell 3" in done.stderr
    assert f"segkit resume {folder.name}" in done.stderr
    assert "Traceback" not in done.stderr
    assert read_status(folder).state == "failed"


NOTEBOOKS = ["00_prepare_run", "10_extract_taxonomy", "20_consolidate_taxonomy", "30_refine_assignments"]
ENDS = {
    "an exit in the last cell": ("import sys; sys.exit(0)", "11_small ended in its code cell 3"),
    "a kernel that is killed": ("import os; os.kill(os.getpid(), 9)", "11_small: Kernel died"),
    "a kernel that leaves": ("import os; os._exit(0)", "11_small: Kernel died"),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_notebook_that_ends_early_is_an_error(
    end: str, new_run: NewRun, place: Path, kernel: AsyncKernelManager
) -> None:
    """A kernel that the system kills for its memory dies the same way; no exit code is believed."""
    source, told = ENDS[end]
    run = new_run(2, model="offline")
    with pytest.raises(StageError, match=told) as error:
        execute_notebook(run, notebook(place, source), kernel, load_settings().secrets)
    assert error.value.hint == f"segkit resume {run.id}"
    assert copy_of(run, "11_small").exists()


def test_a_cell_out_of_time_completes_nothing(new_run: NewRun, place: Path, kernel: AsyncKernelManager) -> None:
    """Papermill on its own gives up a cell; all the work is done, and yet nothing is completed."""
    run = new_run(8, model="offline")
    work(run)
    source = notebook(place, "import time; time.sleep(60)")
    with pytest.raises(CellTimeoutError):
        papermill.execute_notebook(source, place / "copy.ipynb", execution_timeout=1, progress_bar=False, km=kernel)
    assert current_state(run.folder) == "waiting"
    assert not is_finished(run)


SHOWN = """
import os
key = os.environ["OPENAI_API_KEY"]
print(key, key.encode().hex())
raise ValueError(f"{key} is wrong")
"""


def test_a_key_that_a_cell_shows_is_not_kept(
    endpoint: Endpoint, new_run: NewRun, place: Path, kernel: AsyncKernelManager
) -> None:
    """Printed, and in a traceback; the copy and the error of the run say `[secret]` instead."""
    run = new_run(2)
    with pytest.raises(StageError, match=r"11_small, cell 3: ValueError: \[secret\] is wrong") as error:
        execute_notebook(run, notebook(place, SHOWN), kernel, load_settings().secrets)
    assert KEY not in str(error.value)
    assert "[secret] [secret]" in copy_of(run, "11_small").read_text(encoding="utf-8")
    for path in run.folder.rglob("*.*"):
        assert not {KEY.encode(), KEY.encode().hex().encode()} & set(path.read_bytes().split(b'"')), path
        assert KEY.encode() not in path.read_bytes(), path


def test_a_parameter_that_a_notebook_does_not_have_is_an_error(
    endpoint: Endpoint, place: Path, kernel: AsyncKernelManager
) -> None:
    """Papermill on its own only warns, of a typo as of a key; the notebook stops at once."""
    source = notebook(place, "from segkit import set_up_notebook\nset_up_notebook()", "open('went on', 'w')")
    given = {"run": "latest", "runs_dri": "elsewhere", "api_key": "k"}
    with pytest.raises(papermill.PapermillExecutionError) as error:
        papermill.execute_notebook(source, place / "copy.ipynb", given, progress_bar=False, km=kernel)
    assert error.value.ename == "SettingsError"
    assert "this notebook has no parameter api_key, runs_dri" in error.value.evalue
    assert "keys go into OPENAI_API_KEY" in error.value.evalue
    assert not (place / "went on").exists()


@pytest.mark.parametrize("cell", ["pass", 'run = ""'])
def test_a_notebook_of_a_run_must_know_its_parameters(
    cell: str, new_run: NewRun, place: Path, kernel: AsyncKernelManager
) -> None:
    """No cell is tagged, or the tagged one lacks a name; nothing is executed."""
    run, source = new_run(2, model="offline"), notebook(place, parameters=cell)
    with pytest.raises(StageError, match=r"has no parameters .*runs_dir"):
        execute_notebook(run, source, kernel, load_settings().secrets)
    assert not copy_of(run, source.stem).exists()


DRIVER = """
import builtins, os, pathlib, signal, sys
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from segkit.pipeline.notebooks.execute import execute_notebook
from segkit.runs.run import open_run

run, source, real, writes = open_run("latest"), pathlib.Path(sys.argv[1]), open, 0

def opened(path, mode="r", *rest, **more):
    global writes
    file = real(path, mode, *rest, **more)
    if mode == "w" and str(path) == f"{run.folder}/notebooks/{source.name}":
        writes += 1
        if writes == 4:
            file.write('{"cells": [')
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    return file

kernel = AsyncKernelManager(kernel_name="python3")
run_sync(kernel.start_kernel)()
builtins.open = opened
execute_notebook(run, source, kernel, [])
"""


def test_killed_while_papermill_writes_a_copy(new_run: NewRun, place: Path, kernel: AsyncKernelManager) -> None:
    """The data is as it was; that the copy of a stage that is done is broken is told, and it is made again."""
    run, source = new_run(8, model="offline"), notebook(place)
    source = source.rename(place / f"{NOTEBOOKS[2]}.ipynb")
    work(run)
    before = {path: path.read_bytes() for path in run.folder.rglob("*.*") if path.parent.name != "notebooks"}
    done = subprocess.run([sys.executable, "-c", DRIVER, str(source)], cwd=place, env=unmeasured(), timeout=300)
    assert done.returncode == -signal.SIGKILL
    assert unfinished(copy_of(run, source.stem)) == "has a damaged copy"
    changed = {path.name for path, content in before.items() if path.read_bytes() != content}
    assert changed == {"status.json"}, "it names the notebook"
    assert current_state(run.folder) == "waiting"
    assert stages_to_do(run) == [source.stem]
    told = [event for event in read_events(run.folder) if event["event"] == "notebook_executed_again"]
    assert [event["why"] for event in told] == ["20_consolidate_taxonomy has a damaged copy"]
    execute_notebook(run, source, kernel, load_settings().secrets)
    assert stages_to_do(run) == []


@pytest.fixture
def lossy(endpoint: Endpoint, new_run: NewRun, monkeypatch: pytest.MonkeyPatch) -> tuple[Run, str]:
    """A finished run that has lost a log since, and the name of that log; nothing is left in a cache."""
    monkeypatch.setenv("SEGKIT_CACHE", "false")
    run = new_run()
    work(run)
    decide_state(run)
    finish(run, 1.0)
    assert is_finished(run)
    lost = min(run.stage_folder("refine_assignments").glob("*.json"))
    lost.unlink()
    return run, f"refine_assignments/{lost.name}"


def test_a_finished_run_that_lost_a_log_is_opened_again(endpoint: Endpoint, lossy: tuple[Run, str]) -> None:
    """The logs win over the status: what is lost is told, and only that is asked again."""
    run, lost = lossy
    asked = endpoint.count()
    assert read_status(run.folder).state == "completed"
    assert not is_finished(run)
    assert stages_to_do(run) == NOTEBOOKS
    (told,) = [event for event in read_events(run.folder) if event["event"] == "logs_lost"]
    assert (told["count"], told["files"]) == (1, [lost])
    work(run)
    decide_state(run)
    finish(run, 1.0)
    assert endpoint.count() == asked + 1
    assert is_finished(run)


@pytest.mark.long
def test_resuming_mends_what_was_lost(endpoint: Endpoint, lossy: tuple[Run, str], place: Path) -> None:
    """The same from the command line, with a broken copy; a run that lacks nothing is left alone."""
    run, lost = lossy
    asked = endpoint.count()
    copy_of(run, NOTEBOOKS[1]).write_text('{"cells": [', encoding="utf-8")
    for requests, told in ((asked + 1, f"{run.id} has lost 1 log;"), (asked + 1, "")):
        command = [sys.executable, "-m", "segkit", "resume", run.id, "--no-sync"]
        done = subprocess.run(command, cwd=place, env=unmeasured(), capture_output=True, text=True, timeout=300)
        assert (done.returncode, endpoint.count()) == (0, requests), done.stderr
        assert (lost in done.stderr) == bool(told)
        assert told in done.stderr
    assert not [name for name in NOTEBOOKS if unfinished(copy_of(run, name))]


def test_a_run_whose_status_is_lost_is_counted_again(endpoint: Endpoint, new_run: NewRun) -> None:
    """All logs are there and the status says nothing: the stages look again, and nothing is asked."""
    run = new_run()
    work(run)
    before, asked = decide_state(run), endpoint.count()
    assert stages_to_do(run) == []
    (run.folder / "status.json").unlink()
    assert stages_to_do(run) == NOTEBOOKS
    work(run)
    after = decide_state(run)
    figures = ("state", "products", "calls", "input_tokens", "cost_usd", "categories")
    assert {name: after[name] for name in figures} == {name: before[name] for name in figures}
    assert endpoint.count() == asked


def test_a_disk_that_cannot_be_written_is_told_in_one_line(
    new_run: NewRun, place: Path, kernel: AsyncKernelManager
) -> None:
    """A folder stands where papermill writes the copy, as on a disk that is full or read-only."""
    run = new_run(2, model="offline")
    copy_of(run, "11_small").mkdir()
    with pytest.raises(StoppedError, match=r"the disk fails at .*11_small\.ipynb"):
        execute_notebook(run, notebook(place), kernel, load_settings().secrets)


def test_an_error_of_segkit_is_two_lines_in_a_notebook(
    new_run: NewRun, place: Path, kernel: AsyncKernelManager
) -> None:
    """What is wrong and what to do, without a screen of frames; the run tells both, each in its place."""
    run = new_run(2, model="offline")
    source = notebook(place, "from segkit import open_run; open_run('RUN_20250101T000000Z_abcd', runs_dir)")
    with pytest.raises(StageError) as error:
        execute_notebook(run, source, kernel, load_settings().secrets)
    assert error.value.message.startswith("11_small, cell ")
    assert "there is no run RUN_20250101T000000Z_abcd in" in error.value.message
    assert error.value.hint == f"see `segkit runs`; segkit resume {run.id}"
    cells = json.loads(copy_of(run, "11_small").read_bytes())["cells"]
    (shown,) = [output for cell in cells for output in cell.get("outputs", []) if output["output_type"] == "error"]
    assert len(shown["traceback"]) == 2
