"""The command line: each command reads its options, calls one function of the package, and shows what came of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

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
db = typer.Typer(help="The copy of all runs in Postgres.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(db, name="db")

RunsDir = Annotated[
    Path | None, typer.Option("--runs-dir", help="Folder of the runs.  [default: STORAGE_ROOT, else runs]")
]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or `latest`.")]
RunsOrAll = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, `latest`, or `all`.")]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON document on standard output, all else on standard error.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before titles are sent to a provider.")]
NoSync = Annotated[bool, typer.Option("--no-sync", help="Leave Postgres alone; `segkit sync` does it later.")]
Unassigned = Annotated[
    int | None, typer.Option("--max-unassigned", min=0, help="Products that may stay unassigned.  [default: 0]")
]
MaxCalls = Annotated[int | None, typer.Option("--max-calls", min=0, help="Make no more calls than this in all.")]
MaxCost = Annotated[
    float | None,
    typer.Option("--max-cost-usd", min=0, help="Spend no more than this in all; what is in flight counts."),
]
Products = Annotated[
    str, typer.Argument(metavar="PRODUCTS", help="A CSV, Parquet or JSONL file, or `sample` for the bundled one.")
]
Category = Annotated[str, typer.Option("--category", "-c", help='What the products are, such as "Dimmer Switches".')]
Ids = Annotated[str, typer.Option("--product-ids", help="Take only these ids: 1,2,3.")]
IdsFile = Annotated[Path | None, typer.Option("--ids-file", help="Take only the ids in this file.")]
Where = Annotated[
    list[str] | None, typer.Option("--where", help="Take only rows whose COLUMN=VALUE; may be given again.")
]
FromPostgres = Annotated[
    bool, typer.Option("--from-postgres", help="Take the products of the list from amazon_products.")
]
IdColumn = Annotated[str, typer.Option(help="The column with the ids.")]
TitleColumn = Annotated[str, typer.Option(help="The column with the titles.")]
ProductLine = Annotated[str, typer.Option(help="What a model sees of a product: '$title | $brand | $price_usd USD'.")]
Model = Annotated[
    str, typer.Option("--model", "-m", help="The model, or `offline`.  [default: DEFAULT_MODEL or gpt-4o]")
]
Prompts = Annotated[str, typer.Option(help="The set of prompts to use.")]
Seed = Annotated[int, typer.Option(help="Shuffles the products into batches.")]
Concurrency = Annotated[int | None, typer.Option("--concurrency", min=1, help="Questions asked at once.")]


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
    from segkit import running

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
    from segkit import running

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
    from segkit import running

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
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Also a run in S3 that a machine which is gone worked on.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Go on with a run that was stopped or failed; what is already answered is not asked again."""
    from segkit import running

    manner = running.Manner(not no_sync, True, as_json, concurrency, max_calls, max_cost_usd, take_over)
    running.resume_and_show(name, runs_dir, max_unassigned, manner)


@app.command()
def runs(runs_dir: RunsDir = None, as_json: Json = False) -> None:
    """List the runs, the newest last."""
    from segkit import showing

    showing.show_runs(runs_dir, as_json)


@app.command()
def show(name: RunName = "latest", runs_dir: RunsDir = None, as_json: Json = False) -> None:
    """Show one run: its parameters, its stages, its categories."""
    from segkit import showing

    showing.show_run(name, runs_dir, as_json)


@app.command()
def explain(
    name: RunName,
    product_id: Annotated[str, typer.Argument(metavar="PRODUCT_ID", help="The product to explain.")],
    runs_dir: RunsDir = None,
    as_json: Json = False,
) -> None:
    """Tell the way of one product: who stated its category, what it was merged into, what refinement did."""
    from segkit import showing

    showing.show_explanation(name, product_id, runs_dir, as_json)


@app.command()
def sync(name: RunName = "latest", runs_dir: RunsDir = None, as_json: Json = False) -> None:
    """Load a run into Postgres; doing it again changes nothing."""
    from segkit import showing

    showing.sync_and_show(name, runs_dir, as_json)


@app.command()
def export(
    name: RunName = "latest",
    out: Annotated[Path | None, typer.Option(help="The file to write.  [default: standard output]")] = None,
    form: Annotated[str, typer.Option("--format", help="csv, jsonl or parquet.  [default: by the file's name]")] = "",
    raw: Annotated[
        bool, typer.Option("--raw", help="CSV without the apostrophes that keep formulas from running.")
    ] = False,
    runs_dir: RunsDir = None,
) -> None:
    """Write each product of a run with its category: segkit export latest --out segments.csv."""
    from segkit import showing

    showing.export_and_show(name, runs_dir, out, form, raw)


@app.command()
def verify(
    name: RunName = "latest",
    remote: Annotated[bool, typer.Option("--remote", help="Read every file in S3 as well.")] = False,
    runs_dir: RunsDir = None,
    as_json: Json = False,
) -> None:
    """Check every file of a run against its checksum; exits with 1 and names those that differ."""
    from segkit import moving

    raise typer.Exit(moving.verify_and_show(name, runs_dir, remote, as_json))


@app.command("migrate-to-s3")
def migrate_to_s3(
    name: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or `latest`.")] = "",
    run_id: Annotated[str, typer.Option("--run-id", help="The same, as the blueprint writes it.")] = "",
    verify_integrity: Annotated[
        bool, typer.Option("--verify-integrity", help="Read every file back and compare it; done in any case.")
    ] = True,
    remove_local: Annotated[
        bool, typer.Option("--remove-local", help="Remove the local files in the end, when all are verified.")
    ] = False,
    runs_dir: RunsDir = None,
    as_json: Json = False,
) -> None:
    """Move a run to the bucket S3_BUCKET: upload, read back, switch the index in Postgres, in this order.

    It can be interrupted and called again. All commands go on to work: what they look at is fetched.
    """
    from segkit import moving

    if bool(name) == bool(run_id):
        raise InputError("give one run", "segkit migrate-to-s3 latest")
    moving.migrate_and_show(name or run_id, runs_dir, remove_local, as_json)


@app.command("rollback-s3")
def rollback_s3(
    name: RunName,
    remove_remote: Annotated[
        bool, typer.Option("--remove-remote", help="Remove the files in S3 in the end, when all are here.")
    ] = False,
    runs_dir: RunsDir = None,
    as_json: Json = False,
) -> None:
    """Bring a run back from S3 to the local disk, byte for byte, and its index in Postgres too."""
    from segkit import moving

    moving.rollback_and_show(name, runs_dir, remove_remote, as_json)


@app.command()
def logs(
    sql: Annotated[str, typer.Argument(help="A SELECT over the views.")],
    run: Annotated[str, typer.Option("--run", help="Ask the logs of this run only.")] = "",
    runs_dir: RunsDir = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV on standard output.")] = False,
    as_json: Json = False,
) -> None:
    """Ask the interaction logs of all runs in SQL: segkit logs "FROM spend_by_stage".

    The views are interactions, spend_by_stage, time_by_stage, retries, failures, cache_hits, storage_used and
    prompt_slots; over whole runs run_states, run_outcomes, run_times and token_use; and events, of runs and of the
    service. The table damaged_logs names what could not be read.
    """
    from segkit import showing

    showing.show_logs(sql, run, runs_dir, as_csv, as_json)


@app.command()
def doctor() -> None:
    """Check python, packages, kernel, Postgres, key and disk, and say what to do about each."""
    from segkit import diagnosis

    raise typer.Exit(diagnosis.show_diagnosis())


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    tokens: Annotated[Path | None, typer.Option(help="The file of tokens.  [default: SEGKIT_TOKENS]")] = None,
    no_token: Annotated[
        bool, typer.Option("--no-token", help="Ask nobody for a token, on this machine only.")
    ] = False,
    runs_dir: RunsDir = None,
) -> None:
    """Answer the REST API: start runs, follow them, give their results. They go on when the service ends."""
    from segkit import serving

    serving.serve(host, port, tokens, no_token, runs_dir)


@app.command()
def token(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whom it is for; runs belong to this name.")],
    tokens: Annotated[
        Path | None, typer.Option(help="The file of tokens.  [default: SEGKIT_TOKENS, else SEGKIT_HOME/tokens.json]")
    ] = None,
    max_products: Annotated[int | None, typer.Option(min=1, help="Products a run.  [default: 10000]")] = None,
    max_cost_usd: Annotated[float | None, typer.Option(min=0, help="Dollars a run.")] = None,
    max_total_cost_usd: Annotated[float | None, typer.Option(min=0, help="Dollars in all.")] = None,
    max_active: Annotated[int | None, typer.Option(min=1, help="Runs at work and waiting.  [default: 10]")] = None,
    all_runs: Annotated[bool, typer.Option("--all-runs", help="It sees every run, not only its own.")] = False,
) -> None:
    """Make a token for the REST API, show it this once, and keep its hash and its limits in a file."""
    from segkit import serving

    limits = {"max_products": max_products, "max_cost_usd": max_cost_usd, "max_total_cost_usd": max_total_cost_usd}
    serving.make_token(name, tokens, {**limits, "max_active": max_active, "all_runs": all_runs or None})


@db.command("query")
def db_query(sql: Annotated[str, typer.Argument(help="A SELECT.")], as_json: Json = False) -> None:
    """Run a query on the results: segkit db query "SELECT * FROM product_taxonomies"."""
    from segkit import showing

    showing.show_query(sql, as_json)


@db.command("migrate")
def db_migrate(
    partitioned: Annotated[
        bool,
        typer.Option(
            "--partitioned",
            help="Also cut the two tables of assignments into 16 partitions by run, for installations with many large"
            " runs. It locks them while it copies their rows, and needs as much free disk as they have.",
        ),
    ] = False,
) -> None:
    """Create or update the tables; what is applied already is left as it is."""
    from segkit import database_showing

    database_showing.migrate_and_show(partitioned)


@db.command("status")
def db_status(runs_dir: RunsDir = None, as_json: Json = False) -> None:
    """Show the server, its migrations, the rows of each table, and which runs are in the database."""
    from segkit import database_showing

    database_showing.show_status(runs_dir, as_json)


@db.command("check")
def db_check(name: RunsOrAll = "latest", runs_dir: RunsDir = None) -> None:
    """Compare every row of a run with its folder: a line a difference, and 1 as the exit code.

    `segkit sync RUN` mends what differs: the folder is the truth.
    """
    from segkit import database_showing

    raise typer.Exit(database_showing.check_and_show(name, runs_dir))


@db.command("reindex")
def db_reindex(name: RunsOrAll = "all", runs_dir: RunsDir = None, as_json: Json = False) -> None:
    """Rebuild llm_interaction_index from the JSON files of the runs that are in the database.

    One transaction a run. A run that is not in the database is named; `segkit sync RUN` loads it, index and all.
    """
    from segkit import database_showing

    database_showing.reindex_and_show(name, runs_dir, as_json)


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
