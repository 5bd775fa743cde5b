"""Runs move to S3 and back: whatever fails on the way, no file is lost and none is in two states."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from catalogues import answered_offline, unmeasured
from s3_server import S3Server

from segkit.analysis.logs import compact, query
from segkit.cli.main import main
from segkit.database.connection import query as query_postgres
from segkit.database.sync import check_run, sync_run
from segkit.errors import RunError, StorageError
from segkit.pipeline.migrate import migrate_to_s3, remote_differences, rollback_s3
from segkit.pipeline.notebooks.run import run_notebooks
from segkit.runs import mirror
from segkit.runs.integrity import write_checksums
from segkit.runs.interactions import write_whole
from segkit.runs.run import Run, open_run
from segkit.runs.status import update_status
from segkit.settings import load_settings
from segkit.storage.locks import owned


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = answered_offline(tmp_path_factory.mktemp("finished"))
    compact(run)
    write_checksums(run)
    return run


@pytest.fixture
def run(finished: Run, s3: S3Server, place: Path) -> Run:
    """A copy of a finished run, to be moved."""
    shutil.copytree(finished.folder, place / "runs" / finished.id)
    return open_run(finished.id, place / "runs")


def tree(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in mirror.files(folder)}


def stored(run: Run) -> dict[str, str]:
    storage = mirror.open_storage(load_settings().bucket, "us-east-1")
    names = {name.partition("/")[2] for name in storage.names(run.id)} - mirror.OF_THE_PLACE
    return {name: hashlib.sha256(storage.read(f"{run.id}/{name}")).hexdigest() for name in names}


def test_a_run_moves_and_comes_back_byte_for_byte(run: Run, s3: S3Server) -> None:
    before = tree(run.folder)
    told = migrate_to_s3(run)
    assert (told["files"], told["removed"]) == (len(before), 0)
    assert stored(run) == before == tree(run.folder)
    assert remote_differences(run) == []
    assert rollback_s3(run)["fetched"] == 0
    assert tree(run.folder) == before
    assert not mirror.location(run.folder)


def test_what_was_removed_here_is_fetched_when_somebody_looks(run: Run) -> None:
    before, taxonomies, rows = tree(run.folder), run.result("taxonomies"), query("FROM interactions", run=run)
    told = migrate_to_s3(run, remove_local=True)
    assert sorted(tree(run.folder)) == ["run.json", "status.json"]
    assert told["removed"] == len(before) - 2
    away = open_run(run.id, run.folder.parent)
    assert away.result("taxonomies").equals(taxonomies)
    assert len(away.products) == 20
    assert query("FROM interactions", run=away).equals(rows)
    assert not list(away.stage_folder("extract_taxonomy").iterdir()), "the compacted file is enough"
    assert remote_differences(away) == []
    assert rollback_s3(away)["fetched"] == len(before) - 2 - 3
    assert tree(run.folder) == before


def test_the_index_in_postgres_moves_with_the_run(
    run: Run, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    sync_run(run)
    told = migrate_to_s3(run, remove_local=True)
    paths = f"SELECT file_path, prompt_file FROM llm_interaction_index WHERE run_id = '{run.id}'"
    there = query_postgres(postgres_url, paths)
    assert told["index_rows"] == len(there) > 0
    assert all(there["file_path"].str.startswith(f"{load_settings().bucket}/{run.id}/"))
    assert all(there["prompt_file"].str.startswith(f"{load_settings().bucket}/{run.id}/prompts/"))
    assert check_run(run) == []
    assert sync_run(run)["product_segments"] == 20, "a run whose files are away is loaded as a whole"
    rollback_s3(run)
    here = query_postgres(postgres_url, paths)
    assert sorted(here["file_path"]) == sorted(
        path.removeprefix(f"{load_settings().bucket}/") for path in there["file_path"]
    )
    assert check_run(run) == []


def orders(seed: int, share: float) -> Callable[[str, str], Any]:
    draw = random.Random(seed)
    return lambda method, key: draw.choice([500, 503, "reset", "lost"]) if draw.random() < share else None


def test_faults_on_the_way_are_overcome(run: Run, s3: S3Server) -> None:
    """500, 503 and cut lines at 5 % of the requests; the number of attempts is bounded."""
    before = tree(run.folder)
    s3.order = orders(1, 0.05)
    migrate_to_s3(run)
    s3.order = lambda method, key: None
    assert stored(run) == before
    assert len(s3.history) < 5 * (2 * len(before) + 20)


@pytest.mark.parametrize(("fault", "told"), [("corrupt", "other bytes than were stored"), ("drop", "missing")])
def test_a_file_that_did_not_arrive_stops_the_migration(run: Run, s3: S3Server, fault: str, told: str) -> None:
    """The key is named, nothing local is removed, nothing is switched."""
    before, bad = tree(run.folder), "results/taxonomies.parquet"
    s3.order = lambda method, key: fault if method == "PUT" and key.endswith(bad) else None
    with pytest.raises(StorageError, match=f"1 of {len(before)} files .*{run.id}/{bad}: {told}"):
        migrate_to_s3(run, remove_local=True)
    assert tree(run.folder) == before
    assert not mirror.location(run.folder)


def test_a_log_that_is_damaged_is_not_sent(run: Run, s3: S3Server) -> None:
    """Checked against its own checksum first."""
    log = min(run.stage_folder("extract_taxonomy").glob("*.json"))
    log.write_bytes(log.read_bytes().replace(b"kettle", b"ketlle", 1))
    with pytest.raises(RunError, match=f"is damaged: .*{log.name}"):
        migrate_to_s3(run)
    assert s3.count("PUT") == 0


def test_a_key_that_holds_something_else_is_never_overwritten(run: Run, s3: S3Server) -> None:
    """The same content is passed over."""
    storage = mirror.open_storage(load_settings().bucket, "us-east-1")
    storage.create(f"{run.id}/run.json", (run.folder / "run.json").read_bytes())
    storage.create(f"{run.id}/products.parquet", b"of somebody else")
    with pytest.raises(StorageError, match=r"products.parquet: other bytes .*remove those objects"):
        migrate_to_s3(run)
    assert storage.read(f"{run.id}/products.parquet") == b"of somebody else"
    storage.remove(f"{run.id}/products.parquet")
    migrate_to_s3(run)
    assert stored(run) == tree(run.folder)


def test_a_run_that_is_at_work_does_not_move(run: Run, s3: S3Server) -> None:
    with owned(run.folder / "run.lock"), pytest.raises(RunError, match="at work in another process"):
        migrate_to_s3(run)
    assert s3.history == []


def killed_at(server: S3Server, run: Run, command: str, number: int, *more: str) -> int:
    """Start a command in a process of its own and kill it when it makes its n-th request; give its exit code."""
    started: list[subprocess.Popen[bytes]] = []
    counted = [0]

    def order(method: str, key: str) -> None:
        counted[0] += 1
        if counted[0] == number:
            started[0].send_signal(signal.SIGKILL)

    server.order = order
    arguments = [sys.executable, "-m", "segkit", command, run.id, "--runs-dir", str(run.folder.parent), *more]
    started.append(subprocess.Popen(arguments, env=unmeasured(), stdout=subprocess.DEVNULL))
    try:
        return started[0].wait(timeout=300)
    finally:
        server.order = lambda method, key: None


KILLS = [pytest.param(seed, marks=[pytest.mark.long] * (seed > 0)) for seed in range(50)]


@pytest.mark.parametrize("seed", KILLS)
def test_a_migration_that_is_killed_goes_on_where_it_was(seed: int, run: Run, s3: S3Server) -> None:
    """The local files are whole until all is stored; then rollback gives the very same tree."""
    draw, before = random.Random(seed), tree(run.folder)
    number = draw.randint(2, 2 * len(before) + 6)
    code = killed_at(s3, run, "migrate-to-s3", number, "--remove-local")
    assert code == -signal.SIGKILL
    assert tree(run.folder) == before
    migrate_to_s3(open_run(run.id, run.folder.parent), remove_local=True)
    code = killed_at(s3, run, "rollback-s3", draw.randint(2, len(before)))
    assert code == -signal.SIGKILL
    assert stored(run) == before, "a rollback does not touch S3"
    rollback_s3(open_run(run.id, run.folder.parent))
    assert tree(run.folder) == before
    assert stored(run) == before


def test_a_kill_while_local_files_are_removed(run: Run, s3: S3Server) -> None:
    """Some files are here and some are not; both ways lead on."""
    before = tree(run.folder)
    migrate_to_s3(run)
    for name in sorted(before)[::2]:
        if name not in ("run.json", "status.json"):
            (run.folder / name).unlink()
    assert migrate_to_s3(run, remove_local=True)["files"] == len(before)
    assert rollback_s3(run)["fetched"] == len(before) - 2
    assert tree(run.folder) == before


def test_verify_remote_names_every_difference(run: Run, s3: S3Server) -> None:
    """Other bytes, a file that is gone, and one that nobody stored."""
    migrate_to_s3(run, remove_local=True)
    storage, uri = mirror.remote(run.folder), mirror.location(run.folder)
    storage.replace(f"{run.id}/results/ledger.parquet", b"PAR1")
    storage.remove(f"{run.id}/products.parquet")
    storage.create(f"{run.id}/notes.txt", b"")
    assert remote_differences(run) == [
        f"{uri}/notes.txt: not stored by segkit",
        f"{uri}/products.parquet: missing",
        f"{uri}/results/ledger.parquet: other bytes than were stored (4 of them)",
    ]
    with pytest.raises(StorageError, match="parquet is gone"):
        _ = run.products
    with pytest.raises(StorageError, match="parquet is not what was stored"):
        run.result("ledger")
    with pytest.raises(StorageError):
        rollback_s3(run)
    assert mirror.location(run.folder), "nothing was switched back"


def test_a_rollback_does_not_overwrite_what_is_here(run: Run, s3: S3Server) -> None:
    migrate_to_s3(run)
    (run.folder / "results/ledger.parquet").write_text("edited")
    with pytest.raises(RunError, match=r"not what was stored: results/ledger\.parquet"):
        rollback_s3(run)
    assert (run.folder / "results/ledger.parquet").read_text() == "edited"


def test_a_rollback_keeps_what_came_to_s3_later(run: Run, s3: S3Server) -> None:
    """An answer of another machine that was killed is fetched too, before S3 is emptied."""
    migrate_to_s3(run, remove_local=True)
    name = "segmentation/20260101T000000Z_b9_a1_00000000.json"
    mirror.remote(run.folder).create(f"{run.id}/{name}", b"{}")
    rollback_s3(run, remove_remote=True)
    assert (run.folder / name).read_bytes() == b"{}"
    assert not stored(run)


def test_files_are_sent_as_any_server_takes_them(run: Run, s3: S3Server) -> None:
    """Whole, in one request each, with no checksum header, chunk or part that older servers refuse."""
    before = tree(run.folder)
    migrate_to_s3(run, remove_local=True)
    sent = Counter(key for method, key in s3.history if method == "PUT" and key.partition("/")[2] in before)
    assert sent == Counter(f"{run.id}/{name}" for name in before)
    for (method, _), headers in zip(s3.history, s3.headers, strict=True):
        assert method in ("GET", "PUT", "DELETE"), "an upload in parts begins with a POST"
        assert "upload" not in headers["QUERY_STRING"]
        assert not [name for name in headers if name.startswith(("HTTP_X_AMZ_CHECKSUM", "HTTP_X_AMZ_SDK_CHECKSUM"))]
        assert "aws-chunked" not in headers.get("HTTP_CONTENT_ENCODING", "")
    rollback_s3(run)
    assert tree(run.folder) == before, "what arrived was compared by hashes of our own"


def test_who_reads_while_a_run_moves_reads_what_is_here(run: Run, s3: S3Server) -> None:
    """Every file is here until all of it was read back from S3; then it comes from there."""
    before, taxonomies = tree(run.folder), run.result("taxonomies")
    read: list[bool] = []

    def look(method: str, key: str) -> None:
        if not mirror.location(run.folder):
            whole = all((run.folder / name).exists() for name in before)
            read.append(whole and open_run(run.id, run.folder.parent).result("taxonomies").equals(taxonomies))

    s3.order = look
    migrate_to_s3(run, remove_local=True)
    s3.order = lambda method, key: None
    assert len(read) > 2 * len(before)
    assert all(read)
    assert not (run.folder / "results" / "taxonomies.parquet").exists()
    assert open_run(run.id, run.folder.parent).result("taxonomies").equals(taxonomies)


@pytest.mark.long
def test_a_disk_that_fails_during_a_rollback(run: Run, s3: S3Server) -> None:
    """No file may grow beyond 4 kB; it stops with one line, S3 is untouched, and the next call ends it."""
    before = tree(run.folder)
    migrate_to_s3(run, remove_local=True)
    command = [sys.executable, "-m", "segkit", "rollback-s3", run.id, "--runs-dir", str(run.folder.parent)]
    limit = ["prlimit", "--fsize=4096", "--", *command, "--remove-remote"]
    done = subprocess.run(limit, env=unmeasured(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "the disk fails at " in done.stderr
    assert "S3 was not touched" in done.stderr
    assert "Traceback" not in done.stderr
    assert mirror.location(run.folder)
    assert stored(run) == before
    rollback_s3(run)
    assert tree(run.folder) == before


def test_a_removal_in_s3_that_was_stopped_is_finished_by_the_next_call(run: Run, s3: S3Server) -> None:
    """The folder forgets where the run is when S3 is empty, not before."""
    before = tree(run.folder)
    migrate_to_s3(run, remove_local=True)
    s3.order = lambda method, key: 403 if method == "DELETE" and key.endswith("lineage.parquet") else None
    with pytest.raises(StorageError, match="AccessDenied"):
        rollback_s3(run, remove_remote=True)
    s3.order = lambda method, key: None
    assert stored(run)
    rollback_s3(run, remove_remote=True)
    assert not mirror.open_storage(load_settings().bucket, "us-east-1").names(run.id)
    assert tree(run.folder) == before
    assert not mirror.location(run.folder)


@pytest.mark.long
def test_a_machine_that_is_gone_does_not_hold_a_finished_run_for_ever(run: Run, s3: S3Server) -> None:
    """The command that the error names releases it: `--take-over` of the same command, or of `resume`."""
    update_status(run.folder, state="completed", summary={})
    migrate_to_s3(run, remove_local=True)
    left = b'{"host": "another", "pid": 7, "since": "2026-01-01T00:00:00Z"}'
    storage, name = mirror.remote(run.folder), f"{run.id}/{mirror.OWNER}"
    storage.create(name, left)
    run_notebooks(run, take_over=True)
    assert name not in storage.names(run.id)
    for command, move in (("migrate-to-s3", migrate_to_s3), ("rollback-s3", rollback_s3)):
        storage.create(name, left)
        with pytest.raises(RunError, match="at work on another machine") as told:
            move(run)
        assert told.value.hint == f"if that process is gone: segkit {command} {run.id} --take-over"
        if move is migrate_to_s3:
            move(run, take_over=True)
            assert name not in storage.names(run.id)
    arguments = [sys.executable, "-m", "segkit", "rollback-s3", run.id, "--take-over"]
    subprocess.run(arguments, env=unmeasured(), check=True, capture_output=True)
    assert name not in storage.names(run.id)
    assert not mirror.location(run.folder)


@pytest.mark.long
@pytest.mark.parametrize(("there", "backend"), [(b"", "local"), (b"no checksum\n", "s3"), (None, "local")])
def test_a_lost_list_of_what_is_stored_is_made_anew(
    there: bytes | None, backend: str, run: Run, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each hint leads on: `migrate-to-s3` fetches all, checks it, and writes the list, and rollback works."""
    monkeypatch.setenv("STORAGE_BACKEND", backend)
    update_status(run.folder, state="completed", summary={})
    before, ledger = tree(run.folder), (run.folder / "results/ledger.parquet").read_bytes()
    migrate_to_s3(run, remove_local=True)
    storage, name = mirror.remote(run.folder), f"{run.id}/{mirror.STORED}"
    for remote in (False, True):
        (run.folder / mirror.STORED).write_bytes(b"")
        with pytest.raises(SystemExit) as ended:
            main(["verify", run.id, "--runs-dir", str(run.folder.parent), *["--remote"][:remote]])
        assert ended.value.code == 0, "S3 still has the list"
    assert remote_differences(open_run(run.id, run.folder.parent)) == []
    (run.folder / mirror.STORED).unlink()
    storage.remove(name)
    if there is not None:
        (run.folder / mirror.STORED).write_bytes(there)
        storage.replace(name, there)
    again = open_run(run.id, run.folder.parent)
    for command in (rollback_s3, remote_differences):
        with pytest.raises(RunError, match=r"not stored in S3 as a whole|is no checksum") as told:
            command(again)
        assert told.value.hint == f"segkit migrate-to-s3 {run.id}"
    storage.replace(damaged := f"{run.id}/results/ledger.parquet", b"PAR1")
    with pytest.raises(RunError, match=r"is damaged: results/ledger\.parquet: changed since the run ended"):
        migrate_to_s3(again)
    storage.remove(damaged)
    with pytest.raises(RunError, match=r"is damaged: results/ledger\.parquet: missing"):
        migrate_to_s3(again)
    storage.create(damaged, ledger)
    migrate_to_s3(again, remove_local=True)
    assert remote_differences(again) == []
    rollback_s3(again)
    assert tree(run.folder) == before


def test_keys_are_made_of_names_of_ours_only(run: Run, s3: S3Server) -> None:
    """And no ETag is looked at, for moto's would be right."""
    migrate_to_s3(run)
    keys = {key for _, key in s3.history if key.startswith(run.id)}
    assert keys
    assert all(key.isascii() and len(key) < 200 and ".." not in key and " " not in key for key in keys)


@pytest.mark.long
def test_ten_thousand_logs_with_five_percent_faults(run: Run, s3: S3Server) -> None:
    folder = run.stage_folder("extract_taxonomy")
    for number in range(10_000):
        log = {"context": {}, "prompt": "x" * 3000, "response": "{}", "metadata": {"batch_id": number}}
        write_whole(folder, number, 1, log)
    write_checksums(run)
    before = tree(run.folder)
    bad = sorted(name for name in before if "_b77_" in name)[0]
    passing = orders(2, 0.05)
    s3.order = lambda method, key: "corrupt" if method == "PUT" and key.endswith(bad) else passing(method, key)
    with pytest.raises(StorageError, match=r"1 of 100\d\d files"):
        migrate_to_s3(run, remove_local=True)
    assert tree(run.folder) == before
    s3.order = passing
    mirror.open_storage(load_settings().bucket, "us-east-1").remove(f"{run.id}/{bad}")
    migrate_to_s3(run, remove_local=True)
    s3.order = passing
    rollback_s3(run)
    assert tree(run.folder) == before


@pytest.mark.long
def test_the_module_is_a_command(run: Run, s3: S3Server) -> None:
    command = [sys.executable, "-m", "segkit.storage.migrate_to_s3", "--run-id", run.id, "--verify-integrity"]
    told = subprocess.run(command, env=unmeasured(), capture_output=True, text=True, check=False, cwd=Path.cwd())
    assert (told.returncode, told.stderr) == (0, "")
    assert f"{os.environ['S3_BUCKET']}/{run.id}: {len(tree(run.folder))} files" in told.stdout
