"""`segkit replay RUN`."""

from __future__ import annotations

import typer

from segkit.cli.options import CHECK, Json, RunName, RunsDir, opened_run

app = typer.Typer()


@app.command(rich_help_panel=CHECK)
def replay(name: RunName = "latest", runs_dir: RunsDir = None, as_json: Json = False) -> None:
    """Make the results of a run again from its logs, without network; the exit code is 1 if a byte differs."""
    from segkit.cli.terminal import write_json
    from segkit.pipeline.replay import replay as replayed

    outcome = replayed(opened_run(name, runs_dir))
    write_json(outcome.as_json()) if as_json else typer.echo(f"{outcome.run_id}: {outcome}")
    raise typer.Exit(0 if outcome.identical else 1)
