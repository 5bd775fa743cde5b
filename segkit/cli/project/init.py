"""`segkit init` and `segkit prompts`: a folder of one's own, and prompt sets to edit."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Annotated

import typer

from segkit.cli.options import PROJECT
from segkit.cli.terminal import CommandGroup
from segkit.errors import InputError, PromptError

app = typer.Typer()
prompts = typer.Typer(
    cls=CommandGroup, help="List and copy prompt sets.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(prompts, name="prompts", rich_help_panel=PROJECT)

_NOTEBOOK = re.compile(r"\d\d_[a-z_]+\.ipynb")  # not the copies and scratch files of a JupyterLab
_PROMPT = re.compile(r"([a-z_]+)_prompt_([A-Za-z0-9_-]+)\.txt")
_ENVIRONMENT = """\
# Settings of this folder; copy to .env and fill in what you need. All of them: docs/settings.md of segkit.
# OPENAI_API_KEY=
# OPENAI_BASE_URL=http://127.0.0.1:8080/v1
# DEFAULT_MODEL=gpt-4o
# SEGKIT_MAX_COST_USD=5
# DATABASE_URL=
"""
_IGNORED = ".env\n.segkit/\nruns/\n.ipynb_checkpoints/\n"
_README = """\
# Market segments

Try it, without a key:

    segkit run sample.csv --category "Coffee Makers" --model offline

Your own products, a CSV with the columns product_id and title:

    cp .env.example .env        # put your OPENAI_API_KEY there
    segkit plan products.csv --category "Dimmer Switches" --model gpt-4o
    segkit run products.csv --category "Dimmer Switches" --model gpt-4o --max-cost-usd 5

Then open the report.html whose path is printed, or export the result:

    segkit export latest --out segments.csv

Other prompts: `segkit prompts copy v0 v1`, edit prompts/*_v1.txt, and run with --prompts v1.
Notebooks: `jupyter lab notebooks/00_prepare_run.ipynb`.
"""


@app.command(rich_help_panel=PROJECT)
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to set up; it is made if it is missing.")],
) -> None:
    """Set up a folder of your own: notebooks, prompts, a sample, an example of settings.

    Files that are there already are left as they are.
    """
    from segkit.pipeline.prepare import SAMPLE
    from segkit.settings import project_folder

    notebooks = {path for path in project_folder("notebooks").iterdir() if _NOTEBOOK.fullmatch(path.name)}
    texts = set(project_folder("prompts").glob("*_prompt_v0.txt"))
    files = {folder / "notebooks" / path.name: path.read_bytes() for path in notebooks}
    files |= {folder / "prompts" / path.name: path.read_bytes() for path in texts}
    files |= {
        folder / "sample.csv": SAMPLE.read_bytes(),
        folder / ".env.example": _ENVIRONMENT.encode(),
        folder / ".gitignore": _IGNORED.encode(),
        folder / "README.md": _README.encode(),
    }
    made = [path for path, data in sorted(files.items()) if _write_new(path, data)]
    kept = len(files) - len(made)
    typer.echo(f"{folder}: {len(made)} files made" + (f", {kept} were there already" if kept else ""))
    typer.echo(f"next: cd {folder} && segkit run sample.csv --category 'Coffee Makers' --model offline")


@prompts.command("copy")
def prompts_copy(
    source: Annotated[str, typer.Argument(metavar="FROM", help="The set to copy, such as v0.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="The name of the copy, such as v1.")],
) -> None:
    """Copy a prompt set into ./prompts, to be edited and used with --prompts.

    Example: segkit prompts copy v0 v1
    """
    from segkit.core.prompts import load_prompts

    load_prompts(source)  # a set that cannot be used is not copied
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", target):
        raise PromptError(f"prompt set {target[:80]!r} is no plain name", "use letters, digits, - and _, like v1")
    sets = _sets()
    if target in sets:
        raise PromptError(f"prompt set {target!r} exists, in {sets[target][0].parent}", "choose another name")
    Path("prompts").mkdir(exist_ok=True)
    for path in sets[source]:
        copy = Path("prompts") / path.name.replace(f"_prompt_{source}.", f"_prompt_{target}.")
        shutil.copyfile(path, copy)
        typer.echo(str(copy))
    typer.echo(f"next: edit them, then segkit run … --prompts {target}")


@prompts.command("list")
def prompts_list() -> None:
    """List the prompt sets, those of ./prompts before those of the package."""
    for name, paths in sorted(_sets().items()):
        typer.echo(f"{name}  {len(paths)} files in {paths[0].parent}")


def _sets() -> dict[str, list[Path]]:
    """Return the files of each prompt set; a file of ./prompts hides that of the package."""
    from segkit.settings import project_folder

    found: dict[str, dict[str, Path]] = {}
    for folder in (project_folder("prompts"), Path("prompts")):
        for path in sorted(folder.glob("*_prompt_*.txt")):
            if match := _PROMPT.fullmatch(path.name):
                found.setdefault(match[2], {})[match[1]] = path
    return {name: list(paths.values()) for name, paths in found.items()}


def _write_new(path: Path, data: bytes) -> bool:
    """Write a file that is not there yet; report whether it was written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}", "choose another folder") from None
    return True
