"""`segkit serve` and `segkit token`: the REST service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segkit.cli.options import SERVICE, RunsDir

app = typer.Typer()


@app.command(rich_help_panel=SERVICE)
def serve(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8000,
    tokens: Annotated[Path | None, typer.Option(help="The file of tokens.", show_default="SEGKIT_TOKENS")] = None,
    no_token: Annotated[
        bool, typer.Option("--no-token", help="Turn authentication off and accept requests from this machine only.")
    ] = False,
    runs_dir: RunsDir = None,
) -> None:
    """Serve the REST API: start runs, follow them, read their results. Runs continue when the service ends."""
    from segkit.service.http import server as serving

    serving.serve(host, port, tokens, no_token, runs_dir)


@app.command(rich_help_panel=SERVICE)
def token(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who it is for; runs belong to this name.")],
    tokens: Annotated[
        Path | None,
        typer.Option(help="The file of tokens.", show_default="SEGKIT_TOKENS, else SEGKIT_HOME/tokens.json"),
    ] = None,
    max_products: Annotated[
        int | None, typer.Option(min=1, help="Most products of a run.", show_default="10000")
    ] = None,
    max_cost_usd: Annotated[float | None, typer.Option(min=0, help="Most dollars of a run.")] = None,
    max_total_cost_usd: Annotated[
        float | None, typer.Option(min=0, help="Most dollars of all its runs together.")
    ] = None,
    max_active: Annotated[
        int | None, typer.Option(min=1, help="Most runs working or waiting at once.", show_default="10")
    ] = None,
    all_runs: Annotated[bool, typer.Option("--all-runs", help="It sees every run, not only its own.")] = False,
) -> None:
    """Make a token for the REST API. It is shown once; the file keeps its hash and its limits."""
    from segkit.service.http import server as serving

    limits = {"max_products": max_products, "max_cost_usd": max_cost_usd, "max_total_cost_usd": max_total_cost_usd}
    serving.make_token(name, tokens, {**limits, "max_active": max_active, "all_runs": all_runs or None})
