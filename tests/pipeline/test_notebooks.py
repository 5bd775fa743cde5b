"""The notebooks: thin, stored clean, and each of them does its work when it is executed."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from catalogues import unmeasured
from notebook_run import NotebookRun
from page import Page

from segkit.analysis.jupyter import quick_imports
from segkit.runs.run import open_run
from segkit.settings import project_folder

NAMES = (
    "00_prepare_run", "10_extract_taxonomy", "20_consolidate_taxonomy", "30_refine_assignments",
    "40_review_run", "50_sync_postgres", "60_compare_runs", "61_evaluate", "62_stability", "65_sweep", "70_monitor",
    "35_assign_products", "80_edit_taxonomy",
)  # fmt: skip
EXECUTED = NAMES[:6]  # by a run
LOGIC = (
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Lambda,
    ast.For,
    ast.While,
    ast.If,
    ast.Try,
    ast.With,
)


def load(name: str) -> dict[str, Any]:
    notebook: dict[str, Any] = json.loads((project_folder("notebooks") / f"{name}.ipynb").read_text(encoding="utf-8"))
    return notebook


def code_cells(name: str) -> list[dict[str, Any]]:
    return [cell for cell in load(name)["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_are_stored_without_outputs(name: str) -> None:
    for cell in code_cells(name):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
    assert load(name)["metadata"]["kernelspec"]["name"] == "python3"


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_has_a_comment(name: str) -> None:
    tagged = [cell for cell in code_cells(name) if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1
    lines = [line for line in tagged[0]["source"] if not re.fullmatch(r"(# [A-Z].+)?\n", line)]  # headings of groups
    for line in lines:
        assert re.match(r"""[a-z_]+ = ("[^"]*"|\d+|True|False)  # .+""", line), line
    given = {line.split(" = ")[0] for line in lines}
    with quick_imports():
        from papermill import inspect_notebook
    listed = inspect_notebook(str(project_folder("notebooks") / f"{name}.ipynb"))  # as `papermill --help-notebook`
    assert listed.keys() == given
    which = {"00": "run_id", "70": "days"}.get(name[:2], "run")  # 70 looks at all runs
    assert {which, "runs_dir"} <= given


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_define_nothing(name: str) -> None:
    for cell in code_cells(name):
        assert len(cell["source"]) <= 12 or "parameters" in cell["metadata"].get("tags", [])
        assert not [node for node in ast.walk(ast.parse("".join(cell["source"]))) if isinstance(node, LOGIC)]


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_import_public_names_only(name: str) -> None:
    for cell in code_cells(name):
        for node in ast.walk(ast.parse("".join(cell["source"]))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom | ast.Import) else []
            assert not [imported for imported in names if imported.startswith("_")]


@pytest.mark.parametrize("name", NAMES)
def test_prose_stands_before_each_cell(name: str) -> None:
    cells = load(name)["cells"]
    kinds = [cell["cell_type"] for cell in cells]
    assert kinds == ["markdown", "code"] * (len(cells) // 2)
    assert "".join(cells[0]["source"]).startswith(f"# {name[:2]} · ")
    assert len(cells) <= 20
    assert len({cell["id"] for cell in cells}) == len(cells)


@pytest.fixture(scope="module")
def executed(finished: NotebookRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of a run whose notebooks were executed over products with hostile titles."""
    place = tmp_path_factory.mktemp("executed")
    shutil.copytree(finished.folder, place / "runs" / finished.folder.name)
    (place / "notebooks").mkdir()
    return place


@pytest.mark.long
def test_the_notebooks_work_by_themselves(tmp_path: Path) -> None:
    """nbmake executes all of them as CI anywhere would, the monitor too."""
    for name in ("notebooks", "prompts"):
        shutil.copytree(project_folder(name), tmp_path / name, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbmake", "--overwrite", "notebooks"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout
    assert f"{len(NAMES)} passed" in done.stdout


def environment() -> dict[str, str]:
    left_out = ("OPENAI_", "SEGKIT_", "DATABASE_URL", "DEFAULT_", "SEGMENTATION_", "STORAGE_", "PYTEST_")
    kept = {name: value for name, value in unmeasured().items() if not name.startswith(left_out)}
    return kept | {"SEGMENTATION_PRODUCTS_PER_PROMPT": "8"}


def outputs(place: Path, name: str) -> list[dict[str, Any]]:
    (path,) = place.glob(f"runs/*/notebooks/{name}.ipynb")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [output for cell in cells for output in cell.get("outputs", [])]


@pytest.mark.parametrize("name", EXECUTED)
def test_executed_notebooks_show_tables_and_figures_only(executed: Path, name: str) -> None:
    shown = outputs(executed, name)
    assert shown
    for output in shown:
        assert output["output_type"] in ("execute_result", "display_data"), output
        assert {"text/html", "image/png"} & set(output["data"]), output


@pytest.mark.parametrize("name", EXECUTED)
def test_hostile_titles_stay_text_in_notebooks(executed: Path, name: str) -> None:
    """No tag of a title, no remote image, no handler of events."""
    for output in outputs(executed, name):
        page = Page("".join(output["data"].get("text/html", "")))
        assert page.remote == page.events == []
        tables = {"table", "caption", "thead", "tbody", "tr", "th", "td"}
        assert set(page.tags) <= {"style", "details", "summary", *tables}


def test_the_report_of_an_executed_run_loads_nothing(executed: Path) -> None:
    """And what looks like a tag stands there as text."""
    page = Page((open_run("latest", executed / "runs").folder / "report.html").read_text(encoding="utf-8"))
    assert page.remote == page.events == []
    assert not {"link", "iframe", "img"} & set(page.tags)
    assert "<script>alert(1)</script>" in page.text
    assert page.tags.count("script") == 2  # the products, and the search


def test_a_notebook_alone_finds_the_newest_run(executed: Path) -> None:
    """As in JupyterLab: no parameters are given, and the kernel starts in `notebooks/`."""
    code = "\n".join("".join(cell["source"]) for cell in code_cells("20_consolidate_taxonomy"))
    subprocess.run([sys.executable, "-c", code], check=True, cwd=executed / "notebooks", env=environment())
