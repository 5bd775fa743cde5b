"""A run and its copy in Postgres: which server it is, loading the run into it, reading it back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pandas as pd

from segkit.analysis.logs import interaction_index
from segkit.core.products import check_products, select
from segkit.database import compare as comparing
from segkit.database import connection as postgres
from segkit.database import load as loading
from segkit.database.embedded import embedded_url
from segkit.runs.run import Run
from segkit.settings import Settings, load_settings


def sync_run(
    run: Run, settings: Settings | None = None, *, missing: Literal["fail", "skip"] | None = None
) -> dict[str, int]:
    """Load a run into Postgres, in one transaction that can be repeated; gives the rows of each table.

    Products that are `missing` in an `amazon_products` of your own are an error, or left out with `skip`; by default
    the settings decide. Raises DatabaseError when the server cannot be used; the run folder is untouched and
    `segkit sync` can be run again.
    """
    settings = settings or load_settings()
    url = database_url(settings)
    postgres.migrate(url)
    skip = (missing or settings.segkit_missing_products) == "skip"
    return loading.sync(run.folder, url, interaction_index(run), skip=skip)


def skipped_products(run: Run, settings: Settings | None = None) -> list[int]:
    """Give the ids of the products that the last sync of a run left out, since `amazon_products` lacked them."""
    return comparing.skipped(database_url(settings or load_settings()), run.id)


def check_run(run: Run, settings: Settings | None = None) -> list[str]:
    """Compare every row of a run in Postgres with its folder; gives one line for each table that differs."""
    url = database_url(settings or load_settings())
    return comparing.check(run.folder, url, interaction_index(run))


def reindex_run(run: Run, settings: Settings | None = None) -> int | None:
    """Rebuild the rows of a run in `llm_interaction_index` from its JSON files; gives how many, or None.

    None means that the run is not in the database; its sync makes the index too.
    """
    url = database_url(settings or load_settings())
    return loading.reindex(url, run.id, interaction_index(run, compacted=False))


def read_postgres(sql: str, settings: Settings | None = None) -> pd.DataFrame:
    """Read a query from the server of the settings into a frame."""
    return postgres.query(database_url(settings or load_settings()), sql)


def products_from_postgres(product_ids: Sequence[int], settings: Settings | None = None) -> pd.DataFrame:
    """Read products from `amazon_products`; raise ProductsError for ids that are not there."""
    url = database_url(settings or load_settings())
    return select(check_products(postgres.load_products(url, list(product_ids))), product_ids)


def database_url(settings: Settings) -> str:
    """Give the URL of the server: `DATABASE_URL`, or an embedded server that lives as long as it is used."""
    if settings.database_url and settings.database_url.get_secret_value():
        return settings.database_url.get_secret_value()
    return embedded_url(settings.segkit_home)


def known_database(settings: Settings) -> str:
    """Give the URL of a server that may know runs, or nothing: none is made for the question."""
    if settings.database_url or (settings.segkit_home / "postgres").exists():
        return database_url(settings)
    return ""


def database_name(settings: Settings) -> str:
    """Name the server for people, without its password."""
    if settings.database_url and settings.database_url.get_secret_value():
        return postgres.named(settings.database_url.get_secret_value())
    return f"embedded PostgreSQL in {settings.segkit_home / 'postgres'}"
