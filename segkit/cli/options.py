"""What the commands take: each option and argument once, with the words that explain it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

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
Missing = Annotated[
    Literal["fail", "skip"] | None,
    typer.Option(
        "--missing",
        help="What to do about products that your amazon_products lacks: fail, or skip: load the run without them and"
        " name them.  [default: SEGKIT_MISSING_PRODUCTS, else fail]",
    ),
]
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
TakeOver = Annotated[
    bool, typer.Option("--take-over", help="Also a run in S3 that a machine which is gone worked on.")
]
Prompts = Annotated[str, typer.Option(help="The set of prompts to use.")]
Seed = Annotated[int, typer.Option(help="Shuffles the products into batches.")]
Concurrency = Annotated[int | None, typer.Option("--concurrency", min=1, help="Questions asked at once.")]
