"""`segkit verify`, `migrate-to-s3` and `rollback-s3`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from segkit.cli.options import CHECK, COPY, Json, RunName, RunsDir, TakeOver, opened_run
from segkit.cli.terminal import write_json
from segkit.core.text import quantity
from segkit.errors import InputError, RunError

if TYPE_CHECKING:
    from segkit.pipeline.migrate import Tell

app = typer.Typer()


@app.command(rich_help_panel=CHECK)
def verify(
    name: RunName = "latest",
    remote: Annotated[bool, typer.Option("--remote", help="Also read and compare every file in S3.")] = False,
    runs_dir: RunsDir = None,
    as_json: Json = False,
) -> None:
    """Compare every file of a run with its checksum; the exit code is 1 if one differs."""
    from segkit.llm.cache import damaged_entries
    from segkit.pipeline.migrate import remote_differences
    from segkit.runs import mirror
    from segkit.runs.integrity import CHECKSUMS, differences, logged_keys
    from segkit.settings import load_settings

    run = opened_run(name, runs_dir)
    if remote and not mirror.location(run.folder):
        raise RunError(f"{run.id} is not in S3", f"segkit migrate-to-s3 {run.id}")
    if mirror.location(run.folder):
        mirror.restore_stored(run.folder)
    found = differences(run) + damaged_entries(load_settings().segkit_home, logged_keys(run))
    found += remote_differences(run) if remote else []
    if not found and not run.file(CHECKSUMS).exists():
        found = ["not finished, nothing to compare with; every log matches the checksum in it"]
    if as_json:
        write_json({"run_id": run.id, "differences": found})
    else:
        away = [name for name in mirror.stored(run.folder) if not (run.folder / name).exists()]
        unread = (
            f"; {quantity(len(away), 'file', 'were')} not read in S3: --remote reads all"
            if away and not remote
            else ""
        )
        count = f"{len(found)} difference{'s' * (len(found) > 1)}" if found else "no differences"
        _print(*found, f"{run.id}: {count}{unread}")
    raise typer.Exit(1 if found else 0)


@app.command("migrate-to-s3", rich_help_panel=COPY)
def migrate_to_s3(
    name: Annotated[str, typer.Argument(metavar="RUN", help="The id of a run, or `latest`.")] = "",
    run_id: Annotated[str, typer.Option("--run-id", help="The id of the run, instead of the argument.")] = "",
    verify_integrity: Annotated[
        bool, typer.Option("--verify-integrity", help="Read every file back and compare it; this is always done.")
    ] = True,
    remove_local: Annotated[
        bool, typer.Option("--remove-local", help="Remove the local files once all of them are verified.")
    ] = False,
    take_over: TakeOver = False,
    runs_dir: RunsDir = None,
    as_json: Json = False,
) -> None:
    """Move a run to the bucket S3_BUCKET.

    Every file is uploaded and read back before the index in Postgres points to it. The command can be interrupted and
    repeated. Afterwards all other commands work as before: they fetch the files they read.
    """
    from segkit.pipeline.migrate import migrate_to_s3 as migrate
    from segkit.runs.mirror import location
    from segkit.settings import load_settings

    if bool(name) == bool(run_id):
        raise InputError("give one run", "segkit migrate-to-s3 latest")
    run, settings = opened_run(name or run_id, runs_dir), load_settings()
    with _progress(f"{run.id} → {settings.bucket}") as tell:
        moved = migrate(run, remove_local=remove_local, take_over=take_over, settings=settings, tell=tell)
    uri = location(run.folder)
    if as_json:
        write_json({"run_id": run.id, "uri": uri, **moved})
        return
    _print(f"{uri}: {quantity(moved['files'], 'file')}, {moved['bytes'] / 1e6:.1f} MB, all read back and equal")
    rows, files = quantity(moved["index_rows"], "row", "point"), quantity(moved["removed"], "local file")
    _print(f"in Postgres, {rows} there; {files} removed")


@app.command("rollback-s3", rich_help_panel=COPY)
def rollback_s3(
    name: RunName,
    remove_remote: Annotated[
        bool, typer.Option("--remove-remote", help="Remove the files in S3 once all of them are on the local disk.")
    ] = False,
    take_over: TakeOver = False,
    runs_dir: RunsDir = None,
    as_json: Json = False,
) -> None:
    """Bring a run back from S3 to the local disk, and its index in Postgres with it."""
    from segkit.pipeline.migrate import rollback_s3 as rollback

    run = opened_run(name, runs_dir)
    moved = rollback(run, remove_remote=remove_remote, take_over=take_over)
    if as_json:
        write_json({"run_id": run.id, "folder": str(run.folder), **moved})
    else:
        _print(f"{run.folder}: {quantity(moved['fetched'], 'file')} fetched, every file is as it was stored")
        _print(f"in Postgres, {quantity(moved['index_rows'], 'row', 'point')} here again")


@contextmanager
def _progress(title: str) -> Iterator[Tell | None]:
    """Show a bar on standard error while files are copied, if it is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def _print(*lines: str) -> None:
    for line in lines:
        print(line)
