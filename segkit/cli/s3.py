"""`segkit verify`, `migrate-to-s3` and `rollback-s3`: what they tell in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from segkit.cli.terminal import write_json
from segkit.errors import RunError
from segkit.llm.cache import damaged_entries
from segkit.pipeline.migrate import Tell, migrate_to_s3, remote_differences, rollback_s3
from segkit.runs import mirror
from segkit.runs.integrity import differences, logged_keys
from segkit.runs.run import Run, open_run
from segkit.settings import load_settings


def verify_and_show(name: str, runs_dir: Path | None, remote: bool, as_json: bool) -> int:
    """Name every file of a run that is not as it was written, here and with `remote` in S3; give the exit code."""
    run = _opened(name, runs_dir)
    if remote and not mirror.location(run.folder):
        raise RunError(f"{run.id} is not in S3", f"segkit migrate-to-s3 {run.id}")
    if mirror.location(run.folder):
        mirror.restore_stored(run.folder)
    found = differences(run) + damaged_entries(load_settings().segkit_home, logged_keys(run))
    found += remote_differences(run) if remote else []
    if as_json:
        write_json({"run_id": run.id, "differences": found})
    else:
        away = [name for name in mirror.stored(run.folder) if not (run.folder / name).exists()]
        unread = f", but for {len(away)} in S3 that were not read: --remote reads them" if away and not remote else ""
        whole = f"every file is as it was written{unread}"
        _print(*found, f"{run.id}: {f'{len(found)} differences' if found else whole}")
    return 1 if found else 0


def migrate_and_show(
    name: str, runs_dir: Path | None, remove_local: bool, as_json: bool, take_over: bool = False
) -> None:
    """Move a run to S3 and tell what came of it."""
    run, settings = _opened(name, runs_dir), load_settings()
    with _progress(f"{run.id} → {settings.bucket}") as tell:
        told = migrate_to_s3(run, remove_local=remove_local, take_over=take_over, settings=settings, tell=tell)
    if as_json:
        write_json({"run_id": run.id, "uri": mirror.location(run.folder), **told})
        return
    where, size = mirror.location(run.folder), f"{told['bytes'] / 1e6:.1f} MB"
    _print(f"{where}: {told['files']:,} files, {size}, all read back and equal")
    _print(
        f"{told['index_rows']:,} rows of the index in Postgres point there, {told['removed']:,} local files removed"
    )


def rollback_and_show(
    name: str, runs_dir: Path | None, remove_remote: bool, as_json: bool, take_over: bool = False
) -> None:
    """Bring a run back from S3 and tell what came of it."""
    run = _opened(name, runs_dir)
    told = rollback_s3(run, remove_remote=remove_remote, take_over=take_over)
    if as_json:
        write_json({"run_id": run.id, "folder": str(run.folder), **told})
    else:
        _print(f"{run.folder}: {told['fetched']:,} files fetched, every file is as it was stored")
        _print(f"{told['index_rows']:,} rows of the index in Postgres point here again")


def _opened(name: str, runs_dir: Path | None) -> Run:
    return open_run(name, runs_dir or load_settings().storage_root)


@contextmanager
def _progress(what: str) -> Iterator[Tell | None]:
    """Show a bar on standard error while files are copied; none where nobody looks."""
    if not sys.stderr.isatty():
        yield None
        return
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def _print(*lines: str) -> None:
    for line in lines:
        print(line)
