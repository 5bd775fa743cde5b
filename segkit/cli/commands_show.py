"""The commands that look at runs: they read, and change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segkit.cli.options import Json, RunName, RunsDir

app = typer.Typer()


@app.command()
def runs(runs_dir: RunsDir = None, as_json: Json = False) -> None:
    """List the runs, the newest last."""
    from segkit.cli import show as showing

    showing.show_runs(runs_dir, as_json)


@app.command()
def show(name: RunName = "latest", runs_dir: RunsDir = None, as_json: Json = False) -> None:
    """Show one run: its parameters, its stages, its categories."""
    from segkit.cli import show as showing

    showing.show_run(name, runs_dir, as_json)


@app.command()
def explain(
    name: RunName,
    product_id: Annotated[str, typer.Argument(metavar="PRODUCT_ID", help="The product to explain.")],
    runs_dir: RunsDir = None,
    as_json: Json = False,
) -> None:
    """Tell the way of one product: who stated its category, what it was merged into, what refinement did."""
    from segkit.cli import show as showing

    showing.show_explanation(name, product_id, runs_dir, as_json)


@app.command()
def export(
    name: RunName = "latest",
    out: Annotated[Path | None, typer.Option(help="The file to write.  [default: standard output]")] = None,
    form: Annotated[str, typer.Option("--format", help="csv, jsonl or parquet.  [default: by the file's name]")] = "",
    raw: Annotated[
        bool, typer.Option("--raw", help="CSV without the apostrophes that keep formulas from running.")
    ] = False,
    runs_dir: RunsDir = None,
) -> None:
    """Write each product of a run with its category: segkit export latest --out segments.csv."""
    from segkit.cli import show as showing

    showing.export_and_show(name, runs_dir, out, form, raw)


@app.command()
def verify(
    name: RunName = "latest",
    remote: Annotated[bool, typer.Option("--remote", help="Read every file in S3 as well.")] = False,
    runs_dir: RunsDir = None,
    as_json: Json = False,
) -> None:
    """Check every file of a run against its checksum; exits with 1 and names those that differ."""
    from segkit.cli import s3 as moving

    raise typer.Exit(moving.verify_and_show(name, runs_dir, remote, as_json))


@app.command()
def logs(
    sql: Annotated[str, typer.Argument(help="A SELECT over the views.")],
    run: Annotated[str, typer.Option("--run", help="Ask the logs of this run only.")] = "",
    runs_dir: RunsDir = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV on standard output.")] = False,
    as_json: Json = False,
) -> None:
    """Ask the interaction logs of all runs in SQL: segkit logs "FROM spend_by_stage".

    The views are interactions, spend_by_stage, time_by_stage, retries, failures, cache_hits, storage_used and
    prompt_slots; over whole runs run_states, run_outcomes, run_times and token_use; and events, of runs and of the
    service. The table damaged_logs names what could not be read.
    """
    from segkit.cli import show as showing

    showing.show_logs(sql, run, runs_dir, as_csv, as_json)


@app.command()
def doctor() -> None:
    """Check python, packages, kernel, Postgres, key and disk, and say what to do about each."""
    from segkit.cli import doctor as diagnosis

    raise typer.Exit(diagnosis.show_diagnosis())
