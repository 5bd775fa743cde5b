"""`segkit serve` and `segkit token`: the REST service."""

from __future__ import annotations

from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

<<<<<<< HEAD
from segkit.cli.options import SERVICE, RunsDir
=======
from segkit.cli.options import RunsDir
from segkit.errors import SettingsError
from segkit.settings import Settings, load_settings
>>>>>>> 67184e0 (Cut the service into its parts: admission, submissions, processes, journal; routers instead of closures)

app = typer.Typer()
TokenFile = Annotated[
    Path | None, typer.Option(help="The file of tokens.  [default: SEGKIT_TOKENS, else SEGKIT_HOME/tokens.json]")
]


@app.command(rich_help_panel=SERVICE)
def serve(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8000,
    tokens: Annotated[Path | None, typer.Option(help="The file of tokens.", show_default="SEGKIT_TOKENS")] = None,
    no_token: Annotated[
<<<<<<< HEAD
        bool, typer.Option("--no-token", help="Turn authentication off and accept requests from this machine only.")
    ] = False,
    runs_dir: RunsDir = None,
) -> None:
    """Serve the REST API: start runs, follow them, read their results. Runs continue when the service ends."""
    from segkit.service.http import server as serving
=======
        bool, typer.Option("--no-token", help="Turn authentication off, and answer this machine only.")
    ] = False,
    runs_dir: RunsDir = None,
) -> None:
    """Answer the REST API: start runs, follow them, return their results. Runs go on when the service ends."""
    missing = [name for name in ("fastapi", "uvicorn", "prometheus_client") if find_spec(name) is None]
    if missing:
        raise SettingsError(f"the service needs {', '.join(missing)}", "pip install 'segkit[api]'")
    from segkit.service.http import server
>>>>>>> 67184e0 (Cut the service into its parts: admission, submissions, processes, journal; routers instead of closures)

    def announce(address: str) -> None:
        typer.echo(f"segkit serves {address}", err=True)

    settings = load_settings()
    tokens, runs_dir = tokens or settings.segkit_tokens, runs_dir or settings.storage_root
    server.serve(settings, host, port, tokens, no_token, runs_dir, announce)


@app.command(rich_help_panel=SERVICE)
def token(
<<<<<<< HEAD
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
=======
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Whom it is for; runs belong to this name.")] = "",
    tokens: TokenFile = None,
    list_: Annotated[bool, typer.Option("--list", help="List the tokens with their limits.")] = False,
    remove: Annotated[str, typer.Option(metavar="NAME", help="Withdraw a token; its waiting runs are ended.")] = "",
    expires: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], help="When it ends, in UTC.")
    ] = None,
    max_products: Annotated[int | None, typer.Option(min=1, help="Products a run.  [default: 10000]")] = None,
    max_cost_usd: Annotated[float | None, typer.Option(min=0, help="Dollars a run.")] = None,
    max_total_cost_usd: Annotated[float | None, typer.Option(min=0, help="Dollars in all.")] = None,
    max_active: Annotated[int | None, typer.Option(min=1, help="Runs at work and waiting.  [default: 10]")] = None,
    requests_per_second: Annotated[float | None, typer.Option(min=0, help="Requests.  [default: 2000]")] = None,
    model: Annotated[list[str] | None, typer.Option(help="A model it may use; may be given again.")] = None,
    unpriced_models: Annotated[
        bool, typer.Option("--unpriced-models", help="It may use models whose price is not known.")
    ] = False,
    all_runs: Annotated[bool, typer.Option("--all-runs", help="It sees and resumes every run.")] = False,
) -> None:
    """Create a token for the REST API, show it this once, and keep its hash and its limits in a file."""
    from segkit.service import tokens as store
>>>>>>> 67184e0 (Cut the service into its parts: admission, submissions, processes, journal; routers instead of closures)

    path = _token_file(tokens, load_settings())
    if list_:
        _list(path)
    elif remove:
        store.remove_token(path, remove)
        typer.echo(f"removed the token {remove} from {path}", err=True)
    elif name:
        limits: dict[str, Any] = {
            "expires": expires.isoformat() + "Z" if expires else None, "max_products": max_products,
            "max_cost_usd": max_cost_usd, "max_total_cost_usd": max_total_cost_usd, "max_active": max_active,
            "requests_per_second": requests_per_second, "models": tuple(model) if model else None,
            "unpriced_models": unpriced_models or None, "all_runs": all_runs or None,
        }  # fmt: skip
        secret = store.add_token(path, name, **limits)
        typer.echo(f"{path} holds its hash; the token is shown only now:", err=True)
        typer.echo(secret)
    else:
        raise SettingsError("a token needs a name", "segkit token NAME, or segkit token --list")


def _token_file(tokens: Path | None, settings: Settings) -> Path:
    return tokens or settings.segkit_tokens or settings.segkit_home / "tokens.json"


def _list(path: Path) -> None:
    from segkit.service.tokens import read_tokens

    for each in read_tokens(path, may_be_empty=True):
        limits = each.model_dump(mode="json", exclude_defaults=True, exclude={"name", "sha256"})
        words = [f"{key}={','.join(value) if isinstance(value, list) else value}" for key, value in limits.items()]
        typer.echo(" ".join([each.name, *words, *(["(expired)"] if each.is_expired else [])]))
