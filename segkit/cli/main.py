"""The command line `segkit`: its commands in groups, its exit codes, and how errors are printed."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from segkit.cli import db, evaluation, run, s3, serve, show, taxonomy
from segkit.cli.project import completion, doctor, init, prompts
from segkit.cli.terminal import CommandGroup
from segkit.errors import InputError, SegkitError, WaitingError

#: The exit code of a command whose run waits for batches of the provider.
WAITING = 3

app = typer.Typer(
    name="segkit",
    cls=CommandGroup,
    help="Turn a list of products into market segments with a language model, and keep every prompt and answer.",
    epilog="Try it without a key: segkit run sample --category 'Coffee Makers' --model offline",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


for _family in (run, taxonomy, show, evaluation, doctor, db, s3, serve, init, prompts, completion):
    app.add_typer(_family.app)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; an error of segkit is one line on standard error, and the exit code is not 0."""
    completion.prepare_completion()
    try:
        app(arguments, standalone_mode=True)
    except WaitingError as waiting:
        _complain(waiting, "[bold]waiting:[/bold]")
        sys.exit(WAITING)
    except SegkitError as error:
        _complain(error)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)


def _complain(error: SegkitError, word: str = "[bold red]error:[/bold red]") -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(f"{word} {escape(error.message)}")
    if error.hint:
        console.print(f"  [dim]→ {escape(error.hint)}[/dim]")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"segkit {version('segkit')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> Any:
    return None
