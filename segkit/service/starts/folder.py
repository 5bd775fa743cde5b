"""The folder of a run, made from what a client wants to start: planned, priced and checked before it is there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pandas as pd

from segkit.database.sync import products_from_postgres
from segkit.errors import RequestError
from segkit.pipeline.extend import extend_run
from segkit.pipeline.parameters import choose_parameters, run_prompts
from segkit.pipeline.plan.estimate import plan_of, plan_run
from segkit.pipeline.prepare import prepare_run
from segkit.pipeline.taxonomy.start import assign_run
from segkit.runs.events import log_event
from segkit.runs.run import Run, open_run
from segkit.runs.taxonomy import edited_taxonomy
from segkit.service.records import Listed, Record, Records, listed_run
from segkit.service.starts import admission
from segkit.service.starts.admission import capped
from segkit.service.starts.request import Client, StartRequest, unpacked
from segkit.settings import Settings


@dataclass(frozen=True, slots=True)
class Order:
    """All that is needed to make a run, also in another process."""

    wanted: StartRequest  # without its products
    product_ids: bytes
    record: Record
    client: Client
    settings: Settings
    runs_dir: Path
    records: Path


def make_run(order: Order) -> Listed:
    """Make the folder of a run and return its entry in the list; raise SegkitError where it is not allowed."""
    settings, client = order.settings, order.client
    if order.wanted.no_temperature:
        settings = settings.model_copy(update={"default_temperature": None})
    make = _derived_run if order.wanted.how else _new_run
    run = make(order, unpacked(order.product_ids), settings)
    who = {"owner": order.record.owner, "client": client.address, "request_id": client.request_id}
    log_event(run.folder, "run_ordered", **who)
    return listed_run(run)


def _new_run(order: Order, product_ids: tuple[int | str, ...], settings: Settings) -> Run:
    wanted = order.wanted
    given: dict[str, Any] = {
        "model": wanted.model, "temperature": wanted.temperature, "max_unassigned": wanted.max_unassigned,
        "ask_duplicates": wanted.ask_duplicates,
        "prompts": wanted.prompts, "products_per_prompt": wanted.products_per_prompt,
        "extract_sample": wanted.extract_sample, "most_unseen": wanted.most_unseen,
        "cascade": wanted.cascade,
    }  # fmt: skip
    products = products_from_postgres(product_ids, settings)
    chosen = choose_parameters(wanted.category, settings, **given)
    admission.check_titles(products, chosen.max_unassigned)
    plan = plan_run(products, run_prompts(chosen), chosen, capped(settings))
    _check_price(plan, chosen.model, order)
    return prepare_run(
        products, wanted.category, run_id=order.record.run_id, runs_dir=order.runs_dir, source="amazon_products",
        settings=settings, **given,
    )  # fmt: skip


def _derived_run(order: Order, product_ids: tuple[int | str, ...], settings: Settings) -> Run:
    wanted, earlier = order.wanted, open_run(order.wanted.earlier, order.runs_dir)
    if lacking := [name for name in ("ledger", "lineage", "taxonomies") if not earlier.has_result(name)]:
        what = f"{earlier.id} lacks results that a run could be built on: {', '.join(lacking)}"
        raise RequestError("run-damaged", what)
    line = earlier.parameters.product_line
    products = products_from_postgres(product_ids, settings, line) if product_ids else None
    place: dict[str, Any] = {"run_id": order.record.run_id, "runs_dir": order.runs_dir, "source": "amazon_products"}
    if products is not None and wanted.how == "extend":
        run = extend_run(earlier, products, settings=settings, **place)
    else:
        given = edited_taxonomy(earlier, orjson.loads(wanted.taxonomy)) if wanted.taxonomy else earlier
        run = assign_run(given, products, settings=settings, model=wanted.model, **place)
    admission.check_titles(run.new_products, wanted.max_unassigned or run.parameters.max_unassigned)
    _check_price(plan_of(run, capped(settings), whole=True), run.parameters.model, order)
    return run


def _check_price(plan: pd.DataFrame, model: str, order: Order) -> None:
    """Check what a run may cost; where no price is known, its calls are limited before its folder is there."""
    calls = admission.check_price(plan, model, order.record.budget, order.client.token)
    if calls is not None:
        records = Records(order.records)
        records.limit_calls(order.record.run_id, calls)
        records.close()
