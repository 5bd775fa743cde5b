"""`segkit audit RUN`."""

from __future__ import annotations

import typer

from segkit.cli.evaluation.options import Html
from segkit.cli.options import CHECK, Json, RunName, RunsDir, opened_run

app = typer.Typer()


@app.command(rich_help_panel=CHECK)
def audit(name: RunName = "latest", html: Html = None, runs_dir: RunsDir = None, as_json: Json = False) -> None:
    """Check a run for position effects, odd names, overlapping definitions and cut text; exit code 1 if any.

    Asks no model. If the run has repeats (`segkit stability`), positions are tested by which products are unstable.
    """
    from segkit.cli.terminal import new_console, write_json
    from segkit.evaluation.audit import audit as audited

    found = audited(opened_run(name, runs_dir))
    if html:
        found.write_html(html)
    if as_json:
        write_json(found.as_json())
    else:
        for sentence in found.sentences():
            new_console().print(f"  {sentence}", markup=False)
    raise typer.Exit(1 if found.flagged else 0)
