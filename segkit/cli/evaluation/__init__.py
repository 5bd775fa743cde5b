"""The commands that compare, evaluate and check runs: one file for each command."""

from __future__ import annotations

import typer

from segkit.cli.evaluation import audit, compare, evaluate, replay, stability, sweep

app = typer.Typer()
for _command in (compare, evaluate, stability, sweep, audit, replay):
    app.add_typer(_command.app)
