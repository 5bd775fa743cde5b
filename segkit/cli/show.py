"""The commands that read runs and change nothing: `runs`, `show`, `explain`, `export` and `logs`."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from segkit.cli.options import READ, Json, RunName, RunsDir, opened_run
from segkit.cli.terminal import (
    GroupedCommand,
    columns_of,
    new_console,
    pairs,
    print_table,
    write_bytes,
    write_json,
)
from segkit.core.text import quantity
from segkit.display import terminal_text
from segkit.errors import InputError

if TYPE_CHECKING:
    from segkit.runs.run import Run

app = typer.Typer()
_OTHER_TOOLS, _HELP = "Another tool", "see `segkit export --help`"
# The options of `export` that a tool uses; None is a file.
_USED = {
    None: ("--out", "--format", "--raw", "--with-columns"),
    "mlflow": ("--url",),
    "otlp": ("--url", "--with-text"),
    "dbt": ("--out",),
}


@app.command(rich_help_panel=READ)
def runs(runs_dir: RunsDir = None, as_json: Json = False) -> None:
    """List the runs, the newest last."""
    from segkit.runs.run import LISTED, read_runs
    from segkit.settings import load_settings

    folder = runs_dir or load_settings().storage_root
    rows = read_runs(folder)
    if as_json:
        write_json(rows)
    elif rows:
        print_table(columns_of(rows, LISTED))
    else:
        new_console().print(
            f"no runs in {folder}; start one: segkit run sample --category 'Coffee Makers' --model offline"
        )


@app.command(rich_help_panel=READ)
def show(name: RunName = "latest", runs_dir: RunsDir = None, as_json: Json = False) -> None:
    """Show one run: its parameters, stages and categories."""
    from segkit.analysis.tables import not_as_asked
    from segkit.cli.progress import progress_table
    from segkit.runs.run import current_state

    run = opened_run(name, runs_dir)
    run.file("report.html")
    status, state = run.status, current_state(run.folder)
    taxonomies = run.result("taxonomies").to_dict("records") if run.has_result("taxonomies") else []
    if as_json:
        write_json({"run": run.document, "status": {**status.document, "state": state}, "taxonomies": taxonomies})
        return
    console = new_console()
    console.print(pairs({"run": run.id, "state": state, "reason": status.reason}))
    console.print(pairs({**run.document["parameters"], "products": run.document["input"]["products"]}))
    if given_up := not_as_asked(status.stages):
        console.print(pairs({"not as asked": given_up}))
    if status.stages:
        seconds = float(status.summary.get("seconds", 0))
        console.print(progress_table(status, seconds, "finished" if seconds else "not finished"))
    if taxonomies:
        print_table(columns_of(taxonomies, ("id", "category_name", "product_count", "definition")))


@app.command(rich_help_panel=READ)
def explain(
    name: RunName,
    product_id: Annotated[str, typer.Argument(metavar="PRODUCT_ID", help="The product to explain.")],
    runs_dir: RunsDir = None,
    as_json: Json = False,
) -> None:
    """Show how one product got its category, in sentences, with the lines of prompts and answers behind them.

    PRODUCT_ID is an id as the catalogue has it. Also shown: where the product was placed when it was asked twice and
    by repeats of the run, the next best category, and similar products that stand elsewhere.

    Example: segkit explain latest 700000119
    """
    from segkit.evaluation.explain.explanation import explain as explained

    found = explained(opened_run(name, runs_dir), product_id)
    if as_json:
        write_json(found.as_json())
        return
    product, console = dict(found.product), new_console()
    number, source = product.pop("product_id"), product.pop("source_id", None)
    shown = number if source is None else f"{source} ({number})"
    console.print(pairs({"run": found.run.id, "product": shown, "title": product.pop("title")}))
    console.print()
    console.print(pairs(product))
    console.print()
    for sentence in found.lines:
        console.print(terminal_text(sentence), markup=False)
    console.print()
    for step in found.steps.to_dict("records"):
        lines = {"prompt": step["prompt_line"], "answer": step["answer_line"], "log": step["file_path"]}
        if any(lines.values()):
            console.print(terminal_text(f"{step['step']} {step['where']}".strip()), markup=False)
            console.print(pairs(lines))


@app.command(rich_help_panel=READ)
def report(name: RunName = "latest", runs_dir: RunsDir = None) -> None:
    """Write the report of a run again, and print its path."""
    from segkit.analysis.report import REPORT
    from segkit.pipeline.summary import renew_report

    run = opened_run(name, runs_dir)
    renew_report(run)
    new_console().print(str(run.folder / REPORT))


@app.command(cls=GroupedCommand, rich_help_panel=READ)
def export(
    name: RunName = "latest",
    out: Annotated[
        Path | None,
        typer.Option(help="The file to write; with --to dbt the folder.", show_default="standard output; dbt"),
    ] = None,
    form: Annotated[
        str, typer.Option("--format", help="csv, xlsx, jsonl or parquet.", show_default="from the name of the file")
    ] = "",
    raw: Annotated[
        bool, typer.Option("--raw", help="CSV without the apostrophes that keep formulas from running.")
    ] = False,
    with_columns: Annotated[bool, typer.Option("--with-columns", help="Add the other columns of the input.")] = False,
    to: Annotated[
        Literal["mlflow", "otlp", "dbt"] | None,
        typer.Option(
            "--to",
            help="Another tool: mlflow (parameters, metrics, report), otlp (a trace of OpenTelemetry), "
            "dbt (a project over the tables in Postgres).",
            rich_help_panel=_OTHER_TOOLS,
        ),
    ] = None,
    url: Annotated[
        str,
        typer.Option(
            "--url",
            help="The server of MLflow, or the collector of OpenTelemetry.",
            show_default="MLFLOW_TRACKING_URI; OTEL_EXPORTER_OTLP_ENDPOINT",
            rich_help_panel=_OTHER_TOOLS,
        ),
    ] = "",
    with_text: Annotated[
        bool,
        typer.Option(
            "--with-text", help="With --to otlp: send prompts and answers too.", rich_help_panel=_OTHER_TOOLS
        ),
    ] = False,
    runs_dir: RunsDir = None,
) -> None:
    """Write the products of a run with their categories to a file, or a run to another tool.

    Exporting a run twice makes one run in MLflow, and the same trace.

    Example: segkit export latest --out segments.xlsx --with-columns

    Example: segkit export latest --to mlflow --url http://127.0.0.1:5000
    """
    run = opened_run(name, runs_dir)
    given = {"--format": form, "--raw": raw, "--with-columns": with_columns}
    given |= {"--out": out, "--url": url, "--with-text": with_text}
    for option, value in given.items():
        if value and option not in _USED[to]:
            raise InputError(f"{option} does nothing {f'with --to {to}' if to else 'without --to'}", _HELP)
    if to:
        new_console().print(_to_tool(run, to, out, url, with_text))
    else:
        _to_file(run, out, form, raw, with_columns)


def _to_file(run: Run, out: Path | None, form: str, raw: bool, with_columns: bool) -> None:
    """Write the products of a run to a file, or to standard output."""
    from segkit.analysis.export import BOM, WRITERS, exported
    from segkit.storage.disk import write_atomic

    form = form or (out.suffix.removeprefix(".") if out else "csv")
    if form not in WRITERS:
        raise InputError(f"{form!r} is no format", f"--format is one of {', '.join(WRITERS)}")
    frame = exported(run, with_columns)
    data = WRITERS[form](frame, raw)
    if out is None:
        write_bytes(data)
        return
    if form == "csv" and not raw:
        data = BOM + data
    try:
        write_atomic(out, data)
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror or error}") from None
    new_console().print(f"{quantity(len(frame), 'product')} of {run.id} written to {out}")


def _to_tool(run: Run, tool: str, out: Path | None, url: str, with_text: bool) -> str:
    """Export a run to another tool, and return the line that reports it."""
    match tool:
        case "mlflow":
            from segkit.analysis.exporters.mlflow import export_to_mlflow

            return f"{run.id} is the MLflow run {export_to_mlflow(run, url)}"
        case "otlp":
            from segkit.analysis.exporters.otlp import export_to_otlp

            return f"{quantity(export_to_otlp(run, url, with_text=with_text), 'span')} of {run.id} sent"
    from segkit.analysis.exporters.dbt import write_dbt_project
    from segkit.database.connection import libpq_parameters
    from segkit.settings import load_settings

    server, folder = load_settings().database_url, out or Path("dbt")
    written = write_dbt_project(run, folder, libpq_parameters(server.get_secret_value()) if server else {})
    return f"{quantity(len(written), 'file')} of a dbt project written to {folder}; next: segkit sync {run.id}"


@app.command(rich_help_panel=READ)
def logs(
    sql: Annotated[str, typer.Argument(help="A SELECT over the views below.")],
    run: Annotated[str, typer.Option("--run", help="Only the logs of this run.")] = "",
    runs_dir: RunsDir = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Write CSV to standard output.")] = False,
    as_json: Json = False,
) -> None:
    """Query the interaction logs of all runs in SQL.

    Example: segkit logs "FROM spend_by_stage"

    The views are interactions, spend_by_stage, time_by_stage, retries, failures, cache_hits, storage_used and
    prompt_slots; over whole runs there are categories, run_states, run_outcomes, run_times and token_use; events
    holds the events of runs and of the service. The table damaged_logs names the logs that could not be read.
    """
    from segkit.analysis.export import as_csv as csv_of
    from segkit.analysis.frames import records
    from segkit.analysis.logs import query
    from segkit.settings import load_settings

    folder = runs_dir or load_settings().storage_root
    with warnings.catch_warnings(record=True) as caught:
        frame = query(sql, folder, run=opened_run(run, folder) if run else None)
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)
    if as_csv:
        write_bytes(csv_of(frame))
    elif as_json:
        write_json(records(frame))
    else:
        print_table(frame.to_dict("list"))
