"""The methods of a run whose code stands in a folder above it."""

from __future__ import annotations

import subprocess
import sys

from notebook_run import NotebookRun

from segkit.evaluation.audit import audit
from segkit.evaluation.explain.explanation import explain
from segkit.runs.run import open_run


def test_a_run_explains_and_audits_itself_as_the_functions_do(finished: NotebookRun) -> None:
    run = open_run(str(finished.folder))
    product_id = int(run.products["product_id"].iloc[0])
    assert run.explain(product_id).lines == explain(run, product_id).lines
    assert run.audit().as_json() == audit(run).as_json()


def test_the_package_fills_in_the_methods_without_loading_their_code() -> None:
    code = "import sys, segkit.runs.methods as m; print(sorted(m.METHODS), 'pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['audit', 'explain'] False"
