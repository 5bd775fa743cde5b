"""Commands that make, continue, mark and remove runs: `run`, `extend`, `plan`, `resume`, `batches`, `note`, …"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from segkit.cli.options import (
    CHECK,
    SEGMENT,
    Concurrency,
    GivenTaxonomy,
    Json,
    MaxUnassigned,
    ProductSource,
    RequestChanges,
    RunName,
    RunOptions,
    RunParameters,
    RunsDir,
    RunsOrAll,
    TakeOver,
    Yes,
    grouped,
    opened_run,
)
from segkit.cli.terminal import GroupedCommand
from segkit.errors import RunError, StoppedError

app = typer.Typer()


@app.command(cls=GroupedCommand, rich_help_panel=SEGMENT)
@grouped
def run(
    source: ProductSource,
    parameters: RunParameters,
    options: RunOptions,
    taxonomy: GivenTaxonomy = "",
    yes: Yes = False,
) -> None:
    """Segment products: extract a taxonomy, consolidate it, refine the assignments, store the results.

    With --taxonomy the categories are those of a finished run, or of a file that `segkit taxonomy export` wrote and a
    person edited. Products that the run has placed stay where they are, unless an edit split, deleted or redefined
    their category; all others are put into the categories. What is not typed is as in that run.

    The exit code is 0 only if the run is completed: every product is in a category or marked as out of scope. It is 3
    if the run waits for batches of the provider (--batch).

    Example: segkit run products.csv --where category="Dimmer Switches" --category "Dimmer Switches"
    """
    from segkit.cli import launch

    launch.run_and_show(source, parameters, options, yes, taxonomy)


@app.command(cls=GroupedCommand, rich_help_panel=SEGMENT)
@grouped
def extend(
    name: RunName,
    source: ProductSource,
    options: RunOptions,
    keep_taxonomy: Annotated[
        bool | None,
        typer.Option(
            "--keep-taxonomy/--new-taxonomy",
            help="Put the products into the categories that are there, or extract the categories anew.",
            show_default="asked in a terminal, else new",
        ),
    ] = None,
    yes: Yes = False,
) -> None:
    """Add products to a finished run, as a new run that asks only what changed.

    There are two ways, and before anything is sent this says what each takes. The categories may be kept, as with
    `segkit assign`; or they are extracted anew: the new run then has the parameters and batches of the finished one,
    added products get batches of their own, and questions that were asked before are answered from the cache.

    Example: segkit extend latest new_products.csv
    """
    from segkit.cli import launch

    launch.extend_and_show(name, source, options, yes, keep_taxonomy)


@app.command(cls=GroupedCommand, rich_help_panel=SEGMENT)
@grouped
def plan(
    source: ProductSource,
    parameters: RunParameters,
    taxonomy: GivenTaxonomy = "",
    concurrency: Concurrency = None,
    as_json: Json = False,
) -> None:
    """Show what a run would take (questions, answers that are there, calls, tokens, cost, time); nothing is sent.

    Answers in the cache and in the index of all runs are not counted as calls. Several models, separated
    by commas, are shown side by side.

    Example: segkit plan products.csv --category "Dimmer Switches" --model gpt-4o,gpt-4.1-mini
    """
    from segkit.cli import launch

    launch.plan_and_show(source, parameters, concurrency, as_json, taxonomy)


@app.command(cls=GroupedCommand, rich_help_panel=SEGMENT)
@grouped
def resume(
    name: RunName,
    changes: RequestChanges,
    options: RunOptions,
    max_unassigned: MaxUnassigned = None,
    take_over: TakeOver = False,
) -> None:
    """Continue a run that was stopped, failed or waits for batches; answered questions are not asked again.

    What may change is how requests are made (temperature, response format, most tokens of an answer, products in a
    prompt, streaming, endpoint, decisions or chat completions) and the promise of a cascade. The changes are recorded
    in run.json.
    """
    from segkit.cli import launch

    launch.resume_and_show(name, changes, options, max_unassigned, take_over)


@app.command(rich_help_panel=SEGMENT)
def batches(
    name: RunName,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Stop those at work; what they have answered by then is paid.")
    ] = False,
    runs_dir: RunsDir = None,
    as_json: Json = False,
) -> None:
    """List the batches of a run as the provider has them (--batch), or stop them.

    After --cancel, `segkit resume` fetches what was answered, and sends the rest again: with --no-batch one by one.

    Example: segkit batches latest --cancel
    """
    from segkit.cli.terminal import columns_of, new_console, print_table, write_json
    from segkit.llm.batches.overview import batches_of
    from segkit.settings import load_settings

    run = opened_run(name, runs_dir)
    rows = batches_of(run, load_settings(), cancel=cancel)
    if as_json:
        write_json(rows)
    elif rows:
        print_table(columns_of(rows, tuple(rows[0])))
    else:
        new_console().print(f"{run.id} has sent no batches")


@app.command(rich_help_panel=SEGMENT)
def note(
    name: RunName,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The note; an empty one removes it.")],
    runs_dir: RunsDir = None,
) -> None:
    """Keep a note with a run; `segkit runs` lists it.

    Example: segkit note latest "shorter prompt, two examples"
    """
    from segkit.runs.status import update_status

    run = opened_run(name, runs_dir)
    update_status(run.folder, note=text.strip())
    typer.echo(f"{run.id}: {text.strip() or 'no note'}")


@app.command(rich_help_panel=CHECK)
def costs(
    name: RunsOrAll = "all",
    save: Annotated[
        bool, typer.Option("--save", help="Put the recomputed figures into status.json; the logs stay as they are.")
    ] = False,
    runs_dir: RunsDir = None,
    as_json: Json = False,
) -> None:
    """Compute the cost of runs again from the raw answers in their logs, and show what changed in dollars.

    Prices and the reading of tokens change from release to release, and so does SEGKIT_PRICES. Nothing is sent.

    Example: segkit costs all --save
    """
    from segkit.cli.db import chosen_runs
    from segkit.cli.terminal import columns_of, print_table, write_json
    from segkit.pipeline import costs as recounting
    from segkit.settings import load_settings

    settings, rows = load_settings(), []
    for run in chosen_runs(name, runs_dir, settings):
        found = recounting.recount(run, settings)
        rows.append(found.as_json())
        if save:
            recounting.save(run, found)
    if as_json:
        write_json(rows)
    else:
        shown = ("run_id", "calls", "recorded_usd", "recomputed_usd", "changed_usd", "unknown_cost")
        print_table(columns_of(rows, shown))


@app.command(rich_help_panel=SEGMENT)
def rm(
    name: RunName,
    runs_dir: RunsDir = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before the folder is removed.")] = False,
) -> None:
    """Remove the folder of a run for good, with all its logs; its rows in Postgres stay.

    Answers in the cache stay too, so the same questions cost nothing.
    """
    import shutil

    from segkit.runs.mirror import location
    from segkit.runs.ownership import is_owned

    run = opened_run(name, runs_dir)
    if is_owned(run.folder):
        raise RunError(f"a process works on {run.id}", "stop it first")
    if uri := location(run.folder):
        raise RunError(f"{run.id} is in S3, at {uri}", f"segkit rollback-s3 {run.id} --remove-remote")
    if not yes and not (sys.stdin.isatty() and typer.confirm(f"Remove {run.folder}?", err=True)):
        raise StoppedError("nothing was removed", f"segkit rm {run.id} --yes")
    doomed = run.folder.with_name(f".{run.id}.removed")  # no longer a run, even if removing it is interrupted
    run.folder.rename(doomed)
    shutil.rmtree(doomed)
    typer.echo(f"removed {run.folder}")
