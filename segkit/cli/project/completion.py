"""`segkit completion`: the script that lets a shell complete commands, options and the ids of runs."""

from __future__ import annotations

import os
from typing import Annotated, Literal

import typer

from segkit.cli.options import PROJECT

app = typer.Typer()
#: The variable by which the script asks for completions.
ASKED_BY_SHELL = "_SEGKIT_COMPLETE"


def prepare_completion() -> None:
    """Let typer answer a shell that asks for completions."""
    if ASKED_BY_SHELL in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()


@app.command(rich_help_panel=PROJECT)
def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(help="The shell that is to complete.")],
) -> None:
    """Print the script with which a shell completes commands, options and the ids of runs.

    bash: add `eval "$(segkit completion bash)"` to ~/.bashrc. zsh: add `eval "$(segkit completion zsh)"` to ~/.zshrc,
    below `compinit`. fish: `segkit completion fish > ~/.config/fish/completions/segkit.fish`.
    """
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    typer.echo(get_completion_script(prog_name="segkit", complete_var=ASKED_BY_SHELL, shell=shell))
