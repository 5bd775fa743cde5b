"""`segkit run`, `extend`, `plan` and `resume`."""

from __future__ import annotations

import typer

from segkit.cli.options import (
    SEGMENT,
    Concurrency,
    Json,
    MaxUnassigned,
    ProductSource,
    RunName,
    RunOptions,
    RunParameters,
    TakeOver,
    Yes,
    grouped,
)
from segkit.cli.terminal import GroupedCommand

app = typer.Typer()


@app.command(cls=GroupedCommand, rich_help_panel=SEGMENT)
@grouped
def run(source: ProductSource, parameters: RunParameters, options: RunOptions, yes: Yes = False) -> None:
    """Segment products: extract a taxonomy, consolidate it, refine the assignments, store the results.

    The exit code is 0 only if the run is completed: every product is in a category or out of scope.

    Example: segkit run products.csv --where category="Dimmer Switches" --category "Dimmer Switches"
    """
    from segkit.cli import launch

    launch.run_and_show(source, parameters, options, yes)


@app.command(cls=GroupedCommand, rich_help_panel=SEGMENT)
@grouped
def extend(name: RunName, source: ProductSource, options: RunOptions, yes: Yes = False) -> None:
    """Add products to a finished run, as a new run that asks only what changed.

    The new run has the parameters and batches of the finished one; added products get batches of their own. Questions
    that were asked before are answered from the cache.

    Example: segkit extend latest new_products.csv
    """
    from segkit.cli import launch

    launch.extend_and_show(name, source, options, yes)


@app.command(cls=GroupedCommand, rich_help_panel=SEGMENT)
@grouped
def plan(
    source: ProductSource,
    parameters: RunParameters,
    concurrency: Concurrency = None,
    as_json: Json = False,
) -> None:
    """Show what a run would take (calls, tokens, cost, time); nothing is sent and no run is made."""
    from segkit.cli import launch

    launch.plan_and_show(source, parameters, concurrency, as_json)


@app.command(cls=GroupedCommand, rich_help_panel=SEGMENT)
@grouped
def resume(
    name: RunName, options: RunOptions, max_unassigned: MaxUnassigned = None, take_over: TakeOver = False
) -> None:
    """Continue a run that was stopped or failed; answered questions are not asked again."""
    from segkit.cli import launch

    launch.resume_and_show(name, options, max_unassigned, take_over)
