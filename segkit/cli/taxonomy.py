"""`segkit assign` and `segkit taxonomy`: putting products into the taxonomy of a finished run, and editing it."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from segkit.cli.options import SEGMENT, ProductSource, RunName, RunOptions, Yes, grouped
from segkit.cli.terminal import GroupedCommand

app = typer.Typer()
taxonomy_app = typer.Typer(help="Accept categories that `segkit assign` proposed.", no_args_is_help=True)
app.add_typer(taxonomy_app, name="taxonomy", rich_help_panel=SEGMENT)


@app.command(cls=GroupedCommand, rich_help_panel=SEGMENT)
@grouped
def assign(
    source: ProductSource,
    options: RunOptions,
    taxonomy: Annotated[
        str, typer.Option("--taxonomy", metavar="RUN", help="The finished run whose categories are used.")
    ] = "latest",
    model: Annotated[str, typer.Option("--model", "-m", help="Another model.", show_default="that of the run")] = "",
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", metavar="N", min=1, max=100, help="Products in one prompt.", show_default="40"),
    ] = None,
    smallest_proposal: Annotated[
        int | None,
        typer.Option(
            "--smallest-proposal",
            metavar="N",
            min=1,
            help="How many products of a kind that fits no category make a proposal.",
            show_default="5",
        ),
    ] = None,
    second: Annotated[
        str, typer.Argument(metavar="[PRODUCTS]", help="The products, where the first word names the run.")
    ] = "",
    yes: Yes = False,
) -> None:
    """Put new products into the categories of a finished run, as a new run.

    Products that the finished run has placed keep their rows as they are. Products that fit no category are extracted
    on their own; a kind with enough of them is proposed as a category, which `segkit taxonomy accept` adds.

    The run may also stand first, as in `segkit extend`: segkit assign latest-completed new_products.csv

    Example: segkit assign new_products.csv --taxonomy latest
    """
    from segkit.cli import launch

    if second:
        taxonomy, source = source.products, replace(source, products=second)

    given = {"model": model, "products_per_assignment": batch_size, "smallest_proposal": smallest_proposal}
    launch.assign_and_show(taxonomy, source, given, options, yes)


@taxonomy_app.command(cls=GroupedCommand)
@grouped
def accept(
    name: RunName,
    options: RunOptions,
    keys: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY]...", help="Keys of proposals, such as C-14; without any, all."),
    ] = None,
    yes: Yes = False,
) -> None:
    """Accept proposed categories into a taxonomy, as a new run; their products are not asked about again.

    Example: segkit taxonomy accept latest C-14
    """
    from segkit.cli import launch

    launch.accept_and_show(name, keys or [], options, yes)
