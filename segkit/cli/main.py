"""The command line: each command reads its options, calls one function of the package, and shows what came of it."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Literal

import typer

from segkit.cli import commands_copies as cli_copies
from segkit.cli import commands_show as cli_runs
from segkit.cli import serve as cli_service
from segkit.cli.options import (
    Category,
    Concurrency,
    FromPostgres,
    IdColumn,
    Ids,
    IdsFile,
    Json,
    MaxCalls,
    MaxCost,
    Model,
    NoSync,
    ProductLine,
    Products,
    Prompts,
    RunName,
    RunsDir,
    Seed,
    TakeOver,
    TitleColumn,
    Unassigned,
    Where,
    Yes,
)
from segkit.errors import InputError, SegkitError

app = typer.Typer(
    name="segkit",
    help="Turn a list of products into market segments with a language model, and keep every word of it.",
    epilog="Try it without a key: segkit run sample --category 'Coffee Makers' --model offline",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def run(
    products: Products = "",
    category: Category = "",
    product_ids: Ids = "",
    ids_file: IdsFile = None,
    where: Where = None,
    from_postgres: FromPostgres = False,
    id_column: IdColumn = "product_id",
    title_column: TitleColumn = "title",
    product_line: ProductLine = "$title",
    model: Model = "",
    temperature: Annotated[
        float | None, typer.Option(min=0, max=2, help="Sampling temperature.  [default: DEFAULT_TEMPERATURE or 0.2]")
    ] = None,
    prompts: Prompts = "v0",
    seed: Seed = 0,
    response_format: Annotated[
        Literal["json_schema", "json_object", "text"] | None,
        typer.Option(help="How an answer is asked for.  [default: json_schema]"),
    ] = None,
    concurrency: Concurrency = None,
    max_calls: MaxCalls = None,
    max_cost_usd: MaxCost = None,
    max_unassigned: Unassigned = None,
    runs_dir: RunsDir = None,
    no_sync: NoSync = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Segment products: extract a taxonomy, consolidate it, refine the assignments, and store the results.

    Exits with 0 only when the run is completed: every product stands in a category or out of scope.

    Example: segkit run products.csv --where category="Dimmer Switches" --category "Dimmer Switches"
    """
    from segkit.cli import launch as running

    running.run_and_show(
        running.Order(
            products=products,
            category=category,
            ids=product_ids,
            ids_file=ids_file,
            where=tuple(where or ()),
            from_postgres=from_postgres,
            columns=(id_column, title_column),
            runs_dir=runs_dir,
        ),
        {
            "model": model,
            "temperature": temperature,
            "prompts": prompts,
            "seed": seed,
            "product_line": product_line,
            "response_format": response_format,
            "max_unassigned": max_unassigned,
        },
        running.Manner(not no_sync, yes, as_json, concurrency, max_calls, max_cost_usd),
    )


@app.command()
def extend(
    name: RunName,
    products: Products = "",
    product_ids: Ids = "",
    ids_file: IdsFile = None,
    where: Where = None,
    from_postgres: FromPostgres = False,
    id_column: IdColumn = "product_id",
    title_column: TitleColumn = "title",
    concurrency: Concurrency = None,
    max_calls: MaxCalls = None,
    max_cost_usd: MaxCost = None,
    runs_dir: RunsDir = None,
    no_sync: NoSync = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Add products to a finished run: a new run with its parameters, in which only what changed is asked.

    The batches of the finished run stay as they are; added products get batches of their own. What was asked before
    comes from the cache.

    Example: segkit extend latest new_products.csv
    """
    from segkit.cli import launch as running

    running.extend_and_show(
        name,
        running.Order(
            products=products,
            category="",
            ids=product_ids,
            ids_file=ids_file,
            where=tuple(where or ()),
            from_postgres=from_postgres,
            columns=(id_column, title_column),
            runs_dir=runs_dir,
        ),
        running.Manner(not no_sync, yes, as_json, concurrency, max_calls, max_cost_usd),
    )


@app.command()
def plan(
    products: Products = "",
    category: Category = "",
    product_ids: Ids = "",
    ids_file: IdsFile = None,
    where: Where = None,
    from_postgres: FromPostgres = False,
    id_column: IdColumn = "product_id",
    title_column: TitleColumn = "title",
    product_line: ProductLine = "$title",
    model: Model = "",
    prompts: Prompts = "v0",
    seed: Seed = 0,
    concurrency: Concurrency = None,
    as_json: Json = False,
) -> None:
    """Tell what a run will take (calls, tokens, money, time) before anything is asked."""
    from segkit.cli import launch as running

    running.plan_and_show(
        running.Order(
            products=products,
            category=category,
            ids=product_ids,
            ids_file=ids_file,
            where=tuple(where or ()),
            from_postgres=from_postgres,
            columns=(id_column, title_column),
            runs_dir=None,
        ),
        {"model": model, "prompts": prompts, "seed": seed, "product_line": product_line},
        concurrency,
        as_json,
    )


@app.command()
def resume(
    name: RunName,
    max_unassigned: Unassigned = None,
    concurrency: Concurrency = None,
    max_calls: MaxCalls = None,
    max_cost_usd: MaxCost = None,
    runs_dir: RunsDir = None,
    no_sync: NoSync = False,
    take_over: TakeOver = False,
    as_json: Json = False,
) -> None:
    """Go on with a run that was stopped or failed; what is already answered is not asked again."""
    from segkit.cli import launch as running

    manner = running.Manner(not no_sync, True, as_json, concurrency, max_calls, max_cost_usd, take_over)
    running.resume_and_show(name, runs_dir, max_unassigned, manner)


for _commands in (cli_runs, cli_copies, cli_service):
    app.add_typer(_commands.app)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; an error of segkit is one line on standard error, and the exit code is not 0."""
    try:
        app(arguments, standalone_mode=True)
    except SegkitError as error:
        _complain(error)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)


def _complain(error: SegkitError) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(f"[bold red]error:[/bold red] {escape(error.message)}")
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
