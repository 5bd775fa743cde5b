"""`segkit stability PRODUCTS`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from segkit.cli.evaluation.options import Html
from segkit.cli.options import CHECK, ProductSource, RunOptions, RunParameters, Yes, grouped
from segkit.cli.terminal import GroupedCommand
from segkit.core.text import quantity

if TYPE_CHECKING:
    from segkit.runs.run import Run
    from segkit.settings import Settings

app = typer.Typer()


@app.command(cls=GroupedCommand, rich_help_panel=CHECK)
@grouped
def stability(
    source: ProductSource,
    parameters: RunParameters,
    options: RunOptions,
    repeats: Annotated[int, typer.Option(min=2, max=100, help="How many runs in all.")] = 5,
    vary: Annotated[
        str, typer.Option(help="What differs between them: seed, temperature=0:0.7, prompts=v0:v1, model=A:B.")
    ] = "seed",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Ask again where the cache would answer; each repeat is paid for once.")
    ] = False,
    consensus: Annotated[
        bool,
        typer.Option(
            "--consensus", help="Also make a run from what the runs agree on, with the agreement as confidence."
        ),
    ] = False,
    html: Html = None,
    yes: Yes = False,
) -> None:
    """Run the same products several times and show how far the runs agree.

    PRODUCTS may also be the id of a run, which is then repeated. Repeats that exist already are used.

    Example: segkit stability latest --repeats 5
    """
    from segkit.cli.progress import watched
    from segkit.cli.terminal import new_console, print_table, write_json
    from segkit.evaluation.stability import stability_of
    from segkit.pipeline.experiments.repeats import complete, make_consensus, make_repeats, read_variation
    from segkit.settings import load_settings

    settings = options.applied(load_settings())
    first = _first(source, parameters, options, settings)
    runs = make_repeats(first, repeats, settings, read_variation(vary), fresh)
    confirm(runs, settings, options, yes)
    complete(runs, settings, watch=watched)
    found = stability_of(runs)
    if html:
        found.write_html(html)
    extra = {"consensus": make_consensus(runs, settings).id} if consensus else {}
    if options.as_json:
        write_json({**found.as_json(), **extra})
        return
    console = new_console()
    for sentence in found.sentences():
        console.print(f"  {sentence}", markup=False)
    print_table({**found.categories.assign(jaccard=found.categories["jaccard"].round(2)).to_dict("list")})
    console.print(f"\nruns: {', '.join(run.id for run in runs)}", markup=False)
    if extra:
        console.print(f"consensus: {extra['consensus']} (segkit show {extra['consensus']})", markup=False)


def _first(source: ProductSource, parameters: RunParameters, options: RunOptions, settings: Settings) -> Run:
    """Open the run that is repeated, or make it from products."""
    from segkit.cli.launch import read_catalogue
    from segkit.errors import SettingsError
    from segkit.pipeline.experiments.repeats import first_run
    from segkit.runs.run import is_run_name, open_run

    folder = options.runs_dir or settings.storage_root
    if is_run_name(source.products):
        return open_run(source.products, folder)
    if not parameters.category.strip():
        raise SettingsError("--category is missing", 'say what the products are: --category "Dimmer Switches"')
    given = asdict(parameters)
    return first_run(
        read_catalogue(source, settings, parameters.product_line or "").products,
        given.pop("category"),
        settings,
        runs_dir=folder,
        source=source.name,
        **given,
    )


def confirm(runs: list[Run], settings: Settings, options: RunOptions, yes: bool) -> None:
    """Show what the unfinished runs take, and ask before titles are sent to a provider."""
    from segkit.errors import StoppedError
    from segkit.pipeline.experiments.repeats import plan_of
    from segkit.pipeline.plan.estimate import dollars

    row = plan_of(runs, settings).iloc[0]
    if not row["runs"]:
        return
    text = f"{quantity(row['runs'], 'run')}, {quantity(row['calls'], 'call')}, {dollars(row)}"
    options.console.print(text)
    offline = all(run.parameters.model == "offline" for run in runs)
    if offline or yes or options.as_json or not sys.stdin.isatty():
        return
    if not typer.confirm("Send the product titles?", default=True, err=True):
        raise StoppedError("nothing was sent", "the same command goes on from here")
