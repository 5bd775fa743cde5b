"""`segkit compare RUN_A RUN_B`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from segkit.cli.evaluation.options import Html, LabelColumn, LabelFile
from segkit.cli.options import CHECK, Json, RunsDir

if TYPE_CHECKING:
    from segkit.evaluation.compare import Comparison

app = typer.Typer()
_MOST = 12


@app.command(rich_help_panel=CHECK)
def compare(
    first: Annotated[str, typer.Argument(metavar="RUN_A", help="A run's id, or `latest`.")],
    second: Annotated[str, typer.Argument(metavar="RUN_B", help="A run's id, or `latest`.")],
    labels: LabelFile = None,
    label_column: LabelColumn = "",
    html: Html = None,
    runs_dir: RunsDir = None,
    as_json: Json = False,
) -> None:
    """Show what differs between two runs, what moved, and how much of that is more than noise; asks no model.

    Repeats of the two runs are found without being named; `segkit stability RUN` makes them.
    """
    from segkit.cli.terminal import write_json
    from segkit.evaluation.compare import compare as compare_runs

    comparison = compare_runs(first, second, labels=labels, label_column=label_column, runs_dir=runs_dir or "")
    if html:
        comparison.write_html(html)
    write_json(comparison.as_json()) if as_json else _show(comparison)
    if html and not as_json:
        typer.echo(f"\nthe whole comparison: {html}")


def _show(comparison: Comparison) -> None:
    from segkit.cli.terminal import new_console, print_table

    console = new_console()
    console.print(f"{comparison.first.id}  →  {comparison.second.id}", markup=False)
    for sentence in comparison.sentences():
        console.print(f"  {sentence}", markup=False)
    if comparison.first.id == comparison.second.id:
        return
    for key in comparison.prompts:
        console.print(f"  The prompt {key} differs; --html shows the words.", markup=False)
    for title, frame in (
        ("parameters", comparison.parameters),
        ("spent", comparison.spent),
        ("moved, stable movers first", comparison.moved[["product_id", "first", "second", "stable", "title"]]),
    ):
        if len(frame):
            console.print(f"\n{title}", style="bold")
            print_table(frame.head(_MOST).astype(object).where(frame.head(_MOST).notna(), None).to_dict("list"))
