"""`segkit assign` and `segkit taxonomy`: putting products into the taxonomy of a finished run, and editing it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from segkit.cli.options import (
    SEGMENT,
    Cascade,
    Decisions,
    Json,
    ProductSource,
    RunName,
    RunOptions,
    RunsDir,
    Yes,
    grouped,
    opened_run,
)
from segkit.cli.terminal import GroupedCommand, new_console, print_table, write_json
from segkit.core.text import quantity

app = typer.Typer()
taxonomy_app = typer.Typer(
    help="Export, check and edit a taxonomy, and accept categories that `segkit assign` proposed.",
    no_args_is_help=True,
)
app.add_typer(taxonomy_app, name="taxonomy", rich_help_panel=SEGMENT)


@app.command(cls=GroupedCommand, rich_help_panel=SEGMENT)
@grouped
def assign(
    source: ProductSource,
    options: RunOptions,
    taxonomy: Annotated[
        str,
        typer.Option(
            "--taxonomy",
            metavar="RUN|FILE",
            help="The finished run whose categories are used, or a file (.csv, .xlsx, .json, .txt).",
        ),
    ] = "latest",
    category: Annotated[
        str,
        typer.Option(
            "--category",
            "-c",
            help="What the products are, if the taxonomy is a list of no run.",
            show_default="that of the run",
        ),
    ] = "",
    model: Annotated[str, typer.Option("--model", "-m", help="Another model.", show_default="that of the run")] = "",
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            metavar="N",
            min=1,
            max=400,
            help="Products in one prompt: at most 100, or 400 with --decisions.",
            show_default="40",
        ),
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
    cascade: Cascade = None,
    decisions: Decisions = None,
    second: Annotated[
        str, typer.Argument(metavar="[PRODUCTS]", help="The products, where the first word names the run.")
    ] = "",
    yes: Yes = False,
) -> None:
    """Put new products into the categories of a finished run, as a new run.

    Products that the finished run has placed keep their rows as they are. Products that fit no category are extracted
    on their own; a kind with enough of them is proposed as a category, which `segkit taxonomy accept` adds.

    The run may also stand first, as in `segkit extend`: segkit assign latest-completed new_products.csv

    The edits in a file that `segkit taxonomy export` wrote are applied; without PRODUCTS, nothing else is done.
    Products of split, deleted and redefined categories are asked about again.

    Example: segkit assign new_products.csv --taxonomy latest
    """
    from segkit.cli import launch

    if second:
        taxonomy, source = source.products, replace(source, products=second)

    given = {
        "category": category,
        "model": model,
        "products_per_assignment": batch_size,
        "cascade": cascade,
        "decisions": decisions,
        "smallest_proposal": smallest_proposal,
    }
    launch.assign_and_show(taxonomy, source, given, options, yes)


@taxonomy_app.command()
def export(
    name: RunName = "latest",
    out: Annotated[Path, typer.Option(help="The file to write: .xlsx, .csv or .json.")] = Path("taxonomy.xlsx"),
    edits_of: Annotated[
        str, typer.Option("--edits-of", metavar="RUN", help="Fill in the edits that another run has, to repeat them.")
    ] = "",
    runs_dir: RunsDir = None,
) -> None:
    """Write the categories of a run to a file in which a person edits them.

    For a run that found its categories anew, --edits-of fills in the edits of an earlier one: by names, former names
    and the products that both have. What cannot be repeated is listed.

    Example: segkit taxonomy export latest --out taxonomy.xlsx
    """
    from segkit.analysis.export import write_taxonomy

    run = opened_run(name, runs_dir)
    taxonomy = run.taxonomy().repeat(opened_run(edits_of, runs_dir)) if edits_of else run.taxonomy()
    sheet = write_taxonomy(run, out, taxonomy)
    for remark in taxonomy.remarks:
        typer.echo(f"not repeated: {remark}", err=True)
    if edits_of:
        typer.echo(f"{len(taxonomy.edits):,} edits are filled in, {len(taxonomy.remarks):,} are not", err=True)
    new_console().print(
        f"{quantity(len(sheet), 'category')} of {run.id} written to {out}; edit it, then: segkit taxonomy check {out}"
    )


@taxonomy_app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `segkit taxonomy export` wrote.")],
    runs_dir: RunsDir = None,
    as_json: Json = False,
) -> None:
    """Show what the edits in a file change, how many products are asked about again, and at what price.

    Example: segkit taxonomy check taxonomy.xlsx
    """
    from segkit.pipeline.taxonomy.check import taxonomy_check
    from segkit.runs.run import open_run
    from segkit.runs.taxonomy import taxonomy_of_file
    from segkit.settings import load_settings

    settings = load_settings()
    place = runs_dir or settings.storage_root
    given = taxonomy_of_file(file, lambda run_id: open_run(run_id, place, settings))
    report = taxonomy_check(given, settings)
    if as_json:
        write_json(report)
        return
    for remark in report["remarks"]:
        typer.echo(remark, err=True)
    words = ("renamed", "merged", "split", "deleted", "added", "redefined", "locked")
    new_console().print(", ".join(f"{report[word]} {word}" for word in words if report[word]) or "nothing changes")
    if report["products_to_ask"] is not None:
        asked, calls = report["products_to_ask"], report["calls"]
        low, high = report["cost_usd"]
        price = "unknown cost" if low is None else f"${low:,.2f}-${high:,.2f}"
        new_console().print(f"products to ask about: {asked:,}; calls: {calls:,}; {price}")
    if report["changes"]:
        print_table(given.changes.to_dict("list"))


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
