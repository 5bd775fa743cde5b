"""`segkit run` and `segkit resume`: from what was typed to a run, its progress in the terminal, and its summary."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import typer
from rich.console import Console

from segkit.cli.progress import watched
from segkit.cli.show import money
from segkit.core.models import STAGES
from segkit.core.products import load_products, parse_ids, untitled
from segkit.core.prompts import load_prompts
from segkit.errors import ProductsError, SettingsError, StoppedError
from segkit.pipeline.plan import plan_run
from segkit.pipeline.prepare import SAMPLE, choose_parameters, prepare_run
from segkit.runs.create import new_run_id
from segkit.runs.integrity import is_finished, lost_logs
from segkit.runs.interactions import intents
from segkit.runs.mirror import discard
from segkit.runs.run import Run, open_run
from segkit.settings import Settings, load_settings


@dataclass(frozen=True, slots=True)
class Order:
    """What to segment, as it was typed."""

    products: str
    category: str
    ids: str
    ids_file: Path | None
    where: tuple[str, ...]
    from_postgres: bool
    columns: tuple[str, str]
    runs_dir: Path | None


@dataclass(frozen=True, slots=True)
class Manner:
    """How to go about it: whether to sync, to ask first, to answer with JSON; and what must not be exceeded."""

    sync: bool
    yes: bool
    as_json: bool
    concurrency: int | None = None
    max_calls: int | None = None
    max_cost_usd: float | None = None
    take_over: bool = False

    @property
    def console(self) -> Console:
        return Console(stderr=self.as_json, soft_wrap=True, highlight=False)


def run_and_show(order: Order, parameters: Mapping[str, Any], manner: Manner) -> None:
    """Make a run, work on it, and show its summary."""
    if not order.category.strip():
        raise SettingsError("--category is missing", 'say what the products are: --category "Dimmer Switches"')
    settings = _settings(manner)
    choose_parameters(order.category, settings, **parameters)
    _work_with_consent(_make_run(order, parameters, settings), manner, settings)


def plan_and_show(order: Order, parameters: Mapping[str, Any], concurrency: int | None, as_json: bool) -> None:
    """Show what a run of these products would take."""
    from segkit.cli.show import show_plan

    settings = _settings(Manner(sync=False, yes=True, as_json=as_json, concurrency=concurrency))
    chosen = choose_parameters(order.category, settings, needs_key=False, **parameters)
    products = _products(order, settings)
    show_plan(plan_run(products, load_prompts(chosen.prompts), chosen, settings), chosen, as_json)


def extend_and_show(name: str, order: Order, manner: Manner) -> None:
    """Make a run that adds products to a finished one, work on it, and show its summary."""
    from segkit.pipeline.extend import extend_run

    settings = _settings(manner)
    place = order.runs_dir or settings.storage_root
    earlier, source = open_run(name, place), order.products or "amazon_products"
    run = extend_run(earlier, _products(order, settings), runs_dir=place, source=source)
    _work_with_consent(run, manner, settings)


def resume_and_show(name: str, runs_dir: Path | None, max_unassigned: int | None, manner: Manner) -> None:
    """Go on with a run and show its summary."""
    settings = _settings(manner)
    run = open_run(name, runs_dir or settings.storage_root)
    manner.console.print(run.id)
    _tell_lost_logs(run)
    _tell_unknown_outcomes(run)
    _work_and_show(run, manner, max_unassigned, settings)


def _work_with_consent(run: Run, manner: Manner, settings: Settings) -> None:
    manner.console.print(run.id)
    _warn_of_untitled(run)
    if run.parameters.model != "offline" and not manner.yes and sys.stdin.isatty() and not manner.as_json:
        _ask_for_consent(run)
    _work_and_show(run, manner, None, settings)


def _work_and_show(run: Run, manner: Manner, max_unassigned: int | None, settings: Settings) -> None:
    from segkit.cli.show import summary_table
    from segkit.pipeline.notebooks import run_notebooks

    with watched(run):
        summary = run_notebooks(run, sync=manner.sync, max_unassigned=max_unassigned, take_over=manner.take_over)
    if manner.as_json:
        told = {**summary, "folder": str(run.folder), "report": str(run.folder / "report.html")}
        sys.stdout.buffer.write(orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    else:
        manner.console.print(summary_table(run, summary, settings, synced=manner.sync))


def _settings(manner: Manner) -> Settings:
    # The notebooks run in processes of their own and read the environment.
    told = {
        "SEGKIT_CONCURRENCY": manner.concurrency,
        "SEGKIT_MAX_CALLS": manner.max_calls,
        "SEGKIT_MAX_COST_USD": manner.max_cost_usd,
    }
    os.environ.update({name: str(value) for name, value in told.items() if value is not None})
    return load_settings()


def _make_run(order: Order, parameters: Mapping[str, Any], settings: Settings) -> Run:
    return prepare_run(
        _products(order, settings),
        order.category,
        run_id=new_run_id(),
        runs_dir=order.runs_dir or settings.storage_root,
        source=order.products or "amazon_products",
        where=dict(map(_condition, order.where)),
        settings=settings,
        **parameters,
    )


def _products(order: Order, settings: Settings) -> pd.DataFrame:
    ids = _ids(order)
    if order.from_postgres:
        if order.products or ids is None:
            raise ProductsError("--from-postgres takes a list of ids and no file", "--ids-file ids.txt")
        from segkit.database.sync import products_from_postgres

        return products_from_postgres(ids, settings)
    if not order.products:
        raise ProductsError("there are no products", "give a file, `sample`, or --from-postgres with --ids-file")
    id_column, title_column = order.columns
    return load_products(
        SAMPLE if order.products == "sample" else order.products,
        id_column=id_column,
        title_column=title_column,
        where=dict(map(_condition, order.where)),
        product_ids=ids,
    )


def _ids(order: Order) -> list[int] | None:
    if order.ids and order.ids_file:
        raise ProductsError("--product-ids and --ids-file cannot both be given")
    if order.ids_file:
        try:
            return parse_ids(order.ids_file.read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError) as error:
            raise ProductsError(f"--ids-file {order.ids_file} cannot be read: {error}") from None
    return parse_ids(order.ids) if order.ids else None


def _condition(text: str) -> tuple[str, str]:
    column, equals, value = text.partition("=")
    if not equals or not column:
        raise ProductsError(f"--where {text!r} is no condition", '--where category="Dimmer Switches"')
    return column, value


def _warn_of_untitled(run: Run) -> None:
    count = run.document["input"]["untitled"]
    if count:
        allowed = run.parameters.max_unassigned
        more = "" if count <= allowed else f"; the run will fail unless --max-unassigned {count} allows them"
        ids = run.products.loc[untitled(run.products), "product_id"]
        listed = ", ".join(map(str, ids.head(5))) + (", …" if count > 5 else "")
        told = f"{_counted(count, 'product')} without a title ({listed}): not sent, and unassigned"
        typer.echo(f"{told}{more}", err=True)


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + "s" * (count != 1)


def _tell_unknown_outcomes(run: Run) -> None:
    """List the calls that were in flight when the run ended: each may have been paid, and is asked again."""
    paths = [path for stage in STAGES for path in intents(run.stage_folder(stage))]
    if paths and not is_finished(run):
        typer.echo(f"{len(paths)} calls were in flight when the run ended; they may have been paid:", err=True)
        for path in paths[:20]:
            typer.echo(f"  {path.relative_to(run.folder)}", err=True)


def _tell_lost_logs(run: Run) -> None:
    """List the logs that a finished run has no more: what they held is taken from the cache, or asked again."""
    lost = lost_logs(run)
    if lost:
        told = f"{run.id} has lost {_counted(len(lost), 'log')}; what the cache does not hold is asked again:"
        typer.echo("\n  ".join([told, *lost[:20]]), err=True)


def _ask_for_consent(run: Run) -> None:
    """Say what goes where before anything is sent or paid."""
    total = plan_run(run.products, run.prompts, run.parameters, load_settings()).iloc[-1]
    titles, where = run.document["input"]["products"], f"{run.parameters.model} at {run.parameters.endpoint}"
    most = "at most" if run.parameters.extends else "about"
    what = f"Send {titles} product titles to {where}: {most} {total['calls']} calls, {money(total)}?"
    if not typer.confirm(what, default=True, err=True):
        discard(run.folder)  # made a moment ago, and nothing is in it that was asked
        raise StoppedError("nothing was sent, and no run was made")
