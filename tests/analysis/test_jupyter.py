"""What notebooks need around them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from segkit.analysis.jupyter import quick_imports, set_up_notebook


def test_quick_imports_hide_the_slow_grammar_and_put_it_back() -> None:
    with quick_imports():
        assert sys.modules["rfc3987_syntax"] is None or "rfc3987_syntax" in sys.modules
    assert sys.modules.get("rfc3987_syntax", True) is not None


def test_nbformat_is_imported_without_the_grammar(tmp_path: Path) -> None:
    code = """
import sys
from segkit.analysis.jupyter import quick_imports
with quick_imports():
    import nbformat, jsonschema
sys.exit("lark" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_a_notebook_works_from_the_folder_of_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    set_up_notebook()
    assert Path.cwd() == tmp_path
    set_up_notebook()
    assert Path.cwd() == tmp_path


def test_a_folder_that_is_no_project_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    set_up_notebook()
    assert Path.cwd() == tmp_path / "notebooks"
