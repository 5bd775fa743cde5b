"""The commands that keep copies of runs: in Postgres, and in S3."""

from __future__ import annotations

from typing import Annotated

import typer

from segkit.cli.options import Json, Missing, RunName, RunsDir, RunsOrAll, TakeOver
from segkit.errors import InputError

app = typer.Typer()
db = typer.Typer(help="The copy of all runs in Postgres.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(db, name="db")


@app.command()
def sync(name: RunName = "latest", missing: Missing = None, runs_dir: RunsDir = None, as_json: Json = False) -> None:
    """Load a run into Postgres; doing it again changes nothing."""
    from segkit.cli import show as showing

    showing.sync_and_show(name, runs_dir, as_json, missing)


@app.command("migrate-to-s3")
def migrate_to_s3(
    name: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or `latest`.")] = "",
    run_id: Annotated[str, typer.Option("--run-id", help="The same, as the blueprint writes it.")] = "",
    verify_integrity: Annotated[
        bool, typer.Option("--verify-integrity", help="Read every file back and compare it; done in any case.")
    ] = True,
    remove_local: Annotated[
        bool, typer.Option("--remove-local", help="Remove the local files in the end, when all are verified.")
    ] = False,
    take_over: TakeOver = False,
    runs_dir: RunsDir = None,
    as_json: Json = False,
) -> None:
    """Move a run to the bucket S3_BUCKET: upload, read back, switch the index in Postgres, in this order.

    It can be interrupted and called again. All commands go on to work: what they look at is fetched.
    """
    from segkit.cli import s3 as moving

    if bool(name) == bool(run_id):
        raise InputError("give one run", "segkit migrate-to-s3 latest")
    moving.migrate_and_show(name or run_id, runs_dir, remove_local, as_json, take_over)


@app.command("rollback-s3")
def rollback_s3(
    name: RunName,
    remove_remote: Annotated[
        bool, typer.Option("--remove-remote", help="Remove the files in S3 in the end, when all are here.")
    ] = False,
    take_over: TakeOver = False,
    runs_dir: RunsDir = None,
    as_json: Json = False,
) -> None:
    """Bring a run back from S3 to the local disk, byte for byte, and its index in Postgres too."""
    from segkit.cli import s3 as moving

    moving.rollback_and_show(name, runs_dir, remove_remote, as_json, take_over)


@db.command("query")
def db_query(sql: Annotated[str, typer.Argument(help="A SELECT.")], as_json: Json = False) -> None:
    """Run a query on the results: segkit db query "SELECT * FROM product_taxonomies"."""
    from segkit.cli import show as showing

    showing.show_query(sql, as_json)


@db.command("migrate")
def db_migrate(
    partitioned: Annotated[
        bool,
        typer.Option(
            "--partitioned",
            help="Also cut the two tables of assignments into 16 partitions by run, for installations with many large"
            " runs. It locks them while it copies their rows, and needs as much free disk as they have.",
        ),
    ] = False,
) -> None:
    """Create or update the tables; what is applied already is left as it is."""
    from segkit.cli import db as database_showing

    database_showing.migrate_and_show(partitioned)


@db.command("status")
def db_status(runs_dir: RunsDir = None, as_json: Json = False) -> None:
    """Show the server, its migrations, the rows of each table, and which runs are in the database."""
    from segkit.cli import db as database_showing

    database_showing.show_status(runs_dir, as_json)


@db.command("check")
def db_check(name: RunsOrAll = "latest", runs_dir: RunsDir = None) -> None:
    """Compare every row of a run with its folder: a line a difference, and 1 as the exit code.

    `segkit sync RUN` mends what differs: the folder is the truth.
    """
    from segkit.cli import db as database_showing

    raise typer.Exit(database_showing.check_and_show(name, runs_dir))


@db.command("reindex")
def db_reindex(name: RunsOrAll = "all", runs_dir: RunsDir = None, as_json: Json = False) -> None:
    """Rebuild llm_interaction_index from the JSON files of the runs that are in the database.

    One transaction a run. A run that is not in the database is named; `segkit sync RUN` loads it, index and all.
    """
    from segkit.cli import db as database_showing

    database_showing.reindex_and_show(name, runs_dir, as_json)
