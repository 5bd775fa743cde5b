"""`make lab`: copies of the notebooks that follow the tracked ones, and lose nothing that somebody wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from segkit.pipeline.notebooks.working_copies import update_copies


def write(path: Path, source: str, outputs: tuple[str, ...] = ()) -> None:
    cell = {"cell_type": "code", "source": [source], "outputs": list(outputs)}
    path.write_text(json.dumps({"cells": [cell]}), encoding="utf-8")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "notebooks").mkdir()
    write(tmp_path / "notebooks" / "00_a.ipynb", "x = 1")
    return tmp_path / "notebooks", tmp_path / "work"


def test_an_executed_copy_follows_its_notebook(folders: tuple[Path, Path]) -> None:
    """Outputs are no edit; while the notebook stays, an executed copy stays as well."""
    notebooks, work = folders
    assert update_copies(notebooks, work) == []
    write(work / "00_a.ipynb", "x = 1", ("1",))
    assert update_copies(notebooks, work) == []
    assert '["1"]' in (work / "00_a.ipynb").read_text()
    write(notebooks / "00_a.ipynb", "x = 2")
    assert update_copies(notebooks, work) == [f"{work / '00_a.ipynb'} is the new version"]
    assert (work / "00_a.ipynb").read_bytes() == (notebooks / "00_a.ipynb").read_bytes()


@pytest.mark.parametrize("has_origin", [True, False])
def test_what_somebody_wrote_is_kept_under_another_name(folders: tuple[Path, Path], has_origin: bool) -> None:
    notebooks, work = folders
    update_copies(notebooks, work)
    write(work / "00_a.ipynb", "x = 'mine'")
    if not has_origin:  # a copy of an earlier release
        (work / ".origins" / "00_a.ipynb").unlink()
    write(notebooks / "00_a.ipynb", "x = 2")
    assert update_copies(notebooks, work) == [
        f"{work / '00_a.ipynb'} is the new version; yours is now {work / '00_a-mine-1.ipynb'}"
    ]
    assert "mine" in (work / "00_a-mine-1.ipynb").read_text()
    assert update_copies(notebooks, work) == []
    assert "x = 2" in (work / "00_a.ipynb").read_text()
