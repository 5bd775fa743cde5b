"""Admitting a run: products, model and money are checked before anything is made, and one key makes one run."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from typing import Any

import orjson
import pandas as pd

from segkit.errors import DatabaseError, ProductsError, RequestError, SegkitError, SettingsError
from segkit.events import log_event
from segkit.jobs import Jobs
from segkit.late_database import LateDatabase
from segkit.planning import plan_run
from segkit.preparing import choose_parameters, prepare_run
from segkit.products import untitled
from segkit.prompts import load_prompts
from segkit.records import Caps, Record
from segkit.runs import Parameters, new_run_id, open_run
from segkit.settings import Settings
from segkit.syncing import products_from_postgres
from segkit.tokens import Token

_NO_BUDGET = "a run with this model needs a budget"


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client asks for."""

    product_ids: tuple[int, ...]
    category: str
    model: str
    temperature: float | None = None
    max_cost_usd: Decimal | None = None
    max_unassigned: int | None = None

    @property
    def sha256(self) -> str:
        return hashlib.sha256(orjson.dumps(asdict(self), default=str)).hexdigest()


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks: the token, the address, and the id of the request."""

    token: Token
    address: str
    request_id: str


class Desk:
    """Takes starts, resumes and cancellations; what it refuses has cost nothing and left nothing."""

    def __init__(self, jobs: Jobs, settings: Settings, database: LateDatabase) -> None:
        self._database = database
        self._jobs, self._records, self._settings = jobs, jobs.records, settings
        self._order = asyncio.Lock()
        # Threads of their own: a database that does not answer must not take those that tell how runs stand.
        self._makers = ThreadPoolExecutor(2, "maker")
        self._making: dict[str, asyncio.Future[Record]] = {}
        self.owners: dict[str, str] = self._records.owners()

    async def start(self, wish: Wish, key: str | None, client: Client) -> tuple[Record, bool]:
        """Make a run and queue it; gives its record, and whether this request made it.

        Raises RequestError when the token, the queue, the money or the database does not allow it.
        """
        try:
            return await self._start(wish, key, client)
        except RequestError as error:
            told = {**asdict(wish), "product_ids": len(wish.product_ids)}
            self._audit("start_refused", client, "", told, status=error.status, why=error.message)
            raise

    async def _start(self, wish: Wish, key: str | None, client: Client) -> tuple[Record, bool]:
        self._check_token(wish.model, len(wish.product_ids), client.token)
        budget = self._budget(wish.model, wish.max_cost_usd, client.token)
        async with self._order:
            wanted = Record(
                self._free_id(), client.token.name, key, wish.sha256, "making", len(wish.product_ids), budget=budget,
                max_unassigned=wish.max_unassigned,
            )  # fmt: skip
            record, is_new = await asyncio.to_thread(self._records.reserve, wanted, self._caps(client.token))
            if is_new:  # the task goes on when the client hangs up
                task = asyncio.get_running_loop().run_in_executor(self._makers, self._make, wish, record, client)
                self._making[record.run_id] = task
                task.add_done_callback(lambda _: self._making.pop(record.run_id, None))
        if making := self._making.get(record.run_id):
            return await asyncio.shield(making), is_new
        if record.phase == "making" and self._records.get(record.run_id) is None:
            raise RequestError(
                503, "the first request with this key failed just now", "send it again", retry_after="1"
            )
        return record, is_new

    def close(self) -> None:
        """Wait for the runs that are being made."""
        self._makers.shutdown()

    async def resume(self, run_id: str, changes: Mapping[str, Any], client: Client) -> None:
        """Queue a run that ended before it was completed; it may be given more money or laxer terms."""
        run = await asyncio.to_thread(open_run, run_id, self._jobs.place)
        model, products = run.parameters.model, int(run.document["input"]["products"])
        self._check_token(model, products, client.token)
        async with self._order:
            await asyncio.to_thread(self._jobs.tick)  # that it ended may not be noted yet
            found = await asyncio.to_thread(self._records.get, run_id)
            if found and found.phase != "ended":
                raise RequestError(409, f"{run_id} is at work or waits already")
            record = found or Record(run_id, client.token.name, None, "", "ended", products)
            wanted = self._resumed(record, model, changes, client.token)
            await asyncio.to_thread(self._jobs.requeue, wanted, self._caps(client.token))
        self.owners[run_id] = wanted.owner
        self._audit("run_resumed", client, run_id, changes)

    def _resumed(self, record: Record, model: str, changes: Mapping[str, Any], token: Token) -> Record:
        given, unassigned, budget = changes.get("max_cost_usd"), changes.get("max_unassigned"), None
        if record.max_calls is None:  # else its price is not known, and its calls are limited
            budget = self._budget(model, record.budget if given is None else Decimal(str(given)), token)
            if budget is None and model != "offline":
                raise RequestError(402, _NO_BUDGET, "give max_cost_usd")
        unassigned = record.max_unassigned if unassigned is None else unassigned
        return replace(record, phase="queued", budget=budget, cancelled=False, max_unassigned=unassigned)

    async def cancel(self, run_id: str, client: Client) -> None:
        """Stop a run in an orderly way."""
        async with self._order:
            await asyncio.to_thread(self._jobs.cancel, run_id)
        self._audit("run_cancelled", client, run_id, {})

    def _free_id(self) -> str:
        """Name a run as no other is named: four digits are few where many are started in one second."""
        while True:
            run_id = new_run_id()
            taken = run_id in self._making or run_id in self.owners
            if not taken and not (self._jobs.place / run_id).exists():
                return run_id

    def _make(self, wish: Wish, record: Record, client: Client) -> Record:
        """Make the run's folder, whole or not at all."""
        try:
            self._make_folder(wish, record, client)
            self._jobs.add(record.run_id)
        except BaseException as error:
            shutil.rmtree(self._jobs.place / record.run_id, ignore_errors=True)  # nothing was asked in it
            self._records.forget(record.run_id)
            if isinstance(error, SegkitError):
                raise self._refused(error, client) from None
            raise
        self.owners[record.run_id] = record.owner
        return replace(record, phase="queued")

    def _make_folder(self, wish: Wish, record: Record, client: Client) -> None:
        given: dict[str, Any] = {
            "model": wish.model, "temperature": wish.temperature, "max_unassigned": wish.max_unassigned
        }  # fmt: skip
        self._database.prepare()
        products = products_from_postgres(wish.product_ids, self._settings)
        chosen = choose_parameters(wish.category, self._settings, **given)
        _check_titles(products, chosen.max_unassigned)
        self._check_price(products, chosen, record, client.token)
        run = prepare_run(
            products, wish.category, run_id=record.run_id, runs_dir=self._jobs.place, source="amazon_products",
            settings=self._settings, **given,
        )  # fmt: skip
        told = {**asdict(wish), "product_ids": len(wish.product_ids), "body_sha256": record.body_sha256}
        log_event(run.folder, "run_ordered", owner=record.owner, client=client.address, request_id=client.request_id)
        self._audit("run_ordered", client, run.id, told)

    def _check_token(self, model: str, products: int, token: Token) -> None:
        if products > token.max_products:
            raise RequestError(
                422, f"{products:,} products are too many", f"{token.max_products:,} are allowed a run"
            )
        if token.models is not None and model not in token.models:
            raise RequestError(422, f"the model {model} is not allowed", f"one of: {', '.join(token.models)}")

    def _budget(self, model: str, wished: Decimal | None, token: Token) -> Decimal | None:
        """Choose what a run may cost: the least of what the client, the token and the settings say."""
        if model == "offline":
            return None
        limits = [
            limit for limit in (wished, token.max_cost_usd, self._settings.segkit_max_cost_usd) if limit is not None
        ]
        if not limits and not token.unpriced_models:
            raise RequestError(402, _NO_BUDGET, "give max_cost_usd")
        if wished is not None and wished > min(limits):
            raise RequestError(402, f"max_cost_usd is {wished}", f"at most {min(limits)} are allowed a run")
        return min(limits, default=None)

    def _check_price(self, products: pd.DataFrame, chosen: Parameters, record: Record, token: Token) -> None:
        """Refuse a run whose plan goes beyond its budget, before anything is asked.

        Where the price is not known, only a token with `unpriced_models` may go on, within twice the planned calls.
        """
        if chosen.model == "offline":
            return
        total = plan_run(products, load_prompts(chosen.prompts), chosen, self._settings).iloc[-1]
        if pd.isna(total["cost_usd_high"]):
            if not token.unpriced_models:
                raise RequestError(402, f"the price of {chosen.model} is not known, so no budget can be kept")
            self._records.limit_calls(record.run_id, 2 * int(total["calls"]) + 10)
        elif record.budget is None:
            raise RequestError(402, _NO_BUDGET, "give max_cost_usd")
        elif Decimal(str(total["cost_usd_high"])) > record.budget:
            what = f"the run may cost ${float(total['cost_usd_high']):.4f}, its budget is ${record.budget}"
            raise RequestError(402, what, "take fewer products, or a larger max_cost_usd")

    def _caps(self, token: Token) -> Caps:
        most = self._settings.segkit_serve_runs + self._settings.segkit_serve_queue
        return Caps(most, token.max_active, token.max_total_cost_usd)

    def _refused(self, error: SegkitError, client: Client) -> RequestError:
        """Say to a client what it can do something about; what only the operator can mend is logged."""
        if isinstance(error, RequestError):
            return error
        if isinstance(error, ProductsError):
            return RequestError(422, error.message, error.hint)
        log_event(
            self._jobs.home, "start_failed", owner=client.token.name, request_id=client.request_id,
            error=type(error).__name__, why=self._clean(str(error)),
        )  # fmt: skip
        if isinstance(error, SettingsError):
            what = "the service is not set up for this model; nothing was started"
            return RequestError(422, what, "take another one, or tell the operator")
        what = "the database cannot be read" if isinstance(error, DatabaseError) else "the disk cannot be written"
        return RequestError(503, f"{what}; nothing was started", "try again later", retry_after="30")

    def _clean(self, text: str) -> str:
        from segkit.redaction import redactor

        return redactor(self._settings.secrets)(text.encode(errors="replace")).decode()

    def _audit(self, event: str, client: Client, run_id: str, parameters: Mapping[str, Any], **more: Any) -> None:
        log_event(
            self._jobs.home, event, run_id=run_id, owner=client.token.name, client=client.address,
            request_id=client.request_id, parameters=parameters, **more,
        )  # fmt: skip


def may_see(token: Token, owner: str | None) -> bool:
    """Tell whether a token may see a run; what the command line made belongs to nobody."""
    return token.all_runs or owner == token.name


def _check_titles(products: pd.DataFrame, allowed: int) -> None:
    count = int(untitled(products).sum())
    if count > allowed:
        ids = ", ".join(map(str, products.loc[untitled(products), "product_id"].head(5)))
        raise ProductsError(f"{count} products have no title: {ids}", f"allow them with max_unassigned = {count}")
