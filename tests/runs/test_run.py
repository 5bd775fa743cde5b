"""Run folders: made whole or not at all, found by name, and telling the truth about themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import orjson
import pandas as pd
import pytest
from catalogues import catalogue

from segkit.errors import InputError, RunError, SettingsError
from segkit.pipeline.parameters import choose_parameters
from segkit.pipeline.prepare import prepare_run
from segkit.runs.create import create_run
from segkit.runs.run import Run, current_state, is_run_name, list_runs, open_run, run_ids
from segkit.runs.status import read_status, update_status
from segkit.settings import load_settings
from segkit.storage.disk import write_atomic
from segkit.storage.locks import owned

NewRun = Callable[..., Run]


def test_a_run_says_what_it_was_made_of(new_run: NewRun) -> None:
    run = new_run(5, model="offline", seed=7)
    assert run.parameters.seed == 7
    assert run.document["input"]["products"] == 5
    assert len(run.document["input"]["sha256"]) == 64
    assert set(run.document["prompts"]) == set(run.prompts)
    assert {"segkit_version", "python", "packages", "git_commit"} <= set(run.document)
    assert (run.folder.stat().st_mode & 0o777) == 0o700


def test_the_prompts_of_a_run_are_its_own(new_run: NewRun, place: Path) -> None:
    """Editing a prompt later does not change a run that has begun."""
    run = new_run(5, model="offline")
    assert sorted(path.name for path in (run.folder / "prompts").iterdir()) == [
        "consolidate_taxonomy_prompt.txt",
        "extract_taxonomy_prompt.txt",
        "refine_assignments_prompt.txt",
        "shared_retry_prompt.txt",
    ]


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc", "", "RUN_", "RUN_20250101T000000Z_zzzz", "RUN_20250101T000000Z_ab\0d", "x" * 10_000, ".."],
)
def test_names_that_are_no_run_ids_are_refused(name: str, new_run: NewRun, place: Path) -> None:
    """No name leads out of the folder of the runs."""
    new_run(2, model="offline")
    with pytest.raises(RunError) as error:
        open_run(name, place / "runs")
    assert len(str(error.value)) < 300


def test_what_names_a_run_and_what_names_a_file(new_run: NewRun, place: Path) -> None:
    run = new_run(6, model="offline")
    assert all(is_run_name(name) for name in (run.id, run.id[-4:], "latest", "latest-completed"))
    assert not any(is_run_name(name) for name in ("sample", "products.csv", ""))
    (place / run.id[-4:]).mkdir()
    assert not is_run_name(run.id[-4:])


def test_latest_is_the_newest(new_run: NewRun, place: Path) -> None:
    """Two runs made in the same second have different ids and share nothing."""
    made = [new_run(2, model="offline").id for _ in range(5)]
    assert len(set(made)) == 5
    assert open_run("latest", place / "runs").id == made[-1]
    assert run_ids(place / "runs") == made


def test_a_run_can_be_moved(new_run: NewRun, place: Path) -> None:
    """Nothing in a run folder says where it lies."""
    run = new_run(4, model="offline")
    shutil.move(place / "runs", place / "elsewhere")
    moved = open_run(str(place / "elsewhere" / run.id))
    pd.testing.assert_frame_equal(moved.products, open_run(run.id, place / "elsewhere").products)
    assert str(place).encode() not in (moved.folder / "run.json").read_bytes()


def test_a_run_of_a_future_version_is_refused(new_run: NewRun, place: Path) -> None:
    """It needs a newer segkit, and the error says so."""
    run = new_run(2, model="offline")
    document = {**run.document, "schema_version": 99, "segkit_version": "9.9"}
    (run.folder / "run.json").write_bytes(orjson.dumps(document))
    with pytest.raises(RunError, match=r"segkit 9\.9.*upgrade"):
        open_run(run.id, place / "runs")


def test_a_broken_run_json_is_told(new_run: NewRun, place: Path) -> None:
    run = new_run(2, model="offline")
    (run.folder / "run.json").write_bytes(b'{"run_id": ')
    with pytest.raises(RunError, match="damaged"):
        open_run(run.id, place / "runs")


@pytest.mark.parametrize("content", [b"", b'{"state": "comp', b"\xff"])
def test_a_broken_status_does_not_break_a_run(content: bytes, new_run: NewRun) -> None:
    """The status is only a view of what is on disk."""
    run = new_run(2, model="offline")
    (run.folder / "status.json").write_bytes(content)
    assert read_status(run.folder).state == "running"
    assert update_status(run.folder, state="failed").state == "failed"


def test_a_run_nobody_works_on_is_not_running(new_run: NewRun) -> None:
    """Between two steps it waits; after a kill the name in the lock tells that it failed."""
    run = new_run(2, model="offline")
    assert current_state(run.folder) == "waiting"
    with owned(run.folder / "run.lock"):
        assert current_state(run.folder) == "running"
    assert current_state(run.folder) == "waiting"
    (run.folder / "run.lock").write_text('{"pid": 1}')
    assert current_state(run.folder) == "failed"


def test_a_lock_names_its_owner(new_run: NewRun) -> None:
    """The second one is told pid, host and since when."""
    run = new_run(2, model="offline")
    told = pytest.raises(RunError, match=f"pid {os.getpid()} on ")
    with owned(run.folder / "run.lock"), told, owned(run.folder / "run.lock"):
        pass


def test_nothing_half_made_is_left_behind(place: Path, new_run: NewRun) -> None:
    """A folder that cannot be made leaves nothing, and one line says why."""
    (place / "file").write_text("")
    run = new_run(2, model="offline")
    with pytest.raises(RunError, match="cannot be made"):
        create_run(place / "file", run.id, run.parameters, run.products, run.prompts, {}, load_settings())
    with pytest.raises(RunError, match="cannot be made"):
        create_run(place / "runs", run.id, run.parameters, run.products, run.prompts, {}, load_settings())
    assert [path.name for path in (place / "runs").iterdir()] == [run.id]


def test_what_a_dead_process_half_made_is_swept(new_run: NewRun, place: Path) -> None:
    """The next run takes it away; what a living process makes stays, however old or new it is."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = [place / "runs" / f".RUN_20250101T000000Z_0001.{pid}.making" for pid in (dead.pid, os.getpid())]
    for folder in left:
        (folder / "prompts").mkdir(parents=True)
    new_run(3, model="offline")
    assert [folder.exists() for folder in left] == [False, True]


def test_a_new_content_replaces_the_old_whole(tmp_path: Path) -> None:
    """The name holds the old content or the new one, and no temporary file stays."""
    path = tmp_path / "status.json"
    for content in (b"old", b"new" * 1000):
        write_atomic(path, content)
        assert path.read_bytes() == content
    assert [entry.name for entry in tmp_path.iterdir()] == ["status.json"]


def test_runs_are_listed(new_run: NewRun, place: Path) -> None:
    run = new_run(3, model="offline")
    frame = list_runs(place / "runs")
    assert frame[["id", "state", "products", "model"]].values.tolist() == [[run.id, "waiting", 3, "offline"]]
    assert frame["categories"].dtype == "Int64", "whole numbers, also beside a run without any"
    assert list_runs(place / "nowhere").empty


BAD_SETTINGS = {
    "SEGMENTATION_PRODUCTS_PER_PROMPT": "0",
    "DEFAULT_TEMPERATURE": "warm",
    "STORAGE_BACKEND": "tape",
    "OPENAI_BASE_URL": "ftp://example.invalid",
    "SEGKIT_CONCURRENCY": "many",
}


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_a_setting_that_cannot_be_used_is_named(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, BAD_SETTINGS[name])
    with pytest.raises(SettingsError, match=name):
        load_settings()


def test_the_temperature_can_be_left_out(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEFAULT_TEMPERATURE", "none")
    assert choose_parameters("X", load_settings(), model="offline").temperature is None


def test_settings_come_from_a_file_too(place: Path) -> None:
    (place / ".env").write_text("DEFAULT_MODEL=offline\n")
    assert prepare_run(catalogue(2), "X").parameters.model == "offline"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (
            {"OPENAI_BASE_URL": "http://user:secret@127.0.0.1/v1", "OPENAI_API_KEY": "k"},
            "keys go into OPENAI_API_KEY",
        ),
        ({"STORAGE_BACKEND": "s3", "OPENAI_API_KEY": "x"}, "S3_BUCKET = ''"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything(
    changed: dict[str, str], told: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no error repeats a secret."""
    for name, value in changed.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=told) as error:
        prepare_run(catalogue(2), "X")
    assert "secret" not in str(error.value)
    assert not (place / "runs").exists()


@pytest.mark.parametrize(
    "wrong", [{"products_per_prompt": 0}, {"taxonomies_per_consolidation": 1}, {"max_retries": 0}, {"temperature": 3}]
)
def test_a_parameter_out_of_range_is_named(wrong: dict[str, int], place: Path) -> None:
    (name,) = wrong
    with pytest.raises(SettingsError, match=f"{name} is {wrong[name]}"):
        prepare_run(catalogue(2), "X", model="offline", **wrong)


def test_a_price_table_is_read_before_anything_is_paid(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "prices.json").write_text('{"gpt-4o": {"input": "cheap"}}')
    monkeypatch.setenv("SEGKIT_PRICES", "prices.json")
    with pytest.raises(SettingsError, match=r"prices\.json"):
        prepare_run(catalogue(2), "X", model="offline")
