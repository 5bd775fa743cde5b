"""A folder of one's own, prompt sets, and runs that one can live with: names, notes, removal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from catalogues import catalogue
from command_line import Segkit

from segkit.core.prompt_sets import SHIPPED
from segkit.core.prompts import prompt_file
from segkit.errors import RunError
from segkit.pipeline.prepare import prepare_run
from segkit.pipeline.segment import segment
from segkit.runs.run import open_run
from segkit.settings import project_folder
from segkit.storage.locks import owned


def test_a_folder_of_ones_own(segkit: Segkit, place: Path) -> None:
    """It has what a run needs, is never overwritten, and holds none of the scratch files of a JupyterLab."""
    code, printed, _ = segkit("init", "mine")
    assert (code, "next: cd mine && segkit run sample.csv" in printed) == (0, True)
    made = {path.relative_to(place / "mine").as_posix() for path in (place / "mine").rglob("*") if path.is_file()}
    assert {"README.md", ".env.example", ".gitignore", "sample.csv", "notebooks/00_prepare_run.ipynb"} <= made
    shipped = {f"prompts/{prompt_file(key, name)}" for name, keys in SHIPPED.items() for key in keys}
    assert {name for name in made if name.startswith("prompts/")} == shipped
    (place / "mine" / "README.md").write_text("my own words")
    (place / "mine" / "sample.csv").unlink()
    _, printed, _ = segkit("init", "mine")
    assert "1 file made" in printed
    assert (place / "mine" / "README.md").read_text() == "my own words"


def test_a_folder_that_cannot_be_made(segkit: Segkit, place: Path) -> None:
    (place / "file").write_text("")
    code, _, complaint = segkit("init", "file")
    assert (code, complaint.startswith("error: file"), len(complaint.splitlines())) == (2, True, 2)


def test_a_prompt_set_is_copied_once(segkit: Segkit, place: Path) -> None:
    code, printed, _ = segkit("prompts", "copy", "v0", "mine")
    assert (code, printed.splitlines()[-1]) == (
        0,
        "next: edit them, then segkit prompts check mine, and segkit run … --prompts mine",
    )
    for path in project_folder("prompts").glob("*_v0.txt"):
        assert (place / "prompts" / path.name.replace("v0", "mine")).read_bytes() == path.read_bytes()
    assert segkit("prompts", "copy", "v0", "mine")[0] == 2
    assert segkit("prompts", "copy", "v9", "other")[0] == 2
    assert segkit("prompts", "copy", "v0", "../out")[0] == 2
    assert "mine  " in segkit("prompts", "list")[1]
    run = segment(catalogue(6), "Kitchen Things", model="offline", prompts="mine", runs_dir=place / "runs")
    assert run.parameters.prompts == "mine"


def test_names_of_runs(place: Path) -> None:
    """The newest is the one that was made last, whatever its id says; the end of an id is enough."""
    how: dict[str, Any] = {"model": "offline", "runs_dir": place / "runs"}
    first = segment(catalogue(6), "A", run_id="RUN_20990101T000000Z_00aa", **how)
    # Both are made in one second as a rule, which is as fine as `created_at` tells.
    second = prepare_run(catalogue(6), "B", run_id="RUN_20250101T000000Z_00ab", **how)
    assert open_run("latest", place / "runs").id == second.id
    assert open_run("latest-completed", place / "runs").id == first.id
    assert open_run("0ab", place / "runs").id == second.id
    assert open_run("00AA", place / "runs").id == first.id
    with pytest.raises(RunError, match="no run ends with beef"):
        open_run("beef", place / "runs")
    third = prepare_run(catalogue(6), "C", run_id="RUN_20250102T000000Z_00ab", **how)
    with pytest.raises(RunError, match=f"2 runs end with 00ab: {second.id}, {third.id}"):
        open_run("00ab", place / "runs")


def test_no_run_is_completed(place: Path) -> None:
    prepare_run(catalogue(6), "A", model="offline", runs_dir=place / "runs")
    with pytest.raises(RunError, match="is completed"):
        open_run("latest-completed", place / "runs")


def test_a_note_is_kept_with_a_run(segkit: Segkit, place: Path) -> None:
    """It is listed, and is no change of the run."""
    run = segment(catalogue(6), "A", model="offline", runs_dir=place / "runs")
    assert segkit("note", "latest", "shorter prompt")[0] == 0
    (row,) = json.loads(segkit("runs", "--json")[1])
    assert row["note"] == "shorter prompt"
    assert segkit("verify")[0] == 0
    segkit("note", run.id, "")
    assert json.loads(segkit("runs", "--json")[1])[0]["note"] is None


def test_a_run_is_removed_only_on_purpose(segkit: Segkit, place: Path) -> None:
    """Not without a word, and not while a process works on it."""
    run = segment(catalogue(6), "A", model="offline", runs_dir=place / "runs")
    code, _, complaint = segkit("rm", "latest")
    assert (code, f"segkit rm {run.id} --yes" in complaint, run.folder.exists()) == (1, True, True)
    with owned(run.folder / "run.lock"):
        assert segkit("rm", run.id, "--yes")[0] == 1
    assert segkit("rm", run.id, "--yes") == (0, f"removed {run.folder.relative_to(place)}\n", "")
    assert not any((place / "runs").iterdir())
