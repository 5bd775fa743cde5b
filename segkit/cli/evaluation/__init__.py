"""The commands that compare, evaluate and check runs: one file for each command."""

from __future__ import annotations

import typer

from segkit.cli.evaluation import audit, compare, evaluate, replay, stability

app = typer.Typer()
for _command in (compare, evaluate, stability, audit, replay):
    app.add_typer(_command.app)
