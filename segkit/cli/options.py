"""The options of the commands, each defined once; those that several commands share as a group are a dataclass."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, is_dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from segkit.core.catalogue.options import CatalogueOptions
    from segkit.runs.run import Run
    from segkit.settings import Settings

# The groups of `segkit --help`, in the order in which a newcomer needs them.
SEGMENT, READ, CHECK, COPY, SERVICE, PROJECT = (
    "Segment products",
    "Read a run",
    "Check",
    "Copies in Postgres and S3",
    "REST service",
    "Your folder",
)
_PRODUCTS, _FILE, METHOD, _LIMITS = "Which products", "How a file is read", "How they are segmented", "Limits"


def complete_run(incomplete: str) -> list[str]:
    """Return the names of runs that a shell may complete: those in the usual folder, the newest first."""
    from segkit.settings import load_settings

    runs = sorted((path.name for path in load_settings().storage_root.glob("RUN_*")), reverse=True)
    return [name for name in ("latest", "latest-completed", *runs) if name.startswith(incomplete)]


RunsDir = Annotated[
    Path | None, typer.Option("--runs-dir", help="The folder of the runs.", show_default="STORAGE_ROOT, else runs")
]
RunName = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="The id of a run, its last digits (8d24), `latest` or `latest-completed`.",
        autocompletion=complete_run,
    ),
]
RunsOrAll = Annotated[str, typer.Argument(metavar="RUN", help="The id of a run, `latest`, or `all`.")]
Json = Annotated[
    bool, typer.Option("--json", help="Write one JSON document to standard output, and messages to standard error.")
]
Missing = Annotated[
    Literal["fail", "skip"] | None,
    typer.Option(
        "--missing",
        help="If your own amazon_products lacks products of the run: stop, or load the run without them.",
        show_default="fail",
    ),
]
TakeOver = Annotated[bool, typer.Option("--take-over", help="Take over a run in S3 whose previous machine is gone.")]
Yes = Annotated[
    bool,
    typer.Option(
        "--yes", "-y", help="Do not ask: before titles are sent, or where more than 5 % of them are missing."
    ),
]
Concurrency = Annotated[
    int | None,
    typer.Option(
        "--concurrency",
        metavar="N",
        min=1,
        help="Questions asked at once.",
        show_default="16",
        rich_help_panel=_LIMITS,
    ),
]
MaxUnassigned = Annotated[
    int | None,
    typer.Option(
        "--max-unassigned",
        metavar="N",
        min=0,
        help="Products that may end without an answer before the run counts as failed; untitled ones do not count.",
        show_default="0",
        rich_help_panel=_LIMITS,
    ),
]


Temperature = Annotated[
    str | None,
    typer.Option(
        metavar="T",
        help="Sampling temperature from 0 to 2; `none` leaves it out, for models that take none.",
        show_default="0.2",
        rich_help_panel=METHOD,
    ),
]
ResponseFormat = Annotated[
    Literal["json_schema", "json_object", "text"] | None,
    typer.Option(
        metavar="FORMAT",
        help="How JSON is requested: json_schema; or json_object or text, for servers without schemas.",
        show_default="json_schema",
        rich_help_panel=METHOD,
    ),
]
MaxOutputTokens = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        max=1_000_000,
        help="The most tokens of one answer.",
        show_default="derived from the question",
        rich_help_panel=METHOD,
    ),
]


GivenTaxonomy = Annotated[
    str,
    typer.Option(
        "--taxonomy",
        metavar="RUN|FILE",
        help="Put the products into the categories of a finished run, or of a file (.csv, .xlsx, .json, .txt) whose "
        "edits are applied; nothing is extracted.",
        show_default="a taxonomy of its own",
        rich_help_panel=METHOD,
    ),
]
Cascade = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        min=0,
        max=0.999,
        help="When products are put into a taxonomy: let a classifier that learns from the answers place those "
        "of which it is sure, if it agrees with the model in this share at least, such as 0.97; 0 is off.",
        show_default="0",
        rich_help_panel=METHOD,
    ),
]

Decisions = Annotated[
    bool | None,
    typer.Option(
        "--decisions/--no-decisions",
        help="When products are put into a taxonomy: ask the decision endpoint (/v1/decisions, gpt-6-luna only), "
        "which states a probability for each category. It takes 253 categories at most.",
        show_default="chat completions",
        rich_help_panel=METHOD,
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestChanges:
    """What `segkit resume` may change about a run: how requests are made, and the promise of a cascade."""

    temperature: Temperature = None
    response_format: ResponseFormat = None
    max_output_tokens: MaxOutputTokens = None
    products_per_prompt: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=1000,
            help="Split questions about more products than this; answers that the run has are kept.",
            rich_help_panel=METHOD,
        ),
    ] = None
    cascade: Cascade = None
    decisions: Decisions = None
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Ask the same model at another address.",
            show_default="the run's own",
            rich_help_panel=METHOD,
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductSource:
    """Where the products of a run come from, and which of them are taken."""

    products: Annotated[
        str, typer.Argument(metavar="PRODUCTS", help="A file (CSV, TSV, Excel, Parquet, JSON, XML), or `sample`.")
    ] = ""
    product_ids: Annotated[
        str, typer.Option("--product-ids", help="Only these ids: 1,2,3.", rich_help_panel=_PRODUCTS)
    ] = ""
    ids_file: Annotated[
        Path | None, typer.Option("--ids-file", help="Only the ids listed in this file.", rich_help_panel=_PRODUCTS)
    ] = None
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            metavar="COLUMN=VALUE",
            help="Only rows with this value (COLUMN!=VALUE: rows without it); can be repeated.",
            rich_help_panel=_PRODUCTS,
        ),
    ] = None
    from_postgres: Annotated[
        bool,
        typer.Option("--from-postgres", help="Read the listed ids from amazon_products.", rich_help_panel=_PRODUCTS),
    ] = False
    id_column: Annotated[str, typer.Option(help="The column with the ids.", rich_help_panel=_PRODUCTS)] = "product_id"
    title_column: Annotated[str, typer.Option(help="The column with the titles.", rich_help_panel=_PRODUCTS)] = (
        "title"
    )
    ids_as_text: Annotated[
        bool,
        typer.Option("--ids-as-text", help="Treat ids that look like numbers as texts.", rich_help_panel=_PRODUCTS),
    ] = False
    skip_refused: Annotated[
        bool,
        typer.Option("--skip-refused", help="Leave out rows that cannot be used.", rich_help_panel=_PRODUCTS),
    ] = False
    encoding: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="The encoding of a text file.", show_default="UTF-8", rich_help_panel=_FILE
        ),
    ] = ""
    delimiter: Annotated[
        str,
        typer.Option(
            metavar="SIGN", help="The sign that separates fields.", show_default="what fits", rich_help_panel=_FILE
        ),
    ] = ""
    header_row: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="The row with the column names.", show_default="what fits", rich_help_panel=_FILE
        ),
    ] = 0
    sheet: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="The sheet of an Excel file.", show_default="the first", rich_help_panel=_FILE
        ),
    ] = ""

    @property
    def name(self) -> str:
        """What `run.json` records as the source."""
        return self.products or "amazon_products"

    def catalogue_options(self, ids: list[str] | None, refused_file: Path) -> CatalogueOptions:
        """Return how the file is read."""
        from segkit.core.catalogue.options import CatalogueOptions
        from segkit.pipeline.values import conditions

        return CatalogueOptions(
            id_column=self.id_column,
            title_column=self.title_column,
            where=conditions(self.where),
            product_ids=ids,
            ids_as_text=self.ids_as_text,
            encoding=self.encoding,
            delimiter={"tab": "\t", "\\t": "\t"}.get(self.delimiter, self.delimiter),
            header_row=self.header_row,
            sheet=self.sheet,
            skip_refused=self.skip_refused,
            refused_file=refused_file,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunParameters:
    """What shapes the result of a run; what is None or empty comes from the settings."""

    category: Annotated[
        str, typer.Option("--category", "-c", help='What the products are, such as "Dimmer Switches".')
    ] = ""
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="A model such as gpt-4o, or `offline`, which needs no key.",
            show_default="gpt-4o",
        ),
    ] = ""
    prompts: Annotated[str, typer.Option(help="The set of prompts.", show_default="v0", rich_help_panel=METHOD)] = ""
    product_line: Annotated[
        str,
        typer.Option(
            help="What the model sees of a product: '$title | $brand | $price_usd USD'.",
            show_default="$title",
            rich_help_panel=METHOD,
        ),
    ] = ""
    products_per_prompt: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=1000,
            help="Products in one prompt of the first stage.",
            show_default="40",
            rich_help_panel=METHOD,
        ),
    ] = None
    products_per_refinement: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=1000,
            help="Products in one prompt of the refinement.",
            show_default="40",
            rich_help_panel=METHOD,
        ),
    ] = None
    taxonomies_per_consolidation: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=2,
            max=200,
            help="Taxonomies merged by one prompt.",
            show_default="20",
            rich_help_panel=METHOD,
        ),
    ] = None
    temperature: Temperature = None
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Decides which products share a prompt.", show_default="0", rich_help_panel=METHOD
        ),
    ] = None
    response_format: ResponseFormat = None
    max_output_tokens: MaxOutputTokens = None
    max_unassigned: MaxUnassigned = None
    ask_twice: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Products (at most a fifth) that are asked about twice, to see how repeatable the run is; 0 is off.",
            show_default="200",
            rich_help_panel=METHOD,
        ),
    ] = None
    extract_sample: Annotated[
        str,
        typer.Option(
            metavar="N|auto",
            help="Extract the taxonomy from a random sample, then put all products into it: from N products, or "
            "`auto`, which reads until few products can belong to a kind that was not met.",
            show_default="all products",
            rich_help_panel=METHOD,
        ),
    ] = ""
    most_unseen: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            min=0,
            max=1,
            help="With --extract-sample auto: at most this share may be of a kind not met (95 % bound).",
            show_default="0.01",
            rich_help_panel=METHOD,
        ),
    ] = None
    products_per_assignment: Annotated[
        int | None,
        typer.Option(
            "--products-per-assignment",
            "--batch-size",
            metavar="N",
            min=1,
            max=400,
            help="Products in one prompt when they are put into a taxonomy (--taxonomy, --extract-sample): at most "
            "100, or 400 with --decisions.",
            show_default="40",
            rich_help_panel=METHOD,
        ),
    ] = None
    cascade: Cascade = None
    decisions: Decisions = None
    ask_duplicates: Annotated[
        bool | None,
        typer.Option(
            "--ask-duplicates",
            help="Ask about each product by itself; else products with the same line share one answer.",
            rich_help_panel=METHOD,
        ),
    ] = None
    language: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="The language of names and definitions; for prompt sets with $language, like v1.",
            show_default="that of the category",
            rich_help_panel=METHOD,
        ),
    ] = ""
    target_categories: Annotated[
        str,
        typer.Option(
            metavar="N|N-N",
            help="About how many categories there should be; for prompt sets with $target_categories, like v1.",
            show_default="as few as a shopper would tell apart",
            rich_help_panel=METHOD,
        ),
    ] = ""

    def given(self) -> dict[str, Any]:
        """Return what was typed, without the category."""
        return {name: value for name, value in asdict(self).items() if name != "category"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Options that do not change the result: caps, consent, sync, output format."""

    concurrency: Concurrency = None
    max_calls: Annotated[
        int | None,
        typer.Option(
            "--max-calls",
            metavar="N",
            min=0,
            help="Stop before the run makes more calls than this.",
            rich_help_panel=_LIMITS,
        ),
    ] = None
    max_cost_usd: Annotated[
        float | None,
        typer.Option(
            "--max-cost-usd",
            metavar="USD",
            min=0,
            help="Stop before the run costs more than this; each call in flight reserves its maximum cost.",
            rich_help_panel=_LIMITS,
        ),
    ] = None
    batch: Annotated[
        bool | None,
        typer.Option(
            "--batch/--no-batch",
            help="Send each stage through the provider's Batch API: half the price, an answer within 24 hours, no "
            "rate limits. The command returns at once; `segkit resume` fetches the answers and sends the next stage.",
            show_default="as the run began, else no",
        ),
    ] = None
    wait: Annotated[
        bool,
        typer.Option("--wait", help="With --batch: wait for the answers, stage after stage; Ctrl-C loses nothing."),
    ] = False
    executor: Annotated[
        str,
        typer.Option(
            "--executor",
            metavar="dask|ADDRESS",
            help="Let the workers of a Dask cluster ask the questions: `dask` starts one here (`dask:4` with four "
            "workers), an address such as tcp://scheduler:8786 uses a running one. Limits hold for all together.",
            show_default="this process",
            rich_help_panel=_LIMITS,
        ),
    ] = ""
    stream: Annotated[
        bool | None,
        typer.Option(
            "--stream/--no-stream",
            help="Receive answers token by token: a slow one is waited for as long as it goes on "
            "(SEGKIT_TIMEOUT_SECONDS limits its silence).",
            show_default="for servers of this machine and private networks",
            rich_help_panel=_LIMITS,
        ),
    ] = None
    runs_dir: RunsDir = None
    no_notebooks: Annotated[
        bool,
        typer.Option(
            "--no-notebooks",
            help="Work in this process: much quicker, without executed notebooks and without Postgres.",
        ),
    ] = False
    no_sync: Annotated[
        bool, typer.Option("--no-sync", help="Do not load the run into Postgres; `segkit sync` does it later.")
    ] = False
    as_json: Json = False

    @property
    def sync(self) -> bool:
        return not (self.no_sync or self.no_notebooks)

    def work(self, run: Run, settings: Settings, **how: Any) -> dict[str, Any]:
        """Work on a run as these options say: by its notebooks, or in this process."""
        if self.no_notebooks:
            from segkit.pipeline.segment import run_stages

            return run_stages(run, settings=settings, **how)
        from segkit.pipeline.notebooks.run import run_notebooks

        return run_notebooks(run, settings=settings, sync=self.sync, **how)

    @property
    def console(self) -> Console:
        from rich.console import Console

        return Console(stderr=self.as_json, soft_wrap=True, highlight=False)

    def applied(self, settings: Settings) -> Settings:
        """Return the settings with the limits that were typed."""
        typed = {
            "segkit_concurrency": self.concurrency,
            "segkit_executor": self.executor or None,
            "segkit_stream": self.stream,
            "segkit_max_calls": self.max_calls,
            "segkit_batch": self.batch,
            "segkit_batch_wait": self.wait or None,
            "segkit_max_cost_usd": None if self.max_cost_usd is None else Decimal(str(self.max_cost_usd)),
        }
        return settings.model_copy(update={name: value for name, value in typed.items() if value is not None})


def opened_run(name: str, runs_dir: Path | None) -> Run:
    """Open the run that a command names."""
    from segkit.runs.run import open_run
    from segkit.settings import load_settings

    return open_run(name, runs_dir or load_settings().storage_root)


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that takes the fields of its dataclass parameters as options of its own.

    `def run(source: ProductSource)` becomes a command with an option for each field of ProductSource, and is called
    with one object made from them: so options that several commands share are written once. A class with a method
    `options` lists its options itself.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {n: hint for n, hint in hints.items() if is_dataclass(hint) or hasattr(hint, "options")}
    options = {name: options_of(group) for name, group in groups.items()}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name in groups:
            parameters += options[parameter.name]
        else:
            parameters.append(parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=hints[parameter.name]))

    @functools.wraps(command)
    def call(**typed: Any) -> None:
        made = {
            name: group(**{option.name: typed.pop(option.name) for option in options[name]})
            for name, group in groups.items()
        }
        command(**typed, **made)

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def options_of(group: Any) -> list[inspect.Parameter]:
    """Return the options of a group, as parameters of a command."""
    if hasattr(group, "options"):
        return list(group.options())
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(group)
    ]
