"""`segkit init`: a folder of one's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from segkit.cli.options import PROJECT
from segkit.core.text import quantity
from segkit.errors import InputError

app = typer.Typer()
_NOTEBOOK = re.compile(r"\d\d_[a-z_]+\.ipynb")  # not the copies and scratch files of a JupyterLab
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

Other prompts: `segkit prompts copy v0 v2`, edit prompts/*_v2.txt, and run with --prompts v2.
Notebooks: `jupyter lab notebooks/00_prepare_run.ipynb`.
"""


@app.command(rich_help_panel=PROJECT)
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to set up; it is made if it is missing.")],
) -> None:
    """Set up a folder of your own: notebooks, prompts, a sample, an example of settings.

    Files that are there already are left as they are.
    """
    from segkit.core.prompt_sets import SHIPPED
    from segkit.core.prompts import prompt_file
    from segkit.pipeline.prepare import SAMPLE
    from segkit.settings import project_folder

    notebooks = {path for path in project_folder("notebooks").iterdir() if _NOTEBOOK.fullmatch(path.name)}
    shipped = {prompt_file(key, name) for name, keys in SHIPPED.items() for key in keys}
    texts = {path for path in project_folder("prompts").iterdir() if path.name in shipped}
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
    typer.echo(f"{folder}: {quantity(len(made), 'file')} made" + (f", {kept} there already" if kept else ""))
    typer.echo(f"next: cd {folder} && segkit run sample.csv --category 'Coffee Makers' --model offline")


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
