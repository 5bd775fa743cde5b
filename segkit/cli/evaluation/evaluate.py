"""`segkit evaluate RUN` and `segkit label RUN`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segkit.cli.evaluation.options import Html, LabelColumn, LabelFile
from segkit.cli.options import CHECK, Json, RunName, RunsDir, opened_run
from segkit.core.text import quantity

if TYPE_CHECKING:
    from segkit.evaluation.evaluate import Evaluation

app = typer.Typer()


@app.command(rich_help_panel=CHECK)
def label(
    name: RunName = "latest",
    count: Annotated[int, typer.Option("--n", min=10, help="How many products to label.")] = 200,
    out: Annotated[Path, typer.Option(help="The sheet to write: .csv, or .xlsx.")] = Path("label_me.csv"),
    seed: Annotated[int, typer.Option(help="Decides which products are drawn.")] = 0,
    runs_dir: RunsDir = None,
) -> None:
    """Write a sheet of products drawn at random for a person to label, in its column `label`.

    Then: segkit evaluate RUN --labels label_me.csv
    """
    from segkit.cli.terminal import new_console
    from segkit.errors import InputError
    from segkit.evaluation.labels import label_sheet, sheet_bytes
    from segkit.storage.disk import write_atomic

    form = out.suffix.removeprefix(".")
    if form not in ("csv", "xlsx"):
        raise InputError(f"{out} is neither .csv nor .xlsx", "--out label_me.csv")
    if out.exists():
        raise InputError(f"{out} is there already, and may hold labels", "choose another --out")
    run = opened_run(name, runs_dir)
    sheet = label_sheet(run, count, seed)
    try:
        write_atomic(out, sheet_bytes(sheet, form))
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror or error}", "choose another --out") from None
    new_console().print(
        f"{quantity(len(sheet), 'row')} of {run.id} in {out}; fill in its column `label`, then:", markup=False
    )
    new_console().print(f"  segkit evaluate {run.id} --labels {out}", markup=False)


@app.command(rich_help_panel=CHECK)
def evaluate(
    name: RunName = "latest",
    labels: LabelFile = None,
    label_column: LabelColumn = "",
    weight: Annotated[
        str, typer.Option("--weight", help="A column of the products, such as revenue, that shares are weighted by.")
    ] = "",
    html: Html = None,
    runs_dir: RunsDir = None,
    as_json: Json = False,
) -> None:
    """Show how well a run agrees with labels made by people, and how large its segments really are.

    Example: segkit evaluate latest --label-column segment_label
    """
    from segkit.cli.terminal import write_json
    from segkit.errors import InputError
    from segkit.evaluation.evaluate import evaluate as evaluate_run

    if labels is None and not label_column:
        raise InputError("there are no labels", f"--labels FILE, --label-column COLUMN; a sheet: segkit label {name}")
    evaluation = evaluate_run(
        opened_run(name, runs_dir), labels, label_column=label_column, weight=weight, runs_dir=runs_dir or ""
    )
    if html:
        evaluation.write_html(html)
    write_json(evaluation.as_json()) if as_json else _show(evaluation)


def _show(evaluation: Evaluation) -> None:
    from segkit.cli.terminal import new_console, print_table

    console = new_console()
    for sentence in evaluation.sentences():
        console.print(f"  {sentence}", markup=False)
    print_table(evaluation.readable_shares().to_dict("list"))
    if len(evaluation.confusions):
        console.print("\nmost frequent confusions", style="bold")
        print_table(evaluation.confusions.head(8).to_dict("list"))
