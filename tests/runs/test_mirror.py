"""A run that lives in S3: written there while it works, read from anywhere, and asked by one machine at a time."""

from __future__ import annotations

import gzip
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from catalogues import KEY, unmeasured
from endpoint import Endpoint
from s3_server import S3Server

from segkit.analysis.logs import compact, query
from segkit.database.connection import query as query_postgres
from segkit.database.sync import sync_run
from segkit.errors import RunError, SettingsError, StoppedError, StorageError
from segkit.pipeline.migrate import rollback_s3
from segkit.pipeline.notebooks.run import run_notebooks
from segkit.pipeline.stages import consolidate_taxonomy, extract_taxonomy, refine_assignments
from segkit.pipeline.summary import decide_state
from segkit.runs import mirror
from segkit.runs.events import log_event
from segkit.runs.ownership import claimed
from segkit.runs.run import Run, current_state, list_runs, open_run
from segkit.runs.status import update_status
from segkit.settings import load_settings

STAGES = (extract_taxonomy, consolidate_taxonomy, refine_assignments)


@pytest.fixture
def remote_run(s3: S3Server, endpoint: Endpoint, new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run that was made with STORAGE_BACKEND=s3, before its first question."""
    monkeypatch.setenv("STORAGE_BACKEND", "s3")
    return new_run()


def work(run: Run) -> None:
    for stage in STAGES:
        stage(run, load_settings())


def end(run: Run) -> None:
    decide_state(run)
    compact(run)
    mirror.upload_all(run.folder)


def elsewhere(run: Run, tmp_path: Path, name: str = "elsewhere") -> Run:
    """The same run on a machine that has never seen it."""
    return open_run(run.id, tmp_path / name)


def keys(run: Run) -> set[str]:
    return {name.partition("/")[2] for name in mirror.remote(run.folder).names(run.id)}


def test_every_answer_is_in_s3_before_the_stage_ends(remote_run: Run, endpoint: Endpoint) -> None:
    assert {"run.json", "status.json", "products.parquet", "prompts/extract_taxonomy_prompt.txt"} <= keys(remote_run)
    extract_taxonomy(remote_run, load_settings())
    logs = {f"segmentation/{path.name}" for path in remote_run.stage_folder("extract_taxonomy").iterdir()}
    assert len(logs) == 2
    assert logs <= keys(remote_run)


def test_another_machine_goes_on_and_pays_for_nothing_again(
    remote_run: Run, endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first machine is lost with all its disks."""
    extract_taxonomy(remote_run, load_settings())
    mirror.push(remote_run.folder)
    shutil.rmtree(remote_run.folder)
    monkeypatch.setenv("SEGKIT_HOME", str(tmp_path / "another home"))
    asked = len(endpoint.ledger())
    run = elsewhere(remote_run, tmp_path)
    mirror.fetch_all(run.folder)
    extract_taxonomy(run, load_settings())
    assert len(endpoint.ledger()) == asked
    work(run)
    end(run)
    assert run.status.state == "completed"


def test_a_finished_run_is_read_from_anywhere(
    remote_run: Run, tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work(remote_run)
    end(remote_run)
    away = elsewhere(remote_run, tmp_path)
    assert list_runs(tmp_path / "third")["id"].tolist() == [remote_run.id]
    assert away.result("ledger").equals(remote_run.result("ledger"))
    assert query("FROM interactions", run=away).equals(query("FROM interactions", run=remote_run))
    assert away.products.equals(remote_run.products)
    assert away.prompts == remote_run.prompts
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    assert sync_run(away)["product_segments"] == 12
    paths = query_postgres(postgres_url, f"SELECT file_path FROM llm_interaction_index WHERE run_id = '{away.id}'")
    assert all(paths["file_path"].str.startswith(load_settings().bucket))


def test_a_run_that_another_machine_works_on_is_left_alone(remote_run: Run, tmp_path: Path) -> None:
    """Another host; it is not taken over silently."""
    storage, name = mirror.remote(remote_run.folder), f"{remote_run.id}/{mirror.OWNER}"
    storage.create(name, orjson.dumps({"host": "another", "pid": 7, "since": "2026-01-01T00:00:00Z"}))
    away = elsewhere(remote_run, tmp_path)
    assert current_state(away.folder) == "running"
    with pytest.raises(RunError, match="pid 7 on another since 2026") as told, claimed(away.folder):
        pass
    assert "--take-over" in told.value.hint
    with claimed(away.folder, take_over=True):
        assert orjson.loads(storage.read(name))["host"] != "another"
    assert mirror.OWNER not in keys(away)
    assert current_state(elsewhere(remote_run, tmp_path).folder) == "waiting", "nobody works on it"


def test_what_this_machine_left_behind_is_taken_over(remote_run: Run) -> None:
    """The owner was killed; its lock on the disk is gone with it."""
    name = f"{remote_run.id}/{mirror.OWNER}"
    with claimed(remote_run.folder):
        left = mirror.remote(remote_run.folder).read(name)
    mirror.remote(remote_run.folder).create(name, left)
    with claimed(remote_run.folder):
        pass


def test_two_folders_of_one_machine_do_not_work_at_once(remote_run: Run, tmp_path: Path) -> None:
    """The same host, and a process that lives; each would pay."""
    away = elsewhere(remote_run, tmp_path)
    with claimed(remote_run.folder):
        assert current_state(elsewhere(remote_run, tmp_path).folder) == "running"
        with pytest.raises(RunError, match="at work in another folder"), claimed(away.folder):
            pass
        with claimed(away.folder, take_over=True):
            taken = mirror.remote(away.folder).read(f"{away.id}/{mirror.OWNER}")
    assert taken
    with claimed(away.folder):
        pass


def test_who_lost_a_run_does_not_end_the_claim_of_who_took_it_over(remote_run: Run, tmp_path: Path) -> None:
    away = elsewhere(remote_run, tmp_path)
    first, second = claimed(remote_run.folder), claimed(away.folder, take_over=True)
    first.__enter__()
    with second:
        first.__exit__(None, None, None)
        assert mirror.OWNER in keys(away)
    assert mirror.OWNER not in keys(away)


def test_the_owner_of_a_dead_process_of_this_machine_owns_nothing(remote_run: Run, tmp_path: Path) -> None:
    """Killed in another folder; and an `owner.json` that tells nothing asks for --take-over."""
    storage, name = mirror.remote(remote_run.folder), f"{remote_run.id}/{mirror.OWNER}"
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    owner = {"host": socket.gethostname(), "pid": int(dead.stdout), "since": "2026-01-01T00:00:00Z", "folder": "/x"}
    storage.create(name, orjson.dumps(owner))
    away = elsewhere(remote_run, tmp_path)
    assert current_state(away.folder) == "waiting"
    with claimed(away.folder):
        pass
    for damaged in (b"", b"[]", b'{"host"'):
        storage.replace(name, damaged)
        with pytest.raises(RunError, match=r"pid \? on \?") as told, claimed(away.folder):
            pass
        assert "--take-over" in told.value.hint


def test_a_run_that_was_killed_after_it_had_failed_goes_on_elsewhere(remote_run: Run, tmp_path: Path) -> None:
    """What was stored when it failed is no measure of what a later life wrote."""
    extract_taxonomy(remote_run, load_settings())
    log_event(remote_run.folder, "run_failed")
    mirror.upload_all(remote_run.folder)
    second = elsewhere(remote_run, tmp_path)
    mirror.begin_session(second.folder)
    log_event(second.folder, "run_started")
    consolidate_taxonomy(second, load_settings())
    mirror.push(second.folder)  # and here it is killed
    third = elsewhere(remote_run, tmp_path, "third")
    mirror.begin_session(third.folder)
    assert (third.folder / "events.jsonl").read_bytes() == (second.folder / "events.jsonl").read_bytes()
    assert len(query("FROM interactions", run=third)) == len(query("FROM interactions", run=second)) == 3


def test_a_run_that_was_killed_is_resumed_before_it_is_rolled_back(remote_run: Run) -> None:
    """The hint leads on, and not in a circle: `migrate-to-s3` would refuse its `status.json`."""
    extract_taxonomy(remote_run, load_settings())
    with pytest.raises(RunError, match="is not stored in S3 as a whole") as told:
        rollback_s3(remote_run)
    assert told.value.hint == f"segkit resume {remote_run.id}"


def test_a_run_that_cannot_be_fetched_is_left_as_it_is_in_s3(remote_run: Run, tmp_path: Path, s3: S3Server) -> None:
    """Neither its events nor the list of what is stored are replaced by what came here of it."""
    extract_taxonomy(remote_run, load_settings())
    update_status(remote_run.folder, state="failed")
    log_event(remote_run.folder, "run_failed")
    mirror.upload_all(remote_run.folder)
    storage = mirror.remote(remote_run.folder)
    before = {name: storage.read(name) for name in storage.names(remote_run.id)}
    away = elsewhere(remote_run, tmp_path)
    s3.order = lambda method, key: (
        403 if method == "GET" and key.endswith(("events.jsonl", "products.parquet")) else None
    )
    with pytest.raises(StorageError, match="AccessDenied"):
        run_notebooks(away, sync=False)
    s3.order = lambda method, key: None
    assert {name: storage.read(name) for name in storage.names(remote_run.id)} == before


def test_the_events_of_a_run_elsewhere_are_asked_too(remote_run: Run, tmp_path: Path) -> None:
    work(remote_run)
    log_event(remote_run.folder, "run_ended")
    end(remote_run)
    events = query("FROM events", run=remote_run)
    assert len(events) > 0
    assert query("FROM events", run=elsewhere(remote_run, tmp_path)).equals(events)


@pytest.mark.parametrize(
    "told",
    [
        b"",
        b"{",
        b"[]",
        b'{"uri": 5, "region": "x"}',
        b'{"uri": "s3://bucket/RUN"}',
        b'{"uri": "/x/RUN", "region": ""}',
    ],
)
def test_a_damaged_address_is_one_clear_error(told: bytes, remote_run: Run) -> None:
    (remote_run.folder / mirror.LOCATION).write_bytes(told.replace(b"RUN", remote_run.id.encode()))
    with pytest.raises(RunError, match=r"location\.json does not tell where the run is"):
        mirror.location(remote_run.folder)


def test_names_in_the_bucket_lead_nowhere_else(remote_run: Run, tmp_path: Path, s3: S3Server) -> None:
    """Keys with dots, a folder that is no run, and a list of what is stored that names other places."""
    storage = mirror.remote(remote_run.folder)
    client = storage._client  # the keys that segkit itself would never send
    for key in (f"{remote_run.id}/../../planted", f"{remote_run.id}/results//planted", "../run.json", "x/run.json"):
        client.put_object(Bucket=load_settings().s3_bucket, Key=key, Body=b"{}")
    client.put_object(Bucket=load_settings().s3_bucket, Key="x/status.json", Body=b"{}")
    assert list_runs(tmp_path / "elsewhere")["id"].tolist() == [remote_run.id]
    assert {path.name for path in (tmp_path / "elsewhere").iterdir()} == {remote_run.id}
    away = elsewhere(remote_run, tmp_path)
    mirror.fetch_all(away.folder)
    assert not list(tmp_path.rglob("planted"))
    (away.folder / mirror.STORED).write_text(f"{'0' * 64}  ../../planted\n")
    with pytest.raises(RunError, match="line 1 is no checksum"):
        mirror.stored(away.folder)


def test_a_folder_that_cannot_be_written_is_one_clear_error(remote_run: Run, tmp_path: Path) -> None:
    work(remote_run)
    end(remote_run)
    away = elsewhere(remote_run, tmp_path)
    (away.folder / "results").rmdir()
    (away.folder / "results").write_bytes(b"")
    with pytest.raises(StoppedError, match=r"the disk fails at .*S3 was not touched"):
        away.result("ledger")
    (tmp_path / "third").write_bytes(b"")
    with pytest.raises(StoppedError, match=r"the disk fails at .*S3 was not touched"):
        elsewhere(remote_run, tmp_path, "third")


def test_what_another_machine_did_since_is_seen(remote_run: Run, tmp_path: Path) -> None:
    work(remote_run)
    away = elsewhere(remote_run, tmp_path)
    assert away.status.state == "running"
    end(remote_run)
    assert elsewhere(remote_run, tmp_path).status.state == "completed"
    assert elsewhere(remote_run, tmp_path).result("ledger").equals(remote_run.result("ledger"))


def set_clock(run: Run, year: int) -> None:
    """Let the last change of a run be written by a machine whose clock is wrong."""
    path = run.folder / "status.json"
    path.write_bytes(orjson.dumps({**orjson.loads(path.read_bytes()), "updated_at": f"{year}-01-01T00:00:00Z"}))


def goes_on(run: Run, year: int, **changes: str) -> None:
    """A machine begins to work on a run; what it did is not sent yet."""
    mirror.begin_session(run.folder)
    for number in range(3):
        update_status(run.folder, stage=f"stage {number}", **changes)
    set_clock(run, year)


def test_the_state_of_a_run_is_ordered_by_no_clock(remote_run: Run, tmp_path: Path) -> None:
    """A machine whose clock is ahead hides nothing that others did later; one behind is not hidden."""
    goes_on(remote_run, 2099)
    mirror.push(remote_run.folder)
    second = elsewhere(remote_run, tmp_path)
    goes_on(second, 2001, state="failed", reason="of the second")
    assert elsewhere(remote_run, tmp_path).status.reason == "of the second", "not sent, and yet the newest"
    mirror.push(second.folder)
    assert open_run(remote_run.id, remote_run.folder.parent).status.reason == "of the second"
    update_status(second.folder, reason="later, by the same")
    set_clock(second, 1999)
    mirror.push(second.folder)
    assert open_run(remote_run.id, remote_run.folder.parent).status.reason == "later, by the same"
    for year in (2098, 2099):  # two lives that were killed before they sent anything
        goes_on(remote_run, year, reason="of the first")
    assert open_run(remote_run.id, remote_run.folder.parent).status.reason == "of the first"
    third = elsewhere(remote_run, tmp_path, "third")
    goes_on(third, 2026, state="completed", reason="")
    mirror.push(third.folder)
    for place in (remote_run.folder.parent, second.folder.parent):
        assert open_run(remote_run.id, place).status.state == "completed"


def test_a_status_of_an_older_segkit_has_its_place(remote_run: Run, tmp_path: Path) -> None:
    """It knows no lives and counts no changes, so its clock has to do; a later life of ours comes after it."""
    away, path = elsewhere(remote_run, tmp_path), remote_run.folder / "status.json"
    told = {"state": "failed", "reason": "older", "stages": {}, "updated_at": "2099-01-01T00:00:00Z"}
    path.write_bytes(orjson.dumps(told))
    mirror.push(remote_run.folder)
    assert elsewhere(remote_run, tmp_path).status.reason == "older"
    goes_on(away, 2001, reason="newer")
    assert elsewhere(remote_run, tmp_path).status.reason == "newer"


@pytest.mark.parametrize("told", [b"", b"{", b"[]", b'{"updated_at": 5}', b'{"change": "x", "life": []}'])
def test_a_damaged_status_in_s3_hides_nothing(told: bytes, remote_run: Run, tmp_path: Path) -> None:
    """What is here is shown; the run can be gone on with."""
    away = elsewhere(remote_run, tmp_path)
    goes_on(away, 2026, reason="mine")
    mirror.remote(away.folder).replace(f"{away.id}/status.json", told)
    assert elsewhere(remote_run, tmp_path).status.reason == "mine"
    mirror.begin_session(away.folder)


def test_s3_that_is_down_is_told_before_anything_is_made(
    s3: S3Server, new_run: Callable[..., Run], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any paid call."""
    monkeypatch.setenv("STORAGE_BACKEND", "s3")
    s3.order = lambda method, key: 403
    with pytest.raises(StorageError, match="AccessDenied"):
        new_run(model="offline")
    assert not list(place.glob("runs/RUN_*"))
    monkeypatch.delenv("S3_BUCKET")
    with pytest.raises(SettingsError, match="S3_BUCKET = ''"):
        new_run(model="offline")


def test_s3_that_fails_in_the_middle_stops_the_run_and_loses_nothing(
    remote_run: Run, s3: S3Server, endpoint: Endpoint
) -> None:
    s3.order = lambda method, key: 403 if method == "PUT" else None
    with pytest.raises(StorageError, match="AccessDenied"):
        extract_taxonomy(remote_run, load_settings())
    asked = len(endpoint.ledger())
    assert len(list(remote_run.stage_folder("extract_taxonomy").glob("*.json"))) == asked
    s3.order = lambda method, key: None
    work(remote_run)
    assert len(endpoint.ledger()) >= asked
    mirror.push(remote_run.folder)
    assert {f"segmentation/{path.name}" for path in remote_run.stage_folder("extract_taxonomy").iterdir()} <= keys(
        remote_run
    )


def test_a_log_in_s3_is_never_overwritten(remote_run: Run) -> None:
    extract_taxonomy(remote_run, load_settings())
    log = min(remote_run.stage_folder("extract_taxonomy").iterdir())
    log.write_bytes(b"{}")
    with pytest.raises(StorageError, match="holds something else"):
        mirror.push_log(remote_run.folder, log)


def test_compressed_logs_are_logs(
    endpoint: Endpoint, new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGKIT_COMPRESS_LOGS", "1")
    run = new_run()
    work(run)
    asked = len(endpoint.ledger())
    logs = list(run.stage_folder("extract_taxonomy").iterdir())
    assert [path.name[-8:] for path in logs] == [".json.gz"] * 2
    assert all(orjson.loads(subprocess.check_output(["gzip", "-dc", path]))["prompt"] for path in logs)
    assert len(query("FROM interactions", run=run)) == asked
    work(run)  # again, from the logs
    again = new_run()  # another, from the cache
    work(again)
    assert len(endpoint.ledger()) == asked


@pytest.mark.parametrize("compress", ["0", "1"])
def test_a_leftover_intent_in_s3_is_no_second_answer(
    remote_run: Run, endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compress: str
) -> None:
    """An intent was sent, its log too, and the machine died before it removed the intent there."""
    monkeypatch.setenv("SEGKIT_COMPRESS_LOGS", compress)
    extract_taxonomy(remote_run, load_settings())
    mirror.push(remote_run.folder)
    log = min(remote_run.stage_folder("extract_taxonomy").iterdir())
    left = log.with_name(log.name.partition(".")[0] + ".intent")
    content = gzip.decompress(log.read_bytes()) if compress == "1" else log.read_bytes()
    mirror.remote(remote_run.folder).create(f"{remote_run.id}/segmentation/{left.name}", content)
    away, asked = elsewhere(remote_run, tmp_path), len(endpoint.ledger())
    mirror.begin_session(away.folder)
    assert (away.stage_folder("extract_taxonomy") / left.name).exists()
    extract_taxonomy(away, load_settings())
    assert len(endpoint.ledger()) == asked
    assert away.status.stages["segmentation"].calls == 2, "none is counted twice"
    assert (away.stage_folder("extract_taxonomy") / log.name).read_bytes() == log.read_bytes()
    mirror.push(away.folder)
    assert not [name for name in keys(away) if name.endswith(".intent")]


def test_the_log_of_a_call_without_an_answer_is_compressed_too(
    endpoint: Endpoint, new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGKIT_COMPRESS_LOGS", "1")
    endpoint.queue("500")
    extract_taxonomy(run := new_run(), load_settings())
    assert query("FROM interactions WHERE outcome = 'no_answer'", run=run)["file_path"].str.endswith(".json.gz").all()
    assert [path.name[-8:] for path in run.stage_folder("extract_taxonomy").iterdir()] == [".json.gz"] * 3


@pytest.mark.parametrize("cut", [1, 9, 200])
def test_a_compressed_log_that_is_cut_or_bloated_is_damaged(
    endpoint: Endpoint, new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    from segkit.runs.interactions import scan

    monkeypatch.setenv("SEGKIT_COMPRESS_LOGS", "1")
    run = new_run()
    extract_taxonomy(run, load_settings())
    folder = run.stage_folder("extract_taxonomy")
    first, second = sorted(folder.iterdir())
    first.write_bytes(first.read_bytes()[:-cut])
    second.write_bytes(second.read_bytes() + b"more")
    assert scan(folder) == ([], [first, second])


@pytest.fixture
def synced(remote_run: Run, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run in S3 that Postgres knows, seen by a machine whose own cache is empty."""
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    work(remote_run)
    end(remote_run)
    sync_run(remote_run)
    monkeypatch.setenv("SEGKIT_HOME", str(tmp_path / "another home"))
    monkeypatch.setenv("STORAGE_ROOT", str(tmp_path / "another place"))
    return remote_run


def test_the_database_knows_answers_of_other_machines(
    synced: Run, endpoint: Endpoint, new_run: Callable[..., Run], tmp_path: Path
) -> None:
    """The hybrid cache: found by its key in the index, fetched from S3, verified, used."""
    asked = len(endpoint.ledger())
    work(another := new_run(runs_dir=tmp_path / "another place"))
    assert len(endpoint.ledger()) == asked
    told = query("SELECT cached_from FROM interactions", run=another)["cached_from"]
    assert all(told.str.startswith(synced.id))


def test_an_indexed_answer_that_is_not_right_is_not_used(
    synced: Run, endpoint: Endpoint, new_run: Callable[..., Run], tmp_path: Path
) -> None:
    """Damaged, or of another question."""
    storage = mirror.remote(synced.folder)
    first, second = sorted(name for name in storage.names(synced.id) if "/segmentation/" in name)
    storage.replace(first, storage.read(second))
    storage.replace(second, b"{}")
    asked = len(endpoint.ledger())
    another = new_run(runs_dir=tmp_path / "another place")
    extract_taxonomy(another, load_settings())
    assert len(endpoint.ledger()) == asked + 2
    assert "indexed_answer_not_used" in (another.folder / "events.jsonl").read_text()


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../../etc/passwd", "s3://other/RUN/segmentation/x.json", "http://x/y"]
)
def test_the_index_chooses_no_other_place(path: str, s3: S3Server, place: Path) -> None:
    with pytest.raises(FileNotFoundError, match="not where segkit keeps logs"):
        mirror.read_log(path, place, load_settings())


def test_a_database_that_is_down_does_not_stop_the_asking(
    endpoint: Endpoint, new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody:secret@127.0.0.1:9/none")
    work(run := new_run())
    assert "shared_index_not_asked" in (run.folder / "events.jsonl").read_text()
    assert "secret" not in (run.folder / "events.jsonl").read_text()


@pytest.mark.long
def test_the_whole_pipeline_with_s3(s3: S3Server, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`segkit run`, `runs`, `show`, `logs`, `export`, `verify --remote` with STORAGE_BACKEND=s3."""
    monkeypatch.setenv("STORAGE_BACKEND", "s3")
    run = [sys.executable, "-m", "segkit", "run", "sample", "-c", "Coffee Makers", "-m", "offline", "--no-sync"]
    subprocess.run(run, env=unmeasured(), check=True)
    monkeypatch.setenv("STORAGE_ROOT", "elsewhere")
    for command in ("runs", "show latest", "export latest", "verify latest", "verify latest --remote"):
        told = subprocess.run(
            [*run[:3], *command.split()], env=unmeasured(), capture_output=True, text=True, check=True
        )
        assert told.stdout
    assert KEY not in told.stdout
