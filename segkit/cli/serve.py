"""`segkit serve` and `segkit token`: the REST service."""

from __future__ import annotations

from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from segkit.cli.options import SERVICE, RunsDir
from segkit.cli.terminal import CommandGroup
from segkit.errors import SettingsError

app = typer.Typer()
token = typer.Typer(
    cls=CommandGroup,
    help="Create, list, revoke and rotate the tokens of the REST API.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(token, name="token", rich_help_panel=SERVICE)


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
    missing = [name for name in ("fastapi", "uvicorn", "prometheus_client") if find_spec(name) is None]
    if missing:
        raise SettingsError(
            f"the service needs {', '.join(missing)}", "in a checkout: make setup, or pip install '.[api]'"
        )
    from segkit.service.http import server
    from segkit.settings import load_settings

    def announce(address: str) -> None:
        typer.echo(f"segkit serves {address}", err=True)

    settings = load_settings()
    tokens, runs_dir = tokens or settings.segkit_tokens, runs_dir or settings.storage_root
    server.serve(settings, host, port, tokens, no_token, runs_dir, announce)


TokensFile = Annotated[
    Path | None,
    typer.Option("--tokens", help="The file of tokens.", show_default="SEGKIT_TOKENS, else SEGKIT_HOME/tokens.json"),
]


@token.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Who the token is for; its runs belong to this name.")],
    tokens: TokensFile = None,
    expires: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], help="When it expires, in UTC.")
    ] = None,
    max_products: Annotated[
        int | None, typer.Option(min=1, help="The most products in one run.", show_default="10000")
    ] = None,
    max_cost_usd: Annotated[float | None, typer.Option(min=0, help="The most dollars that one run may cost.")] = None,
    max_total_cost_usd: Annotated[
        float | None, typer.Option(min=0, help="The most dollars that all its runs together may cost.")
    ] = None,
    max_active: Annotated[
        int | None, typer.Option(min=1, help="The most runs at work or waiting at once.", show_default="10")
    ] = None,
    requests_per_second: Annotated[
        float | None, typer.Option(min=0, help="The most requests per second.", show_default="2000")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model that it may use; repeat the option for more.", show_default="any"),
    ] = None,
    unpriced_models: Annotated[
        bool, typer.Option("--unpriced-models", help="It may use models whose price is not known.")
    ] = False,
    all_runs: Annotated[
        bool, typer.Option("--all-runs", help="It sees and resumes every run, not only its own.")
    ] = False,
    callback_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Where the end of each of its runs is posted, signed.")
    ] = None,
) -> None:
    """Create a token. It is shown once; the file keeps its hash and its limits."""
    from segkit.service.tokens import add_token, callback_secret

    limits: dict[str, Any] = {
        "expires": expires.isoformat() + "Z" if expires else None, "max_products": max_products,
        "max_cost_usd": max_cost_usd, "max_total_cost_usd": max_total_cost_usd, "max_active": max_active,
        "requests_per_second": requests_per_second, "models": tuple(model) if model else None,
        "unpriced_models": unpriced_models or None, "all_runs": all_runs or None,
        "callback_url": callback_url,
    }  # fmt: skip
    path = _file(tokens)
    secret = add_token(path, name, **limits)
    if callback_url:
        typer.echo(f"its callbacks are signed with {callback_secret(path, name)}", err=True)
    _show_once(path, secret)


@token.command("list")
def list_(tokens: TokensFile = None) -> None:
    """List the tokens with their limits."""
    from segkit.service.tokens import read_tokens

    for each in read_tokens(_file(tokens), may_be_empty=True):
        limits = each.model_dump(mode="json", exclude_defaults=True, exclude={"name", "sha256", "callback_secret"})
        words = [f"{key}={','.join(value) if isinstance(value, list) else value}" for key, value in limits.items()]
        typer.echo(" ".join([each.name, *words, *(["(expired)"] if each.is_expired else [])]))


@token.command("revoke")
def revoke(name: Annotated[str, typer.Argument(help="The name of the token.")], tokens: TokensFile = None) -> None:
    """Withdraw a token: its runs stop, and its open streams end."""
    from segkit.service.tokens import remove_token

    path = _file(tokens)
    remove_token(path, name)
    typer.echo(f"removed the token {name} from {path}", err=True)


@token.command("rotate")
def rotate(name: Annotated[str, typer.Argument(help="The name of the token.")], tokens: TokensFile = None) -> None:
    """Replace a token by a new one with the same name, limits and runs; the old one is refused from now on."""
    from segkit.service.tokens import rotate_token

    path = _file(tokens)
    _show_once(path, rotate_token(path, name))


def _file(tokens: Path | None) -> Path:
    from segkit.settings import load_settings

    settings = load_settings()
    return tokens or settings.segkit_tokens or settings.segkit_home / "tokens.json"


def _show_once(path: Path, secret: str) -> None:
    typer.echo(f"{path} holds its hash; the token is shown only now:", err=True)
    typer.echo(secret)
