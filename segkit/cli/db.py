"""`segkit sync` and `segkit db`: the copy of the runs in Postgres."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segkit.cli.options import COPY, Json, Missing, ProductSource, RunName, RunsDir, RunsOrAll, grouped, opened_run
from segkit.cli.terminal import CommandGroup, GroupedCommand, new_console, pairs, print_table, write_json
from segkit.core.text import quantity, shortened
from segkit.errors import RunError

if TYPE_CHECKING:
    from segkit.runs.run import Run
    from segkit.settings import Settings

app = typer.Typer()
db = typer.Typer(
    cls=CommandGroup,
    help="Create, query and check the tables in Postgres.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(db, name="db", rich_help_panel=COPY)


@app.command(rich_help_panel=COPY)
def sync(name: RunName = "latest", missing: Missing = None, runs_dir: RunsDir = None, as_json: Json = False) -> None:
    """Load a run into Postgres; repeating it changes nothing."""
    from segkit.database.sync import database_name, skipped_products, sync_run
    from segkit.settings import load_settings

    settings, run = load_settings(), opened_run(name, runs_dir)
    if not run.has_result("ledger"):
        raise RunError(f"{run.id} has no results to sync", f"segkit resume {run.id}")
    rows = sync_run(run, settings, missing=missing)
    skipped = skipped_products(run, settings)
    if as_json:
        write_json({**rows, "skipped_products": skipped})
        return
    new_console().print(pairs({"run": run.id, "server": database_name(settings), **rows, **left_out(skipped)}))


@db.command("query")
def db_query(sql: Annotated[str, typer.Argument(help="A SELECT.")], as_json: Json = False) -> None:
    """Query the tables.

    Example: segkit db query "SELECT * FROM product_taxonomies"
    """
    from segkit.analysis.frames import records
    from segkit.database.sync import read_postgres

    frame = read_postgres(sql)
    write_json(records(frame)) if as_json else print_table(frame.to_dict("list"))


@db.command("load", cls=GroupedCommand)
@grouped
def db_load(source: ProductSource, as_json: Json = False) -> None:
    """Put the products of a file into amazon_products, where the REST service finds them.

    Products that are there already stay as they are.

    Example: segkit db load catalogue.csv
    """
    from segkit.cli.launch import read_catalogue
    from segkit.database.sync import database_name, store_products
    from segkit.settings import load_settings

    settings = load_settings()
    products = read_catalogue(source, settings).products
    added = store_products(products, settings)
    if as_json:
        write_json({"products": len(products), "added": added})
        return
    new_console().print(f"{database_name(settings)}: {added:,} of {quantity(len(products), 'product', 'are')} new")


@db.command("migrate")
def db_migrate(
    partitioned: Annotated[
        bool,
        typer.Option(
            "--partitioned",
            help="Also split the two tables of assignments into 16 partitions by run, for databases with many large"
            " runs. This locks them while their rows are copied, and needs as much free disk as they take.",
        ),
    ] = False,
) -> None:
    """Create or update the tables; migrations that were applied before are left alone."""
    from segkit.database.schema import migrate
    from segkit.database.sync import database_name, database_url
    from segkit.settings import load_settings

    settings = load_settings()
    applied = migrate(database_url(settings), partitioned=partitioned)
    new_console().print(f"{database_name(settings)}: {', '.join(applied) or 'nothing to do'}")


@db.command("status")
def db_status(runs_dir: RunsDir = None, as_json: Json = False) -> None:
    """Show the server, its migrations, the rows of each table, and which runs it holds."""
    from segkit.database.overview import database_overview
    from segkit.database.schema import migration_files
    from segkit.database.sync import database_name, database_url
    from segkit.settings import load_settings

    settings = load_settings()
    status = database_overview(database_url(settings), runs_dir or settings.storage_root)
    if as_json:
        write_json(status)
        return
    console = new_console()
    console.print(pairs({"database": database_name(settings), "server": status["server"]}))
    required = {file.name for file in migration_files(partitioned=False)}
    for name, is_applied in status["migrations"].items():
        command = "segkit db migrate" if name in required else "optional: segkit db migrate --partitioned"
        console.print(pairs({"applied": name} if is_applied else {"pending": f"{name} ({command})"}))
    console.print(pairs({"assignments": "partitioned by run" if status["partitioned"] else "not partitioned"}))
    console.print(pairs({name: quantity(rows, "row") for name, rows in status["rows"].items()}))
    console.print(pairs({f"runs {where}": str(len(ids)) for where, ids in status["runs"].items()}))
    for run_id in status["runs"]["only in the runs folder"]:
        console.print(pairs({"not in the database": f"segkit sync {run_id}"}))


@db.command("check")
def db_check(name: RunsOrAll = "latest", runs_dir: RunsDir = None) -> None:
    """Compare every row of a run with its folder; the exit code is 1 if one differs.

    `segkit sync RUN` repairs the tables: the folder is the truth.
    """
    from rich.markup import escape

    from segkit.database.sync import check_run, skipped_products
    from segkit.settings import load_settings

    settings, console, count = load_settings(), new_console(), 0
    for run in chosen_runs(name, runs_dir, settings):
        differences = check_run(run, settings)
        count += len(differences)
        for line in differences:
            console.print(f"{run.id}: {escape(line)}")
        if not differences:
            missing = "".join(f", except {ids}" for ids in left_out(skipped_products(run, settings)).values())
            console.print(f"{run.id}: the tables hold what the folder says{missing}")
    raise typer.Exit(1 if count else 0)


@db.command("reindex")
def db_reindex(name: RunsOrAll = "all", runs_dir: RunsDir = None, as_json: Json = False) -> None:
    """Rebuild llm_interaction_index from the logs of the runs that are in the database.

    Each run is one transaction. Runs that are not in the database are listed; `segkit sync RUN` loads them.
    """
    from segkit.database.sync import reindex_run
    from segkit.settings import load_settings

    settings = load_settings()
    rows = {run.id: reindex_run(run, settings) for run in chosen_runs(name, runs_dir, settings)}
    if as_json:
        write_json(rows)
        return
    absent = "not in the database: segkit sync {}"
    new_console().print(
        pairs({id_: absent.format(id_) if count is None else quantity(count, "row") for id_, count in rows.items()})
    )


def left_out(skipped: list[int]) -> dict[str, str]:
    """Return a row for `pairs` with the products of a run that Postgres lacks; no row if it holds all."""
    if not skipped:
        return {}
    return {"left out": f"{quantity(len(skipped), 'product')} that amazon_products lacks: {shortened(skipped)}"}


def chosen_runs(name: str, runs_dir: Path | None, settings: Settings) -> list[Run]:
    """Open one run, or all runs of the folder."""
    from segkit.runs.run import open_run, run_ids

    folder = runs_dir or settings.storage_root
    names = run_ids(folder) if name == "all" else [name]
    if not names:
        raise RunError(f"there are no runs in {folder}", "start one with `segkit run`")
    return [open_run(each, folder) for each in names]
