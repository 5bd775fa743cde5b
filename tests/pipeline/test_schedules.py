"""What docs/schedules.md says about schedules: the parameters that papermill would get exist in the notebooks."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from catalogues import catalogue, unmeasured

from segkit.pipeline.prepare import prepare_run
from segkit.pipeline.segment import run_stages
from segkit.runs.run import open_run
from segkit.settings import project_folder

SCHEDULES = (Path(__file__).parents[2] / "docs/schedules.md").read_text(encoding="utf-8")


def parameters_of(notebook: str) -> set[str]:
    cells = json.loads((project_folder("notebooks").parent / notebook).read_text(encoding="utf-8"))["cells"]
    tagged = next(cell for cell in cells if "parameters" in cell["metadata"].get("tags", []))
    return {line.split(" = ")[0] for line in tagged["source"]}


LINES = [line for line in SCHEDULES.splitlines() if "bin/papermill" in line]


@pytest.mark.parametrize("line", LINES)
def test_the_papermill_lines_name_parameters_that_exist(line: str) -> None:
    words = shlex.split(line)
    notebook = words[words.index(".venv/bin/papermill") + 1]
    given = {words[i + 1] for i, word in enumerate(words) if word == "-p"}
    assert given
    assert given <= parameters_of(notebook)


@pytest.mark.long
def test_the_monthly_line_assigns_month_after_month(place: Path) -> None:
    """The very words of the crontab, in this process's notebook-free way, with the offline model."""
    run_stages(prepare_run(catalogue(60), "Kitchen Things", model="offline", runs_dir=place / "runs"))
    line = next(line for line in SCHEDULES.splitlines() if "segkit assign latest-completed new.csv" in line)
    words = shlex.split(line.partition(".venv/bin/segkit ")[2].partition(" >>")[0])
    keys: list[list[str]] = []
    for month in (1, 2):
        frame = catalogue(8).assign(product_id=range(1000 * month, 1000 * month + 8))
        frame.to_csv("new.csv", index=False)
        command = [sys.executable, "-m", "segkit", *words, "--no-notebooks"]
        done = subprocess.run(command, capture_output=True, text=True, env=unmeasured(), check=False)
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert (report["products"], report["old_rows"]) == (8, 60 + 8 * (month - 1))
        assert report["old_rows_unchanged"] is True
        assert {"assigned", "out_of_scope", "none_fits", "proposed", "calls", "drift_p_value"} <= report.keys()
        keys.append(open_run("latest", place / "runs").result("taxonomies")["key"].tolist())
    assert keys[0] == keys[1]


def test_the_airflow_snippet_names_parameters_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parameters only: Airflow itself is not installed, stand-ins take what its operators would get."""
    made: list[dict[str, Any]] = []

    class Operator:
        def __init__(self, *names: str, **given: Any) -> None:
            made.append(given)

        def __enter__(self) -> None: ...

        def __exit__(self, *exc: object) -> None: ...

    homes = {
        "airflow.models.baseoperator": "chain",
        "airflow.providers.papermill.operators.papermill": "PapermillOperator",
        "airflow.providers.standard.operators.bash": "BashOperator",
        "airflow.sdk": "DAG",
    }
    for home, name in homes.items():
        module = ModuleType(home)
        setattr(module, name, (lambda *tasks: None) if name == "chain" else Operator)
        monkeypatch.setitem(sys.modules, home, module)
        for parent in (home.rsplit(".", depth)[0] for depth in range(1, home.count(".") + 1)):
            monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
    for snippet in re.findall(r"```python\n(.*?)```", SCHEDULES, re.S):
        exec(compile(snippet, "SCHEDULES", "exec"), {})
    assert [given["task_id"] for given in made if "bash_command" in given] == ["finish", "assign"]
    notebooks = [given for given in made if "input_nb" in given]
    assert len(notebooks) == 4
    for given in notebooks:
        assert set(given["parameters"]) <= parameters_of(given["input_nb"])
    run_id = notebooks[0]["parameters"]["run_id"].replace("{{ ts_nodash }}", "20250618T120301")
    assert re.fullmatch(r"RUN_\d{8}T\d{6}Z_[0-9a-f]{4,8}", run_id)
