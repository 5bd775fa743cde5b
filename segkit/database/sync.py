"""A run and its copy in Postgres: choose the server, load the run, read it back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import pandas as pd

from segkit.analysis import logs
from segkit.core.catalogue.gate import check_products, select
from segkit.database import compare, connection, interaction_index, products
from segkit.database.embedded import embedded_url
from segkit.database.load import load_run
from segkit.database.run_tables import FILES
from segkit.database.schema import migrate
from segkit.runs.run import Run
from segkit.settings import Settings, load_settings


def sync_run(
    run: Run, settings: Settings | None = None, *, missing: Literal["fail", "skip"] | None = None
) -> dict[str, int]:
    """Load a run into Postgres, in one transaction that can be repeated; return the rows of each table.

    Products that your own `amazon_products` lacks are an error, or with `missing="skip"` left out; by default the
    settings decide. Raises DatabaseError if the server cannot be used; the run folder is untouched, and `segkit sync`
    can be run again.
    """
    settings = settings or load_settings()
    url = database_url(settings)
    migrate(url)
    skip = (missing or settings.segkit_missing_products) == "skip"
    return load_run(_with_files(run), url, logs.interaction_index(run), skip=skip)


def _with_files(run: Run) -> Path:
    """Return the folder of a run, after fetching what the tables are made of where only S3 has it."""
    run.files(*FILES)
    return run.folder


def skipped_products(run: Run, settings: Settings | None = None) -> list[int]:
    """Return the ids of the products that the last sync left out because `amazon_products` lacked them."""
    return compare.skipped(database_url(settings or load_settings()), run.id)


def check_run(run: Run, settings: Settings | None = None) -> list[str]:
    """Compare every row of a run in Postgres with its folder; return one line for each table that differs."""
    url = database_url(settings or load_settings())
    return compare.check(_with_files(run), url, logs.interaction_index(run))


def reindex_run(run: Run, settings: Settings | None = None) -> int | None:
    """Rebuild the rows of a run in `llm_interaction_index` from its JSON files; return their number.

    Returns None if the run is not in the database; its sync makes the index too.
    """
    url = database_url(settings or load_settings())
    return interaction_index.reindex(url, run.id, logs.interaction_index(run, compacted=False))


def read_postgres(sql: str, settings: Settings | None = None) -> pd.DataFrame:
    """Return the rows of a query to the server of the settings."""
    return connection.query(database_url(settings or load_settings()), sql)


def taxonomy_ids(run_id: str, settings: Settings) -> dict[tuple[str | None, str], int]:
    """Return the ids of the categories of a run in `product_taxonomies`, by key and name; none if it is not there.

    The key is None in a run that is older than keys, or was synced before there were any.
    """
    where = f"run_id = '{run_id}'"  # RUN_ID
    rows = read_postgres(f"SELECT category_key, category_name, id FROM product_taxonomies WHERE {where}", settings)  # noqa: S608
    keys = rows["category_key"].astype(object).where(rows["category_key"].notna(), None)
    return dict(zip(zip(keys, rows["category_name"], strict=True), rows["id"].astype(int), strict=True))


def products_from_postgres(
    product_ids: Sequence[int | str], settings: Settings | None = None, product_line: str = ""
) -> pd.DataFrame:
    """Return products from `amazon_products` with the columns that `product_line` names.

    Ids that are texts are looked up in the column SEGKIT_PRODUCT_KEY of the table, or computed as for a file. Raises
    ProductsError for ids that are not there.
    """
    settings = settings or load_settings()
    found = products.load_products(
        database_url(settings), list(product_ids), product_line, settings.segkit_product_key
    )
    return select(check_products(found).products, None)


def store_products(frame: pd.DataFrame, settings: Settings | None = None) -> int:
    """Put products into `amazon_products` and return how many were not there; rows that are there stay as they are.

    `frame` has the columns of `Run.products`. Raises DatabaseError for a table that segkit did not make and that
    lacks some of them.
    """
    url = database_url(settings or load_settings())
    migrate(url)
    with TemporaryDirectory() as folder:
        frame.to_parquet(Path(folder) / "products.parquet", index=False)
        return products.add_products(url, Path(folder))


def database_url(settings: Settings) -> str:
    """Return the URL of the server: `DATABASE_URL`, or an embedded server that runs as long as it is used."""
    if settings.database_url and settings.database_url.get_secret_value():
        return settings.database_url.get_secret_value()
    return embedded_url(settings.segkit_home)


def known_database(settings: Settings) -> str:
    """Return the URL of a server that may have runs, or nothing; no embedded server is made."""
    if settings.database_url or (settings.segkit_home / "postgres").exists():
        return database_url(settings)
    return ""


def database_name(settings: Settings) -> str:
    """Return the server's name for people, without its password."""
    if settings.database_url and settings.database_url.get_secret_value():
        return connection.server_name(settings.database_url.get_secret_value())
    return f"embedded PostgreSQL in {settings.segkit_home / 'postgres'}"
