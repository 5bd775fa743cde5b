"""What the other commands show: runs, one run, the way of a product, rows of Postgres."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from segkit.cli.terminal import columns_of, is_missing, new_console, pairs, print_table, write_json
from segkit.core.models import Parameters
from segkit.core.text import shortened
from segkit.errors import InputError, ProductsError, RunError
from segkit.runs.mirror import fetch
from segkit.runs.run import LISTED, Run, current_state, open_run, read_runs
from segkit.settings import Settings, load_settings
from segkit.storage.disk import write_atomic

if TYPE_CHECKING:
    import pandas as pd
    from rich.text import Text


def summary_table(run: Run, summary: Mapping[str, Any], settings: Settings, *, synced: bool) -> Text:
    """Sum up a run in a dozen lines, the last of them where to look next."""
    from segkit.database.sync import database_name, skipped_products

    cost = "unknown" if summary["cost_usd"] is None else f"${float(summary['cost_usd']):.4f}"
    tokens = f"{summary['input_tokens']:,} in, {summary['output_tokens']:,} out"
    unknown = f" ({summary['unknown_usage']} calls not told)" if summary["unknown_usage"] else ""
    rows = {
        "state": summary["state"],
        "products": f"{summary['products']:,}",
        "categories": f"{summary['categories']:,}",
        "out of scope": f"{summary['out_of_scope']:,}",
        "unassigned": f"{summary['unassigned']:,}",
        "calls": f"{summary['calls']:,} (and {summary['cached']:,} from the cache, {summary['retries']:,} retries)",
        "tokens": tokens + unknown,
        "cost": cost,
        "seconds": f"{summary['seconds']:.1f} ({_stage_seconds(summary)})",
        "rows": f"{database_name(settings)}: {_example_query(run)}" if synced else f"segkit sync {run.id}",
        "report": str(run.folder / "report.html"),
    }
    if synced and settings.segkit_missing_products == "skip":
        rows |= left_out(skipped_products(run, settings))
    if summary["model"] == "offline":
        rows["note"] = "offline groups by words; it is no language model"
    return pairs(rows)


def _stage_seconds(summary: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {seconds:.1f}" for name, seconds in summary["stage_seconds"].items())


def _example_query(run: Run) -> str:
    return f"segkit db query \"SELECT * FROM product_taxonomies WHERE run_id = '{run.id}'\""  # noqa: S608


def show_runs(runs_dir: Path | None, as_json: bool) -> None:
    """List the runs of a folder."""
    place = runs_dir or load_settings().storage_root
    rows = read_runs(place)
    if as_json:
        write_json(rows)
    elif not rows:
        new_console().print(
            f"no runs in {place}; start one: segkit run sample --category 'Coffee Makers' --model offline"
        )
    else:
        print_table(columns_of(rows, LISTED))


def show_run(name: str, runs_dir: Path | None, as_json: bool) -> None:
    """Show one run: what it was told, how far it is, what it found."""
    run = open_run(name, runs_dir or load_settings().storage_root)
    fetch(run.folder, "report.html")
    status, state = run.status, current_state(run.folder)
    taxonomies = run.result("taxonomies").to_dict("records") if run.has_result("taxonomies") else []
    if as_json:
        write_json({"run": run.document, "status": {**status.document, "state": state}, "taxonomies": taxonomies})
        return
    console = new_console()
    console.print(pairs({"run": run.id, "state": state, "reason": status.reason}))
    console.print(pairs({**run.document["parameters"], "products": run.document["input"]["products"]}))
    if status.stages:
        from segkit.cli.progress import progress_table

        seconds = float(status.summary.get("seconds", 0))
        console.print(progress_table(status, seconds, "finished" if seconds else "not finished"))
    if taxonomies:
        print_table(columns_of(taxonomies, ("id", "category_name", "product_count", "definition")))


def show_explanation(name: str, product_id: str, runs_dir: Path | None, as_json: bool) -> None:
    """Show the way of one product through a run."""
    from segkit.analysis.tables import explain
    from segkit.core.products import parse_ids

    ids = parse_ids(product_id)
    if len(ids) != 1:
        raise ProductsError(f"{product_id!r} is not one product id")
    product = ids[0]
    run = open_run(name, runs_dir or load_settings().storage_root)
    frame = explain(run, product)
    if as_json:
        write_json(frame.to_dict("records"))
        return
    products = run.products.set_index("product_id")
    new_console().print(pairs({"run": run.id, "product": product, "title": products.loc[product, "title"]}))
    print_table(frame.to_dict("list"))


def sync_and_show(
    name: str, runs_dir: Path | None, as_json: bool, missing: Literal["fail", "skip"] | None = None
) -> None:
    """Load a run into Postgres and say how many rows each table holds of it, and which products were left out."""
    from segkit.database.sync import database_name, skipped_products, sync_run

    settings = load_settings()
    run = open_run(name, runs_dir or settings.storage_root)
    if not run.has_result("ledger"):
        raise RunError(f"{run.id} has no results to sync", f"segkit resume {run.id}")
    rows = sync_run(run, settings, missing=missing)
    skipped = skipped_products(run, settings)
    if as_json:
        write_json({**rows, "skipped_products": skipped})
        return
    new_console().print(pairs({"run": run.id, "server": database_name(settings), **rows, **left_out(skipped)}))


def left_out(skipped: list[int]) -> dict[str, str]:
    """Tell which products of a run Postgres does not hold, in a row for `pairs`; no row where it holds all."""
    told = f"{len(skipped):,} products that amazon_products lacks: {shortened(skipped)}"
    return {"left out": told} if skipped else {}


def show_plan(plan: pd.DataFrame, parameters: Parameters, as_json: bool) -> None:
    """Show the plan of a run: calls are exact while answers are valid, the rest lies between low and high."""
    if as_json:
        write_json(plan.astype(object).to_dict("records"))
        return
    columns: dict[str, Any] = {
        "stage": plan["stage"],
        "calls": plan["calls"].map("{:,}".format),
        "input tokens": _between(plan, "input"),
        "output tokens": _between(plan, "output"),
        "cost": [money(row) for _, row in plan.iterrows()],
        "time": [
            f"{low:,.0f}-{high:,.0f} s" for low, high in zip(plan["seconds_low"], plan["seconds_high"], strict=True)
        ],
    }
    console = new_console()
    console.print(f"{parameters.model} at {parameters.endpoint}, nothing is sent yet")
    print_table(columns)


def money(row: pd.Series) -> str:
    """Write the cost of a planned stage, between its low and its high end."""
    if is_missing(row["cost_usd_low"]):
        return "unknown cost"
    return f"${float(row['cost_usd_low']):,.2f}-${float(row['cost_usd_high']):,.2f}"


def _between(plan: pd.DataFrame, name: str) -> list[str]:
    return [f"{low:,}-{high:,}" for low, high in zip(plan[f"{name}_low"], plan[f"{name}_high"], strict=True)]


def show_query(sql: str, as_json: bool) -> None:
    """Show the rows of a query on Postgres."""
    from segkit.database.sync import read_postgres

    frame = read_postgres(sql)
    write_json(frame.to_dict("records")) if as_json else print_table(frame.to_dict("list"))


def show_logs(sql: str, name: str, runs_dir: Path | None, as_csv: bool, as_json: bool) -> None:
    """Show the rows of a query on the interaction logs of one run, or of all of them."""
    from segkit.analysis import export as exporting
    from segkit.analysis import logs

    place = runs_dir or load_settings().storage_root
    with warnings.catch_warnings(record=True) as told:
        frame = logs.query(sql, place, run=open_run(name, place) if name else None)
    for warning in told:
        print(f"warning: {warning.message}", file=sys.stderr)
    if as_csv:
        sys.stdout.buffer.write(exporting.as_csv(frame))
    elif as_json:
        write_json(frame.astype(object).where(frame.notna(), None).to_dict("records"))
    else:
        print_table(frame.to_dict("list"))


def export_and_show(name: str, runs_dir: Path | None, out: Path | None, form: str, raw: bool) -> None:
    """Write the assignments of a run to a file, or to standard output."""
    from segkit.analysis import export as exporting

    run = open_run(name, runs_dir or load_settings().storage_root)
    form = form or (out.suffix.removeprefix(".") if out else "csv")
    if form not in exporting.WRITERS:
        raise InputError(f"{form!r} is no format", f"--format is one of {', '.join(exporting.WRITERS)}")
    frame = exporting.exported(run)
    data = exporting.WRITERS[form](frame, raw)
    if out is None:
        sys.stdout.buffer.write(data)
        return
    try:
        write_atomic(out, data)
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror or error}") from None
    new_console().print(f"{len(frame):,} products of {run.id} are in {out}")
