"""What the commands of `segkit db` show: migrations, the state of the database, differences, the index rebuilt."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape

from segkit.cli.show import left_out
from segkit.cli.terminal import new_console, pairs, write_json
from segkit.database.overview import database_overview
from segkit.database.schema import migrate
from segkit.database.sync import check_run, database_name, database_url, reindex_run, skipped_products
from segkit.errors import RunError
from segkit.runs.run import Run, open_run, run_ids
from segkit.settings import Settings, load_settings


def migrate_and_show(partitioned: bool) -> None:
    """Apply the migrations that are not applied yet and name them."""
    settings = load_settings()
    applied = migrate(database_url(settings), partitioned=partitioned)
    new_console().print(f"{database_name(settings)}: {', '.join(applied) or 'nothing to do'}")


def show_status(runs_dir: Path | None, as_json: bool) -> None:
    """Show what the database holds, and which runs it lacks."""
    settings = load_settings()
    told = database_overview(database_url(settings), runs_dir or settings.storage_root)
    if as_json:
        write_json(told)
        return
    output = new_console()
    output.print(pairs({"database": database_name(settings), "server": told["server"]}))
    for name, is_applied in told["migrations"].items():
        optional = " (optional: segkit db migrate --partitioned)" if "partition" in name else ""
        output.print(pairs({"applied" if is_applied else "pending": name + ("" if is_applied else optional)}))
    output.print(pairs({"assignments": "partitioned by run" if told["partitioned"] else "not partitioned"}))
    output.print(pairs({name: f"{rows:,} rows" for name, rows in told["rows"].items()}))
    output.print(pairs({f"runs {where}": str(len(ids)) for where, ids in told["runs"].items()}))
    for run_id in told["runs"]["only in the runs folder"]:
        output.print(pairs({"not in the database": f"segkit sync {run_id}"}))


def check_and_show(name: str, runs_dir: Path | None) -> int:
    """Name every table that differs from a run folder, one line each; give the exit code."""
    settings, output = load_settings(), new_console()
    count = 0
    for run in _runs(name, runs_dir, settings):
        found = check_run(run, settings)
        count += len(found)
        for line in found:
            output.print(f"{run.id}: {escape(line)}")
        if not found:
            missing = "".join(f", but for {told}" for told in left_out(skipped_products(run, settings)).values())
            output.print(f"{run.id}: the tables hold what the folder says{missing}")
    return 1 if count else 0


def reindex_and_show(name: str, runs_dir: Path | None, as_json: bool) -> None:
    """Rebuild the index of the interactions, a run at a time, and say how many rows each run has."""
    settings = load_settings()
    rows = {run.id: reindex_run(run, settings) for run in _runs(name, runs_dir, settings)}
    told = {id_: f"not in the database: segkit sync {id_}" if n is None else f"{n:,} rows" for id_, n in rows.items()}
    write_json(rows) if as_json else new_console().print(pairs(told))


def _runs(name: str, runs_dir: Path | None, settings: Settings) -> list[Run]:
    """Open one run, or all of the folder."""
    place = runs_dir or settings.storage_root
    names = run_ids(place) if name == "all" else [name]
    if not names:
        raise RunError(f"there are no runs in {place}", "start one with `segkit run`")
    return [open_run(each, place) for each in names]
